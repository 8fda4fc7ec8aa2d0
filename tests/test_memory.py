"""Freed memory: small blocks are kept, large ones given back where huge pages make them cheap to fetch again."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import torch
from notbugs import memory

memory.keep_freed_memory()
print(memory._gets_huge_pages())

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 2**10

def left_by(count, mebibytes):
    before = resident()
    blocks = [torch.ones(mebibytes * 2**18) for _ in range(count)]
    del blocks
    return resident() - before

print(left_by(3, 64), left_by(256, 1))
"""


def left(**environment: str) -> tuple[bool, float, float]:
    """Whether huge pages are had, and how many MiB stay of 3 freed blocks of 64 MiB and of 256 of 1 MiB."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    huge, large, small = done.stdout.split()
    return huge == "True", float(large), float(small)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_large_blocks_are_given_back_and_small_ones_kept():
    huge, large, small = left()
    if not huge:
        pytest.skip("this kernel gives no huge pages")
    assert large < 20
    assert small > 200


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_large_blocks_are_kept_without_huge_pages():
    huge, large, _ = left(THP_MEM_ALLOC_ENABLE="0")
    assert not huge
    assert large > 150
