"""Outputs of entries that params.yaml no longer has.

DVC forgets a stage whose entry is deleted, and leaves its outputs. Stages that depend on a whole folder of outputs
(data, models/fit, metrics) would count them in, and look changed in a clone, which does not get them.
"""

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from configparser import ConfigParser
from pathlib import Path

from notbugs.pipeline.running.context import Context
from notbugs.runtime.config import DATASET_NAMES
from notbugs.runtime.distribution import is_first
from notbugs.runtime.dvc_lock import LockEntry, md5, read_lock

OUTPUTS = {
    "construct": ("data/{name}", "metrics/construct/{name}.json"),
    "fit": ("models/fit/{name}", "metrics/fit/{name}.json", "plots/learning/fit-{name}.csv"),
    "science": ("metrics/science/{name}.json",),
}
"""Section -> what its stage makes for a name."""


def remove_unused(project: Context) -> None:
    """Remove what `construct`, `fit` and `science` made for names that params.yaml no longer has, and say so in a line.

    Only files and folders of these stages are touched, for names of the paper's datasets and those in dvc.lock.
    What is removed is as dvc.lock names it, and folders are in DVC's cache: with the entry back in params.yaml,
    `dvc repro` restores them. Any other may be the only copy, of a stage run without DVC or after `dvc gc`: it is
    left, and a line says so.
    """
    if not is_first():
        return
    entries = read_lock(project.root / "dvc.lock")  # of all that are or were in params.yaml
    there = [path for path in _unused(project, entries) if path.is_symlink() or path.exists()]
    recorded = {path: output.md5 for entry in entries for path, output in entry.outs.items()}
    found = [path for path in there if _is_kept(project.root, path, recorded)]
    left = [path.relative_to(project.root).as_posix() for path in there if path not in found]
    if left:
        project.say(f"left, though params.yaml names it no longer, since DVC's cache has no copy: {', '.join(left)}")
    for path in found:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    if found:
        names = ", ".join(path.relative_to(project.root).as_posix() for path in found)
        project.say(f"removed what params.yaml no longer names: {names}")


def _is_kept(root: Path, path: Path, recorded: Mapping[str, str | None]) -> bool:
    """Whether nothing is lost with a path: a link, a file as it is recorded, a folder of which the cache has all."""
    if path.is_symlink():
        return True
    wanted = recorded.get(path.relative_to(root).as_posix())
    if wanted is None:
        return False
    if path.is_file():  # small, and no output that the cache takes: Git has it
        return md5(path) == wanted
    listing = _cached(root, wanted)
    if not listing.exists():
        return False
    known = {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))}
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    return all(
        name in known and _cached(root, known[name]).exists() and (file.is_symlink() or md5(file) == known[name])
        for name, file in files.items()
    )


def _cached(root: Path, md5: str) -> Path:
    """Where DVC's cache has a content, if it has it."""
    config = ConfigParser()
    config.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    folder = root / ".dvc" / config.get("cache", "dir", fallback="cache")
    return folder / "files" / "md5" / md5[:2] / md5[2:]


def _unused(project: Context, entries: Iterable[LockEntry]) -> Iterator[Path]:
    """Where the outputs of names lie that have no entry in a section that is there; they need not be there."""
    recorded = [entry.address.partition("@") for entry in entries]
    for section, outputs in OUTPUTS.items():
        named = project.params.get(section)
        if isinstance(named, Mapping):
            names = {*DATASET_NAMES, *(name for stage, _, name in recorded if stage == section and name)}
            for name in sorted(names - set(named)):
                yield from (project.root / output.format(name=name) for output in outputs)
