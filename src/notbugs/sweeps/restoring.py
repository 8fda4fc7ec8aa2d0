"""Finished studies put back: into Optuna's database and, as runs, into MLflow, from the files in sweeps/.

A fresh clone has the results of a sweep in Git, and `dvc repro` has nothing to run. What a run would have left in the
database and in MLflow comes from those files then; a second time nothing is added.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notbugs.runtime.config import read_params
from notbugs.runtime.errors import UserError
from notbugs.sweeps.points import Point
from notbugs.sweeps.recorded import (
    RECORDED,
    RecordedStudy,
    RecordedTrial,
    is_stored,
    recorded_studies,
    trial_metrics,
    trial_tags,
    trial_title,
)
from notbugs.sweeps.settings import STORAGE_VARIABLE, SweepSettings, sweep_settings
from notbugs.tracking import RecordedFamily, RecordedRun

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

NOT_KEPT = "recorded as failed in trials.csv"
"""Why a trial failed whose reason only the old database had."""


def families(root: Path) -> list[RecordedFamily]:
    """What `track` needs to give every finished study its run in MLflow, and each trial a child of it."""
    return [_family(root, study) for study in recorded_studies(root)]


def restore(root: Path) -> list[str]:
    """Put every finished study that the database lacks into it, as finished trials.

    A stored study of other settings or inputs stays what it is.

    Args:
        root: the project; the database is that of `storage.storage_url`.
    Returns: names of the studies that trials were added to.
    Raises: SweepError, RecordError or ConfigError in one line.
    """
    studies = recorded_studies(root)
    own = root / "sweeps" / "optuna.db"
    elsewhere = os.environ.get(STORAGE_VARIABLE, "").strip()
    if not studies or (not elsewhere and all(is_stored(own, study) for study in studies)):
        return []
    from notbugs.sweeps.storage import exclusive, open_storage, storage_url

    added = []
    with open_storage(storage_url(root, None)) as storage:
        for study in studies:
            with exclusive(storage.engine, study.name):
                if _restore(storage, study, _retries(root, study.name)):
                    added.append(study.name)
    return added


def _restore(storage: "RDBStorage", study: RecordedStudy, retries: int) -> bool:
    """Whether trials were added; the caller holds the study's lock."""
    import optuna

    from notbugs.sweeps.study import RECORD, SLOT, stored_study

    if study.name in optuna.get_all_study_names(storage):
        there = optuna.load_study(study_name=study.name, storage=storage).user_attrs
        if there.get(RECORD) not in (None, study.record):
            return False
    stored = stored_study(storage, study.name, study.settings, study.record, study.about.get("inputs", {}))
    taken = {trial.user_attrs.get(SLOT) for trial in stored.get_trials(deepcopy=False)}
    missing = [trial for trial in study.trials if trial.number not in taken]
    for trial in missing:
        for finished in _frozen(study, trial, retries):
            stored.add_trial(finished)
    stored.set_user_attr(RECORDED, study.digest)
    return bool(missing)


def _frozen(study: RecordedStudy, trial: RecordedTrial, retries: int) -> Iterator["FrozenTrial"]:
    """What Optuna has of a settled point: one trial, or as many failed ones as settle it."""
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import TrialState

    from notbugs.sweeps.study import ENDED, ERROR, ROWS, SLOT, distribution, objective_values

    settings = study.settings
    choice = study.choice(trial.point)
    spaces: dict[str, BaseDistribution] = {name: distribution(settings, name) for name in choice}
    state = TrialState[trial.state]
    facts: dict[str, Any] = {SLOT: trial.number}
    values = None
    if state == TrialState.COMPLETE:
        values = objective_values(settings.objectives, trial.rows)
        facts[ROWS] = list(trial.rows)
    elif state == TrialState.FAIL:
        facts |= {ENDED: "error", ERROR: NOT_KEPT}
    for _ in range(1 + retries if state == TrialState.FAIL else 1):
        yield optuna.create_trial(state=state, params=choice, distributions=spaces, values=values, user_attrs=facts)


def _retries(root: Path, name: str) -> int:
    """How often a point of this study is tried again, which its files do not say since no result depends on it."""
    try:
        return sweep_settings(read_params(root / "params.yaml"), name).retries
    except UserError:
        return int(SweepSettings.model_fields["retries"].default)


def _family(root: Path, study: RecordedStudy) -> RecordedFamily:
    states = study.about.get("states", {})
    files = [study.folder / name for name in ("trials.csv", "importance.csv", "study.json")]
    return RecordedFamily(
        stage="sweep",
        name=study.name,
        key=study.key,
        run=RecordedRun(
            title=f"sweep@{study.name}",
            params={"sweep": {study.name: study.about["sweep"]}},
            metrics={"points": study.about.get("points"), "states": states},
            files=tuple(file for file in files if file.is_file()),
        ),
        children=lambda: _children(root, study),
    )


def _children(root: Path, study: RecordedStudy) -> Iterator[RecordedRun]:
    curves = _kept_curves(root, study)
    for trial in study.trials:
        complete = trial.state == "COMPLETE"
        yield RecordedRun(
            title=trial_title(study.name, trial.number),
            tags=trial_tags(study.name, trial.number, trial.point),
            params={"sweep": trial.point.as_dict()},
            metrics=trial_metrics(trial.rows) if complete else {"pruned": 1} if trial.state == "PRUNED" else {},
            curves=tuple(point for row in trial.rows for point in curves(trial.point, row["seed"])),
            status="FAILED" if trial.state == "FAIL" else "FINISHED",
        )


def _kept_curves(root: Path, study: RecordedStudy) -> Any:
    """Point and seed -> learning curves of the fit, where the work folder still has them: (epoch, values) each."""

    def nothing(point: Point, seed: int) -> list[tuple[int, Mapping[str, float | None]]]:
        return []

    if not (root / ".notbugs" / "sweeps" / "results").is_dir():
        return nothing
    from notbugs.pipeline.running.context import open_project
    from notbugs.sweeps.plan import make_plan
    from notbugs.sweeps.trial import Laboratory, Trial

    try:
        project = open_project(root)
        lab = Laboratory.of(replace(project, params={**project.params, "sweep": {study.name: study.about["sweep"]}}))
        if make_plan(lab, study.name).record != study.record:
            return nothing
    except UserError:  # no data or models here, or other settings
        return nothing

    def found(point: Point, seed: int) -> list[tuple[int, Mapping[str, float | None]]]:
        kept = Trial(lab, point, study.settings.seeds).known(seed)
        return [(int(epoch), values) for epoch, values in kept["curves"]] if kept else []

    return found
