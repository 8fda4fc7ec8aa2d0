"""What each lever does to D_rand and D_det: their source, their perturbation, the fits on them, one changed at a time.

    python benchmarks/levers.py PROJECT [WORKERS]    # a project with D prepared and its source models trained

The base is what the project's params.yaml says of train.standard, construct.rand and .det, and fit.rand and .det. Every
other row of the table changes what LEVERS says, and nothing else. Datasets are made from the training images; accuracy
is measured on the validation images, with one fit each. What was measured is kept in PROJECT/.notbugs/levers, so a run
that was killed goes on.

Writes benchmarks/levers-<source>.csv and .md. Success is the share of the images that a model calls t: the source;
the source under random crops (padding 4) and flips; a model of another seed, trained as the base's source. Still y is
the share that the robust model calls y among those that it called y untouched.
"""

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from notbugs.construction.building import construct, construct_settings
from notbugs.data.images import Images, make_generator
from notbugs.data.store import load_dataset
from notbugs.evaluation.results import percent
from notbugs.models import create_model, load_model, save_model
from notbugs.models.base import Classifier
from notbugs.models.ensemble import Ensemble
from notbugs.pipeline.running.context import Context, open_project
from notbugs.pipeline.running.models import source_models
from notbugs.runtime.cache import PATIENCE_SECONDS, ResultCache, digest
from notbugs.runtime.files import file_lock, write_csv, write_text
from notbugs.science.diagnosis import Fit, Subject, measure
from notbugs.training.loop import train
from notbugs.training.settings import FitSettings, TrainSettings

HERE = Path(__file__).parent
DATASETS = {"det": "D_det", "rand": "D_rand"}
OTHER_SEED = 100
"""Of the model that no dataset is made from."""
LOOKED_AT = 2000
"""Images of a dataset of which success and still y are measured."""
NO_CROPS = {"train.crop_padding": 0, "train.flip": False}


@dataclass(frozen=True)
class Times:
    """A number of the base's, multiplied."""

    factor: float

    def __call__(self, usual: float) -> float:
        """The product, whole where the number was."""
        return round(self.factor * usual) if isinstance(usual, int) else self.factor * usual


LEVERS: Mapping[str, Mapping[str, Any]] = {
    "base": {},
    "source: no crops, no flips": {"train.crop_padding": 0, "train.flip": False},
    "source: slightly robust (eps 0.1)": {"train.attack": {"norm": "l2", "eps": 0.1, "num_steps": 1, "step_size": 0.1}},
    "source: twice the epochs": {"train.epochs": Times(2)},
    "source: two seeds together": {"sources": (0, 1)},
    "source: three seeds together": {"sources": (0, 1, 2)},
    "attack: 4 averaged views": {"construct.views": 4},
    "attack: twice the steps": {"construct.num_steps": Times(2), "construct.step_size": Times(0.5)},
    "attack: half of eps": {"construct.eps": Times(0.5), "construct.step_size": Times(0.5)},
    "attack: one and a half of eps": {"construct.eps": Times(1.5), "construct.step_size": Times(1.5)},
    "fit: twice the epochs": {"fit.epochs": Times(2)},
    "fit: four times the lr": {"fit.lr": Times(4)},
    "fit: AdamW, lr 0.001": {"fit.optimizer": "adamw", "fit.lr": 0.001, "fit.nesterov": False},
    "fit: crops and flips": {"fit.crop_padding": 4, "fit.flip": True},
}
"""Name -> what it changes, and nothing else."""
MEASURED = ("source_accuracy", "success", "success_augmented", "success_other_seeds", "still_y", "on_y", "on_shifted")
COLUMNS = ("lever", "dataset", *MEASURED, "loss", "left_at", "seconds")


@dataclass(frozen=True)
class Cell:
    """One dataset with one lever: sections of settings, as in params.yaml, and the seeds of its source models."""

    lever: str
    dataset: str
    train: Mapping[str, Any]
    construct: Mapping[str, Any]
    fit: Mapping[str, Any]
    sources: Sequence[int]


def cell_of(params: Mapping[str, Any], lever: str, dataset: str) -> Cell:
    """The base's settings with a lever's changes."""
    sections = {"train": params["train"]["standard"], "construct": params["construct"][dataset]}
    told = {name: dict(section) for name, section in {**sections, "fit": params["fit"][dataset]}.items()}
    sources: Sequence[int] = (0,)
    for key, value in LEVERS[lever].items():
        if key == "sources":
            sources = value
            continue
        section, name = key.split(".")
        told[section][name] = value(told[section][name]) if isinstance(value, Times) else value
    for settings in told.values():
        settings.pop("seeds", None)
        settings.pop("source_seeds", None)
    return Cell(lever, dataset, **told, sources=sources)


def source_file(project: Context, told: Mapping[str, Any], seed: int) -> Path:
    """The file of a source model; the project's own where it has it."""
    usual = {key: value for key, value in project.params["train"]["standard"].items() if key != "seeds"}
    own = project.source_model("standard", seed)
    if told == usual and own.exists():
        return own
    return project.root / ".notbugs/levers/models" / f"{digest(told)[:16]}-{seed}.safetensors"


