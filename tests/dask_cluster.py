"""A cluster of Dask on loopback whose workers are processes of their own, as on several machines: one can be lost."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from notbugs.runtime.files import read_mapping
from projects import environment

DASK = (sys.executable, "-m", "dask")


@dataclass
class DaskCluster:
    """Its scheduler's address, and its workers."""

    address: str
    workers: "list[subprocess.Popen[bytes]]"

    def at_work(self) -> "list[subprocess.Popen[bytes]]":
        """The workers that have a stage or a task in hand: a process forked from their server."""
        return [worker for worker in self.workers if worker.poll() is None and _forks(worker.pid)]


def _forks(worker: int) -> list[psutil.Process]:
    servers = psutil.Process(worker).children()
    return [fork for server in servers for fork in server.children()]


@contextmanager
def dask_cluster(folder: Path, workers: int = 2) -> Iterator[DaskCluster]:
    """Begin it, and end it with the block.

    Args:
        folder: for what its processes write.
        workers: of one thread each; they have no nanny, so one that is killed stays away.
    """
    known, surroundings = folder / "scheduler.json", environment()
    options = ["--scheduler-file", str(known), "--no-dashboard", "--host", "127.0.0.1"]
    settings = {"cwd": folder, "env": surroundings, "stdin": subprocess.DEVNULL}
    with (folder / "dask.log").open("wb") as log:
        scheduler = subprocess.Popen([*DASK, "scheduler", *options, "--port", "0"], stdout=log, stderr=log, **settings)
        command = [*DASK, "worker", *options, "--nthreads", "1", "--no-nanny", "--local-directory", str(folder)]
        begun = [subprocess.Popen(command, stdout=log, stderr=log, **settings) for _ in range(workers)]
        try:
            yield DaskCluster(_address(known, workers), begun)
        finally:
            for process in (*begun, scheduler):
                process.kill()
                process.wait()


def _address(known: Path, workers: int) -> str:
    """The scheduler's, once all its workers are there."""
    from distributed import Client

    until = time.monotonic() + 60
    while not read_mapping(known).get("address"):
        assert time.monotonic() < until, known.with_name("dask.log").read_text()
        time.sleep(0.05)
    address = str(read_mapping(known)["address"])
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=60)
    return address
