"""The one place that calls MLflow. Importing this module is quick; `open_store` imports MLflow (seconds)."""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil  # type: ignore[import-untyped]

from notbugs.runtime.errors import one_line
from notbugs.runtime.files import file_lock
from notbugs.tracking import location
from notbugs.tracking.model_store import ModelStore
from notbugs.tracking.names import clean, clean_tags
from notbugs.tracking.views import VERSION, WRITTEN, views

_DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Set unless the user has set them: give up soon, print nothing."""
PRIVATE = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
"""Always set: nothing about the user leaves the machine."""
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""Without it MLflow's pages take the experiment for one on language models and hide the training runs."""
_OPEN_SECONDS = 60.0
_BATCH = {"metrics": 1000, "params": 100, "tags": 100}
"""How many MLflow takes at once."""
SYSTEM_METRICS = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"


@dataclass(frozen=True)
class Found:
    """A run in MLflow, as far as tracking needs it."""

    run_id: str
    status: str
    params: dict[str, str]
    tags: dict[str, str]
    deleted: bool
    started: int
    """Milliseconds since 1970."""
    last_time: int
    """The same: of the newest number, or the start."""
    metrics: frozenset[str] = frozenset()
    """Names of its metrics."""
    models: frozenset[str] = frozenset()
    """Ids of its models."""


class TrackingError(Exception):
    """MLflow cannot be used; the message says why in one line."""


@contextmanager
def mlflow_environment(uri: str) -> Iterator[None]:
    """Set what MLflow reads from the environment, keep its libraries' warnings to itself, and put all back.

    The tracking URI too: parts of MLflow's client make clients of their own, which would open a new database
    in the current folder.
    """
    changes = {key: os.environ.get(key, value) for key, value in _DEFAULTS.items()}
    changes |= PRIVATE | {"MLFLOW_TRACKING_URI": uri}
    before = {key: os.environ.get(key) for key in changes}
    os.environ.update(changes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's use of its libraries is not the user's business
            yield
    finally:
        for key, value in before.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


@contextmanager
def open_store(uri: str, experiment: str, project: Path) -> Iterator["Store"]:
    """Open the tracking server or database; a missing database and a missing experiment are created.

    Args:
        uri: tracking URI.
        experiment: name.
        project: where artifacts go if `uri` is a database.
    Raises: TrackingError, with the reason in one line, from anything that goes wrong in the block too.
    """
    from sqlalchemy.exc import SQLAlchemyError

    location.relocate_artifacts(project, uri)
    with mlflow_environment(uri):
        try:
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException
        except Exception as error:  # a broken installation shows in many ways
            raise TrackingError(f"MLflow cannot be imported: {one_line(error)}") from error
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])
        try:
            (project / ".notbugs").mkdir(exist_ok=True)
            with file_lock(project / ".notbugs" / "open.lock", _OPEN_SECONDS):  # MLflow cannot make a database twice
                client = MlflowClient(uri)
                experiment_id = _experiment(client, experiment, uri, project)
            yield Store(client, experiment_id, uri, project)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise TrackingError(f"MLflow at {location.shown(uri)}: {one_line(error)}") from error


