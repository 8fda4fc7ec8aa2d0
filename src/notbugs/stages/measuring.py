"""Measuring every model on the test split, part by part, by any number of processes; what is kept is not measured."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from notbugs.attacks.engine import Engine
from notbugs.distribution import rank, wait_for_all, world_size
from notbugs.evaluation import batches
from notbugs.files import sha256
from notbugs.images import Images, make_generator
from notbugs.models import ModelError, load_model
from notbugs.models.base import Classifier
from notbugs.robustness import PART, Audit, Findings, SuiteSettings, audited, find, generator_of_part
from notbugs.robustness.masking import transfer_images
from notbugs.robustness.settings import RANDOM_STARTS
from notbugs.stages.context import Context
from notbugs.stages.kept import Kept


@dataclass(frozen=True)
class Subject:
    """A model to be measured, and what its rows in the results say of it."""

    file: Path
    facts: dict[str, Any]

    @property
    def title(self) -> str:
        """Short name, such as "D_rand" or "D robust"."""
        robust = " robust" if self.facts["estimator"] == "robust" else ""
        return f"{self.facts['dataset']}{robust}"


@dataclass(frozen=True)
class _Task:
    """A model on a part of the test split.

    Attributes:
        file: of the model.
        first, stop: rows of the test split.
        source: the model whose adversarial images are tried on it; None where the level's attacks are not run.
        thorough: whether they are.
    """

    file: Path
    first: int
    stop: int
    source: Path | None
    thorough: bool


class Measuring:
    """The measurements of a project's models.

    The level's attacks and checks are run on each kind's first `suite_seeds` models. Transfer is tried from D's
    first standard model, for the standard models themselves from the first robust one.
    """

    def __init__(self, project: Context, subjects: list[Subject], data: Images, config: SuiteSettings) -> None:
        self._project, self._data, self._config = project, data, config
        self._kept = Kept(project, config)
        self._found: dict[tuple[Path, int], Findings] = {}
        self._tasks = {subject.file: tasks for subject, tasks in self._plan(subjects)}
        self._loaded = lru_cache(maxsize=1)(self._load)
        self._transferred = lru_cache(maxsize=4)(self._transfer)

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
        for task in self._project.progress(missing[rank() :: world_size()], "evaluate"):
            found = self._find(task)
            self._kept.put(found, *keys[task])
            self._found[task.file, task.first] = found
        wait_for_all()

    def audit(self, subject: Subject) -> Audit:
        """All that was found of a model; after `run`."""
        parts = []
        for task in self._tasks[subject.file]:
            found = self._found.get((task.file, task.first)) or self._kept.get(*self._made_from(task))
            parts.append(found or self._find(task))
        return audited(*parts)

    def _plan(self, subjects: list[Subject]) -> Iterator[tuple[Subject, list[_Task]]]:
        first: dict[str, Path] = {}
        for subject in subjects:
            if not subject.file.exists():
                raise ModelError(f"{subject.file}: no model there; `dvc repro` trains it")
            if subject.facts["dataset"] == "D":
                first.setdefault(subject.facts["estimator"], subject.file)
        seen: dict[tuple[str, str], int] = defaultdict(int)
        for subject in subjects:
            kind = (subject.facts["dataset"], subject.facts["estimator"])
            thorough = seen[kind] < self._config.suite_seeds
            seen[kind] += 1
            source = first.get("robust" if kind == ("D", "standard") else "standard") if thorough else None
            rows = batches(len(self._data), PART)
            yield subject, [_Task(subject.file, part.start, part.stop, source, thorough) for part in rows]

    def _made_from(self, task: _Task) -> tuple[object, ...]:
        source = sha256(task.source) if task.source else None
        return (sha256(task.file), task.file.name, task.thorough, source, task.first, task.stop)

    def _find(self, task: _Task) -> Findings:
        model, engine = self._loaded(task.file)
        first = task.first
        return find(
            model,
            self._data.select(slice(first, task.stop)),
            self._config,
            generator=generator_of_part(make_generator(self._project.seed, *RANDOM_STARTS), first),
            transferred=self._transferred(task.source, first) if task.source else None,
            thorough=task.thorough,
            curve_engine=engine,
            first=first,
        )

    def _load(self, file: Path) -> tuple[Classifier, Engine]:
        model = load_model(file, device=self._project.device)
        few = self._data.select(slice(0, 8)).images.to(self._project.device)
        return model, Engine(model, few, compiled=self._project.runtime.engine == "compiled")

    def _transfer(self, source: Path, first: int) -> Tensor:
        part = self._data.select(slice(first, first + PART))
        return transfer_images(load_model(source, device=self._project.device), part, self._config)
