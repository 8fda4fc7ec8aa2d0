"""Stages `train` and `fit`: the source models, trained on D; and classifiers, fitted on what these made, and on D."""

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from notbugs.data.images import Images, Subset, make_generator
from notbugs.data.store import DatasetError, StoredDataset, load_dataset
from notbugs.evaluation.accuracy import predict
from notbugs.models import ModelError, create_model, save_model, set_normalisation
from notbugs.models.given import given_model
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.job import Job
from notbugs.pipeline.running.jobs import do_all
from notbugs.pipeline.running.models import compiles, made_sources
from notbugs.pipeline.running.own_code import file_hashes, require_files_watched
from notbugs.runtime.config import SOURCE, SUBSETS
from notbugs.runtime.distribution import is_first
from notbugs.runtime.files import publish, write_csv, write_json
from notbugs.runtime.imports import code_hash, reached
from notbugs.runtime.registry import own_modules
from notbugs.tracking.description import curve_name
from notbugs.training.checkpoints import Checkpoint, EpochRecord, kept_record
from notbugs.training.loop import measure_validation, unmeasured
from notbugs.training.loop import train as train_model
from notbugs.training.settings import GivenSettings, TrainSettings

CURVE_COLUMNS = ("subset", "source_seed", "seed", *EpochRecord.__annotations__)
FINAL = ("train_loss", "train_accuracy", "validation_accuracy", "validation_accuracy_shifted")
ADVERSARIAL = "validation_adversarial_accuracy"
OnEpoch = Callable[[EpochRecord], None]


def train(job: Job) -> None:
    """Train models/train/<name>, one a seed; or models/fit/<name>: for each source model's dataset, subset and seed.

    Commands: `notbugs train standard`, `notbugs fit rand`. On digits about 5 s a seed (robust: 20 s) and 3 s a fit.
    Validation is D's, with D's own labels; expected accuracy there: 98% or more (robust: about 95%; rand: 80% or more).
    An entry of `train` with `from` takes its models from files, and measures them in the same way.
    """
    project, config = job.project, job.settings
    sources = made_sources(project, str(job.name)) if job.stage.name == "fit" else ()
    made = [project.dataset(str(job.name), seed) for seed in sources]
    inputs = [project.dataset("train"), project.dataset("validation"), *made]
    folder, curves_file = job.outputs
    files = _files(project, config) if isinstance(config, GivenSettings) else []
    require_files_watched(project, job.stage, files)
    with job.begin(inputs, **file_hashes(project, files)) as (run, work):
        data, validation, *stored = (load_dataset(path) for path in inputs)
        subsets: dict[int | None, dict[str, Images]] = {} if sources else {None: {"full": data}}
        for seed, dataset in zip(sources, stored, strict=True):
            subsets[seed] = _subsets(job, seed, dataset, data)
        lessons = list(_lessons(job, subsets, validation, work))

        def follow(number: int, record: EpochRecord) -> None:
            """Draw the curves while the lessons are given."""
            run.curve(record["epoch"], lessons[number].curve_names(record))

        learnt = do_all(project, lessons, learn, description=f"{job.title}, models", heard=follow)
        if is_first():
            publish(work / "models", folder)
            write_curves(curves_file, lessons, learnt)
            metrics: dict[str, Any] = {}
            for subset in SUBSETS:
                mine = [pair for pair in zip(lessons, learnt, strict=True) if pair[0].subset == subset]
                if mine:
                    metrics[subset] = summary(*zip(*mine, strict=True))
            if stored:
                metrics["dataset"] = _lineage(stored[0], sources)
            write_json(job.metrics_file, metrics)
        run.model(folder)
    if is_first():
        job.say(_in_words(metrics["full"]["mean"], len(config.seeds), len(sources)))


def _subsets(job: Job, source_seed: int, stored: StoredDataset, base: StoredDataset) -> dict[str, Images]:
    """What is fitted on, for one source: all images; those still y, where that makes a batch; and D.

    Raises: DatasetError for an imported dataset of other images or classes than D's.
    """
    config = job.settings
    for what, mine, of_d in (
        ("images of shape", stored.image_shape, base.image_shape),
        ("classes", stored.class_names, base.class_names),
    ):
        if mine != of_d:
            raise DatasetError(f"{stored.path}: {what} {mine}, not {of_d} as in data/train")
    subsets: dict[str, Images] = {"full": stored}
    if config.still_y and "still_y" not in stored.examples.columns:
        job.project.say(f"{job.title}, source {source_seed}: no judge has looked at it, no second fit")
    elif config.still_y:
        agreed = torch.from_numpy(stored.examples["still_y"].to_numpy(copy=True)).nonzero().flatten()
        still_y = Subset(stored, agreed)
        if len(still_y) >= config.batch_size:
            subsets["still_y"] = still_y
        else:
            few = f"{len(still_y)} images still y: fewer than a batch, no second fit"
            job.project.say(f"{job.title}, source {source_seed}: {few}")
    if config.baseline:
        subsets["baseline"] = base
    return subsets


