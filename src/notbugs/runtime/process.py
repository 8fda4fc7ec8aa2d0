"""Processes: what names one beyond doubt, whether it still lives, and requests to end it."""

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_SAME_START = 5.0
"""Seconds by which two readings of one process's start may differ (the clock may have been set)."""
CLOCKS = 60.0
"""Seconds by which the clocks of a file system and of this machine may differ."""


def identity() -> str:
    """What names this process beyond doubt: number, start, machine, boot; JSON."""
    started = round(psutil.Process().create_time(), 2)
    return json.dumps({"pid": os.getpid(), "started": started, "host": _host(), "boot": _boot()})


def alive(identity: str | None) -> bool | None:
    """Whether the process named by `identity()` lives; None if it cannot be told (another machine, no identity)."""
    try:
        named = json.loads(identity or "{}")
        if named.get("host") != _host():
            return None
        return named.get("boot") == _boot() and _lives(
            int(named["pid"]), lambda started: abs(started - float(named["started"])) < _SAME_START
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def writer_lives(process: int, last_changed: float) -> bool:
    """Whether the process of this number still works on a file that it last changed at this time.

    One that began after the file was changed is another one, which was given the number anew.

    Args:
        last_changed: the file's ctime, which renaming sets too, seconds since 1970.
    """
    return _lives(process, lambda started: started < last_changed + CLOCKS)


def _lives(process: int, is_it: Callable[[float], bool]) -> bool:
    """Whether a process of this number runs and began when the wanted one did.

    A process that has ended and that nobody waited for does not live (as in a container whose first process is no
    init).
    """
    try:
        found = psutil.Process(process)
        return bool(found.status() != psutil.STATUS_ZOMBIE and is_it(found.create_time()))
    except psutil.AccessDenied:  # it runs and is somebody else's
        return True
    except (psutil.Error, OverflowError):
        return False


@contextmanager
def as_interrupts(*signals: signal.Signals, once: bool = False) -> Iterator[None]:
    """Treat requests to end (SIGTERM, a closed terminal) like Ctrl-C while the block runs.

    Args:
        once: ignore all of them after the first.
    """

    def stop(*_: object) -> None:
        """Interrupt the block."""
        if once:
            for number in signals:
                signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _host() -> str:
    """Machine and, in a container, its own numbering of processes."""
    try:
        return f"{socket.gethostname()}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return f"{psutil.boot_time():.0f}"
