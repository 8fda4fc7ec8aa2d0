"""Learning curves as MLflow shows them: the means over all models of a run, and those of a few models one by one.

A run of five source models with two fits each, on three subsets, has 150 curves. Shown are `learning/<quantity>`, the
mean over the models at each epoch (`learning_still_y/`, `learning_baseline/`: of the other subsets), and
`learning_by_seed/<quantity>.source-0-seed-0` of the first SINGLE models. Only the latter can be drawn while a stage
trains, for a mean is not known before the last model has come as far. MLflow takes what stands before the slash for a
section of its page of charts, and puts these first.
"""

import csv
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

SINGLE = 3
"""Models whose own curves are shown, by rising source seed and seed."""
QUANTITIES = {
    "validation_accuracy": "share of D's validation images that get their own label y",
    "validation_accuracy_shifted": "share of them that gets y + 1, the label that D_det teaches",
    "validation_adversarial_accuracy": "share of them that gets y under `validation_attack`",
    "train_accuracy": "share of what is learnt that gets its label",
    "train_loss": "cross-entropy on what is learnt, mean of an epoch",
}
"""What is measured of a training, by epoch and in the end."""
SUBSETS = {"still_y": "fits on the images that both judges still call y", "baseline": "fits on D by the same recipe"}
"""What a construction's recipe is fitted on besides all its images."""
_MEAN, _BY_SEED = "learning", "learning_by_seed"
_NAME = re.compile(r"(?:(still_y|baseline)_)?(\w+)/(?:source-(-?\d+)-)?seed-(-?\d+)")


class Model(NamedTuple):
    """One model of a run: seed of its source, -1 where it has none, and its own."""

    source: int
    seed: int

    def __str__(self) -> str:
        return f"seed-{self.seed}" if self.source < 0 else f"source-{self.source}-seed-{self.seed}"


class Point(NamedTuple):
    """What an epoch brought a model.

    Attributes:
        time: milliseconds since 1970, or None.
        subset: full, still_y or baseline.
    """

    time: int | None
    subset: str
    model: Model
    epoch: int
    quantity: str
    value: float


def live_name(curve: str, models: Sequence[Model]) -> str | None:
    """The metric that a point of a curve is sent as while a stage runs; None if it is not sent then.

    Args:
        curve: such as `train_loss/source-0-seed-1`, or one that is no learning curve: it keeps its name.
        models: all that are trained on everything; none if that is not known.
    """
    found = _parse(curve)
    if found is None:
        return curve
    subset, quantity, model = found
    shown = subset == "full" and model in sorted(models)[:SINGLE]
    return _single(quantity, model, models) if shown else None


def rounded(value: float) -> float:
    """A value with six digits, as plots/learning/ has it; so live runs equal those made from files."""
    return float(f"{value:.6g}")


def read_curves(path: Path) -> list[Point]:
    """Points of a CSV of learning curves; of another CSV none.

    Raises: OSError, ValueError, csv.Error.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not {"subset", "seed", "epoch"} <= set(reader.fieldnames or ()):
            return []
        return [point for row in reader for point in _points_of(row)]


def named_points(curves: Iterable[tuple[int | None, int, Mapping[str, float | None]]]) -> list[Point]:
    """Points of curves that are kept by their names: (time, epoch, {curve: value})."""
    return [
        Point(time, subset, model, epoch, quantity, value)
        for time, epoch, values in curves
        for name, value in values.items()
        if value is not None and (found := _parse(name))
        for subset, quantity, model in [found]
    ]


def shown_curves(points: Sequence[Point], *, means: bool = True) -> list[tuple[int | None, int, dict[str, float]]]:
    """The curves that a run shows: (time, epoch, {metric: value}), by rising epoch.

    Args:
        means: also those over all models, which are right once all have come to their end.
    """
    models = sorted({point.model for point in points if point.subset == "full"})
    rows: list[tuple[int | None, int, dict[str, float]]] = []
    for point in points:
        if point.subset == "full" and point.model in models[:SINGLE]:
            rows.append((point.time, point.epoch, {_single(point.quantity, point.model, models): point.value}))
    if means:
        rows += _means(points, single=len(models) == 1)
    return sorted(rows, key=lambda row: row[1])


def together(metric: str) -> str:
    """One name for the curves of single models that show the same."""
    return f"{metric.partition('.')[0]}.MODEL" if metric.startswith(f"{_BY_SEED}/") else metric


def curve_says(metric: str) -> str:
    """What a metric is, if it is a learning curve; else empty."""
    section, _, name = metric.partition("/")
    quantity = name.partition(".")[0]
    if not section.startswith(_MEAN) or quantity not in QUANTITIES:
        return ""
    if section == _BY_SEED:
        return f"`{quantity}` by epoch, of single models: the first {SINGLE}"
    subset = section.removeprefix(f"{_MEAN}_")
    return f"`{quantity}` by epoch, mean over the {SUBSETS.get(subset, 'models')}"


def _means(points: Iterable[Point], *, single: bool) -> Iterator[tuple[int | None, int, dict[str, float]]]:
    """Means over the models; that of one alone is its own curve already."""
    groups: dict[tuple[str, int, str], list[Point]] = defaultdict(list)
    for point in points:
        if point.subset != "full" or not single:
            groups[point.subset, point.epoch, point.quantity].append(point)
    for (subset, epoch, quantity), group in groups.items():
        section = _MEAN if subset == "full" else f"{_MEAN}_{subset}"
        times = [point.time for point in group if point.time is not None]
        mean = rounded(statistics.fmean(point.value for point in group))
        yield max(times, default=None), epoch, {f"{section}/{quantity}": mean}


def _single(quantity: str, model: Model, models: Sequence[Model]) -> str:
    """A model's own curve; of the only one it is that of the run."""
    return f"{_MEAN}/{quantity}" if len(models) == 1 else f"{_BY_SEED}/{quantity}.{model}"


def _parse(curve: str) -> tuple[str, str, Model] | None:
    """Subset, quantity and model of a curve by its name; None if it is no learning curve."""
    match = _NAME.fullmatch(curve)
    if match is None or match[2] not in QUANTITIES:
        return None
    return match[1] or "full", match[2], Model(-1 if match[3] is None else int(match[3]), int(match[4]))


def _points_of(row: Mapping[str, str]) -> Iterator[Point]:
    model = Model(int(row.get("source_seed") or -1), int(row["seed"]))
    for quantity in QUANTITIES:
        if row.get(quantity):
            yield Point(None, row["subset"], model, int(row["epoch"]), quantity, float(row[quantity]))
