"""What is found out about a run beside the running stage: Git, and the hashes and manifests of its inputs."""

import getpass
import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from notbugs.runtime.dvc_lock import BACKGROUND_HASH_LIMIT, Content, content

_WRITTEN = ("dvc.lock", "data", "metrics", "models", "plots", "reports")


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


def source_tags(stage: str, name: str | None) -> dict[str, str]:
    """Who ran what, as MLflow's pages show it."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for the user
        user = "unknown"
    command = f"notbugs {stage} {name or ''}".rstrip()
    return {"mlflow.user": user, "mlflow.source.name": command, "mlflow.source.type": "LOCAL"}


def git_tags(folder: Path) -> dict[str, str]:
    """Commit, and whether code or settings differ from it; empty without Git, or without a commit.

    What the pipeline itself writes does not count: DVC removes a stage's outputs before it runs.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return {}
    paths = [".", *(f":(exclude){path}" for path in _WRITTEN)]
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no", "--", *paths)
    dirty = "unknown" if changes is None else str(bool(changes)).lower()
    return {"git.commit": commit, "git.dirty": dirty, "mlflow.source.git.commit": commit}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