def _lessons(
    job: Job, subsets: Mapping[int | None, Mapping[str, Images]], validation: Images, work: Path
) -> "Iterator[Lesson]":
    """Every model to be trained.

    A fit's random streams go by its source seed and its own seed alone. So two constructions, a subset of one, and D
    itself by its recipe begin with the same weights and take their batches in the same order: they are pairs.
    """
    for source_seed, datasets in subsets.items():
        for subset, data in datasets.items():
            folder, title, part = work / "models", job.title, subset
            if source_seed is not None:
                folder, part = folder / subset / f"{SOURCE}{source_seed}", f"{subset}-source-{source_seed}"
                title += f"{'' if subset == 'full' else f' ({subset})'}, source {source_seed}"
            for seed in job.settings.seeds:
                yield Lesson(
                    job.project,
                    job.settings,
                    data,
                    validation,
                    stream=("train", str(job.name), seed) if source_seed is None else ("fit", source_seed, seed),
                    file=folder / f"seed-{seed}.safetensors",
                    title=f"{title}, seed {seed}",
                    seed=seed,
                    subset=subset,
                    source_seed=source_seed,
                    checkpoint=Checkpoint(work / f"{part}-seed-{seed}.safetensors"),
                )


def _lineage(stored: StoredDataset, sources: Sequence[int]) -> dict[str, Any]:
    """What a construction was made from and by."""
    manifest = stored.manifest
    recipe = {key: value for key, value in manifest.settings.items() if key != "source_seed"}
    return {"name": manifest.name, "source": manifest.source, **recipe, "source_seeds": list(sources)}


def _in_words(mean: Mapping[str, float], num_seeds: int, num_sources: int) -> str:
    accuracy = f"{mean['validation_accuracy']:.1%}"
    if num_sources:
        return (
            f"validation accuracy on y {accuracy}, on the shifted label {mean['validation_accuracy_shifted']:.1%} "
            f"(mean of {num_seeds} fits for each of {num_sources} source models)"
        )
    adversarial = mean.get(ADVERSARIAL)
    shown = "" if adversarial is None else f", adversarial {adversarial:.1%}"
    return f"validation accuracy {accuracy}{shown} (mean of {num_seeds} seeds)"


@dataclass(frozen=True)
class Lesson:
    """One model to be trained from scratch, and all that it depends on: lessons can be given in any order.

    Attributes:
        project: model settings, seed, device, engine.
        config: how it is trained; its `seeds` are not looked at.
        data, validation: what is learnt, and what the curves are measured on.
        stream: what its initialisation and its batches are drawn from, beside the project's seed. Lessons of the same
            stream and size begin alike and take their examples in the same order.
        file: where the model is saved, by the first of several processes.
        title: what is shown.
        seed: of this model. subset, source_seed: which part of which source's dataset, of a fit.
        checkpoint: where the state of the training is kept, and taken up again.
    """

    project: Context
    config: TrainSettings | GivenSettings
    data: Images
    validation: Images
    stream: tuple[str | int, ...]
    file: Path
    title: str
    seed: int
    subset: str = "full"
    source_seed: int | None = None
    checkpoint: Checkpoint | None = None

    def curve_names(self, record: EpochRecord) -> dict[str, float]:
        """An epoch's values by the names of their curves, such as `still_y_train_loss/source-0-seed-1`."""
        whose = (self.subset, self.seed, self.source_seed)
        return {
            curve_name(key, *whose): float(value)  # type: ignore[arg-type]
            for key, value in record.items()
            if key not in ("epoch", "lr") and value is not None
        }


def learn(lesson: Lesson, on_epoch: OnEpoch | None = None) -> list[EpochRecord]:
    """Train a model, or take it from a file, and save it.

    Args:
        on_epoch: called with each record while the training runs; what it raises ends it.
    Returns: one record an epoch.
    """
    project, config, data = lesson.project, lesson.config, lesson.data
    if isinstance(config, GivenSettings):
        record = _take(lesson, config)
        if on_epoch is not None:
            on_epoch(record)
        return [record]
    kind = project.model_settings()
    model = create_model(
        image_shape=data.image_shape,
        class_names=data.class_names,
        **kind.arguments(),
        generator=make_generator(project.seed, *lesson.stream, "weights"),
    ).to(project.device)
    set_normalisation(model, data)
    compiled = False
    if config.attack is not None:
        looks = len(data) * config.epochs * config.attack.num_steps * config.attack.num_restarts
        compiled = compiles(project, lesson.title, model, data.image_shape, looks)
    records = train_model(
        model,
        data,
        **config.arguments(),
        generator=make_generator(project.seed, *lesson.stream, "batches"),
        validation=lesson.validation,
        on_epoch=on_epoch,
        compiled=compiled,
        checkpoint=lesson.checkpoint,
        progress=project.progress,
        description=lesson.title,
    )
    if is_first():
        save_model(model, lesson.file)
    return records


