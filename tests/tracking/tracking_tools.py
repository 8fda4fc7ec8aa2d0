"""What the tests of tracking share: small stages, a dvc.lock, servers that do not answer, a look into MLflow."""

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from notbugs.runtime.dvc_lock import content
from notbugs.tracking import live, location
from notbugs.tracking.journal import Journal, journals
from notbugs.tracking.store import mlflow_environment


class Runs:
    """What MLflow holds, read through its own client."""

    def __init__(self, project: Path) -> None:
        self.uri = location.tracking_uri(project)

    @contextmanager
    def client(self) -> Iterator[Any]:
        with mlflow_environment(self.uri):
            from mlflow import MlflowClient

            yield MlflowClient(self.uri)

    def all(self, experiment: str = "test") -> list[Any]:
        with self.client() as client:
            found = client.get_experiment_by_name(experiment)
            return [] if found is None else list(client.search_runs([found.experiment_id]))

    def one(self) -> Any:
        runs = self.all()
        assert len(runs) == 1
        return runs[0]

    def curve(self, run: Any, key: str) -> list[tuple[int, float]]:
        with self.client() as client:
            return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]

    def artifacts(self, run: Any, folder: str | None = None) -> list[str]:
        with self.client() as client:
            return sorted(item.path for item in client.list_artifacts(run.info.run_id, folder))


def stage(root: Path, name: str = "rand", **changes: Any) -> Any:
    """`live_run` of a small stage."""
    arguments: dict[str, Any] = {
        "root": root,
        "experiment": "test",
        "params": {"fit": {name: {"lr": 0.1}}},
        "seed": 3,
        "inputs": [],
        "outputs": [],
        "metrics_file": None,
    }
    return live.live_run("fit", name, **(arguments | changes))


def the_journal(root: Path) -> Journal:
    """The only journal of a project."""
    (found,) = journals(location.work_folder(root))
    return found


def wait_for(condition: Callable[[], object], seconds: float = 200.0) -> None:
    """Wait until something is true; a busy machine may take long to import MLflow."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def write_lock(root: Path, *, name: str = "rand", lr: float = 0.1, outs: tuple[str, ...] = ()) -> None:
    """Write a dvc.lock of one stage `fit@<name>` over the files in the workspace, and params.yaml."""
    entry = {
        "cmd": f"notbugs fit {name}",
        "deps": [{"path": "data/train", "hash": "md5", "md5": "0" * 32 + ".dir", "size": 10, "nfiles": 2}],
        "params": {"params.yaml": {f"fit.{name}": {"lr": lr}}},
        "outs": [{"path": out, "hash": "md5", **_described(root / out)} for out in outs],
    }
    lock = {"schema": "2.0", "stages": {f"fit@{name}": entry}}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    params = {"experiment": "test", "fit": {name: {"lr": lr}}}
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def _described(path: Path) -> dict[str, Any]:
    there = content(path)
    assert there is not None
    return {key: value for key, value in asdict(there).items() if value is not None}


@contextmanager
def silent_server(*, answers: bool) -> Iterator[int]:
    """A port where connections are refused, or accepted and never answered."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        if answers:
            listener.listen(8)
            yield port
    if not answers:
        yield port


def process_gone(pid: int) -> bool:
    """Whether no process has this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
