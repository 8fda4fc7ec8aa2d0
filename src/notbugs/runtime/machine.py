"""Where the package runs: the project's folder, the operating system, usable processors, living processes.

Nothing here changes a result, and importing it is quick.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from notbugs.runtime.errors import UserError

CLOCKS = 60.0
"""Seconds by which the clocks of a file system and of this machine may differ."""


class PlatformError(UserError):
    """The package does not run on this operating system."""


def refuse_windows() -> None:
    """Raises: PlatformError on Windows, where neither locks, signals nor paths are what the package needs."""
    if sys.platform == "win32":
        raise PlatformError(
            "notbugs runs on Linux and macOS; on Windows install WSL (`wsl --install`) and run it in there"
        )


def project_folder(start: Path) -> Path | None:
    """The nearest folder, from `start` upwards, with a dvc.yaml or params.yaml; None if there is none."""
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").exists() or (folder / "params.yaml").exists():
            return folder
    return None


def usable_processors() -> int:
    """Processors that this process may use; all of the machine's where the system keeps no such list (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def writer_lives(process: int, last_changed: float) -> bool:
    """Whether the process of this number still works on a file that it last changed at this time.

    A process that has ended and that nobody waited for does not live (as in a container whose first process is no
    init). One that began after the file was changed is another one, which was given the number anew.

    Args:
        process: its number.
        last_changed: the file's ctime, which renaming sets too, seconds since 1970.
    """
    import psutil  # type: ignore[import-untyped]

    with suppress(psutil.AccessDenied):  # it runs and is somebody else's
        try:
            found = psutil.Process(process)
            return found.status() != psutil.STATUS_ZOMBIE and found.create_time() < last_changed + CLOCKS
        except (psutil.NoSuchProcess, OverflowError, ValueError):
            return False
    return True
