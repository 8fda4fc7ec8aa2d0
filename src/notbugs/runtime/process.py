"""Processes: what names one beyond doubt, whether it still lives, and requests to end it."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_SAME_START = 5.0
"""Seconds by which two readings of one process's start may differ (the clock may have been set)."""


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
        if named.get("boot") != _boot():
            return False
        process = psutil.Process(int(named["pid"]))
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - float(named["started"])) < _SAME_START
    except psutil.AccessDenied:
        return True
    except psutil.Error:
        return False
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


@contextmanager
def as_interrupts(*signals: signal.Signals, once: bool = False) -> Iterator[None]:
    """Treat requests to end (SIGTERM, a closed terminal) like Ctrl-C while the block runs.

    Args:
        signals: which ones.
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
