"""Progress of long work: a bar with rate and time left on a terminal, a line now and then in a log.

A process that works for another one shows nothing, or tells that one how far it is.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Protocol, TypeVar

T = TypeVar("T")
LOG_INTERVAL = 15.0
"""Seconds between two lines where output is no terminal."""


class Track(Protocol):
    """Wraps an iterable and shows how far it is, as `track` does."""

    def __call__(self, iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
        """Yield the items of `iterable`."""
        ...


Told = Callable[[str, int, int | None], None]
"""(description, number of items that are done, number of all of them if that is known) -> None."""
TELLING_INTERVAL = 0.5
"""Seconds between two times that somebody is told."""
_hidden = False
"""Whether this process shows nothing."""
_told: Told | None = None
"""Who is told instead."""


def hide() -> None:
    """Show no progress in this process from now on: it works for another, which does."""
    global _hidden
    _hidden = True


def tell(told: Told) -> None:
    """Show no progress in this process from now on, but tell somebody who shows it."""
    global _told
    _told = told


def silent(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items, showing nothing."""
    yield from iterable


def track(iterable: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """The items, with progress on standard error.

    Args:
        description: shown in front, such as "train standard, seed 0".
        total: number of items; taken from len(iterable) where it has one.
    """
    if _hidden:
        yield from iterable
        return
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if _told is not None:
        yield from _telling(iterable, description, total, _told)
    elif sys.stderr.isatty():
        yield from _bar(iterable, description, total)
    else:
        yield from _lines(iterable, description, total)


def _bar(iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description:<32}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=total, rate="")
        started = time.monotonic()
        for done, item in enumerate(iterable, start=1):
            yield item
            progress.update(task, completed=done, rate=_rate(done, started))


def _lines(iterable: Iterable[T], description: str, total: int | None) -> Iterator[T]:
    started = shown = time.monotonic()
    for done, item in enumerate(iterable, start=1):
        yield item
        now = time.monotonic()
        if now - shown >= LOG_INTERVAL:
            shown = now
            left = f", {(now - started) / done * (total - done):.0f} s left" if total else ""
            of = f"/{total}" if total else ""
            print(f"{description}: {done}{of}, {_rate(done, started)}{left}", file=sys.stderr, flush=True)


def _telling(iterable: Iterable[T], description: str, total: int | None, told: Told) -> Iterator[T]:
    shown = time.monotonic()
    told(description, 0, total)
    done = 0
    for done, item in enumerate(iterable, start=1):
        yield item
        if time.monotonic() - shown >= TELLING_INTERVAL:
            shown = time.monotonic()
            told(description, done, total)
    told(description, done, total)


def _rate(done: int, started: float) -> str:
    rate = done / max(time.monotonic() - started, 1e-9)
    return f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
