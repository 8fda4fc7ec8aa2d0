"""Finished studies put back: into Optuna's database from the files in sweeps/, and into MLflow from the database.

A fresh clone has the results of a sweep in Git, and `dvc repro` has nothing to run. What a run would have left in the
database and in MLflow comes from those files then; a second time nothing is added.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notbugs.runtime.config import read_params
from notbugs.runtime.errors import UserError
from notbugs.sweeps.points import Point
from notbugs.sweeps.recorded import RECORDED, RecordedStudy, RecordedTrial, is_stored, recorded_studies
from notbugs.sweeps.settings import STORAGE_VARIABLE, SweepSettings, sweep_settings
from notbugs.tracking.rebuilding import RecordedRun, StudyRuns

if TYPE_CHECKING:
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

NOT_KEPT = "recorded as failed in trials.csv"
"""Why a trial failed whose reason only the old database had."""


def finished_studies(root: Path) -> list[StudyRuns]:
    """What `track` needs to give every finished study its run in MLflow, and each trial a child of it.

    None without Optuna, which the trials come through.
    """
    return [_runs(root, study) for study in recorded_studies(root)] if find_spec("optuna") else []


def restore(root: Path) -> list[str]:
    """Put every finished study that the database lacks into it, as finished trials.

    The database is that of `storage.storage_url`. A stored study of other settings or inputs stays what it is.

    Returns: names of the studies that trials were added to.
    Raises: SweepError or ConfigError in one line.
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
                if _restore(storage, study, root):
                    added.append(study.name)
    return added


def _restore(storage: "RDBStorage", study: RecordedStudy, root: Path) -> bool:
    """Whether trials were added; the caller holds the study's lock."""
    import optuna

    from notbugs.sweeps.runs import RECORD, SLOT
    from notbugs.sweeps.study import stored_study

    if study.name in optuna.get_all_study_names(storage):
        there = optuna.load_study(study_name=study.name, storage=storage).user_attrs
        if there.get(RECORD) not in (None, study.record):
            return False
    stored = stored_study(storage, study.name, study.settings, study.record, study.about.get("inputs", {}))
    taken = {trial.user_attrs.get(SLOT) for trial in stored.get_trials(deepcopy=False)}
    missing = [trial for trial in study.trials if trial.number not in taken]
    for finished in _frozen(root, study, missing):
        stored.add_trial(finished)
    stored.set_user_attr(RECORDED, study.digest)
    return bool(missing)


def _frozen(root: Path, study: RecordedStudy, trials: Iterable[RecordedTrial]) -> Iterator["FrozenTrial"]:
    """What Optuna has of settled points: a trial each, or as many failed ones as settle it."""
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import TrialState

    from notbugs.sweeps.runs import CURVES, ENDED, ERROR, POINT, ROWS, SLOT
    from notbugs.sweeps.study import distribution, objective_values

    settings, curves, retries = study.settings, _kept_curves(root, study), _retries(root, study.name)
    for trial in trials:
        choice = study.choice(trial.point)
        spaces: dict[str, BaseDistribution] = {name: distribution(settings, name) for name in choice}
        state = TrialState[trial.state]
        attributes: dict[str, Any] = {SLOT: trial.number, POINT: trial.point.facts}
        values = None
        if state == TrialState.COMPLETE:
            values = objective_values(settings.objectives, trial.rows)
            attributes |= {ROWS: list(trial.rows), CURVES: curves(trial.point, [row["seed"] for row in trial.rows])}
        elif state == TrialState.FAIL:
            attributes |= {ENDED: "error", ERROR: NOT_KEPT}
        for _ in range(1 + retries if state == TrialState.FAIL else 1):
            yield optuna.create_trial(
                state=state, params=choice, distributions=spaces, values=values, user_attrs=attributes
            )


def _retries(root: Path, name: str) -> int:
    """How often a point of this study is tried again, which its files do not say since no result depends on it."""
    try:
        return sweep_settings(read_params(root / "params.yaml"), name).retries
    except UserError:
        return int(SweepSettings.model_fields["retries"].default)


def _runs(root: Path, study: RecordedStudy) -> StudyRuns:
    files = [study.folder / name for name in ("trials.csv", "importance.csv", "study.json")]
    return StudyRuns(
        address=f"sweep@{study.name}",
        key=study.key,
        params={"sweep": {study.name: study.about["sweep"]}},
        metrics={"points": study.about.get("points"), "states": study.about.get("states", {})},
        files=tuple(file for file in files if file.is_file()),
        trials=lambda: _trial_runs(root, study),
        figures=_figures(root, study.name),
    )


def _figures(root: Path, name: str) -> tuple[Path, ...]:
    """A study's heatmaps and curves: drawn by `notbugs sweep` beside its results, else by the report."""
    own = sorted((root / "sweeps" / name / "figures").glob("*.png"))
    longer = [f"sweep_{other.name}_" for other in (root / "sweeps").glob(f"{name}_*")]  # `small` is not `small_two`
    drawn = sorted((root / "plots" / "figures").glob(f"sweep_{name}_*.png"))
    return tuple(own or (file for file in drawn if not file.name.startswith(tuple(longer))))


def _trial_runs(root: Path, study: RecordedStudy) -> list[RecordedRun]:
    """From the database; where it holds no such study, or one of other settings, from the files."""
    from notbugs.sweeps.runs import trial_run, trial_runs

    stored = trial_runs(root, study.name, study.key)
    return stored or [
        trial_run(study.name, number, trial, study.record)
        for number, trial in enumerate(_frozen(root, study, study.trials))
    ]


def _kept_curves(root: Path, study: RecordedStudy) -> Callable[[Point, Iterable[int]], list[Any]]:
    """Point and seeds -> learning curves of the fits, (no time, epoch, values), where the work folder has them."""
    if not (root / ".notbugs" / "sweeps" / "results").is_dir():
        return lambda point, seeds: []
    from notbugs.sweeps.plan import plan_now
    from notbugs.sweeps.trial import Trial

    try:
        plan = plan_now(root, study.name, study.about["sweep"])
    except UserError:  # no data or models here
        return lambda point, seeds: []
    if plan.record != study.record:
        return lambda point, seeds: []

    def found(point: Point, seeds: Iterable[int]) -> list[Any]:
        """The curves of one point."""
        trial = Trial(plan.lab, point, study.settings.seeds)
        kept = [trial.known(seed) for seed in seeds]
        return [(None, int(epoch), values) for one in kept if one for epoch, values in one["curves"]]

    return found
