"""Workers of a study, as tasks of a cluster: `notbugs sweep NAME --scheduler ADDRESS`."""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from notbugs.pipeline.cluster.dvc_steps import Command
from notbugs.pipeline.cluster.place import LOGS, Cluster, ClusterError, InterruptedStageError, Place
from notbugs.pipeline.cluster.worker import CommandFailedError
from notbugs.pipeline.running.jobs import Heard, in_this_process
from notbugs.runtime.config import Runtime


class ClusterHelpers:
    """`jobs.Others` for a command that is not run by `notbugs repro`."""

    def __init__(self, root: Path, shared: Runtime, scheduler: str) -> None:
        self._root, self._shared, self._scheduler = root, shared, scheduler

    def do_all(
        self, project: Any, tasks: Sequence[Any], work: Callable[..., Any], description: str, heard: Heard
    ) -> list[Any]:
        """The tasks of a study are its trials, which its workers share out; others are done here."""
        return in_this_process(tasks, work, heard)

    def run(self, command: str, environment: Mapping[str, str], most: int) -> None:
        """Run a command on every slot of the cluster, `most` times at most; see `jobs.Others`.

        Raises: ClusterError if there is none, or its machines cannot share what the command works on.
        """
        place = Place(scheduler=self._scheduler)
        with Cluster(self._root, self._shared, place, lambda told: None, lambda text: None) as cluster:
            storage = next((value for value in environment.values() if value.startswith("sqlite")), None)
            if storage is not None and not cluster.hosts <= _own_addresses():
                raise ClusterError(
                    f"--scheduler {self._scheduler}: workers on other machines cannot share the SQLite database; "
                    "give --storage postgresql://..."
                )
            commands = Command("sweep", (command,), self._root, {**os.environ, **environment})
            log = self._root / LOGS / "sweep-workers.log"
            count = max(1, min(most, cluster.slots))

            def work(_: int) -> None:
                """Be one of them; why it failed is in its log, and in the study."""
                with suppress(CommandFailedError, InterruptedStageError):
                    cluster.run(commands, log, gpu=True)

            with ThreadPoolExecutor(count) as threads:
                try:
                    list(threads.map(work, range(count)))
                except BaseException:
                    cluster.cancel()
                    raise


def _own_addresses() -> set[str]:
    """IP addresses of this machine."""
    return {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
