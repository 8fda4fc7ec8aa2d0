"""The runs of a study's trials in MLflow, as Optuna's database has them: live, and made good afterwards.

A trial is told once, to the database. Importing this imports Optuna, and neither torch nor pandas: the process that
sends a session's run to MLflow calls it again and again.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from notbugs.runtime.errors import UserError
from notbugs.runtime.process import alive
from notbugs.sweeps.points import Point
from notbugs.sweeps.recorded import study_key, trial_metrics
from notbugs.sweeps.storage import open_storage, storage_url
from notbugs.tracking import location
from notbugs.tracking.journal import JOURNAL, PROCESS
from notbugs.tracking.rebuilding import RecordedRun

RECORD, HASHES = "record", "hashes"
"""Attributes of a study: what its results depend on, DVC's hashes of its inputs."""
SLOT, WORKER, ENDED, ERROR = "slot", "worker", "ended", "error"
"""Attributes of a trial: its point's number, who runs it, how it failed (error, interrupted; lost: none), and why."""
ROWS, SECONDS, POINT, CURVES, TRACKED = "rows", "seconds", "point", "curves", "mlflow"
"""More of them: measurements of each seed, running times, what is tried, learning curves (time in ms, epoch, values),
and the tag `notbugs.journal` of its run."""


def trial_runs(root: Path, name: str, key: str) -> list[RecordedRun]:
    """The runs of all trials of a study.

    Args:
        name, key: of the study; one of this name and other settings has another key.
    Returns: none if the study is not there, or cannot be read now: then it is asked again.
    """
    try:
        url = storage_url(root, None)
        database = location.database_file(url)
        if database is not None and not database.exists():
            return []
        with open_storage(url) as storage:
            if name not in optuna.get_all_study_names(storage):
                return []
            study = optuna.load_study(study_name=name, storage=storage)
            if study_key(name, study.user_attrs.get(RECORD) or {}) != key:
                return []
            trials = study.get_trials(deepcopy=False)
    except (UserError, StorageInternalError, SQLAlchemyError):
        return []
    return [trial_run(name, trial.number, trial) for trial in trials if POINT in trial.user_attrs]


def trial_run(study: str, number: int, trial: FrozenTrial) -> RecordedRun:
    """The run of one trial that has a point."""
    attributes = trial.user_attrs
    point = Point(**attributes[POINT])
    tags = {"sweep.study": study, "sweep.trial": str(number), "kind": point.kind}
    for tag, fact in ((JOURNAL, TRACKED), (PROCESS, WORKER), ("notbugs.error", ERROR)):
        if attributes.get(fact):
            tags[tag] = attributes[fact]
    status = _status(trial)
    if status == "KILLED":
        tags.setdefault("notbugs.error", "the process was killed")
    return RecordedRun(
        title=f"{study}, trial {number}",
        tags=tags,
        params={"sweep": point.facts},
        metrics=_metrics(trial),
        curves=tuple((time, epoch, values) for time, epoch, values in attributes.get(CURVES, [])),
        status=status,
        started=_milliseconds(trial.datetime_start),
        ended=_milliseconds(trial.datetime_complete),
    )


def _status(trial: FrozenTrial) -> str:
    """As MLflow calls it; a trial whose worker was killed goes on in the database until somebody sees to it."""
    if trial.state == TrialState.FAIL:
        return "FAILED" if trial.user_attrs.get(ENDED) == "error" else "KILLED"
    if trial.state == TrialState.RUNNING:
        return "KILLED" if alive(trial.user_attrs.get(WORKER)) is False else "RUNNING"
    return "FINISHED"


def _metrics(trial: FrozenTrial) -> Mapping[str, Any]:
    if trial.state == TrialState.PRUNED:
        return {"pruned": 1}
    rows = trial.user_attrs.get(ROWS)
    return {**trial_metrics(rows), "seconds": trial.user_attrs.get(SECONDS, {})} if rows else {}


def _milliseconds(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
