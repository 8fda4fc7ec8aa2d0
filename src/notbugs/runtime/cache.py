"""Work that was done before, unfinished or finished, found again by all that it depends on.

A key is the hash of what the work is made from: its name, settings, the hashes of its inputs, the machine's settings
that change bytes, and `made_with` of the module that does it (the code that it really imports, and the versions of the
libraries). So nothing stale is ever taken up, and no list of code is kept by hand.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from notbugs.runtime.distribution import is_first, wait_for_all
from notbugs.runtime.files import file_lock, write_json
from notbugs.runtime.state_file import StateError, load_state, save_state

Result = TypeVar("Result")
ANEW_VARIABLE = "NOTBUGS_ANEW"
"""Environment variable: seconds since 1970; what was kept before that is not taken up (`make repro-all` sets it)."""
PATIENCE_SECONDS = 24 * 3600.0
"""How long a process waits for another one that computes the same."""


def work_folder(root: Path, kind: str) -> Path:
    """Where a project keeps one kind of work; ignored by Git and DVC, shown by `notbugs clean`."""
    return root / ".notbugs" / kind


def digest(made_from: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(made_from, sort_keys=True, allow_nan=False).encode()).hexdigest()


def valid_since() -> float:
    """Seconds since 1970 before which nothing that is kept counts; 0 where all counts."""
    try:
        return float(os.environ.get(ANEW_VARIABLE) or 0)
    except ValueError:
        return 0.0


class ResultCache:
    """Finished work that is small: JSON values by the digest of what each is made from.

    Args:
        folder: holds them, as <digest>.json.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def file(self, made_from: Any) -> Path:
        """Where the result of `made_from` is kept."""
        return self.folder / f"{digest(made_from)}.json"

    def get(self, made_from: Any) -> Any:
        """The result that is kept; None if there is none, or one that is damaged or too old to count."""
        file = self.file(made_from)
        try:
            if file.stat().st_mtime < valid_since():
                return None
            kept = json.loads(file.read_text(encoding="utf-8"))
            return kept["found"] if kept["sha256"] == digest(kept["found"]) else None
        except (OSError, ValueError, KeyError, TypeError):  # not there, or not whole
            return None

    def put(self, made_from: Any, found: Any) -> None:
        """Keep a result: a JSON value without NaN or infinity, and not None."""
        write_json(self.file(made_from), {"sha256": digest(found), "found": found})

    def get_or_compute(self, made_from: Any, compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The kept result, computed if there is none; two processes at once compute it once.

        Args:
            made_from: all that the result depends on.
            compute: makes it, as a JSON object; what it raises is kept nowhere.
        """
        found: dict[str, Any] | None = self.get(made_from)
        if found is not None:
            return found
        self.folder.mkdir(parents=True, exist_ok=True)
        with file_lock(self.file(made_from).with_suffix(".lock"), PATIENCE_SECONDS):
            found = self.get(made_from)
            if found is None:
                found = compute()
                self.put(made_from, found)
        return found


@contextmanager
def resumable_folder(root: Path, title: str, made_from: Mapping[str, Any]) -> Iterator[Path]:
    """The folder of unfinished work, as an earlier run left it that was made from the same.

    It is removed if the block ends well; `notbugs clean` shows what is left.

    Args:
        root: the project.
        title: begins the folder's name, such as "train-robust".
        made_from: all that the work depends on, as JSON.
    """
    folder = work_folder(root, "unfinished") / f"{title}-{digest(made_from)[:16]}"
    if is_first():
        mark = folder / "made_from.json"
        if mark.exists() and mark.stat().st_mtime < valid_since():
            shutil.rmtree(folder, ignore_errors=True)
        write_json(mark, made_from)
    wait_for_all()
    yield folder
    if is_first():
        shutil.rmtree(folder, ignore_errors=True)


def load_or_make(file: Path, make: Callable[[], Result]) -> Result:
    """A part of unfinished work as an earlier, killed run kept it; else what `make` gives, kept from then on.

    Args:
        file: in the folder of `resumable_folder`.
        make: gives tensors, numbers, text, and lists, tuples and dictionaries of them.
    """
    try:
        found: Result = load_state(file)
    except (FileNotFoundError, StateError):
        save_state(file, make())
        found = load_state(file)  # the same kinds of values, on the same device, as after a kill
    return found


def load_kept(file: Path) -> Any:
    """Finished work that `save_state` kept; None if there is none, or one that is damaged or too old to count."""
    try:
        return None if file.stat().st_mtime < valid_since() else load_state(file)
    except (OSError, StateError):
        return None
