"""What a stage has done so far, in the work folder, so that it goes on after a kill.

A folder is named by all that the work depends on: other settings, inputs, code, libraries or machine look elsewhere,
so nothing stale is ever taken up. It goes when the stage's outputs are complete; `notbugs clean` shows what is left.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

import notbugs
from notbugs.distribution import is_first, wait_for_all, world_size
from notbugs.files import sha256, write_json
from notbugs.stages.context import Context
from notbugs.state_file import StateError, load_state, save_state

Result = TypeVar("Result")
NO_RESULTS = ("cli", "cleaning.py", "machine.py", "progress.py", "report", "sweeps", "tracking")
"""Parts of the package that no unfinished work depends on."""


def unfinished_folder(root: Path) -> Path:
    """Where unfinished work is kept; ignored by Git and DVC."""
    return root / ".notbugs" / "unfinished"


@contextmanager
def unfinished(
    project: Context, stage: str, name: str, *, settings: Mapping[str, Any], inputs: Sequence[Path]
) -> Iterator[Path]:
    """The folder of a stage's unfinished work, as an earlier run with the same settings and inputs left it.

    It is removed if the block ends well.

    Args:
        project: device, threads and seed count too.
        stage, name: such as "train", "robust".
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
        "code": _code(),
        "torch": torch.__version__,
    }
    digest = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    folder = unfinished_folder(project.root) / f"{stage}-{name}-{digest[:16]}"
    if is_first():
        write_json(folder / "made_from.json", made_from)
    wait_for_all()
    yield folder
    if is_first():
        shutil.rmtree(folder, ignore_errors=True)


def kept(file: Path, make: Callable[[], Result]) -> Result:
    """What an earlier, killed run kept in a file; else what `make` gives, kept from then on.

    Args:
        file: in the folder of `unfinished`.
        make: gives tensors, numbers, text, and lists, tuples and dictionaries of them.
    """
    try:
        found: Result = load_state(file)
    except (FileNotFoundError, StateError):
        found = make()
        save_state(file, found)
    return found


def _content(path: Path) -> str:
    manifest = path / "manifest.json"
    return sha256(manifest if manifest.exists() else path)


def _code() -> str:
    package, code = Path(notbugs.__file__).parent, hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        if file.relative_to(package).parts[0] not in NO_RESULTS:
            code.update(file.read_bytes())
    return code.hexdigest()
