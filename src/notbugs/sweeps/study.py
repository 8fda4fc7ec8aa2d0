"""A study that any number of workers share: which points are to be tried, which are being tried, which are done.

Every point has a slot, and every trial of Optuna's carries its slot's number. A slot is settled by a trial that
came to an end, open as long as there is none, and has at most one living trial. Which trials there are is only
changed while holding the study's lock, and what is missing is found by looking, not by remembering: so a process
may be killed anywhere, and the next one puts right what it left. (Optuna's RetryHeartbeatStaleTrialCallback loses the
point if its process is killed between failing the trial and enqueuing it again; its GridSampler never retries.)
"""

import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState

from notbugs.data.images import make_generator
from notbugs.runtime.cache import valid_since
from notbugs.runtime.process import alive, identity
from notbugs.sweeps.axes import Span
from notbugs.sweeps.plan import Plan, difference
from notbugs.sweeps.recorded import RECORDED, mean
from notbugs.sweeps.runs import ENDED, HASHES, RECORD, SLOT, WORKER
from notbugs.sweeps.settings import OBJECTIVES, Range, SweepError, SweepSettings, dimensions, most_epochs
from notbugs.sweeps.storage import GRACE, Patience, exclusive

SETTLING = (TrialState.COMPLETE, TrialState.PRUNED)
LIVING = (TrialState.WAITING, TrialState.RUNNING)
_WORKERS = "workers"
"""Attribute of a study: how many workers it had."""


@dataclass(frozen=True)
class Slot:
    """All trials of one point.

    Attributes:
        number: of the point. trials: by number. retries: how many errors are allowed.
    """

    number: int
    trials: Sequence[FrozenTrial]
    retries: int

    @property
    def result(self) -> FrozenTrial | None:
        """The trial that settled this point: finished, or the last of too many failures."""
        finished = [trial for trial in self.trials if trial.state in SETTLING]
        if finished:
            return finished[0]
        errors = [trial for trial in self.trials if trial.user_attrs.get(ENDED) == "error"]
        return errors[-1] if len(errors) > self.retries else None

    @property
    def open(self) -> bool:
        """Whether somebody has yet to try this point, and nobody is about to."""
        return self.result is None and not any(trial.state in LIVING for trial in self.trials)


def open_study(storage: RDBStorage, plan: Plan, *, replace: bool = False) -> "SharedStudy":
    """The stored study, created if there is none.

    Args:
        replace: delete a stored study of other settings and begin anew.
    Raises: SweepError, with the difference, if the stored study has other settings or other inputs.
    """
    with exclusive(storage.engine, plan.name):
        if plan.name in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=plan.name, storage=storage)
            stored = study.user_attrs.get(RECORD)
            if stored is not None and stored != plan.record and not replace:
                raise SweepError(_refusal(plan, stored))
            if replace and (stored not in (None, plan.record) or _is_too_old(study)):
                optuna.delete_study(study_name=plan.name, storage=storage)
        study = stored_study(storage, plan.name, plan.settings, plan.record, plan.hashes)
        shared = SharedStudy(storage, study, plan)
        shared.enqueue_open()
    return shared


def stored_study(
    storage: RDBStorage, name: str, settings: SweepSettings, record: Mapping[str, Any], hashes: Mapping[str, str]
) -> optuna.Study:
    """The study of this name, made with these attributes if it is not there; the caller holds the study's lock."""
    directions = [OBJECTIVES[objective][1] for objective in settings.objectives]
    study = optuna.create_study(study_name=name, storage=storage, directions=directions, load_if_exists=True)
    if RECORD not in study.user_attrs:
        study.set_user_attr(HASHES, dict(hashes))
        study.set_user_attr(RECORD, json.loads(json.dumps(record)))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.set_metric_names(list(settings.objectives))
    return study


def _is_too_old(study: optuna.Study) -> bool:
    """Whether it was begun before all was to be run anew."""
    begun = [trial.datetime_start for trial in study.get_trials(deepcopy=False) if trial.datetime_start]
    return bool(begun) and min(begun).timestamp() < valid_since()


def _refusal(plan: Plan, stored: Mapping[str, Any]) -> str:
    found = difference(stored, plan.record)
    more = f", and {len(found) - 4} more" if len(found) > 4 else ""
    return (
        f"sweep {plan.name}: the stored study is another one ({'; '.join(found[:4])}{more}); give this one another "
        f"name, or replace the stored one: `notbugs sweep {plan.name} --replace`"
    )


