"""What stage `evaluate` measured, as MLflow has it: numbers of each model, and means in the run that trained them.

A model in MLflow (a logged model) is known by its file in the project and the MD5 of its weights, so that numbers
reach the weights that were measured, whichever run logged them. A run that trained models (`train@standard`, `fit@det`)
gets the means over them under the same names. The times are those of the evaluation, so that the same again changes
nothing, and of two evaluations the later one counts.
"""

import csv
import io
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from notbugs.runtime.dvc_lock import md5
from notbugs.tracking.learning import SUBSETS
from notbugs.tracking.names import model_name

if TYPE_CHECKING:
    from notbugs.tracking.store import Store

RANKING = "models.csv"
"""Artifact of the evaluation's run: the models by their robust accuracy, named as `notbugs register` takes them."""
RESULTS = Path("metrics/results.csv")
ATTACK = "evaluate.attack"
"""Tag of a run and of a model: the attack of its `adversarial_accuracy`, and the radius of `worst_case_accuracy`."""


class OfModel(NamedTuple):
    """What was measured of one model.

    Attributes:
        run: the stage that trained it, such as "fit@det".
        subset: full, still_y or baseline.
        source: seed of its source model; -1 of one trained on D.
        file: of its weights, in the project.
        values: metric -> number.
    """

    run: str
    subset: str
    source: int
    file: str
    values: dict[str, float]


@dataclass(frozen=True)
class Measured:
    """What metrics/results.csv says of the models, for MLflow.

    Attributes:
        attack: in words: that of the headline.
    """

    attack: str
    models: tuple[OfModel, ...]

    @property
    def as_json(self) -> dict[str, Any]:
        """For a journal."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Measured":
        """From a journal."""
        return cls(value["attack"], tuple(OfModel(*model) for model in value["models"]))

    @property
    def runs(self) -> dict[str, list[OfModel]]:
        """The models by the stages that trained them."""
        found: dict[str, list[OfModel]] = defaultdict(list)
        for model in self.models:
            found[model.run].append(model)
        return found


def measured(root: Path, params: Mapping[str, Any]) -> Measured:
    """Read metrics/results.csv; models are those that metrics/train and metrics/fit tell of.

    Args:
        params: of the evaluation's run: `headline_eps`, `headline_num_steps`.
    Raises: OSError, ValueError, KeyError, csv.Error for what is no such table.
    """
    eps, num_steps = float(params["headline_eps"]), int(params["headline_num_steps"])
    kinds = dict(_kinds(root))
    rows: dict[tuple[str, str, str, str], dict[str, float]] = defaultdict(dict)
    norm = ""
    with (root / RESULTS).open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            name = _metric(row, eps, f"pgd{num_steps}")
            if name:
                norm = row["norm"]
                rows[row["dataset"], row["estimator"], row["source_seed"], row["seed"]][name] = float(row["accuracy"])
    models = []
    for (dataset, estimator, source, seed), values in rows.items():
        run, subset, folder = kinds.get((dataset, estimator), ("", "", ""))
        if run:
            place = f"{folder}/source-{source}" if source else folder
            models.append(OfModel(run, subset, int(source or -1), f"{place}/seed-{seed}.safetensors", values))
    return Measured(f"PGD, {num_steps} steps, {norm}, eps {eps:g}", tuple(models))


def link(store: "Store", evaluation: str, started: int, found: Measured, dataset: Mapping[str, Any] | None) -> None:
    """Give MLflow what was measured of the models; the same again changes nothing.

    A run that trained them is the newest one that has any of them. Where there is none (tracking was off, or DVC's run
    cache restored it and `notbugs track` has not seen it yet) the evaluation's run logs the models.

    Args:
        evaluation: id of the evaluation's run.
        started: when it was started, milliseconds since 1970.
        dataset: what they were measured on, as `description.dataset` gives it.
    """
    root = store.project
    for address, models in found.runs.items():
        known = store.models(address)
        hashes = {model.file: _hash(root / model.file) for model in models}
        ids = {model.file: known.get((model.file, hashes[model.file]), "") for model in models}
        trained = store.trained(address)
        here = any(hashes.values())  # a fresh clone may have the table alone
        run = next((one for one in trained if one.models & set(ids.values()) or not here), None)
        for model in models:
            if not ids[model.file] and run is None and hashes[model.file]:
                store.log_models(evaluation, root / model.file, model.file, address=address)
        known = store.models(address) if run is None else known
        ids = {file: known.get((file, hashes[file]), "") for file in ids}
        rows = [
            (ids[model.file], name, value, started + place)
            for place, model in enumerate(models)
            for name, value in model.values.items()
            if ids[model.file]
        ]
        owner = run.run_id if run else evaluation
        store.log_of_models(owner, rows, dataset, {ATTACK: found.attack})
        if run:
            means = [(name, value, started + len(models), 0) for name, value in _means(models).items()]
            store.log(run.run_id, metrics=means, tags={ATTACK: found.attack})
    store.log_text(evaluation, _ranking(found.models), RANKING)


def _metric(row: Mapping[str, str], eps: float, headline: str) -> str:
    """The name that MLflow has a row of the table by; empty if it stays in the table alone."""
    if row["labels"] == "shifted":
        return "accuracy_shifted" if row["attack"] == "clean" else ""
    if row["attack"] == "clean":
        return "accuracy"
    names = {headline: "adversarial_accuracy", "worst": "worst_case_accuracy"}
    return names.get(row["attack"], "") if float(row["eps"]) == eps else ""


def _kinds(root: Path) -> Iterator[tuple[tuple[str, str], tuple[str, str, str]]]:
    """(dataset, estimator) of the table -> run, subset and folder of the models."""
    from notbugs.evaluation.results import fitted_model

    for file in sorted((root / "metrics" / "train").glob("*.json")):
        yield ("D", file.stem), (f"train@{file.stem}", "full", f"models/train/{file.stem}")
    for file in sorted((root / "metrics" / "fit").glob("*.json")):
        for subset in ("full", *SUBSETS):
            yield fitted_model(file.stem, subset), (f"fit@{file.stem}", subset, f"models/fit/{file.stem}/{subset}")


def _means(models: list[OfModel]) -> dict[str, float]:
    """Of each subset: the mean over source models of the means over their fits."""
    groups: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for model in models:
        for name, value in model.values.items():
            groups[name if model.subset == "full" else f"{model.subset}_{name}"][model.source].append(value)
    return {
        name: round(statistics.fmean(statistics.fmean(values) for values in sources.values()), 6)
        for name, sources in groups.items()
    }


def _ranking(models: Iterable[OfModel]) -> str:
    """The models by their robust accuracy, as CSV: MLflow's table of models cannot be sorted by a metric."""
    names = ("adversarial_accuracy", "worst_case_accuracy", "accuracy", "accuracy_shifted")
    rows = sorted(models, key=lambda model: [-model.values.get(name, -1.0) for name in names])
    lines = [
        [place, model_name(model.file), *(model.values.get(name, "") for name in names), model.run]
        for place, model in enumerate(rows, start=1)
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["rank", "model", *names, "run"], *lines])
    return text.getvalue()


def _hash(file: Path) -> str:
    return md5(file) if file.is_file() else ""
