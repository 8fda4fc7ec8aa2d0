"""Writing files whole or not at all, their checksums, and locks that processes hold."""

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from notbugs.runtime.errors import UserError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "larger than files may be here",
    errno.EROFS: "the folder is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "operation not permitted",
}
"""Why nothing can be written, in words; other errors are no fault of the place."""
_ALSO_OF_READING = (errno.EACCES, errno.EPERM)
FOLDERS = ("data/*", "models/*/*", "plots/*", "sweeps/*/*")
"""Where in a project stages write whole folders."""
_TEMPORARY = re.compile(r"(?P<name>.+)\.(?P<process>\d+)(?P<old>\.old)?\.tmp")
"""A file or folder being written, or the folder that it takes the place of."""


class WriteError(UserError):
    """Something cannot be written: the disk is full, or the folder is closed to the user."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: cannot be written: {reason}; what was there before is kept")
        self.path = path
        self.reason = reason


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; renamed to `path` if the block ends well, removed if not.

    Raises: WriteError if the disk is full or the folder closed.
    """
    with _writing(path) as temporary:
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder beside `path` that takes its place if the block ends well.

    Raises: WriteError if the disk is full or the folder closed.
    """
    with _writing(path) as temporary:
        temporary.mkdir()
        old = temporary.with_name(f"{temporary.stem}.old.tmp")
        try:
            yield temporary
            if path.exists():
                path.rename(old)
            temporary.replace(path)
        finally:
            if old.exists() and not path.exists():  # interrupted between the two
                old.rename(path)
            for left in (old, temporary):
                shutil.rmtree(left, ignore_errors=True)


def finish_move(old: Path) -> None:
    """Give a new folder its name if its process was killed after moving the old one away, and before that.

    Args:
        old: what `whole_folder` moved away, PATH.PROCESS.old.tmp; the new folder beside it is whole.
    """
    match = _TEMPORARY.fullmatch(old.name)
    if match is None or not match["old"] or _works(int(match["process"]), old):
        return
    path, new = old.with_name(match["name"]), old.with_name(f"{match['name']}.{match['process']}.tmp")
    if old.is_dir() and new.is_dir() and not path.exists():
        with suppress(OSError):  # another process was quicker, or nothing can be written here
            new.rename(path)


def finish_moves(root: Path) -> None:
    """`finish_move` for the folders that a project's stages write."""
    for place in FOLDERS:
        for old in sorted(root.glob(f"{place}.old.tmp")):
            finish_move(old)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, with what killed processes left there taken away."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        yield temporary
    except WriteError as error:  # of a file in the temporary folder
        raise WriteError(_final(error.path, temporary, path), error.reason) from error
    except Exception as error:
        trouble = _trouble(error, temporary, path)
        if trouble is None:
            raise
        raise trouble from error


def _remove_leftovers(path: Path) -> None:
    """Remove the temporary files and folders of `path` whose process is gone."""
    for beside in sorted(path.parent.iterdir()):  # what was moved away comes before what was to take its place
        match = _TEMPORARY.fullmatch(beside.name)
        if match is None or match["name"] != path.name or _works(int(match["process"]), beside):
            continue
        finish_move(beside)
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)


def _works(process: int, beside: Path) -> bool:
    """Whether another process is still at a temporary file or folder; one of this process's number is over."""
    from notbugs.runtime.process import writer_lives  # psutil takes a while

    if process == os.getpid():
        return False
    try:
        return writer_lives(process, beside.stat().st_ctime)
    except FileNotFoundError:  # it has just finished
        return False


def _trouble(error: Exception, temporary: Path, path: Path) -> WriteError | None:
    """What an error says of the place written to; None if something else is at fault."""
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := re.search(r"os error (\d+)", str(error))):  # as libraries in Rust put it
        number = int(match[1])
    if number not in _REASONS:
        return None
    named = getattr(error, "filename", None)
    place = Path(os.fsdecode(named)) if isinstance(named, str | bytes) else temporary
    mine = place.is_relative_to(temporary) or path.is_relative_to(place)
    if number in _ALSO_OF_READING and not mine:
        return None
    return WriteError(_final(place, temporary, path), _REASONS[number])


def _final(named: Path, temporary: Path, path: Path) -> Path:
    """The name that a temporary one stands for."""
    return path / named.relative_to(temporary) if named.is_relative_to(temporary) else named


def publish(source: Path, path: Path) -> None:
    """Put a folder's content at `path`, whole or not at all; `source` stays, and shares its files if it can."""
    halves = shutil.ignore_patterns("*.tmp")  # of a write that was killed
    with whole_folder(path) as folder:
        shutil.copytree(source, folder, dirs_exist_ok=True, copy_function=_link_or_copy, ignore=halves)


def _link_or_copy(source: str, path: str) -> None:
    try:
        os.link(source, path)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, indented, in the order given; NaN is refused (write None)."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_mapping(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty if there is no file, or it is damaged or holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows with exactly these columns, whole or not at all; None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


@contextmanager
def file_lock(path: Path, wait_seconds: float = 0.0) -> Iterator[bool]:
    """Hold a lock file; gives False if another process still has it after `wait_seconds`.

    The system lets go of the lock when the process ends, however it ends.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(path, mode=0o644)
    try:
        lock.acquire(timeout=wait_seconds, poll_interval=0.05)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
