"""What is shown while the pipeline runs: a line for each stage that runs, on a terminal; else a line now and then."""

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from notbugs.runtime.progress import LOG_INTERVAL

MANY = 3
"""Stages that are named where more wait."""


@dataclass
class _Stage:
    """One that runs.

    Attributes:
        number: how many stages had begun or needed nothing when it began, itself among them.
    """

    number: int
    begun: float = field(default_factory=time.monotonic)
    doing: str = ""
    doing_since: float = 0.0
    done: int = 0
    total: int | None = None

    def line(self) -> str:
        """How far it is: for how long it runs, what it does, rate, seconds left."""
        now = time.monotonic()
        text = f"running for {now - self.begun:.0f} s"
        if self.doing:
            text += f"; {self.doing}: {self.done}" + (f"/{self.total}" if self.total else "")
            rate = self.done / max(now - self.doing_since, 1e-9)
            if self.done:
                text += f", {rate:.1f}/s" if rate >= 1 else f", {1 / rate:.1f} s each"
                if self.total:
                    text += f", {(self.total - self.done) / rate:.0f} s left"
        return text


class Watch:
    """Shows how far the pipeline is, on standard error."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self._waiting = list(addresses)
        self._total = len(addresses)
        self._running: dict[str, _Stage] = {}
        self._seconds: dict[str, float] = {}
        self._lock = threading.RLock()
        self._console = Console(stderr=True)
        self._live: Live | None = None
        self._over = threading.Event()

    def __enter__(self) -> "Watch":
        if sys.stderr.isatty():
            self._live = Live(console=self._console, get_renderable=self._picture, refresh_per_second=4, transient=True)
            self._live.start()
        else:
            threading.Thread(target=self._tell_now_and_then, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        if self._live is None:
            print(text, file=sys.stderr, flush=True)
        else:
            self._console.print(Text(text))

    def begin(self, address: str) -> None:
        """A stage's command begins."""
        with self._lock:
            self._leave(address)
            number = self._total - len(self._waiting)
            self._running[address] = _Stage(number)
        if self._live is None:
            self.say(f"{address}: begins (stage {number} of {self._total})")

    def progress(self, told: Mapping[str, Any]) -> None:
        """A stage says how far it is: address, description, done, total."""
        with self._lock:
            stage = self._running.get(told["address"])
            if stage is None:
                return
            if stage.doing != told["description"]:
                stage.doing, stage.doing_since = told["description"], time.monotonic()
            stage.done, stage.total = told["done"], told["total"]

    def done(self, address: str, *, ran: bool) -> None:
        """A stage is done, or had nothing to do."""
        with self._lock:
            stage = self._running.pop(address, None)
            self._leave(address)
            settled = self._total - len(self._waiting) - len(self._running)
        if stage is not None:
            self.say(f"{address}: done in {time.monotonic() - stage.begun:.0f} s ({settled} of {self._total} stages)")
        elif ran:
            self.say(f"{address}: restored from the run cache ({settled} of {self._total} stages)")

    def failed(self, address: str, why: str) -> None:
        """A stage failed; the others go on."""
        with self._lock:
            self._running.pop(address, None)
            self._leave(address)
        self.say(f"{address}: failed: {why}")

    def _leave(self, address: str) -> None:
        if address in self._waiting:
            self._waiting.remove(address)

    def _picture(self) -> RenderableType:
        with self._lock:
            lines = [
                f"{f'{address}, stage {stage.number} of {self._total}':<38} {stage.line()}"
                for address, stage in self._running.items()
            ]
            return Group(*(Text(line, no_wrap=True, overflow="ellipsis") for line in [*lines, self._rest()]))

    def _rest(self) -> str:
        settled = self._total - len(self._waiting) - len(self._running)
        names = ", ".join(self._waiting[:MANY]) + (", ..." if len(self._waiting) > MANY else "")
        return f"{settled} of {self._total} stages done" + (f"; waiting: {names}" if names else "")

    def _tell_now_and_then(self) -> None:
        while not self._over.wait(LOG_INTERVAL):
            with self._lock:
                lines = [
                    f"{address} (stage {stage.number} of {self._total}): {stage.line()}"
                    for address, stage in self._running.items()
                ]
                rest = self._rest()
            for line in lines:
                print(line, file=sys.stderr, flush=True)
            if lines:
                print(rest, file=sys.stderr, flush=True)
