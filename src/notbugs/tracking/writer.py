"""The process beside a running stage that sends its journal to MLflow.

A process, not a thread: importing MLflow takes three seconds of pure Python, which in the stage would slow
training and make every short stage wait; and what hangs here hangs for itself.
"""

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from notbugs.runtime.process import alive
from notbugs.tracking import location
from notbugs.tracking.client import StoreError, open_store
from notbugs.tracking.facts import find_facts
from notbugs.tracking.family import Children
from notbugs.tracking.journal import Journal, now
from notbugs.tracking.monitor import SystemMonitor
from notbugs.tracking.sending import begin, close_if_dead, send

POLL_SECONDS = 0.1
HEAD_START_SECONDS = 3.0
"""How long after the stage's start MLflow is imported, which costs seconds of a processor."""
RETRY_SECONDS = 10.0
"""Between two attempts while the server is away."""
PATIENCE_SECONDS = 60.0
"""How long attempts go on once the stage has ended; then it is left to `notbugs track`."""


def main(folder: str) -> int:
    """Send the journal in `folder` until it is sent, or the stage has ended and MLflow cannot be reached."""
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(10)
    journal = Journal(Path(folder))
    with journal.locked() as mine:
        if not mine:
            return 0
        monitor = _start_monitor(journal)
        try:
            _Writer(journal).work()
        finally:
            if monitor:
                monitor.stop()
    return 0


class _Writer:
    """Attempts until the journal is sent."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.header = journal.header
        self.uri = location.tracking_uri(Path(self.header["project"]))
        self.next_look = 0.0
        self.ended_at: float | None = None

    def work(self) -> None:
        """Find the run's facts, wait until the stage has started, and try until all is sent or patience ends."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        self.journal.set_state(phase="starting")
        reason = location.problem(self.uri)
        if reason:
            self._fail(f"MLflow at {location.shown(self.uri)}: {reason}")
        inputs = [Path(name) for name in self.header["inputs"]]
        self.journal.set_facts(find_facts(Path(self.header["root"]), inputs))
        self._let_it_start()
        while not self._attempt() and self._patient():
            self._pause()

    def _let_it_start(self) -> None:
        """Leave the processors to the stage while it imports torch."""
        until = self.header["started"] + 1000 * HEAD_START_SECONDS
        while now() < until and not self.journal.ended:
            time.sleep(POLL_SECONDS)

    def _attempt(self) -> bool:
        """Send until the end, or until something fails; whether all is sent."""
        reason = location.problem(self.uri)
        if reason:
            self._fail(f"MLflow at {location.shown(self.uri)}: {reason}")
            return False
        project = Path(self.header["project"])
        try:
            with open_store(self.uri, self.header["experiment"], project) as store:
                self.journal.set_state(phase="open", error=None)
                if not begin(store, self.journal):
                    return True
                children = Children(self.journal)
                while not send(store, self.journal):
                    children.send(store)
                    self._see_end()
                    time.sleep(POLL_SECONDS)
                children.send(store, last=True)
        except StoreError as error:
            self._fail(str(error))
            return False
        return True

    def _fail(self, reason: str) -> None:
        self.journal.set_state(phase="failed", error=reason)

    def _pause(self) -> None:
        """Wait before the next attempt, less if the stage ends meanwhile."""
        until = time.monotonic() + RETRY_SECONDS
        while time.monotonic() < until:
            if self._see_end():
                return
            time.sleep(POLL_SECONDS)

    def _patient(self) -> bool:
        self._see_end()
        return self.ended_at is None or time.monotonic() - self.ended_at < PATIENCE_SECONDS

    def _see_end(self) -> bool:
        """Whether the stage has ended since the last look; one that died is given its end."""
        if self.ended_at is not None:
            return False
        dead = False
        if time.monotonic() >= self.next_look:
            self.next_look = time.monotonic() + 1
            dead = close_if_dead(self.journal)
        if dead or self.journal.ended:
            self.ended_at = time.monotonic()
        return self.ended_at is not None

    def _watch(self) -> None:
        """End this process if a call hangs long after the stage has ended."""
        gone_since = None
        while gone_since is None or time.monotonic() - gone_since < 2 * PATIENCE_SECONDS:
            time.sleep(1)
            if gone_since is None and (self.journal.ended or alive(self.journal.process) is False):
                gone_since = time.monotonic()
        os._exit(3)


def _start_monitor(journal: Journal) -> SystemMonitor | None:
    if os.environ.get("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "").lower() in ("false", "0"):
        return None

    def report(step: int, values: dict[str, float]) -> None:
        """Into the journal, like any other metric."""
        journal.append("metrics", step=step, values=values)

    try:
        monitor = SystemMonitor(int(journal.header["pid"]), report)
    except Exception:  # no /proc, no such process: then without
        return None
    monitor.start()
    return monitor


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
