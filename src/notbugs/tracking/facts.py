"""What is found out about a run beside the running stage: Git, and the hashes and manifests of its inputs."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from notbugs.tracking.lineage import BACKGROUND_HASH_LIMIT, Content, content, git_tags


def find_facts(root: Path, inputs: list[Path]) -> dict[str, Any]:
    """Hash the inputs and ask Git.

    Args:
        root: folder that the stage works in.
        inputs: files and folders; those with a manifest.json are datasets.
    Returns: `tags` and `datasets`, as `sending` takes them.
    """
    tags, datasets = git_tags(root), []
    for path in inputs:
        with suppress(OSError):
            there = content(path, BACKGROUND_HASH_LIMIT)
            if there is None:
                continue
            relative = path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
            tags[f"dvc.dep.{relative}"] = there.label
            about = manifest(path)
            if about:
                datasets.append(dataset(path, relative, about, there))
    return {"tags": tags, "datasets": datasets}


def manifest(path: Path) -> dict[str, Any]:
    """Contents of a dataset's manifest.json; empty if `path` is no dataset."""
    try:
        value = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def dataset(path: Path, relative: str, about: Mapping[str, Any], there: Content) -> dict[str, Any]:
    """An input as MLflow shows it, without loading it."""
    return {
        "name": str(about.get("name") or path.name),
        "digest": there.label,
        "path": relative,
        "context": path.name if path.name in ("validation", "test") else "training",
        "profile": {key: about[key] for key in ("num_examples", "image_shape", "source") if key in about},
    }
