"""What the stages `train` and `fit` share: models for several seeds, their curves and their summary."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from notbugs.checkpoints import Checkpoint
from notbugs.distribution import is_first
from notbugs.early_stopping import EpochRecord
from notbugs.files import write_csv
from notbugs.images import Images, make_generator
from notbugs.models import create_model, save_model, set_normalisation
from notbugs.stages.compiling import compiles
from notbugs.stages.context import Context
from notbugs.tracking import Run
from notbugs.training import TrainSettings, kept_record, train

CURVE_COLUMNS = ("subset", "seed", *EpochRecord.__annotations__)
FINAL = ("train_loss", "train_accuracy", "validation_accuracy", "validation_accuracy_shifted")
ADVERSARIAL = "validation_adversarial_accuracy"


def train_seeds(
    project: Context,
    config: TrainSettings,
    data: Images,
    validation: Images,
    *,
    stage: str,
    name: str,
    subset: str,
    file_of: Callable[[int], Path],
    run: Run,
    work: Path | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train one model from scratch for each seed and save it.

    Args:
        data, validation: what is learnt, and what the curves are measured on.
        stage, name, subset: decide the random streams, the description shown and the names of the curves.
        file_of: seed -> where its model is saved, by the first of several processes.
        work: folder where the states of the trainings are kept, and taken up again.
    Returns: the summary for the metrics file, and the rows of the learning curves.
    """
    rows: list[dict[str, Any]] = []
    finals: dict[str, EpochRecord] = {}
    suffix = "" if subset == "full" else f" ({subset})"
    for seed in config.seeds:
        model = create_model(
            project.model_settings(),
            data.image_shape,
            data.class_names,
            generator=make_generator(project.seed, stage, name, seed, "weights"),
        ).to(project.device)
        set_normalisation(model, data)
        compiled = False
        if config.attack is not None:
            looks = len(data) * config.epochs * config.attack.num_steps * config.attack.num_restarts
            compiled = compiles(project, f"{stage} {name}{suffix}", model, data.image_shape, looks)
        records = train(
            model,
            data,
            config,
            generator=make_generator(project.seed, stage, name, seed, "batches"),
            validation=validation,
            on_epoch=lambda record, seed=seed: run.curve(  # type: ignore[misc]
                record["epoch"], _curve_names(record, subset, seed)
            ),
            compiled=compiled,
            checkpoint=Checkpoint(work / f"{subset}-seed-{seed}.safetensors") if work else None,
            progress=project.progress,
            description=f"{stage} {name}{suffix}, seed {seed}",
        )
        if is_first():
            save_model(model, file_of(seed))
        rows += [{"subset": subset, "seed": seed, **record} for record in records]
        finals[str(seed)] = kept_record(records, config)
    return {"num_examples": len(data), **_summary(finals)}, rows


def write_curves(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write learning curves as CSV; what was not measured is empty."""
    write_csv(path, CURVE_COLUMNS, ({key: _short(value) for key, value in row.items()} for row in rows))


def _short(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value


def _curve_names(record: EpochRecord, subset: str, seed: int) -> dict[str, float]:
    prefix = "" if subset == "full" else f"{subset}_"
    return {
        f"{prefix}{key}/seed-{seed}": float(value)  # type: ignore[arg-type]
        for key, value in record.items()
        if key not in ("epoch", "lr") and value is not None
    }


def _summary(finals: Mapping[str, EpochRecord]) -> dict[str, Any]:
    records: Sequence[Mapping[str, Any]] = list(finals.values())
    keys = [key for key in (*FINAL, ADVERSARIAL) if all(record[key] is not None for record in records)]
    seeds = {seed: {key: round(float(record[key]), 6) for key in keys} for seed, record in finals.items()}  # type: ignore[literal-required]
    columns = {key: [float(record[key]) for record in records] for key in keys}
    return {
        "seeds": seeds,
        "mean": {key: round(statistics.fmean(values), 6) for key, values in columns.items()},
        "std": {
            key: round(statistics.stdev(values), 6) if len(values) > 1 else None for key, values in columns.items()
        },
    }