def source_of(project: Context, told: Mapping[str, Any], seed: int) -> Classifier:
    """A source model, trained where there is none yet; a process that wants the same one waits for it."""
    file = source_file(project, told, seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(file.with_suffix(".lock"), PATIENCE_SECONDS):
        if not file.exists():
            model = fresh(project, "source", seed)
            how = TrainSettings(**{**told, "validation_attack": None}).arguments()
            data = load_dataset(project.dataset("train"))
            train(model, data, generator=make_generator(seed, "levers", "source"), description=file.stem, **how)
            save_model(model, file)
    return load_model(file)


def fresh(project: Context, *stream: Any) -> Classifier:
    """A classifier of the project's architecture, normalised as the project's own models are."""
    told = project.params["model"]
    like = load_model(source_models(project, "standard")[0])
    shape, names = like.description.image_shape, like.description.class_names
    model = create_model(
        told["architecture"], shape, names, width=told.get("width"), generator=make_generator(0, *stream)
    )
    model.normalise.load_state_dict(like.normalise.state_dict())
    return model


def fitted(project: Context, cell: Cell, made: Images) -> Fit:
    """How a fit on a dataset went; with the crops and flips under which success is measured, whatever its own were."""
    validation = load_dataset(project.dataset("validation"))
    how = FitSettings(**{**cell.fit, "measure_every": cell.fit["epochs"]}).arguments()
    records = train(
        fresh(project, "fit"),
        made,
        generator=make_generator(0, "levers", "fit"),
        validation=validation,
        description=cell.lever,
        **how,
    )
    losses = [record["train_loss"] for record in records]
    on_y, on_shifted = records[-1]["validation_accuracy"], records[-1]["validation_accuracy_shifted"]
    return Fit(crop_padding=4, flip=True, losses=[losses], on_y=on_y, on_shifted=on_shifted)


def measure_cell(root: Path, cell: Cell) -> dict[str, Any]:
    """Make a dataset, look at it and fit it, unless that was done before."""
    made_from = {key: value for key, value in asdict(cell).items() if key != "lever"}
    found = ResultCache(root / ".notbugs/levers").get_or_compute(made_from, lambda: _measured(root, cell))
    return {**found, "lever": cell.lever}


def _measured(root: Path, cell: Cell) -> dict[str, Any]:
    """A line of the table."""
    started = time.monotonic()
    project = open_project(root)
    data = load_dataset(project.dataset("train"))
    models = [source_of(project, cell.train, seed) for seed in cell.sources]
    source = models[0] if len(models) == 1 else Ensemble(models)
    settings = construct_settings(cell.construct, f"construct.{cell.dataset}")
    made = construct(source, data, generator=make_generator(0, "levers"), **settings.arguments()).data
    usual = cell_of(project.params, "base", cell.dataset).train
    other = source_of(project, usual, OTHER_SEED)
    judge = load_model(source_models(project, "robust")[0])
    fit = fitted(project, cell, made)
    eps = cell.construct["eps"]
    subject = Subject(made, data, made.labels, source, judge, others=[other], eps=eps, fit=fit)
    found = measure(subject, make_generator(0, "levers", "look"), max_examples=LOOKED_AT)
    return {
        "dataset": DATASETS[cell.dataset],
        **{name: getattr(found, name) for name in MEASURED},
        "loss": found.loss,
        "left_at": found.left_at[0],
        "seconds": round(time.monotonic() - started),
    }


def page(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The table as Markdown."""
    lines = [f"# Levers of D_rand and D_det on {name}", "", *(__doc__ or "").strip().splitlines()[4:], ""]
    head = "| dataset | lever | source on D | success | crops and flips | other seed | still y | on y | on y + 1 |"
    lines += [head, "|---|---|" + "---|" * len(MEASURED)]
    for row in rows:
        shares = [f"{percent(row[key])}" for key in MEASURED]
        stuck = "" if row["left_at"] else " (not learnt yet)"
        lines.append(f"| {row['dataset']} | {row['lever']}{stuck} | {' | '.join(shares)} |")
    return "\n".join(lines) + "\n"


def main(project: str, workers: str = "2") -> None:
    """Measure what is missing, and write the table."""
    root = Path(project).resolve()
    params = open_project(root).params
    cells = [cell_of(params, lever, dataset) for dataset in DATASETS for lever in LEVERS]
    with ProcessPoolExecutor(int(workers), get_context("spawn")) as pool:
        rows = [job.result() for job in [pool.submit(measure_cell, root, cell) for cell in cells]]
    rows.sort(key=lambda row: (list(DATASETS.values()).index(row["dataset"]), list(LEVERS).index(row["lever"])))
    source = load_dataset(root / "data/train").manifest.source
    file = HERE / f"levers-{source.partition(':')[2] or source}"
    write_text(file.with_suffix(".md"), page(source, rows))
    write_csv(file.with_suffix(".csv"), COLUMNS, rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