def _experiment(client: Any, name: str, uri: str, project: Path) -> str:
    """The id of the experiment, made if there is none.

    Raises: TrackingError if it was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is not None:
        _offer_views(client, found)
    else:
        artifacts = None
        if not location.is_server(uri):
            folder = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).lstrip(".") or "-"
            artifacts = (location.artifact_root(project) / folder).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=artifacts, tags=_EXPERIMENT_TAGS | views()))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was quicker
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"the MLflow experiment {name!r} was deleted: `mlflow experiments restore --experiment-id "
            f"{found.experiment_id}`, or another `experiment` in params.yaml"
        )
    return str(found.experiment_id)


def _offer_views(client: Any, experiment: Any) -> None:
    """Save our views of the runs table with an experiment; those of this version once, so a deleted one stays away."""
    from mlflow.exceptions import MlflowException

    if experiment.lifecycle_stage == "active" and experiment.tags.get(WRITTEN) != VERSION:
        with suppress(MlflowException):  # a server that lets one log runs and nothing else: it goes without views
            for key, value in views().items():
                client.set_experiment_tag(experiment.experiment_id, key, value)


class Store(ModelStore):
    """One experiment on a tracking server or in a database."""

    def __init__(self, client: Any, experiment_id: str, uri: str, project: Path) -> None:
        super().__init__(client, experiment_id, project)
        self._uri = uri

    def create(self, name: str, tags: Mapping[str, str], start_time: int) -> str:
        """Start a run; gives its id."""
        run = self._client.create_run(self._experiment_id, start_time=start_time, tags=clean_tags(tags), run_name=name)
        return str(run.info.run_id)

    def log(
        self,
        run_id: str,
        *,
        metrics: Sequence[tuple[str, float, int, int]] = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Log numbers (key, value, time in ms, step), params and tags; the same again changes nothing."""
        from mlflow.entities import Metric, Param, RunTag

        rows: dict[str, Sequence[Any]] = {
            "metrics": [Metric(clean(key), value, time, step) for key, value, time, step in metrics],
            "params": [Param(clean(key), value[:6000]) for key, value in (params or {}).items()],
            "tags": [RunTag(key, value) for key, value in clean_tags(tags or {}).items()],
        }
        for kind, some in rows.items():
            for first in range(0, len(some), _BATCH[kind]):
                self._client.log_batch(run_id, **{kind: some[first : first + _BATCH[kind]]})

    def log_datasets(self, run_id: str, datasets: Sequence[Mapping[str, Any]]) -> None:
        """Log inputs: name, digest, path, context, profile."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        rows = [
            DatasetInput(
                dataset=Dataset(
                    name=data["name"][:500],
                    digest=data["digest"][:36],
                    source_type="local",
                    source=json.dumps({"uri": data["path"]}),
                    profile=json.dumps(data["profile"]),
                ),
                tags=[InputTag("mlflow.data.context", data["context"])],
            )
            for data in datasets
        ]
        if rows:
            self._client.log_inputs(run_id, rows)

    def copy_datasets(self, source: str, run_id: str) -> None:
        """Log the inputs of another run."""
        found = self._client.get_run(source).inputs
        if found is not None and found.dataset_inputs:
            self._client.log_inputs(run_id, found.dataset_inputs)

    def artifacts(self, run_id: str, folder: str) -> set[str]:
        """Names of the files in a folder of a run's artifacts."""
        return {Path(item.path).name for item in self._client.list_artifacts(run_id, folder)}

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Upload a text as a file."""
        self._client.log_text(run_id, text, name)

    @contextmanager
    def system_metrics(self, run_id: str, pid: int) -> Iterator[None]:
        """Log what the machine does, and the memory of one process, while the block runs.

        Every second at first, every ten in a long run, or as MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says.
        """
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        class Monitor(SystemMetricsMonitor):
            """MLflow's, which slows down, and looks at the stage: that is not the process that MLflow runs in."""

            def publish_metrics(self, metrics: dict[str, float]) -> None:
                """Send a sample."""
                with suppress(psutil.Error):  # the stage has ended
                    memory = psutil.Process(pid).memory_info().rss
                    metrics["process_memory_usage_megabytes"] = round(memory / 1e6, 1)
                super().publish_metrics(metrics)
                if "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL" not in os.environ:
                    self.sampling_interval = min(10.0, 1.1 * self.sampling_interval)

        monitor = Monitor(run_id, sampling_interval=1.0, resume_logging=True, tracking_uri=self._uri)
        monitor.start()
        try:
            yield
        finally:
            monitor.finish()

    def set_status(self, run_id: str, status: str, end_time: int | None = None) -> None:
        """End a run, or let it count as running again."""
        if end_time is None:
            self._client.update_run(run_id, status=status)
        else:
            self._client.set_terminated(run_id, status, end_time)

    def get(self, run_id: str) -> Found | None:
        """A run by its id, None if there is none."""
        from mlflow.exceptions import MlflowException

        try:
            return _found(self._client.get_run(run_id))
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise

    def tagged(self, key: str, value: str, *, most: int = 20) -> list[Found]:
        """Runs of the experiment with this tag, deleted ones too; not more than `most`."""
        from mlflow.entities import ViewType

        query = f"tags.`{key}` = '{value}'"
        runs = self._client.search_runs([self._experiment_id], query, ViewType.ALL, max_results=most)
        return [_found(run) for run in runs]

    def trained(self, address: str) -> list[Found]:
        """Runs of a stage, such as "fit@det", that have ended well or go on; the newest first, at most 100."""
        stage, _, name = address.partition("@")
        query = f"tags.stage = '{stage}'" + (f" and tags.name = '{name}'" if name else "")
        order = ["attributes.start_time DESC"]
        runs = self._client.search_runs([self._experiment_id], query, max_results=100, order_by=order)
        return [found for found in map(_found, runs) if found.status in ("FINISHED", "RUNNING")]

    def times(self) -> list[tuple[dict[str, str], int, int]]:
        """Tags, start and end (milliseconds since 1970) of the runs of the experiment that have ended, oldest first."""
        found: list[Any] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id], "attributes.end_time > 0", order_by=["attributes.start_time"], page_token=token
            )
            found += page
            token = page.token
            if not token:
                return [(dict(run.data.tags), run.info.start_time, run.info.end_time) for run in found]

    def running(self) -> list[Found]:
        """Runs of the experiment that have not ended."""
        runs = self._client.search_runs([self._experiment_id], "attributes.status = 'RUNNING'", max_results=1000)
        return [_found(run) for run in runs]


def _found(run: Any) -> Found:
    times = [metric.timestamp for metric in getattr(run.data, "_metric_objs", [])]
    info = run.info
    return Found(
        run_id=info.run_id,
        status=info.status,
        params=dict(run.data.params),
        tags=dict(run.data.tags),
        deleted=info.lifecycle_stage != "active",
        started=info.start_time,
        last_time=max([info.start_time, *times]),
        metrics=frozenset(run.data.metrics),
        models=frozenset(model.model_id for model in (run.outputs.model_outputs if run.outputs else ())),
    )


def _load_pyfunc(path: str) -> SimpleNamespace:
    """Called by MLflow with the folder of a logged classifier's data: `mlflow.pyfunc.load_model(uri)`.

    Returns: what can `predict`: images (N, C, H, W) float32 in [0, 1] -> logits (N, classes) float32.
    """
    import numpy as np
    import torch

    from notbugs.models import load_model

    model = load_model(Path(path) / "model.safetensors")

    def predict(images: Any, params: dict[str, Any] | None = None) -> Any:
        """Logits of a batch of images; `params` is part of MLflow's interface and has no effect."""
        with torch.no_grad():
            return model(torch.from_numpy(np.ascontiguousarray(images))).numpy()

    return SimpleNamespace(predict=predict)
