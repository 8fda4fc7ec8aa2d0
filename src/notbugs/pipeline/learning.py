"""What the stages `train` and `fit` share: lessons, the models learnt in them, their curves and their summary."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notbugs.data.images import Images, make_generator
from notbugs.models import create_model, save_model, set_normalisation
from notbugs.pipeline.running.compiling import compiles
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.jobs import do_all
from notbugs.runtime.distribution import is_first
from notbugs.runtime.files import write_csv
from notbugs.tracking import Run
from notbugs.training.checkpoints import Checkpoint
from notbugs.training.early_stopping import EpochRecord, kept_record
from notbugs.training.loop import train
from notbugs.training.settings import TrainSettings

CURVE_COLUMNS = ("subset", "source_seed", "seed", *EpochRecord.__annotations__)
FINAL = ("train_loss", "train_accuracy", "validation_accuracy", "validation_accuracy_shifted")
ADVERSARIAL = "validation_adversarial_accuracy"


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
        work: folder where the state of the training is kept, and taken up again.
    """

    project: Context
    config: TrainSettings
    data: Images
    validation: Images
    stream: tuple[str | int, ...]
    file: Path
    title: str
    seed: int
    subset: str = "full"
    source_seed: int | None = None
    work: Path | None = None

    @property
    def checkpoint(self) -> Checkpoint | None:
        """Where its state is kept."""
        if self.work is None:
            return None
        source = "" if self.source_seed is None else f"-source-{self.source_seed}"
        return Checkpoint(self.work / f"{self.subset}{source}-seed-{self.seed}.safetensors")

    def curve_names(self, record: EpochRecord) -> dict[str, float]:
        """An epoch's values by the names of their curves, such as `still_y_train_loss/source-0-seed-1`."""
        prefix = "" if self.subset == "full" else f"{self.subset}_"
        source = "" if self.source_seed is None else f"source-{self.source_seed}-"
        return {
            f"{prefix}{key}/{source}seed-{self.seed}": float(value)  # type: ignore[arg-type]
            for key, value in record.items()
            if key not in ("epoch", "lr") and value is not None
        }


OnEpoch = Callable[[EpochRecord], None]


def learn(lesson: Lesson, on_epoch: OnEpoch | None = None) -> list[EpochRecord]:
    """Train a model and save it.

    Args:
        on_epoch: called with each record while the training runs; what it raises ends it.
    Returns: one record an epoch.
    """
    project, config, data = lesson.project, lesson.config, lesson.data
    kind = project.model_settings()
    model = create_model(
        kind.architecture,
        data.image_shape,
        data.class_names,
        width=kind.width,
        generator=make_generator(project.seed, *lesson.stream, "weights"),
    ).to(project.device)
    set_normalisation(model, data)
    compiled = False
    if config.attack is not None:
        looks = len(data) * config.epochs * config.attack.num_steps * config.attack.num_restarts
        compiled = compiles(project, lesson.title, model, data.image_shape, looks)
    records = train(
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


def learn_all(lessons: Sequence[Lesson], run: Run, *, description: str) -> list[list[EpochRecord]]:
    """Give all lessons, in worker processes where `jobs` asks for them; their curves are followed live.

    Args:
        description: what is shown, where several are given at once.
    Returns: the records of each.
    """
    if not lessons:
        return []

    def follow(number: int, record: EpochRecord) -> None:
        run.curve(record["epoch"], lessons[number].curve_names(record))

    return do_all(lessons[0].project, lessons, learn, description=description, heard=follow)


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
    values = [{key: float(record[key]) for key in keys} for record in finals]  # type: ignore[literal-required]
    shown = [{key: round(value, 6) for key, value in one.items()} for one in values]
    if lessons[0].source_seed is None:
        seeds = {str(lesson.seed): one for lesson, one in zip(lessons, shown, strict=True)}
        return {"num_examples": len(lessons[0].data), "seeds": seeds, **_spread(keys, values)}
    groups: dict[str, list[int]] = {}
    for number, lesson in enumerate(lessons):
        groups.setdefault(str(lesson.source_seed), []).append(number)
    means = [
        {key: statistics.fmean(values[number][key] for number in numbers) for key in keys}
        for numbers in groups.values()
    ]
    return {
        "num_examples": {source: len(lessons[numbers[0]].data) for source, numbers in groups.items()},
        "seeds": {
            source: {str(lessons[number].seed): shown[number] for number in numbers}
            for source, numbers in groups.items()
        },
        **_spread(keys, means),
        "std_fits": {
            key: _pooled([[values[number][key] for number in numbers] for numbers in groups.values()]) for key in keys
        },
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