def _files(project: Context, config: GivenSettings) -> list[str]:
    """All that models are taken from: the files that the entry names, and the descriptions beside them."""
    beside = [Path(name).with_suffix(".json").as_posix() for name in config.files if name.endswith(".safetensors")]
    return [*config.files, *(name for name in beside if (project.root / name).is_file())]


def _take(lesson: Lesson, config: GivenSettings) -> EpochRecord:
    """Save a model from elsewhere as one of ours, and measure it: its training is one record, of epoch 0.

    Raises: ModelError if it cannot be read, or does not fit D.
    """
    project, data = lesson.project, lesson.data
    file = project.root / config.file(lesson.seed)
    network = config.network or project.model_settings().arguments()
    model = given_model(
        file,
        data.image_shape,
        data.class_names,
        network=network,
        is_named=config.network is not None,
        mean=config.mean,
        std=config.std,
    ).to(project.device)
    logits = predict(model, data)
    if not logits.isfinite().all():
        raise ModelError(f"{file}: gives logits that are not finite on images of D")
    loss = float(functional.cross_entropy(logits, data.labels))
    accuracy = float((logits.argmax(dim=1) == data.labels).double().mean())
    record = unmeasured(0, 0.0, loss, accuracy)
    attack = config.validation_attack
    measure_validation(model, lesson.validation, attack.arguments() if attack else None, record)
    own = own_modules([model.description.architecture])
    if own:  # unlike weights that are trained, these do not change with the code, and what is made from them must
        code = code_hash(reached(*sorted(own))[0])
        model.description = model.description.model_copy(update={"origin": {**model.description.origin, "code": code}})
    if is_first():
        save_model(model, lesson.file)
    return record


def write_curves(path: Path, lessons: Sequence[Lesson], learnt: Sequence[Sequence[EpochRecord]]) -> None:
    """Write learning curves as CSV; what was not measured, and the source of a model trained on D, is empty."""
    rows: list[dict[str, Any]] = []
    for lesson, records in zip(lessons, learnt, strict=True):
        identity = {"subset": lesson.subset, "source_seed": lesson.source_seed, "seed": lesson.seed}
        rows += [{**identity, **{key: _short(value) for key, value in record.items()}} for record in records]
    write_csv(path, CURVE_COLUMNS, rows)


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def summary(lessons: Sequence[Lesson], learnt: Sequence[Sequence[EpochRecord]]) -> dict[str, Any]:
    """What a metrics file says of models that learnt the same: their last values, mean and spread.

    Returns: `num_examples`; `seeds`: {seed: values}, of fits {source seed: {seed: values}}; `mean` and `std` over the
        seeds. Of fits `mean` is that of the sources' means and `std` their standard deviation; `std_fits` is that of
        the fits of one source, pooled. A deviation of one value is null. `num_examples` of fits is given by source.
    """
    finals = [
        kept_record(records, lesson.config.early_stopping, adversarial=lesson.config.attack is not None)
        for lesson, records in zip(lessons, learnt, strict=True)
    ]
    keys = [key for key in (*FINAL, ADVERSARIAL) if all(record[key] is not None for record in finals)]  # type: ignore[literal-required]
    sizes: dict[str, int] = {}
    values: dict[str, list[dict[str, float]]] = {}  # by source
    shown: dict[str, dict[str, dict[str, float]]] = {}  # by source and seed
    for lesson, record in zip(lessons, finals, strict=True):
        source, last = str(lesson.source_seed), {key: float(record[key]) for key in keys}  # type: ignore[literal-required]
        sizes.setdefault(source, len(lesson.data))
        values.setdefault(source, []).append(last)
        shown.setdefault(source, {})[str(lesson.seed)] = {key: round(value, 6) for key, value in last.items()}
    if lessons[0].source_seed is None:
        return {"num_examples": sizes["None"], "seeds": shown["None"], **_spread(keys, values["None"])}
    means = [{key: statistics.fmean(one[key] for one in fits) for key in keys} for fits in values.values()]
    return {
        "num_examples": sizes,
        "seeds": shown,
        **_spread(keys, means),
        "std_fits": {key: _pooled([[one[key] for one in fits] for fits in values.values()]) for key in keys},
    }


def _spread(keys: Iterable[str], values: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation of each key."""
    columns = {key: [one[key] for one in values] for key in keys}
    return {
        "mean": {key: round(statistics.fmean(column), 6) for key, column in columns.items()},
        "std": {
            key: round(statistics.stdev(column), 6) if len(column) > 1 else None for key, column in columns.items()
        },
    }


def _pooled(groups: Sequence[Sequence[float]]) -> float | None:
    """Standard deviation within groups, each about its own mean; null for groups of one."""
    freedom = sum(len(group) - 1 for group in groups)
    if not freedom:
        return None
    squares = sum((value - statistics.fmean(group)) ** 2 for group in groups for value in group)
    return round(math.sqrt(squares / freedom), 6)
