"""How the process keeps its memory."""

import ctypes
import os
import re
import sys
from pathlib import Path

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
LARGE = 2**22
"""Bytes from which a block is large."""


def keep_freed_memory() -> None:
    """Let glibc keep freed memory for the next allocation instead of giving it back to the kernel.

    A network frees and takes the same few megabytes at every step. Given back, each page is fetched from the kernel
    and zeroed again: half the time of a small network on a CPU (docs/performance.md).

    Large blocks, kept, leave a heap of holes that the next ones do not quite fit into: the peak rises with the number
    of steps (docs/scale.md). They are given back where the kernel gives huge pages, 512 pages at a time, which takes
    no longer than keeping them; elsewhere they are kept too. To be called before torch allocates anything.
    Does nothing where there is no glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # torch reads it at its first allocation
        mallopt(M_MMAP_THRESHOLD, LARGE if _gets_huge_pages() else 2**30)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def _gets_huge_pages() -> bool:
    """Whether torch asks for huge pages, and the kernel gives them."""
    block = torch.ones(4 * LARGE, dtype=torch.uint8)
    try:
        pages = re.search(r"AnonHugePages: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    except OSError:
        return False
    return pages is not None and int(pages[1]) * 2**10 >= len(block) // 2
