"""The stages of the science: what a study needs is loaded, what it answers is written."""

import re
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from notbugs.data.store import load_dataset, save_dataset
from notbugs.models import load_model
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.job import Job
from notbugs.pipeline.running.jobs import by_workers
from notbugs.pipeline.running.models import first_sources, source_model_of, source_models
from notbugs.pipeline.running.stage import Stage
from notbugs.runtime.cache import load_or_make
from notbugs.runtime.config import settings
from notbugs.runtime.files import write_csv, write_json
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.question import SPLITS, Question, QuestionError, asked, each_input
from notbugs.tracking import Run
from notbugs.training.settings import FitSettings

PART_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
"""Of a part of unfinished work: a file's, so of no other folder."""


def declared(stage: Stage) -> Question:
    """The question that a stage is the answer of."""
    study = resolve_name(stage.study)
    title, says = stage.name.capitalize(), stage.does[0].upper() + stage.does[1:]
    return Question(resolve_name(stage.settings), study, stage.inputs, stage.paired, title, says)


def answer_declared(job: Job) -> None:
    """Answer the question that the stage declares."""
    question = declared(job.stage)

    def study(lab: Lab, given: Any) -> Answer:
        return asked(question, lab, given, job.stage.key())

    answer(job, replace(question, study=study))


def answer(job: Job, question: Question) -> None:
    """Answer a question of the science by its `study`, on what its `inputs` name.

    Of a construction the dataset of one source seed is looked at, the first that all constructions of it share.
    """
    needed = _Needed(job, question)
    with job.begin(needed.files) as (run, work):
        found = question.study(needed.lab(run, work), job.settings)
        for path in job.outputs:
            _write(path, found)
            if path.is_file():
                run.artifact(path)
        write_json(job.metrics_file, found.metrics)
    for line in found.says:
        job.say(line)


class _Needed:
    """What a study reads, as files of the project.

    Attributes:
        datasets: name -> folder. models: source model -> file.
        trained: source model -> files of all seeds. fitted: construction -> files of the fits on it.
        files: all of them, as they are tracked; which of them a study opens is not known.
    """

    def __init__(self, job: Job, question: Question) -> None:
        self.job, self.question, project = job, question, job.project
        made = project.names("construct") if "data" in self.question.inputs else []
        parts = [path.split("/") for path in each_input(self.question.inputs, made)]
        names = [path[-1] for path in parts if path[0] == "data"]
        fitted = [path[-1] for path in parts if path[:2] == ["models", "fit"]]
        constructed = dict.fromkeys(name for name in (*names, *fitted) if name not in SPLITS)
        self.source_seeds = first_sources(project, *constructed)
        self.datasets = {name: project.dataset(name, self.source_seeds.get(name)) for name in names}
        self.models = {path[-1]: self._model(path[-1]) for path in parts if path[:2] == ["models", "train"]}
        self.trained = {name: source_models(project, name) for name in self.models}
        self.fitted = {name: _fits(project, name, self.source_seeds[name]) for name in fitted}
        files = chain(self.datasets.values(), self.models.values(), *self.trained.values(), *self.fitted.values())
        self.files = list(dict.fromkeys(files))

    def _model(self, name: str) -> Path:
        """A source model: of the seed of the construction that it is paired with, else of the lowest of all."""
        pairs = self.question.paired
        seed = self.source_seeds[pairs[name]] if pairs else min(self.source_seeds.values(), default=0)
        return source_model_of(self.job.project, name, seed)

    def lab(self, run: Run, unfinished: Path) -> Lab:
        """Load it."""
        project = self.job.project
        return Lab(
            seed=project.seed,
            device=project.device,
            data={name: load_dataset(folder) for name, folder in self.datasets.items()},
            source_seeds=self.source_seeds,
            models={name: load_model(file, device=project.device) for name, file in self.models.items()},
            trained=self.trained,
            fitted=self.fitted,
            **({"architecture": project.model_settings()} if "model" in self.job.stage.reads else {}),
            progress=project.progress,
            load_or_make=Parts(unfinished),
            do_all=by_workers(project),
            draw=run.curve,
        )


class Parts:
    """The parts of an unfinished work, by their names; see `common.lab.LoadOrMake`."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._known = folder, set[str]()

    def __copy__(self) -> "Parts":
        """Of the same work; which names were asked for is each one's own matter."""
        return Parts(self._folder)

    def __call__(self, name: str, make: Callable[[], Any]) -> Any:
        """The part of a name.

        Raises: QuestionError for a name that is no file's, or that another part has.
        """
        if not (isinstance(name, str) and PART_NAME.fullmatch(name)):
            raise QuestionError(f"load_or_make: name = {name!r}: must be of letters, digits and _ . -, 100 at most")
        if name in self._known:
            raise QuestionError(f"load_or_make: name = {name!r}: must differ from that of an earlier part")
        self._known.add(name)
        return load_or_make(self._folder / f"{name}.safetensors", make)


def _fits(project: Context, name: str, source_seed: int) -> list[Path]:
    """Files of the fits on one source's dataset."""
    seeds = settings(project.params, f"fit.{name}", FitSettings).seeds
    return [project.fitted_model(name, "full", source_seed, seed) for seed in seeds]


def _write(path: Path, found: Answer) -> None:
    """An output beside the metrics file."""
    if path.suffix == ".csv":
        write_csv(path, tuple(found.rows[0]), found.rows)
        return
    save_dataset(path, **vars(found.pictures))  # the study of a stage with a dataset as output gives them
