"""Runs that no stage tells of: made from dvc.lock, the files of finished studies, and Optuna's database of trials.

What the files or the database say of a run is a `RecordedRun`, and `record` brings MLflow in line with it, as often
as it is called.
"""

import csv
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from notbugs.runtime.config import SOURCE
from notbugs.runtime.dvc_lock import LockEntry, content
from notbugs.runtime.nested import flatten, numbers
from notbugs.tracking.description import NOTE, dataset, run_params, run_tags
from notbugs.tracking.journal import JOURNAL, Journal, now
from notbugs.tracking.learning import read_curves, shown_curves
from notbugs.tracking.names import clean
from notbugs.tracking.shown import colour_tags, dataset_params, note, shown_metrics, shown_params
from notbugs.tracking.store import Found, Store

REBUILT = "notbugs.rebuilt"
"""Tag of runs that were made from files."""
TRIAL = "sweep.trial"
"""Tag of a trial's run: its number, which it is known by."""
STUDY = "notbugs.shared"
"""Tag of a study's run: its key. All sessions that work on the study, today or tomorrow, here or on another machine,
share that run."""
PARENT = "mlflow.parentRunId"
HEADLINE = "metrics/headline.json"
"""What DVC shows; its numbers are those of metrics/evaluate.json."""
_RUN_ID = "THE-RUN'S-OWN-ID"
"""Stands in a note for what is known only once MLflow has the run."""
_PICTURES = (".png", ".svg", ".jpg", ".html")
_PAGE_LIMIT = 100 * 2**20
"""Bytes above which a report or picture is not copied into MLflow."""
_LOOK_SECONDS = 1.0
"""Least time between two looks at a study's trials."""
_INHERITED = ("stage", "name", "seed", "mlflow.user", "mlflow.source.", "git.", "dvc.dep.", "dvc.experiment", REBUILT)
"""Beginnings of the tags that a trial's run has from its study's."""


@dataclass(frozen=True)
class RecordedRun:
    """What is known of one run.

    Attributes:
        title: name of the run. tags: all of them.
        params, metrics: under the names that the run has them by, or nested.
        curves: (milliseconds since 1970, step, {metric: value}).
        datasets: inputs, as `description.dataset` gives them.
        files: artifacts, files and folders. named: more of them, by the names that they get: a file, or a text.
        models: .safetensors, or folders of them: place in the project -> path.
        status: FINISHED, FAILED or KILLED; RUNNING while it goes on.
        started, ended: milliseconds since 1970; None: now.
    """

    title: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    curves: tuple[tuple[int | None, int, Mapping[str, float | None]], ...] = ()
    datasets: tuple[dict[str, Any], ...] = ()
    files: tuple[Path, ...] = ()
    named: Mapping[str, Path | str] = field(default_factory=dict)
    models: Mapping[str, Path] = field(default_factory=dict)
    status: str = "FINISHED"
    started: int | None = None
    ended: int | None = None

    @property
    def identity(self) -> str:
        """What a trial's run is known by among those of its study: several may have the same point, and so title."""
        return self.tags.get(TRIAL) or self.title

    def with_note(self, stage: str, file: str = "", picture: str = "", more: str = "") -> "RecordedRun":
        """The same run, with its colour and a note that says what it is and what its metrics are.

        Args:
            stage: as `shown.TABLES` has it.
            file: name of the metrics file among its artifacts.
            picture: name of one among them that is shown in the note.
            more: what is said at the end.
        """
        names = [*numbers(self.metrics), *(name for _, _, values in self.curves for name in values)]
        first, *rest = note(self.title, stage, map(clean, names), file).split("\n")
        drawn = [f"\n![{picture}](get-artifact?path={picture}&run_uuid={_RUN_ID})"] if picture else []
        said = "\n".join([first, *drawn, *rest, *(["", more] if more else [])])
        return replace(self, tags={**self.tags, **colour_tags(self.params), NOTE: said})