class SharedStudy:
    """A study in a database, seen by one process."""

    def __init__(self, storage: RDBStorage, study: optuna.Study, plan: Plan) -> None:
        self.storage, self.study, self.plan = storage, study, plan
        self._identity = identity()

    def slots(self) -> list[Slot]:
        """Every point with its trials."""
        by_slot: dict[int, list[FrozenTrial]] = {number: [] for number in range(self.plan.total)}
        for trial in self.study.get_trials(deepcopy=False):
            if trial.user_attrs.get(SLOT) in by_slot:
                by_slot[trial.user_attrs[SLOT]].append(trial)
        return [Slot(number, trials, self.plan.settings.retries) for number, trials in by_slot.items()]

    def enqueue_open(self) -> None:
        """Give every open slot a waiting trial; the caller holds the study's lock."""
        for slot in self.slots():
            if not slot.open:
                continue
            tried = next((trial.params for trial in reversed(slot.trials) if trial.params), None)
            choice = self.plan.choices[slot.number] if self.plan.choices is not None else tried
            self.study.enqueue_trial(choice or {}, user_attrs={SLOT: slot.number})

    def claim(self, patience: Patience) -> optuna.Trial | None:
        """A waiting trial, now this process's; None if none waits.

        Trials whose worker is dead, or has shown no sign of life, are failed first and their points enqueued
        again. After an outage of the database all signs of life are old: then nobody is judged by them.
        """
        with exclusive(self.storage.engine, self.plan.name):
            self._fail_lost(patience)
            self.enqueue_open()
            waiting = self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
            if not waiting:
                return None
            self.storage.record_heartbeat(waiting[0]._trial_id)  # before it runs: killed after this, it is missed
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that heartbeats go with Study.optimize: the worker has its own
                trial = self.study.ask()
            trial.set_user_attr(WORKER, self._identity)
            return trial

    def _fail_lost(self, patience: Patience) -> None:
        grace = GRACE * (self.storage.heartbeat_interval or 0)
        if patience.last_outage is None or time.monotonic() - patience.last_outage > grace:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                optuna.storages.fail_stale_trials(self.study)
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if alive(trial.user_attrs.get(WORKER)) is False:
                self.study.tell(trial.number, state=TrialState.FAIL)

    def use_sampler(self) -> None:
        """Take the sampler and the pruner of the settings, with random streams that no other worker has."""
        with exclusive(self.storage.engine, self.plan.name):
            number = int(self.study.user_attrs.get(_WORKERS, 0))
            self.study.set_user_attr(_WORKERS, number + 1)
        settings = self.plan.settings
        stream = make_generator(self.plan.lab.project.seed, "sweep", self.plan.name, number).initial_seed() % 2**32
        sampler = optuna.samplers.TPESampler if settings.sampler == "tpe" else optuna.samplers.RandomSampler
        self.study.sampler = sampler(seed=stream)
        self.study.pruner = pruner(settings, most_epochs(self.plan.lab.project.params, settings))

    def end(self, trial: optuna.Trial, state: TrialState, values: Sequence[float] | None = None) -> None:
        """Settle a trial; the same once more, after an outage, changes nothing.

        Raises: UpdateFinishedTrialError if somebody else has settled it meanwhile.
        """
        try:
            self.study.tell(trial, values, state)
        except ValueError as error:
            if self.study.get_trials(deepcopy=False)[trial.number].state != state:
                raise UpdateFinishedTrialError(str(error)) from None

    def note_recorded(self, digest: str) -> None:
        """Note which files under sweeps/ hold this study's results."""
        if self.study.user_attrs.get(RECORDED) != digest:
            self.study.set_user_attr(RECORDED, digest)

    @property
    def counts(self) -> tuple[int, int]:
        """Settled points, and all."""
        return sum(slot.result is not None for slot in self.slots()), self.plan.total


def pruner(settings: SweepSettings, epochs: int) -> optuna.pruners.BasePruner:
    """The pruner of the settings; its resource is an epoch of the fit.

    Args:
        epochs: of the longest fit. Rungs are at min_epochs, min_epochs·reduction_factor, ..., below it.
    """
    factor = settings.reduction_factor
    least = settings.min_epochs or max(1, epochs // factor**2)
    if settings.pruner == "successive_halving":
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=least, reduction_factor=factor)
    if settings.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=least, max_resource=epochs, reduction_factor=factor)
    return optuna.pruners.MedianPruner() if settings.pruner == "median" else optuna.pruners.NopPruner()


def suggest(trial: optuna.Trial, settings: SweepSettings, params: Mapping[str, Any]) -> dict[str, Any]:
    """A choice from the space; of a grid's trial, the one that it was enqueued with."""
    choice: dict[str, Any] = {"kind": trial.suggest_categorical("kind", settings.kinds)}
    for name in dimensions(params, settings, choice["kind"]):
        space = distribution(settings, name)
        if isinstance(space, CategoricalDistribution):
            choice[name] = trial.suggest_categorical(name, space.choices)
        elif isinstance(space, IntDistribution):
            choice[name] = trial.suggest_int(name, space.low, space.high, log=space.log, step=space.step)
        else:
            choice[name] = trial.suggest_float(name, space.low, space.high, log=space.log, step=space.step)
    return choice


def distribution(settings: SweepSettings, name: str) -> CategoricalDistribution | IntDistribution | FloatDistribution:
    """Where Optuna takes a dimension's values from; a grid's are enqueued, and lie between its ends."""
    if name == "kind":
        return CategoricalDistribution(settings.kinds)
    if name in settings.axes:
        return _of_axis(settings.axes[name], settings.sampler)
    space = settings.spaces[name]
    assert space is not None  # it is no dimension else
    if isinstance(space, Range):
        low, high, log = space.low, space.high, space.log
    elif settings.sampler == "grid":
        low, high, log = min(space), max(space), False
    else:
        return CategoricalDistribution(space)
    if name == "num_steps":
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def _of_axis(
    axis: Span | tuple[Any, ...], sampler: str
) -> CategoricalDistribution | IntDistribution | FloatDistribution:
    """Numbers of a grid lie between its ends, as those of the short form; any other list is one of categories."""
    if isinstance(axis, Span):
        if isinstance(axis.low, int) and isinstance(axis.high, int):
            return IntDistribution(axis.low, axis.high, log=axis.log, step=int(axis.step or 1))
        return FloatDistribution(axis.low, axis.high, log=axis.log, step=axis.step)
    kinds = {type(value) for value in axis}
    if sampler != "grid" or not kinds <= {int, float}:
        return CategoricalDistribution(axis)
    if kinds == {int}:
        return IntDistribution(min(axis), max(axis))
    return FloatDistribution(float(min(axis)), float(max(axis)))


def objective_values(objectives: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """What Optuna optimises: means over the seeds."""
    return [mean(rows, OBJECTIVES[name][0]) for name in objectives]
