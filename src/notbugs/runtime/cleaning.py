"""What lies in the work folder .notbugs, and beside it from writes that were killed, and removing it."""

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from notbugs.runtime.files import finish_moves, read_mapping

KINDS = {
    "inspect": "pictures of `notbugs inspect`",
    "evaluate": "kept measurements of models; made again by `notbugs evaluate`",
    "neighbours": "what 1-NN calls the images of D; made again by `notbugs construct`",
    "processes": "what the processes of a failed stage printed",
    "runs": "journals of runs, which `notbugs track` may still have to send to MLflow",
    "report": "the script of the report's charts; made again by `notbugs report`",
    "sweeps": "kept results of sweeps; made again by `notbugs sweep`",
    "untouched": "what models say of the images of D; made again by `notbugs construct`",
    "benchmarks": "kept results of benchmarks",
}
"""Folder -> what it holds."""
NOT_LISTED = ("unfinished", "checked", "tracked.json")
OUTPUTS = ("data", "models", "metrics", "plots", "reports", "sweeps")
_HALF = re.compile(r"\.\d+(\.old)?\.tmp$")


@dataclass(frozen=True)
class Leftover:
    """A file or folder that can be removed.

    Attributes:
        path: where it is.
        what: what it is, in words.
        size: bytes on disk.
        age: seconds since anything in it changed.
        wanted: `clean` leaves it unless it is asked for everything.
    """

    path: Path
    what: str
    size: int
    age: float
    wanted: bool


def leftovers(root: Path) -> list[Leftover]:
    """Everything that `notbugs clean` can remove from a project: unfinished work first."""
    finish_moves(root)
    work = root / ".notbugs"
    found = [(path, _unfinished(path), False) for path in _inside(work / "unfinished")]
    found += [(path, "half of a write that was killed", False) for path in _halves(root)]
    for path in _inside(work):
        if path.name not in NOT_LISTED and path.is_dir():
            found.append((path, KINDS.get(path.name, "files of notbugs"), path.name != "processes"))
    return [_leftover(*one) for one in found]


def remove(leftover: Leftover) -> None:
    """Delete it; what is gone already is no error."""
    if leftover.path.is_dir() and not leftover.path.is_symlink():
        shutil.rmtree(leftover.path, ignore_errors=True)
    else:
        leftover.path.unlink(missing_ok=True)


def in_words(seconds: float) -> str:
    """An age such as "3 h"."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _unfinished(folder: Path) -> str:
    made_from = read_mapping(folder / "made_from.json")
    if not made_from.keys() >= {"stage", "name"}:
        return "unfinished work of an unknown stage"
    return f"unfinished: {made_from['stage']} {made_from['name']}"


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _halves(root: Path) -> Iterator[Path]:
    for name in OUTPUTS:
        inside_a_half: Path | None = None
        for path in sorted((root / name).rglob("*.tmp")):
            if _HALF.search(path.name) and (inside_a_half is None or inside_a_half not in path.parents):
                inside_a_half = path
                yield path


def _leftover(path: Path, what: str, wanted: bool) -> Leftover:
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    stats = [file.lstat() for file in files if file.exists() or file.is_symlink()]
    changed = max((stat.st_mtime for stat in stats), default=time.time())
    return Leftover(path, what, sum(stat.st_size for stat in stats), max(time.time() - changed, 0.0), wanted)
