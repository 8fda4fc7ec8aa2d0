"""A worker: takes one trial of a shared study after the other until every point is settled."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from notbugs.runtime.nested import numbers
from notbugs.sweeps.points import Point, resolve
from notbugs.sweeps.recorded import WORDS, in_words, mean, measured
from notbugs.sweeps.runs import CURVES, ENDED, ERROR, POINT, ROWS, SECONDS, TRACKED
from notbugs.sweeps.storage import DatabaseAwayError, Patience, artifact_folder
from notbugs.sweeps.study import SharedStudy, objective_values, suggest
from notbugs.sweeps.trial import Trial
from notbugs.tracking.journal import now

POLL_SECONDS = 1.0
"""Between two looks whether another worker's trial has become free."""
HURRY_SECONDS = 3.0
"""How long an interrupted worker waits for the database."""
_ONCE = Patience(lambda _: None, 0)


def work(shared: SharedStudy, *, session: str | None, stop: Callable[[], bool] = lambda: False) -> None:
    """Try points until all are settled; waits for those that other workers are trying, in case they are lost.

    Args:
        session: `Run.label` of the session, which sends the trials' runs to MLflow.
        stop: asked between two trials.
    Raises: DatabaseAwayError; KeyboardInterrupt, with the trial given back.
    """
    patience = Patience(shared.plan.lab.project.say)
    patience(shared.use_sampler)
    worker = _Worker(shared, patience, session)
    while not stop():
        trial = patience(lambda: shared.claim(patience))
        if trial is not None:
            worker.run(trial)
            continue
        settled, total = patience(lambda: shared.counts)
        if settled == total:
            return
        time.sleep(POLL_SECONDS)