@dataclass(frozen=True)
class StudyRuns:
    """A finished study as its files have it: one run, and a child of it for each trial.

    Attributes:
        address: as of a stage in dvc.lock, such as "sweep@small".
        key: names the study among all there ever were.
        params: settings, nested. metrics, files: of its own run, as of a `RecordedRun`.
        trials: gives the children, each with a tag `sweep.trial` or a title of its own.
        figures: heatmaps and curves of all its points, drawn by whoever comes after it.
    """

    address: str
    key: str
    params: Mapping[str, Any]
    metrics: Mapping[str, Any]
    files: tuple[Path, ...]
    trials: Callable[[], Iterable[RecordedRun]]
    figures: tuple[Path, ...] = ()

    @property
    def run(self) -> RecordedRun:
        """The study's own."""
        stage, _, name = self.address.partition("@")
        tags = {**run_tags(stage, name), STUDY: self.key, REBUILT: "true"}
        params = shown_params(stage, name, self.params)
        return RecordedRun(self.address, tags, params, self.metrics, files=self.files).with_note(stage)


def record(store: Store, run: RecordedRun, found: Found | None = None) -> str:
    """Bring MLflow in line with what is known of a run; the same again changes nothing.

    Args:
        found: its run, if MLflow has one.
    Returns: the run's id.
    """
    started = found.started if found else run.started or now()
    of_note, others = {NOTE: run.tags.get(NOTE, "")}, {key: tag for key, tag in run.tags.items() if key != NOTE}
    run_id = found.run_id if found else store.create(run.title, others, started)
    known = found.params if found else {}
    rows = [(key, value, started, 0) for key, value in numbers(run.metrics).items()]
    for at, step, values in run.curves:
        rows += [(key, value, at or started, step) for key, value in numbers(values).items()]
    new = {key: value for key, value in run_params(run.params).items() if key not in known}
    tags = {key: value for key, value in others.items() if found and key != REBUILT}  # a live run stays one
    tags |= {key: value.replace(_RUN_ID, run_id) for key, value in of_note.items() if value}
    store.log(run_id, metrics=rows, params=new, tags=tags)
    store.log_datasets(run_id, run.datasets)
    for file in run.files:
        store.log_artifact(run_id, file, None)
    for name, kept in run.named.items():
        if isinstance(kept, str):
            store.log_text(run_id, kept, name)
        else:
            store.log_artifact(run_id, kept, None, name)
    for place, path in run.models.items():
        store.log_models(run_id, path, place, address=run.title, params=run_params(run.params))
    if run.status != "RUNNING":
        store.set_status(run_id, run.status, run.ended or now())
    return run_id


def study_run(store: Store, key: str) -> Found | None:
    """The run of a study in MLflow."""
    return next((run for run in store.tagged(STUDY, key) if not run.deleted), None)


class Trials:
    """The runs of a study's trials, children of the study's, as Optuna's database has them.

    Args:
        work: folder of the project's journals.
        trials: gives all trials that there are, each with the journal of its session in its tag `notbugs.journal`.
        session: journal of the session that is to tell of its trials, besides those that no session tells of any
            more; None: all, whoever ran them.
    """

    def __init__(self, work: Path, trials: Callable[[], Iterable[RecordedRun]], session: str | None) -> None:
        self._work, self._trials, self._session = work, trials, session
        self._told: dict[str, RecordedRun] = {}  # by identity
        self._found: dict[str, Found | None] | None = None
        self._next_look = 0.0

    @classmethod
    def of(cls, journal: Journal) -> "Trials":
        """The trials of a session, by its journal; none if it is no session of a study."""
        header, work = journal.header, journal.folder.parents[1]
        study = header.get("study")
        if study:
            with suppress(ImportError):  # without Optuna there are no trials
                source = resolve_name(study["trials"])
                return cls(work, lambda: source(Path(header["root"]), header["name"], study["key"]), journal.label)
        return cls(work, tuple, journal.label)

    def update(self, store: Store, parent: str, *, last: bool = False) -> int:
        """Bring the runs in line with the trials; looks once a second at most, or at once if it is the last time.

        Args:
            parent: id of the study's run.
        Returns: how many runs were added.
        """
        started = time.monotonic()
        if not last and started < self._next_look:
            return 0
        news = [run for run in self._trials() if run != self._told.get(run.identity) and self._is_ours(run)]
        added = self._tell(store, parent, news) if news else 0
        took = time.monotonic() - started
        self._next_look = time.monotonic() + max(_LOOK_SECONDS, 10 * took)
        return added

    def _is_ours(self, run: RecordedRun) -> bool:
        own = run.tags.get(JOURNAL, "").rpartition("/")[0]
        return self._session is None or own in ("", self._session) or Journal(self._work / own).done

    def _tell(self, store: Store, parent: str, news: list[RecordedRun]) -> int:
        study = store.get(parent)
        if self._found is None:  # with those that the user deleted: they are not to come back
            known = store.tagged(PARENT, parent, most=50_000)
            self._found = {run.tags.get(TRIAL) or run.tags["mlflow.runName"]: run for run in known}
        tags = {key: value for key, value in study.tags.items() if key.startswith(_INHERITED)} if study else {}
        added = 0
        for run in news:
            found = self._found.get(run.identity)
            if found is None or (found.status == "RUNNING" and not found.deleted):
                run_id = record(store, replace(run, tags={**tags, **run.tags, PARENT: parent}), found)
                self._found[run.identity] = store.get(run_id)
            if found is None:
                store.copy_datasets(parent, run_id)
                added += 1
            self._told[run.identity] = run
        return added


