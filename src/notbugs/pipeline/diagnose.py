"""Stage `diagnose`: why each constructed dataset teaches what it does, or nothing."""

import csv
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from notbugs.data.images import make_generator
from notbugs.data.store import DatasetError, StoredDataset, load_dataset
from notbugs.evaluation.accuracy import shifted_labels
from notbugs.evaluation.results import read_json
from notbugs.models import load_model
from notbugs.pipeline.construct import attacked, read_recipe
from notbugs.pipeline.origins import ensemble_members, origins
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.job import Job
from notbugs.pipeline.running.models import first_sources
from notbugs.runtime.config import in_order_of_paper, settings
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import write_json
from notbugs.science.causes import Cause, as_json, causes
from notbugs.science.diagnosis import DiagnosisSettings, Fit, Numbers, Subject, measure
from notbugs.training.settings import FitSettings, TrainSettings, train_settings


def diagnose(job: Job) -> None:
    """Write metrics/diagnose.json: of each construction its numbers, and what is wrong with it.

    Command: `notbugs diagnose`. On digits 5 s. Of several source seeds the first is looked at that all have.
    """
    project, found = job.project, dict[str, Any]()
    names = in_order_of_paper(project.names("construct"))
    seeds = first_sources(project, *names)
    with job.begin([project.dataset("train"), *(project.dataset(name, seeds[name]) for name in names)]):
        for name in project.progress(names, f"{job.title}, datasets"):
            try:
                numbers, wrong = look_at(project, name, job.settings, seeds[name])
            except StrangeDatasetError as error:
                job.say(f"{name}: left out: {error}")
                continue
            found[name] = {"source_seed": seeds[name], **as_json(numbers, wrong)}
            job.say(f"{name}: {wrong[0].says if wrong else 'nothing is wrong by these measures'}")
        write_json(job.metrics_file, {"constructions": found})


class StrangeDatasetError(DatasetError):
    """A dataset that came from elsewhere: which image of D each of its images was made from is not known."""


def diagnosis_of(project: Context, name: str) -> tuple[Numbers, list[Cause]]:
    """The diagnosis of one construction.

    Raises: ConfigError for a name that is none's, DatasetError where it has not been made, or came from elsewhere.
    """
    names = project.names("construct")
    if name not in names:
        raise ConfigError(f"notbugs diagnose: {name}: must be an entry of construct: {', '.join(names)}")
    asked = settings({"diagnose": {}, **project.params}, "diagnose", DiagnosisSettings)
    return look_at(project, name, asked, first_sources(project, name)[name])


def look_at(project: Context, name: str, asked: DiagnosisSettings, seed: int) -> tuple[Numbers, list[Cause]]:
    """Measure the dataset of one source seed, and say what is wrong with it."""
    subject = _subject(project, name, seed)
    generator = make_generator(project.seed, "diagnose")  # of every dataset the same rows, so that they can be compared
    numbers = measure(subject, generator, max_examples=asked.max_examples)
    return numbers, causes(name, subject, numbers)


def _subject(project: Context, name: str, seed: int) -> Subject:
    key = f"construct.{name}"
    config = read_recipe(project.params, key)
    origin = next(one for one in origins(project, config, key) if one.seed == seed)
    made, base = load_dataset(project.dataset(name, seed)), load_dataset(project.dataset("train"))
    if len(made) != len(base) or made.examples["source_index"].tolist() != list(range(len(base))):
        raise StrangeDatasetError(
            f"{made.path}: it was not made from data/train, image by image: nothing to compare with"
        )
    recorded = _column(made, "given_label")
    assert recorded is not None  # every dataset has it
    members = config.ensemble and [model for model, _ in ensemble_members(project.params, config.ensemble, key)]
    return Subject(
        made=made,
        base=base,
        recorded=recorded,
        source=attacked(origin.members, project.device),
        judge=load_model(origin.judge, device=project.device),
        adversarial=all(_needs_no_training(project, model) for model in members or [config.model]),
        others=[load_model(file, device=project.device) for file in origin.others],
        norm=getattr(config, "norm", "l2"),
        eps=getattr(config, "eps", None) if getattr(config, "start", "x") == "x" else None,
        aim=_column(made, "target_label"),
        fit=_fit(project, name, seed),
        shifted=torch.equal(recorded, shifted_labels(base.labels, len(base.class_names))),
    )


def _column(made: StoredDataset, name: str) -> Tensor | None:
    """A column of a dataset's table, (N,); None where it has none."""
    return torch.from_numpy(made.examples[name].to_numpy(copy=True)) if name in made.examples.columns else None


def _needs_no_training(project: Context, model: str) -> bool:
    """Whether nobody expects the models of an entry of `train` to know all of D: robust ones, and ones from files."""
    trained = train_settings(project.params, f"train.{model}")
    return not isinstance(trained, TrainSettings) or trained.attack is not None


def _fit(project: Context, name: str, seed: int) -> Fit | None:
    """How fits on a construction are trained, and how they went as far as they are there."""
    if name not in (project.params.get("fit") or {}):
        return None
    config = settings(project.params, f"fit.{name}", FitSettings)
    curves = _curves(project.root / f"plots/learning/fit-{name}.csv", seed)
    file, found = project.root / f"metrics/fit/{name}.json", {}
    if curves and file.exists():
        fits = read_json(file, f"fit@{name}", ("full",))["full"]["seeds"].get(str(seed), {})
        found = {
            key: _mean(fits, f"validation_accuracy{end}") for key, end in (("on_y", ""), ("on_shifted", "_shifted"))
        }
    return Fit(config.crop_padding, config.flip, curves, **found)


def _curves(file: Path, seed: int) -> list[list[float]]:
    """Training losses after each epoch of the fits on the whole dataset of a source seed, as far as there are any."""
    if not file.exists():
        return []
    curves: dict[str, list[float]] = {}
    with file.open(encoding="utf-8", newline="") as text:
        for row in csv.DictReader(text):
            if row["subset"] == "full" and row["source_seed"] == str(seed):
                curves.setdefault(row["seed"], []).append(float(row["train_loss"]))
    return list(curves.values())


def _mean(fits: Mapping[str, Mapping[str, float]], key: str) -> float | None:
    return statistics.fmean(fit[key] for fit in fits.values()) if fits else None
