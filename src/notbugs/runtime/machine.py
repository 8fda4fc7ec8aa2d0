"""Where the package runs: the project's folder and its own code, the operating system, usable processors.

Nothing here changes a result, and importing it is quick.
"""

import os
import platform
import sys
from pathlib import Path

import notbugs
from notbugs.runtime.errors import ConfigError, UserError


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


def own_source(folder: Path) -> Path | None:
    """The folder `src` of the project that a folder is in, if it holds other code than what runs here."""
    root = project_folder(folder)
    if root is None:
        return None
    own = root / "src"
    running = Path(notbugs.__file__).parent
    if not (own / "notbugs" / "cli" / "__init__.py").is_file() or running.samefile(own / "notbugs"):
        return None
    return own


def usable_processors() -> int:
    """Processors that this process may use; all of the machine's where the system keeps no such list (macOS)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def most_jobs(num_threads: int, asked: int | None = None) -> int:
    """How many workers of `num_threads` threads the usable processors bear, at least one.

    Results depend on the number of threads, so more workers than that cannot have fewer threads each.

    Args:
        asked: what was given as --jobs.
    Raises: ConfigError for more than that.
    """
    processors = usable_processors()
    most = max(1, processors // num_threads)
    if asked is not None and asked > most:
        raise ConfigError(
            f"--jobs {asked}: with num_threads = {num_threads} that is {asked * num_threads} threads on {processors} "
            f"processors; at most {most}"
        )
    return most


def processor_name() -> str:
    """As it calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # macOS has none
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
