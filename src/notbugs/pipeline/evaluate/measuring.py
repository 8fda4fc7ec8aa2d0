"""Measuring every model on the test split, part by part, by any number of processes; what is kept is not measured."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from notbugs.attacks.engine import Engine
from notbugs.data.images import Images, make_generator
from notbugs.evaluation.accuracy import batches
from notbugs.evaluation.levels import RANDOM_STARTS, SuiteSettings
from notbugs.evaluation.masking import transfer_images
from notbugs.evaluation.suite import PART, Audit, audited, find, generator_of_part
from notbugs.models import ModelError, load_model
from notbugs.models.base import Classifier
from notbugs.pipeline.evaluate.kept import Kept
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.jobs import Say, do_all
from notbugs.runtime.distribution import rank, wait_for_all, world_size
from notbugs.runtime.files import sha256


@dataclass(frozen=True)
class Subject:
    """A model to be measured, and what its rows in the results say of it.

    Attributes:
        file: of the model.
        facts: its columns of results.csv.
        also_at: a second radius at which all attacks are run; None for the headline's alone.
    """

    file: Path
    facts: dict[str, Any]
    also_at: float | None = None

    @property
    def kind(self) -> tuple[str, str]:
        """(dataset, estimator): what it shares with the models of other seeds."""
        return self.facts["dataset"], self.facts["estimator"]


@dataclass(frozen=True)
class Task:
    """A model on a part of the test split: tasks can be done in any order, by any process.

    Attributes:
        file: of the model.
        first, stop: rows of the test split.
        thorough: whether the level's attacks are run. checked: whether its checks are, too.
        source: the model whose adversarial images are tried on it; None where it is not checked.
        also_at: a second radius for the level's attacks.
    """

    file: Path
    first: int
    stop: int
    thorough: bool
    checked: bool
    source: Path | None
    also_at: float | None


class Bench:
    """What every measurement needs. A worker process has one for all tasks of a stage, with the models used last.

    Args:
        data: the test split.
        config: level, radii, batch size.
    """

    def __init__(self, project: Context, data: Images, config: SuiteSettings) -> None:
        self.project, self.data, self.config = project, data, config
        self.loaded = lru_cache(maxsize=1)(self._load)
        self.transferred = lru_cache(maxsize=4)(self._transfer)

    def __reduce__(self) -> tuple[Callable[..., "Bench"], tuple[Context, Images, SuiteSettings]]:
        return _bench_of_this_process, (self.project, self.data, self.config)

    def _load(self, file: Path) -> tuple[Classifier, Engine]:
        model = load_model(file, device=self.project.device)
        few = self.data.select(slice(0, 8)).images.to(self.project.device)
        return model, Engine(model, few, compiled=self.project.runtime.engine == "compiled")

    def _transfer(self, source: Path, first: int) -> Tensor:
        part = self.data.select(slice(first, first + PART))
        return transfer_images(load_model(source, device=self.project.device), part, **self.config.transfer())


_benches: dict[tuple[Path, str], Bench] = {}


def _bench_of_this_process(project: Context, data: Images, config: SuiteSettings) -> Bench:
    """What a task brings along to a worker: the bench that an earlier task brought, where there was one."""
    return _benches.setdefault((project.root, config.model_dump_json()), Bench(project, data, config))


def measure(bench: Bench, task: Task) -> Audit:
    """Do one task."""
    model, engine = bench.loaded(task.file)
    first = task.first
    return find(
        model,
        bench.data.select(slice(first, task.stop)),
        **bench.config.arguments(),
        generator=generator_of_part(make_generator(bench.project.seed, *RANDOM_STARTS), first),
        transfer_from=bench.transferred(task.source, first) if task.source else None,
        thorough=task.thorough,
        checked=task.checked,
        also_at=task.also_at,
        curve_engine=engine,
        first=first,
    )


@dataclass(frozen=True)
class _Keeping:
    """A task, and where what it finds is kept."""

    bench: Bench
    kept: Kept
    task: Task
    key: tuple[object, ...]


def _measure_and_keep(keeping: _Keeping, say: Say) -> None:
    """Do a task and keep what is found."""
    keeping.kept.put(measure(keeping.bench, keeping.task), *keeping.key)


def _places(subjects: Iterable[Subject]) -> dict[Path, int]:
    """Place of each model among those of its kind: by fit, then by source model, each in the order of params.yaml."""
    fits: dict[tuple[object, ...], int] = defaultdict(int)
    kinds: dict[tuple[str, str], list[tuple[int, Path]]] = defaultdict(list)
    for subject in subjects:
        own = (*subject.kind, subject.facts["source_seed"])
        kinds[subject.kind].append((fits[own], subject.file))
        fits[own] += 1
    ordered = [sorted(models, key=lambda model: model[0]) for models in kinds.values()]
    return {file: place for models in ordered for place, (_, file) in enumerate(models)}


class Measuring:
    """The measurements of a project's models.

    The level's attacks are run on each kind's first `suite_seeds` models, its checks on the first `check_seeds` of
    those; first come the first fits of all source models, then their second ones: a few show the spread over sources.
    Transfer is tried from D's first standard model, for the standard models themselves from the first robust one.
    """

    def __init__(self, project: Context, subjects: list[Subject], data: Images, config: SuiteSettings) -> None:
        self._project, self._bench, self._config = project, Bench(project, data, config), config
        self._kept = Kept(project, config)
        self._found: dict[tuple[Path, int], Audit] = {}
        self._tasks = {subject.file: tasks for subject, tasks in self._plan(subjects, len(data))}

    def run(self) -> None:
        """Measure what is not kept; of several processes each does its share, and all go on together."""
        tasks = [task for tasks in self._tasks.values() for task in tasks]
        keys = {task: self._made_from(task) for task in tasks}
        missing = []
        for task in tasks:
            kept = self._kept.get(*keys[task])
            if kept is None:
                missing.append(task)
            else:
                self._found[task.file, task.first] = kept
        wait_for_all()
        mine = [_Keeping(self._bench, self._kept, task, keys[task]) for task in missing[rank() :: world_size()]]
        do_all(self._project, mine, _measure_and_keep, description="evaluate")
        wait_for_all()

    def audit(self, subject: Subject) -> Audit:
        """All that was found of a model; after `run`."""
        parts = []
        for task in self._tasks[subject.file]:
            found = self._found.get((task.file, task.first)) or self._kept.get(*self._made_from(task))
            parts.append(found or measure(self._bench, task))
        return audited(*parts)

    def _plan(self, subjects: list[Subject], num_examples: int) -> Iterator[tuple[Subject, list[Task]]]:
        first: dict[str, Path] = {}
        for subject in subjects:
            if not subject.file.exists():
                raise ModelError(f"{subject.file}: no model there; `dvc repro` trains it")
            if subject.facts["dataset"] == "D":
                first.setdefault(subject.facts["estimator"], subject.file)
        places = _places(subjects)
        suite = self._config.suite_seeds
        for subject in subjects:
            number, kind = places[subject.file], subject.kind
            thorough = suite is None or number < suite
            checked = thorough and number < self._config.check_seeds
            source = first.get("robust" if kind == ("D", "standard") else "standard") if checked else None
            also_at = subject.also_at if thorough else None
            yield (
                subject,
                [
                    Task(subject.file, part.start, part.stop, thorough, checked, source, also_at)
                    for part in batches(num_examples, PART)
                ],
            )

    def _made_from(self, task: Task) -> tuple[object, ...]:
        source = sha256(task.source) if task.source else None
        depth = (task.thorough, task.checked, task.also_at)
        return (sha256(task.file), task.file.name, *depth, source, task.first, task.stop)
