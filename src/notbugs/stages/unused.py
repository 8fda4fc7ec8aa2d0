"""Outputs of entries that params.yaml no longer has.

DVC forgets a stage whose entry is deleted, and leaves its outputs. Stages that depend on a whole folder of outputs
(data, models/fit, metrics) would count them in, and look changed in a clone, which does not get them.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from notbugs.config import DATASET_NAMES
from notbugs.distribution import is_first
from notbugs.stages.context import Context


def remove_unused(project: Context) -> None:
    """Remove what `construct` and `fit` made for names that params.yaml no longer has, and say so in a line.

    Only files and folders of these two stages are touched, and only for names of the paper's datasets. DVC's cache
    keeps its copies: with the entry back in params.yaml, `dvc repro` restores them.
    """
    if not is_first():
        return
    found = [path for path in _unused(project) if path.is_symlink() or path.exists()]
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if found:
        names = ", ".join(path.relative_to(project.root).as_posix() for path in found)
        project.say(f"removed what params.yaml no longer names: {names}")


def _unused(project: Context) -> Iterator[Path]:
    """Where the outputs of names lie that have no entry; they need not be there."""
    for name in DATASET_NAMES:
        if _is_left_out(project, "construct", name):
            yield project.dataset(name)
            yield project.root / "metrics" / "construct" / f"{name}.json"
        if _is_left_out(project, "fit", name):
            yield project.root / "models" / "fit" / name
            yield project.root / "metrics" / "fit" / f"{name}.json"
            yield project.root / "plots" / "learning" / f"fit-{name}.csv"


def _is_left_out(project: Context, section: str, name: str) -> bool:
    """Whether params.yaml has the section, without this name."""
    entries = project.params.get(section)
    return isinstance(entries, Mapping) and name not in entries
