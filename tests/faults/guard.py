"""A watch over what this process writes, opens outside, or starts: Python's own audit events."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CHANGING = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_STARTING = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect")
_UNPICKLING = "pickle.find_class"
_watched: list[Path] = []
_found: list[str] = []


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _watched:
        return
    if event in (*_STARTING, _UNPICKLING):
        _found.append(f"{event} {arguments}")
    elif event == "open":
        path, _, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if writes and isinstance(path, str | bytes | os.PathLike):
            _note(event, path)
    elif event in _CHANGING:
        for path in arguments[:2] if event in ("os.rename", "os.link", "os.symlink") else arguments[:1]:
            if isinstance(path, str | bytes | os.PathLike):
                _note(event, path)


def _note(event: str, path: "str | bytes | os.PathLike[str]") -> None:
    place = Path(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 (a link is itself what is written)
    if "__pycache__" in place.parts:  # a module imported only now
        return
    if not place.is_relative_to(_watched[-1]) and place != Path(os.devnull):
        _found.append(f"{event} {place}")


@contextmanager
def only_within(folder: Path) -> Iterator[None]:
    """Fail if the block writes outside `folder`, starts a process, connects, or unpickles anything."""
    _found.clear()
    _watched.append(folder)
    try:
        yield
    finally:
        _watched.pop()
    assert _found == []


sys.addaudithook(_hook)
tempfile.gettempdir()  # it tries folders by writing into them, once
