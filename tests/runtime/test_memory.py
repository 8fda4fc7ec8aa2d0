"""Freed memory: kept for the next allocation, given back now and then."""

import subprocess
import sys

import pytest

PROGRAM = """
import torch
from notbugs.runtime import memory

def resident():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 2**10

def left_by(count, mebibytes):
    before = resident()
    blocks = [torch.ones(mebibytes * 2**18) for _ in range(count)]
    end = torch.ones(2**18)  # what is still in use keeps the top of the heap
    del blocks
    return resident() - before, end

usual, _ = left_by(16, 16)
memory.give_back_freed_memory(every=0)  # nothing is kept yet
memory.keep_freed_memory()
kept, _held = left_by(16, 16)
memory.give_back_freed_memory(every=100)
early = resident()
memory.give_back_freed_memory(every=0)
print(usual, kept, early - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of glibc")
def test_freed_memory_is_kept_and_given_back():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=100, check=True)
    usual, kept, given_back = map(float, done.stdout.split())
    assert usual < 20
    assert kept > 240
    assert given_back > 200
