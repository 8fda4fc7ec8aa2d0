"""Shares (accuracies, success rates) as the metrics files hold them: mean over seeds with an interval."""

import math
import statistics
from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor

from notbugs.intervals import wilson_interval


class Share(TypedDict):
    """A fraction of `n` images, mean over `num_seeds` trainings, with its 95% interval."""

    mean: float
    low: float
    high: float
    std: float | None
    n: int
    num_seeds: int


def share(masks: Sequence[Tensor]) -> Share | None:
    """How often masks are true, one (N,) bool mask a seed; None if one of them is empty.

    The interval joins, in quadrature, the Wilson interval of the mean on the images (on the fewest, where seeds
    differ: seeds share their images, so more of them do not make it narrower) and Student's t interval of the
    mean over seeds.
    """
    from scipy.special import stdtrit

    if not masks or any(len(mask) == 0 for mask in masks):
        return None
    values = [float(mask.double().mean()) for mask in masks]
    mean, n, count = statistics.fmean(values), min(map(len, masks)), len(values)
    low, high = wilson_interval(mean * n, n)
    std = statistics.stdev(values) if count > 1 else None
    spread = float(stdtrit(count - 1, 0.975)) * std / math.sqrt(count) if std is not None else 0.0
    return Share(
        mean=round(mean, 6),
        low=round(max(0.0, mean - math.hypot(mean - low, spread)), 6),
        high=round(min(1.0, mean + math.hypot(high - mean, spread)), 6),
        std=None if std is None else round(std, 6),
        n=n,
        num_seeds=count,
    )
