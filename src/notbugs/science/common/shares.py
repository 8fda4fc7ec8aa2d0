"""Shares (accuracies, success rates) as the metrics files hold them: mean over seeds with an interval."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from torch import Tensor

from notbugs.evaluation.intervals import wilson_interval


class Interval(TypedDict):
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


def interval(value: float, low: float, high: float) -> Interval:
    """A number with its interval, rounded for a file."""
    return Interval(value=round(value, 6), low=round(low, 6), high=round(high, 6))


def wilson_share(right: Tensor) -> Interval:
    """How often a mask (N,) is true, with its Wilson interval."""
    return interval(float(right.double().mean()), *wilson_interval(int(right.sum()), len(right)))


def shares(masks: Iterable[Tensor]) -> list[float]:
    """How often each mask (N,) is true, rounded for a file."""
    return [round(float(mask.double().mean()), 6) for mask in masks]


class Share(TypedDict):
    """A fraction of `n` images, mean over `num_seeds` trainings, with its 95% interval."""

    mean: float
    low: float
    high: float
    std: float | None
    n: int
    num_seeds: int


class Spread(NamedTuple):
    """Standard deviation of a share over seeds, and the degrees of freedom that it was estimated with."""

    std: float
    freedom: int


def share(masks: Sequence[Tensor], spread: Spread | None = None) -> Share | None:
    """How often masks are true, one (N,) bool mask a seed; None if one of them is empty.

    The interval joins, in quadrature, the Wilson interval of the mean on the images (on the fewest, where seeds
    differ: seeds share their images, so more of them do not make it narrower) and Student's t interval of the
    mean over seeds.

    Args:
        masks: one a seed.
        spread: over seeds, if more is known of it than these seeds say (`share_table`).
    """
    from scipy.special import stdtrit

    if not masks or any(len(mask) == 0 for mask in masks):
        return None
    values = [float(mask.double().mean()) for mask in masks]
    mean, n, count = statistics.fmean(values), min(map(len, masks)), len(values)
    low, high = wilson_interval(mean * n, n)
    std = statistics.stdev(values) if count > 1 else None
    if spread is None and std is not None:
        spread = Spread(std, count - 1)
    reach = float(stdtrit(spread.freedom, 0.975)) * spread.std / math.sqrt(count) if spread else 0.0
    return Share(
        mean=round(mean, 6),
        low=round(max(0.0, mean - math.hypot(mean - low, reach)), 6),
        high=round(min(1.0, mean + math.hypot(high - mean, reach)), 6),
        std=None if std is None else round(std, 6),
        n=n,
        num_seeds=count,
    )


def pooled_spread(groups: Iterable[Sequence[Tensor]]) -> Spread | None:
    """The spread over seeds, pooled over groups of masks that each have their own mean; None if none has two seeds.

        std² = Σ (x − mean of its group)² / Σ (seeds of the group − 1)

    Two seeds alone would be given an interval of ±12.7 standard errors; a table of them knows the spread better.
    """
    squares, freedom = 0.0, 0
    for masks in groups:
        values = [float(mask.double().mean()) for mask in masks if len(mask)]
        if len(values) > 1:
            squares += statistics.variance(values) * (len(values) - 1)
            freedom += len(values) - 1
    return Spread(math.sqrt(squares / freedom), freedom) if freedom else None


def share_table(table: Mapping[str, Mapping[str, Sequence[Tensor]]]) -> dict[str, dict[str, Share | None]]:
    """Row -> column -> masks, one a seed, as shares; each column's spread over seeds is pooled over the rows."""
    columns = dict.fromkeys(column for row in table.values() for column in row)
    spreads = {column: pooled_spread(row[column] for row in table.values() if column in row) for column in columns}
    return {
        name: {column: share(masks, spreads[column]) for column, masks in row.items()} for name, row in table.items()
    }


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """ "accuracy.D" -> {"accuracy": {"D": ...}}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tree