class _Worker:
    """What one trial after the other needs."""

    def __init__(self, shared: SharedStudy, patience: Patience, session: str | None) -> None:
        self.shared, self.patience, self.session = shared, patience, session
        self.lab, self.settings = shared.plan.lab, shared.plan.settings
        self.curves: list[tuple[int, int, dict[str, float]]] = []
        self.noting = threading.Lock()

    def run(self, trial: optuna.Trial) -> None:
        """From the choice of the point to its result; an error fails the trial and not the worker."""
        self.curves = []
        try:
            storage, note = self.shared.storage, lambda: self._note_curves(trial, _ONCE)
            with _heartbeat(storage, trial._trial_id, self.patience, note):
                self._say(self._run(trial))
        except UpdateFinishedTrialError:  # no sign of life got through, so others gave it up and try the point again
            self._say(f"trial {trial.number} had been given up as lost; what it computed is kept")
        except KeyboardInterrupt:
            with suppress(DatabaseAwayError, UpdateFinishedTrialError):  # else it counts as lost
                self._fail(trial, "interrupted", "")
            raise

    def _run(self, trial: optuna.Trial) -> str:
        """What became of the trial, in words.

        Raises: UpdateFinishedTrialError if somebody else has settled it, DatabaseAwayError.
        """
        choice = self.patience(lambda: suggest(trial, self.settings, self.lab.project.params))
        point = resolve(self.lab.project.params, choice)
        try:
            if self.session:
                self._note(trial, TRACKED, f"{self.session}/{trial.number}")
            self._note(trial, POINT, point.facts)
            state, rows = self._measure(trial, point)
        except (DatabaseAwayError, UpdateFinishedTrialError):
            raise
        except Exception as error:  # whatever it is, the other points can still be tried
            text = " ".join(f"{type(error).__name__}: {error}".split())[:500]
            self._fail(trial, "error", text)
            return f"{point}: failed: {text}"
        values = objective_values(self.settings.objectives, rows) if state == TrialState.COMPLETE else None
        self.patience(lambda: self.shared.end(trial, state, values))
        return f"{point}: {_summary(rows)}" if rows else f"{point}: pruned"

    def _measure(self, trial: optuna.Trial, point: Point) -> tuple[TrialState, list[dict[str, Any]]]:
        """State and one row a seed; what is known is stored before the trial is settled."""
        one = Trial(self.lab, point, self.settings.seeds, keep_dataset=self.settings.keep_datasets)

        def on_epoch(seed: int, epoch: int, values: Mapping[str, float | None]) -> None:
            """Note an epoch; on the first seed, let the pruner end the trial."""
            self.curves.append((now(), epoch, numbers(values)))
            accuracy = values.get(f"validation_accuracy/seed-{seed}")
            goes_on = self.settings.pruner != "none" and epoch < one.fit.epochs  # at its last epoch it is done
            if goes_on and seed == self.settings.seeds[0] and accuracy is not None:
                self.patience(lambda: self._prune(trial, epoch, accuracy))

        try:
            results = {seed: one.measure(seed, on_epoch) for seed in self.settings.seeds}
        except optuna.TrialPruned:
            self._keep_samples(trial, one)
            self._note_curves(trial, self.patience)
            return TrialState.PRUNED, []
        rows = [
            {"seed": seed, "source_seed": one.source_seed(seed), "work": one.work, **measured(result)}
            for seed, result in results.items()
        ]
        self._keep_samples(trial, one)
        seconds = {str(seed): result["seconds"] for seed, result in results.items()}
        self._note_curves(trial, self.patience)
        self._note(trial, SECONDS, seconds)
        self._note(trial, ROWS, rows)
        return TrialState.COMPLETE, rows

    def _keep_samples(self, trial: optuna.Trial, one: Trial) -> None:
        """Hang a picture of what the first fit learnt from on the trial; a result kept from elsewhere has none."""
        picture = one.picture
        if picture is not None and picture.exists():
            folder = artifact_folder(self.lab.project.root)
            folder.mkdir(parents=True, exist_ok=True)
            store = FileSystemArtifactStore(str(folder))
            self.patience(lambda: upload_artifact(artifact_store=store, file_path=str(picture), study_or_trial=trial))

    def _note(self, trial: optuna.Trial, attribute: str, value: Any) -> None:
        self.patience(lambda: trial.set_user_attr(attribute, value))

    def _note_curves(self, trial: optuna.Trial, patience: Patience) -> None:
        with self.noting:  # or an older note of the heartbeat's would come after the last one
            patience(lambda: self.shared.storage.set_trial_user_attr(trial._trial_id, CURVES, self.curves))

    def _prune(self, trial: optuna.Trial, epoch: int, accuracy: float) -> None:
        if epoch not in self.shared.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
            trial.report(accuracy, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    def _fail(self, trial: optuna.Trial, how: str, why: str) -> None:
        patience = self.patience if how == "error" else Patience(lambda _: None, HURRY_SECONDS)
        patience(lambda: trial.set_user_attr(ENDED, how))
        patience(lambda: trial.set_user_attr(ERROR, why))
        self._note_curves(trial, patience)
        patience(lambda: self.shared.end(trial, TrialState.FAIL))

    def _say(self, text: str) -> None:
        settled, total = self.patience(lambda: self.shared.counts)
        self.lab.project.say(f"sweep {self.shared.plan.name}: {settled}/{total}: {text}")


def _summary(rows: list[dict[str, Any]]) -> str:
    fits = "one fit" if len(rows) == 1 else f"{len(rows)} fits"
    return f"{in_words({name: mean(rows, name) for name in WORDS})} ({fits})"


@contextmanager
def _heartbeat(storage: RDBStorage, trial_id: int, patience: Patience, note: Callable[[], None]) -> Iterator[None]:
    """Show signs of life while the block runs, also after the database was away, and note how far it is.

    In a thread, for an interrupt reaches only the main one: it breaks off no call of the database then.
    """
    over = threading.Event()
    interval = float(storage.heartbeat_interval or 1)

    def beat() -> None:
        """Record that the trial lives, until it is over."""
        while not over.wait(interval):
            with suppress(DatabaseAwayError, UpdateFinishedTrialError):
                patience(lambda: storage.record_heartbeat(trial_id))
                note()
        storage.remove_session()

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(HURRY_SECONDS)
