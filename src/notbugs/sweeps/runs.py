"""The runs of a study's trials in MLflow, as Optuna's database has them: live, and made good afterwards.

A trial is told once, to the database. Importing this imports Optuna, and neither torch nor pandas: the process that
sends a session's run to MLflow calls it again and again.
"""

import json
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
from notbugs.sweeps.storage import artifact_folder, open_storage, storage_url
from notbugs.tracking import location
from notbugs.tracking.journal import JOURNAL, PROCESS
from notbugs.tracking.learning import named_points, shown_curves
from notbugs.tracking.measured import ATTACK
from notbugs.tracking.rebuilding import TRIAL, RecordedRun
from notbugs.tracking.shown import SHARED, dataset_params, shown_metrics

RECORD, HASHES = "record", "hashes"
"""Attributes of a study: what its results depend on, DVC's hashes of its inputs."""
SLOT, WORKER, ENDED, ERROR = "slot", "worker", "ended", "error"
"""Attributes of a trial: its point's number, who runs it, how it failed (error, interrupted; lost: none), and why."""
ROWS, SECONDS, POINT, CURVES, TRACKED = "rows", "seconds", "point", "curves", "mlflow"
"""More of them: measurements of each seed, running times, what is tried, learning curves (time in ms, epoch, values),
and the tag `notbugs.journal` of its run."""
SAMPLES, FITS = "samples.png", "fits.json"
"""Artifacts of a trial's run: images of the dataset that its first fit learnt, and what each fit measured."""
_HEATMAPS = "Heatmaps over all points: Artifacts of the parent run, folder figures, once `notbugs track` has seen them."
_ARTIFACT = "artifacts:"
"""Beginning of the attributes that Optuna keeps a trial's artifacts in."""


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
            record = study.user_attrs.get(RECORD) or {}
            if study_key(name, record) != key:
                return []
            trials = study.get_trials(deepcopy=False)
    except (UserError, StorageInternalError, SQLAlchemyError):
        return []
    return [trial_run(name, trial.number, trial, record, root) for trial in trials if POINT in trial.user_attrs]


def trial_run(
    study: str, number: int, trial: FrozenTrial, record: Mapping[str, Any] | None = None, root: Path | None = None
) -> RecordedRun:
    """The run of one trial that has a point.

    Args:
        record: of the study: what is the same for all of its points.
        root: of the project, where the images of its dataset are.
    """
    attributes, record = trial.user_attrs, record or {}
    point = Point(**attributes[POINT])
    tags = {"sweep.study": study, TRIAL: str(number), "kind": point.kind}
    attack = record.get("environment", {}).get("evaluate")
    if attack:
        tags[ATTACK] = f"PGD, {attack['num_steps']} steps, {attack['norm']}, eps {attack['eps']:g}"
    for tag, fact in ((JOURNAL, TRACKED), (PROCESS, WORKER), ("notbugs.error", ERROR)):
        if attributes.get(fact):
            tags[tag] = attributes[fact]
    status = _status(trial)
    if status == "KILLED":
        tags.setdefault("notbugs.error", "the process was killed")
    points = named_points(attributes.get(CURVES, []))
    rows = attributes.get(ROWS)
    picture = _picture(trial, root)
    named: dict[str, Path | str] = {SAMPLES: picture} if picture else {}
    run = RecordedRun(
        title=point.title(with_step_size="step_size" in trial.params),
        tags=tags,
        params=_params(point, record),
        metrics=shown_metrics("trial", _metrics(trial), {}),
        curves=tuple(shown_curves(points, means=trial.state == TrialState.COMPLETE)),
        named={**named, FITS: json.dumps(rows, indent=1)} if rows else named,
        status=status,
        started=_milliseconds(trial.datetime_start),
        ended=_milliseconds(trial.datetime_complete),
    )
    return run.with_note("trial", FITS if rows else "", SAMPLES if picture else "", _HEATMAPS)


def _params(point: Point, record: Mapping[str, Any]) -> dict[str, Any]:
    """Those of a point under the names of the stages `construct` and `fit`, so that trials and fits can be compared."""
    recipe = {**record.get("construct", {}).get(point.kind, {})}
    found: dict[str, Any] = {**record.get("fit", {}).get(point.kind, {})}
    environment = record.get("environment", {})
    found |= {f"model.{name}": value for name, value in environment.get("model", {}).items()}
    found |= {name: environment[name] for name in SHARED if name in environment}
    for leaf, value in point.axes.items():
        if leaf.startswith(f"construct.{point.kind}."):
            recipe[leaf.removeprefix(f"construct.{point.kind}.")] = value
        else:
            found[leaf.removeprefix(f"fit.{point.kind}.")] = value
    scalars = {name: getattr(point, name) for name in ("eps", "num_steps", "step_size", "source_eps")}
    given = {name: value for name, value in scalars.items() if value is not None}
    return found | dataset_params(point.kind, {**recipe, **given})


def _picture(trial: FrozenTrial, root: Path | None) -> Path | None:
    """The images of its dataset, in Optuna's store of artifacts: the last that was hung on it, if it is here."""
    if root is None:
        return None
    names = [name.removeprefix(_ARTIFACT) for name in trial.system_attrs if name.startswith(_ARTIFACT)]
    files = [artifact_folder(root) / name for name in names]
    return next((file for file in reversed(files) if file.is_file()), None)


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
    if not rows:
        return {}
    seconds = [part for fit in trial.user_attrs.get(SECONDS, {}).values() for part in fit.values()]
    return {**trial_metrics(rows), **({"seconds": round(sum(seconds), 3)} if seconds else {})}


def _milliseconds(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)
