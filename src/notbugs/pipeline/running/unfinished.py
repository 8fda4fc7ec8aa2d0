"""What a stage has done so far, in the work folder, so that it goes on after a kill."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from notbugs.pipeline.running.context import Context
from notbugs.runtime.cache import load_or_make, resumable_folder
from notbugs.runtime.distribution import world_size
from notbugs.runtime.files import sha256
from notbugs.runtime.imports import made_with

__all__ = ["load_or_make", "unfinished"]


@contextmanager
def unfinished(
    project: Context, stage: str, name: str, *, settings: Mapping[str, Any], inputs: Sequence[Path]
) -> Iterator[Path]:
    """The folder of a stage's unfinished work, as an earlier run with the same settings, inputs and code left it.

    It is removed if the block ends well.

    Args:
        project: device, threads and seed count too.
        stage: module of `notbugs.pipeline` that does the work. name: such as "robust".
        settings: all others that the work depends on, as JSON.
        inputs: stored datasets (folders) and models (files).
    """
    made_from = {
        "stage": stage,
        "name": name,
        "settings": settings,
        "seed": project.seed,
        "num_threads": project.runtime.num_threads,
        "engine": project.runtime.engine,
        "processes": world_size() if stage in ("train", "fit") else "any number",
        "device": torch.cuda.get_device_name() if project.device.type == "cuda" else project.device.type,
        "inputs": {path.relative_to(project.root).as_posix(): _content(path) for path in inputs},
        **made_with(f"notbugs.pipeline.{stage}"),
    }
    with resumable_folder(project.root, f"{stage}-{name}", made_from) as folder:
        yield folder


def _content(path: Path) -> str:
    manifest = path / "manifest.json"
    return sha256(manifest if manifest.exists() else path)
