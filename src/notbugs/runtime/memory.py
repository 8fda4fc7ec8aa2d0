"""How the process keeps its memory, and gives it back."""

import ctypes
import sys
import time
from collections.abc import Callable

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_given_back: float | None = None
"""When it last did, by time.monotonic; None while it keeps nothing."""


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next allocation instead of giving it back to the kernel.

    A network frees and takes the same few megabytes at every step. Given back, each page is fetched from the kernel
    and zeroed again: half the time of a small network on a CPU (docs/performance.md).
    Does nothing where there is no glibc.
    """
    global _given_back
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        _given_back = time.monotonic()


def give_back_freed_memory(every: float = 2.0) -> None:
    """Give the kernel what `keep_freed_memory` keeps, unless that was done less than so many seconds ago.

    A heap that keeps all it ever freed has ever more holes into which the next blocks do not quite fit: its peak rises
    with the number of steps (docs/scale.md). To be called often; it takes some 20 ms.
    """
    global _given_back
    if _given_back is None or time.monotonic() - _given_back < every:
        return
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)
    _given_back = time.monotonic()


def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