def rebuild(
    root: Path, entry: LockEntry, study: StudyRuns | None = None, settings: Mapping[str, Any] | None = None
) -> RecordedRun | None:
    """A run as dvc.lock and the workspace have it.

    Args:
        root: folder of dvc.lock.
        entry: the stage in dvc.lock.
        study: the one whose run it is, if it is one.
        settings: of the stage, nested, with what is left out at its default; None takes those of dvc.lock.
    Returns: None if small outputs in the workspace are not those of dvc.lock.
    """
    tables = [out for out in entry.outs if out.endswith((".json", ".csv")) and out != HEADLINE]
    if not all(_fits(root, entry, out) for out in tables):
        return None
    in_lock = entry.params.get("params.yaml", {})
    measured: dict[str, Any] = {}
    points = []
    file = ""
    for out in tables:
        with suppress(ValueError, AttributeError, TypeError, csv.Error):  # another stage's file, of another kind
            if out.endswith(".csv"):
                points += read_curves(root / out)
            elif out.startswith("metrics/"):
                measured |= json.loads((root / out).read_text(encoding="utf-8"))
                file = Path(out).name
    params = shown_params(entry.stage, entry.name, in_lock if settings is None else settings)
    if entry.stage == "fit" and entry.name:
        params |= dataset_params(entry.name, measured.get("dataset") or {})
    run = RecordedRun(
        title=entry.address,
        tags={
            **run_tags(entry.stage, entry.name, flatten(in_lock).get("seed")),
            **entry.hash_tags(),
            "pipeline.key": entry.key,
            REBUILT: "true",
            **({STUDY: study.key} if study else {}),
        },
        params=params,
        metrics=shown_metrics(entry.stage, measured, run_params(params)),
        curves=tuple(shown_curves(points)),
        datasets=tuple(_datasets(root, entry)),
        files=tuple(root / out for out in entry.outs if _is_shown(root, entry, out)),
        models={out: root / out for out in entry.outs if _is_model(root / out) and _fits(root, entry, out)},
    )
    if study:
        run = replace(run, params=study.run.params, metrics=study.metrics, files=study.files)
        file = ""
    return run.with_note(entry.stage, file)


def _datasets(root: Path, entry: LockEntry) -> Iterator[dict[str, Any]]:
    for path, there in entry.deps.items():
        for folder in _parts(root / path):
            own = there if folder == root / path else content(folder)
            found = dataset(folder, folder.relative_to(root).as_posix(), own) if own else None
            if found:
                yield found


def _parts(path: Path) -> list[Path]:
    """The datasets of a construction, one a source model; otherwise the path itself."""
    return sorted(path.glob(f"{SOURCE}*")) or [path]


def _fits(root: Path, entry: LockEntry, out: str) -> bool:
    there = content(root / out)
    return there is not None and there.fits(entry.outs[out])


def _is_dataset(path: Path) -> bool:
    return any((part / "manifest.json").exists() for part in _parts(path))


def _is_model(path: Path) -> bool:
    if path.is_dir():
        return any(path.rglob("*.safetensors")) and not _is_dataset(path)
    return path.suffix == ".safetensors" and path.exists()


def _is_shown(root: Path, entry: LockEntry, out: str) -> bool:
    """Whether a live stage would keep this output as a file: metrics, pictures, pages."""
    path = root / out
    if not path.exists() or _is_dataset(path) or _is_model(path):
        return False
    if path.suffix == ".json" or (path.suffix == ".csv" and out.startswith("metrics/")):
        return True
    pictures = any(part.suffix in _PICTURES for part in (path.iterdir() if path.is_dir() else [path]))
    return pictures and entry.outs[out].size <= _PAGE_LIMIT and _fits(root, entry, out)
