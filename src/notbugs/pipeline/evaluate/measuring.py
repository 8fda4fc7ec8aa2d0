"""Measuring every model on the test split, part by part, by any number of processes.

What is found on a part is kept in the work folder: a killed stage goes on where it was, and an unchanged model is not
measured again.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from notbugs.attacks.engine import Engine
from notbugs.data.images import Images, make_generator
from notbugs.evaluation.accuracy import Outcome, batches
from notbugs.evaluation.certificate import Certificate
from notbugs.evaluation.levels import RANDOM_STARTS, SuiteSettings
from notbugs.evaluation.masking import Signs, Standing, transfer_images
from notbugs.evaluation.suite import PART, Audit, audited, find, generator_of_part
from notbugs.models import load_model
from notbugs.models.base import Classifier
from notbugs.models.missing import no_model
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.jobs import Say, do_all
from notbugs.pipeline.running.own_code import modules_named
from notbugs.runtime.cache import digest, load_kept, work_folder
from notbugs.runtime.distribution import rank, wait_for_all, world_size
from notbugs.runtime.files import sha256
from notbugs.runtime.imports import made_with
from notbugs.runtime.state_file import save_state

STAGE = "notbugs.pipeline.evaluate"
"""The module that measures; with all that it imports (the reader of the data too) it made a measurement."""


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
        project: its work folder keeps what is found.
        data: the test split.
        config: level, radii, batch size.
    """

    def __init__(self, project: Context, data: Images, config: SuiteSettings) -> None:
        self.project, self.data, self.config = project, data, config
        self._loaded = lru_cache(maxsize=1)(self._load)
        self._transferred = lru_cache(maxsize=4)(self._transfer)
        self._sha256 = lru_cache(maxsize=None)(sha256)

    def __reduce__(self) -> tuple[Callable[..., "Bench"], tuple[Context, Images, SuiteSettings]]:
        return _bench_of_this_process, (self.project, self.data, self.config)

    def kept(self, task: Task) -> Audit | None:
        """What an earlier run found, if it is there, whole, and counts."""
        found = load_kept(self.file(task))
        try:
            return None if found is None else _audit(**found)
        except TypeError:  # what another version kept
            return None

    def found(self, task: Task) -> Audit:
        """What is kept; else do the task, and keep what is found."""
        found = self.kept(task)
        if found is None:
            found = self._measure(task)
            save_state(self.file(task), asdict(found))
        return found

    def file(self, task: Task) -> Path:
        """Where a task's findings are kept: known by everything that they depend on."""
        contents = [self._sha256(file) if file else None for file in (task.file, task.source)]
        facts = {**vars(task), "file": task.file.name, "source": None, "contents": contents}
        return work_folder(self.project.root, "evaluate") / f"{digest({**self._made_from, **facts})}.safetensors"

    @cached_property
    def _made_from(self) -> dict[str, Any]:
        """What all findings depend on."""
        return {
            **made_with(STAGE, *modules_named(self.project.params, ("model", "evaluate"))),
            "data": sha256(self.project.dataset("test") / "manifest.json"),
            "settings": self.config.model_dump(mode="json", exclude={"suite_seeds", "check_seeds"}),
            "num_threads": self.project.runtime.num_threads,
            "compiled": self.project.runtime.engine == "compiled",
            "seed": self.project.seed,
            "device": self.project.device.type,
            "precision": self.project.precision,
        }

    def _measure(self, task: Task) -> Audit:
        model, engine = self._loaded(task.file)
        return find(
            model,
            self.data.select(slice(task.first, task.stop)),
            **self.config.arguments(),
            generator=generator_of_part(make_generator(self.project.seed, *RANDOM_STARTS), task.first),
            transfer_from=self._transferred(task.source, task.first) if task.source else None,
            thorough=task.thorough,
            checked=task.checked,
            also_at=task.also_at,
            curve_engine=engine,
            first=task.first,
        )

    def _load(self, file: Path) -> tuple[Classifier, Engine]:
        model = load_model(file, device=self.project.device)
        few = self.data.select(slice(0, 8)).images.to(self.project.device)
        return model, Engine(model, few, compiled=self.project.runtime.engine == "compiled")

    def _transfer(self, source: Path, first: int) -> Tensor:
        part = self.data.select(slice(first, first + PART))
        return transfer_images(load_model(source, device=self.project.device), part, **self.config.transfer())


def _audit(outcomes: Any, norms: Any, standing: Any, signs: Any, certificate: Any) -> Audit:
    """Audit from the plain values that they were kept as."""
    return Audit(
        [Outcome(**outcome) for outcome in outcomes],
        norms,
        standing and Standing(**standing),
        signs and Signs(**signs),
        certificate and Certificate(*certificate),
    )


_benches: dict[tuple[Path, str], Bench] = {}


def _bench_of_this_process(project: Context, data: Images, config: SuiteSettings) -> Bench:
    """What a task brings along to a worker: the bench that an earlier task brought, where there was one."""
    return _benches.setdefault((project.root, config.model_dump_json()), Bench(project, data, config))


def _measure(work: tuple[Bench, Task], say: Say) -> None:
    """Do a task, unless it is done."""
    bench, task = work
    bench.found(task)


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


def measure_all(project: Context, subjects: list[Subject], data: Images, config: SuiteSettings) -> Iterator[Audit]:
    """Measure what is not kept; of several processes each does its share, and all go on together.

    The level's attacks are run on each kind's first `suite_seeds` models, its checks on the first `check_seeds` of
    those; first come the first fits of all source models, then their second ones: a few show the spread over sources.
    Transfer is tried from D's first standard model, for the standard models themselves from the first robust one.

    Returns: all that was found of each model, in their order.
    """
    bench = Bench(project, data, config)
    tasks = list(_plan(subjects, len(data), config))
    missing = [(bench, task) for own in tasks for task in own if bench.kept(task) is None]
    wait_for_all()
    do_all(project, missing[rank() :: world_size()], _measure, description="evaluate, parts")
    wait_for_all()
    return (audited(*map(bench.found, own)) for own in tasks)


def _plan(subjects: list[Subject], num_examples: int, config: SuiteSettings) -> Iterator[list[Task]]:
    """The tasks of each model."""
    first: dict[str, Path] = {}
    for subject in subjects:
        if not subject.file.exists():
            raise no_model(subject.file)
        if subject.facts["dataset"] == "D":
            first.setdefault(subject.facts["estimator"], subject.file)
    places = _places(subjects)
    for subject in subjects:
        number = places[subject.file]
        thorough = config.suite_seeds is None or number < config.suite_seeds
        checked = thorough and number < config.check_seeds
        source = first.get("robust" if subject.kind == ("D", "standard") else "standard") if checked else None
        also_at = subject.also_at if thorough else None
        yield [
            Task(subject.file, part.start, part.stop, thorough, checked, source, also_at)
            for part in batches(num_examples, PART)
        ]
