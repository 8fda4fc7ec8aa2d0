"""Work on batches that are halved when the device's memory does not hold them."""

import itertools
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from notbugs.runtime.devices import is_out_of_memory
from notbugs.runtime.errors import UserError
from notbugs.runtime.memory import give_back_freed_memory

Part = TypeVar("Part")


class MemoryExhaustedError(UserError):
    """Even the smallest batch does not fit into the device's memory."""


class BatchSplitter:
    """Does a work on batches, in halves, quarters, ... once the device ran out of memory; it stays with them.

    Args:
        what: whose batches they are, for the line that says so.
        smallest: fewest examples of a part.
    """

    def __init__(self, what: str, *, smallest: int = 1) -> None:
        self.what, self.smallest = what, smallest
        self._parts = 1

    def map(self, count: int, batch_size: int, work: Callable[[slice], Part]) -> list[Part]:
        """Do the work on `count` examples in batches, and in parts of batches where memory is short.

        Args:
            work: rows of the whole -> anything.
        """
        parts: list[Part] = []
        for start in range(0, count, batch_size):

            def shifted(rows: slice, start: int = start) -> Part:
                return work(slice(start + rows.start, start + rows.stop))

            parts += self(min(batch_size, count - start), shifted)
        return parts

    def __call__(self, count: int, work: Callable[[slice], Part]) -> list[Part]:
        """Do the work on one batch of `count` examples.

        Args:
            work: rows -> anything; done again from row 0 on when a part does not fit.
        Returns: what it gave for each part, in order.
        Raises: MemoryExhaustedError if not even the smallest part fits.
        """
        while True:
            parts = max(1, min(self._parts, count // self.smallest))
            ends = [count * number // parts for number in range(parts + 1)]
            try:
                found = [work(slice(start, stop)) for start, stop in itertools.pairwise(ends)]
                give_back_freed_memory()
                return found
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                if count // (2 * parts) < self.smallest:
                    raise MemoryExhaustedError(
                        f"{self.what}: out of memory with {-(-count // parts)} images at a time; a smaller batch_size "
                        "may help"
                    ) from error
            self._parts = 2 * parts
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
            print(
                f"{self.what}: out of memory; goes on with {-(-count // self._parts)} images at a time, not "
                f"{-(-count // parts)}",
                file=sys.stderr,
                flush=True,
            )
