"""Where stages run: a cluster of Dask on this machine, or one that is there already."""

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil  # type: ignore[import-untyped]

from notbugs.pipeline.cluster.dvc_steps import Command
from notbugs.runtime.config import Runtime
from notbugs.runtime.errors import UserError
from notbugs.runtime.machine import most_jobs

if TYPE_CHECKING:
    from distributed import Client, Future

LOGS = Path(".notbugs") / "logs"
"""What each stage printed when it last ran, ADDRESS.log."""
GIB = 2**30
FOR_A_STAGE = GIB
"""Bytes that a stage takes whatever its data are: torch, a network, a batch under attack."""
OF_D = 8
"""Times the size of data/train that it takes besides, up to `AT_MOST`: from there on datasets are streamed."""
AT_MOST = 4 * GIB
CONNECT_SECONDS = 10.0
"""How long a scheduler may take to answer."""
END_SECONDS = 25.0
"""How long stages may take to put their unfinished work away."""

Told = Callable[[Mapping[str, Any]], None]


class ClusterError(UserError):
    """There is no cluster at the address, or it has no worker."""


class InterruptedStageError(UserError):
    """The stage was ended because all were."""


@dataclass(frozen=True)
class Place:
    """Where stages run.

    Attributes:
        jobs: slots of a cluster on this machine; None for as many as processors and memory bear.
        scheduler: address of a cluster that is there; it has as many slots as its workers have threads.
        dashboard: show Dask's own page, on loopback.
        imports: have torch imported before the first stage; for nothing, if none of them is the package's.
    """

    jobs: int | None = None
    scheduler: str | None = None
    dashboard: bool = False
    imports: bool = True


class Cluster:
    """Runs commands. It is begun with the first one: where there is nothing to do, nothing is begun.

    Attributes:
        slots: how many stages, or tasks of stages, it works on at once.
        hosts: where its workers are.
        gpus: how many they have between them, by Dask's resource GPU.
    """

    def __init__(self, root: Path, shared: Runtime, place: Place, progress: Told, say: Callable[[str], None]) -> None:
        if place.dashboard and find_spec("bokeh") is None:
            raise ClusterError("--dashboard needs bokeh; install it with pip install 'notbugs[dashboard]'")
        self.slots, note = (1, None) if place.scheduler else local_jobs(root, shared, place.jobs)
        if note:
            say(note)
        self.hosts: set[str] = {"127.0.0.1"}
        self.gpus = 0 if place.scheduler else _gpus()
        self._place, self._progress, self._say, self._device = place, progress, say, shared.device
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._local: Any = None
        self._futures: set[Future[Any]] = set()

    def __enter__(self) -> "Cluster":
        if self._place.scheduler is not None:  # that none is there is said before anything is done
            self._start()
        return self

    def __exit__(self, *error: object) -> None:
        for part in (self._client, self._local):
            if part is not None:
                with suppress(Exception):
                    part.close(timeout=END_SECONDS)

    def run(self, command: Command, log: Path, *, gpu: bool) -> dict[str, Any]:
        """Run a command, wherever there is a slot.

        Args:
            log: gets what it prints.
            gpu: it needs one of those that there are, if params.yaml lets it take one.
        Returns: what it cost; see `worker.run_command`.
        Raises: CommandFailedError; InterruptedStageError after `cancel`; ClusterError.
        """
        from distributed.scheduler import KilledWorker

        from notbugs.pipeline.cluster.worker import NotWantedError, run_command

        with self._lock:
            if self._client is None:
                self._start()
        assert self._client is not None  # started above
        resources = {"GPU": 1} if gpu and self.gpus and self._device in ("auto", "cuda") else None
        future = self._client.submit(run_command, command, log, pure=False, resources=resources)
        self._futures.add(future)
        try:
            return dict(future.result())
        except (CancelledError, NotWantedError):
            raise InterruptedStageError("interrupted") from None
        except KilledWorker as error:
            raise ClusterError(
                f"worker after worker was lost with it, {error.allowed_failures} times (out of memory?)"
            ) from None
        finally:
            self._futures.discard(future)

    def cancel(self) -> None:
        """End all commands, and wait until they have ended."""
        from notbugs.pipeline.cluster.worker import processes_here

        if self._client is None:
            return
        self._client.cancel(list(self._futures), force=True)
        until = time.monotonic() + END_SECONDS
        while time.monotonic() < until and any(self._client.run(processes_here).values()):
            time.sleep(0.1)

    def _start(self) -> None:
        import dask
        from distributed import Client, LocalCluster

        from notbugs.pipeline.cluster.worker import PROGRESS, Prepared

        dask.config.set(
            {"distributed.logging.distributed": "critical", "distributed.admin.large-graph-warning-threshold": "1GiB"}
        )
        address = self._place.scheduler
        if address is None:
            # A process that was suspended, or slept with its laptop, has missed its heartbeats: Dask would take its own
            # worker for lost, and wait for another one without end.
            dask.config.set({"distributed.scheduler.worker-ttl": None})
            # Within this process: nobody else on the machine can send it work, as they could to a port.
            self._local = LocalCluster(
                n_workers=1,
                threads_per_worker=self.slots,
                processes=False,
                dashboard_address="127.0.0.1:0",  # pages that are there in any case
                worker_dashboard_address="127.0.0.1:0",
                memory_limit=0,  # the work is done by processes of their own
                resources={"GPU": self.gpus} if self.gpus else None,
                silence_logs=50,
            )
            if self._place.dashboard:
                self._say(f"Dask's page: {self._local.dashboard_link}")
        try:
            self._client = Client(self._local or address, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ClusterError(f"--scheduler {address}: no Dask scheduler answers there ({error})") from None
        self._client.register_plugin(Prepared(os.environ, imports=self._place.imports))
        self._client.subscribe_topic(PROGRESS, lambda event: self._progress(event[1]))
        if address is not None:
            threads = self._client.nthreads()
            if not threads:
                raise ClusterError(f"--scheduler {address}: no worker there; start one with `dask worker {address}`")
            self.slots = sum(threads.values())
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
            self.hosts = {worker["host"] for worker in workers}
            self.gpus = sum(int(worker.get("resources", {}).get("GPU", 0)) for worker in workers)
            if self._device == "cuda" and not self.gpus:
                raise ClusterError(
                    f"--scheduler {address}: params.yaml: device = 'cuda': no worker has a GPU; say how many it has by "
                    "`dask worker --resources GPU=1`"
                )


def local_jobs(root: Path, shared: Runtime, asked: int | None) -> tuple[int, str | None]:
    """Slots of a cluster on this machine.

    One for each `num_threads` processors. Fewer where the free memory would not do for `FOR_A_STAGE` and `OF_D` times
    the size of data/train, each.

    Returns: the number, and a line about fewer than asked for or expected.
    Raises: ConfigError for more slots than processors.
    """
    most = most_jobs(shared.num_threads, asked)
    wanted = asked or most
    each = FOR_A_STAGE + min(OF_D * _size(root / "data" / "train"), AT_MOST)
    fitting = max(1, _free_memory() // each)
    if fitting >= wanted:
        return wanted, None
    why = f"a stage takes about {each / GIB:.1f} GiB, {_free_memory() / GIB:.1f} are free"
    return fitting, f"--jobs {fitting}, not {wanted}: {why}"


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _free_memory() -> int:
    """Bytes, within what a container may take."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such limit
        return free
    return min(free, max(0, limit - used))


def _gpus() -> int:
    """CUDA devices of this machine that may be used; without asking torch, which takes seconds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip()])
    return len(list(Path("/proc/driver/nvidia/gpus").glob("*")))
