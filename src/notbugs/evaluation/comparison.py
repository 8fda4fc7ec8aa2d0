"""Accuracies and their differences over source models, fits and test images: estimates, intervals, power.

A number of the report is a nested mean: over the test images, the fits of a source model, and the source models.
Another run of the experiment would draw all three anew, so an interval joins them. Models that share their random
streams and their test images are compared pair by pair.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np

from notbugs.evaluation.intervals import Z_95, wilson_interval

Mask = np.ndarray[Any, np.dtype[np.bool_]]
POWER = 0.9
"""Chance that an experiment should have of telling a difference as large as the margin from none."""
MOST_SOURCES = 200
"""Numbers of source models beyond this are not looked for."""


@dataclass(frozen=True)
class Run:
    """One model on the test images.

    Attributes:
        source: seed of the model that its training images were made by; None for a model trained on D itself, which
            is a source model (or could be): its own seed then counts.
        seed: of its training.
        accuracy: fraction of the images that are right.
        right: (N,) bool, which ones; None where this was not kept.
    """

    source: int | None
    seed: int
    accuracy: float
    right: Mask | None = None

    @property
    def key(self) -> tuple[int | None, int]:
        """What it is known by among the runs of a model."""
        return self.source, self.seed


@dataclass(frozen=True)
class Basis:
    """What an estimate rests on, and where its uncertainty comes from.

    Attributes:
        num_sources, num_fits, num_images: source models; fits of each (the fewest); test images.
        units: "source models" or "fits": what the spread is taken over; "" where only one model was trained.
        unit_std: standard deviation of the units' means; 0 for one unit. A fraction, like the next three.
        image_error: standard error that the choice of test images brings.
        source_error, fit_error: the same of the choice of source models and of fits; 0 where there is one.
        paired: of a difference, whether the models were compared pair by pair, on the same images.
    """

    num_sources: int
    num_fits: int
    num_images: int
    units: str
    unit_std: float
    image_error: float
    source_error: float
    fit_error: float
    paired: bool = True
    direct: bool = False
    """Whether the models were trained on D itself: each is a source model, and has no fits."""

    @property
    def num_units(self) -> int:
        """How many source models, or fits of a single one."""
        return self.num_sources if self.units == "source models" else self.num_fits

    def __str__(self) -> str:
        sources, images = _count(self.num_sources, "source model"), f"{self.num_images} test images"
        if self.direct:
            return f"{sources}, {images}"
        each = " of each" if self.num_sources > 1 else ""
        return f"{sources}, {_count(self.num_fits, 'fit')}{each}, {images}"

    @property
    def caution(self) -> str:
        """What the interval leaves out; empty where it leaves out nothing."""
        if self.units == "fits":
            return "one source model: the interval speaks of its fits, not of what another source model would give"
        if not self.units:
            return "one model: the interval speaks of the test images alone"
        return ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def signed(share: float) -> str:
    """A difference of shares in percentage points: "+21.3", "−3.0"."""
    return f"{100 * share:+.1f}".replace("-", "−")


@dataclass(frozen=True)
class Estimate:
    """An accuracy, or a difference of two, with its 95% interval; fractions.

    Attributes:
        basis: what it rests on; None where only its interval is known.
    """

    value: float
    low: float
    high: float
    basis: Basis | None = None

    def __str__(self) -> str:
        return f"{100 * self.value:.1f}% [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    @property
    def points(self) -> str:
        """As a difference: "+21.3 points [+18.0, +24.6]"."""
        return f"{signed(self.value)} points [{signed(self.low)}, {signed(self.high)}]"

    @property
    def standard_error(self) -> float:
        """Of the test images and the trainings together; 0 without a basis."""
        if self.basis is None:
            return 0.0
        return math.hypot(self.basis.image_error, self.basis.unit_std / math.sqrt(self.basis.num_units))

    @property
    def one_image(self) -> float:
        """What a test image more or less changes; 0 without a basis."""
        return 1 / self.basis.num_images if self.basis is not None else 0.0

    def minus(self, other: "Estimate") -> "Estimate":
        """Difference of two unpaired accuracies with the interval of Newcombe's hybrid score method (1998, method 10).

        d − sqrt((a − low_a)² + (high_b − b)²), d + sqrt((high_a − a)² + (b − low_b)²)
        """
        gap = self.value - other.value
        down = math.hypot(self.value - self.low, other.high - other.value)
        up = math.hypot(self.high - self.value, other.value - other.low)
        return Estimate(gap, gap - down, gap + up)

    def reaches(self, margin: float) -> bool:
        """Whether a difference is at least `margin` and its interval lies above zero."""
        # 1e-9: a difference of two decimal fractions that equals the margin must not fail by rounding.
        return self.value >= margin - 1e-9 and self.low > 0


def accuracy(runs: Sequence[Run], num_images: int) -> Estimate:
    """Nested mean of the accuracies of one kind of model: over the fits of each source model, then over these.

    The interval joins in quadrature Wilson's (which test images) and Student's t over the means of the source models
    (which trainings):  t(0.975, S − 1)·sd/sqrt(S).  With one source model t is taken over its fits.

    Raises: ValueError if there are no runs.
    """
    spread = _Nested([(run.key, run.accuracy) for run in runs])
    images = wilson_interval(min(spread.mean, 1.0) * num_images, num_images)
    low, high = joined_interval(spread.mean, num_images, spread.unit_std, len(spread.units))
    return Estimate(spread.mean, low, high, spread.basis(num_images, (images[1] - images[0]) / 2 / Z_95))


def joined_interval(mean: float, num_images: int, std: float, num_units: int) -> tuple[float, float]:
    """95% interval of a mean accuracy: Wilson's over test images and Student's over trainings, in quadrature.

    Args:
        mean: a fraction. num_images: that each accuracy was measured on.
        std: standard deviation of the `num_units` source models' (or fits') accuracies; NaN or 0 for one.
    """
    low, high = wilson_interval(min(mean, 1.0) * num_images, num_images)
    reach = t_half_width(std, num_units)
    return max(0.0, mean - math.hypot(mean - low, reach)), min(1.0, mean + math.hypot(high - mean, reach))


def nested_mean(runs: Sequence[Run]) -> float:
    """Mean over source models of the means over their fits.

    Raises: ValueError if there are no runs.
    """
    return _Nested([(run.key, run.accuracy) for run in runs]).mean


def difference(first: Sequence[Run], second: Sequence[Run], num_images: int) -> Estimate:
    """How much more accurate the first kind of model is: nested mean of the differences of its pairs.

    Models of the same source and fit seed are a pair: they share initialisation and batch order. Where only one side
    has source models, these are paired with the other side's models of the same seed; where nothing is shared, the
    two means are compared. The interval joins in quadrature

        image part: z·sd(mean difference of each image, over models)/sqrt(n)
        seed part:  t(0.975, S − 1)·sd(mean difference of each source model)/sqrt(S)

    with two images added, one won by each side (Bonett & Price 2012: an interval of no width where all images agree
    would promise too much). Where images were not kept one by one, Newcombe's unpaired image part takes its place.

    Raises: ValueError if a side has no runs.
    """
    pairs = _pairs(first, second)
    if not pairs:
        return _apart(first, second, num_images)
    spread = _Nested([(key, one.accuracy - other.accuracy) for key, one, other in pairs])
    gaps = _image_gaps(pairs)
    if gaps is None:
        apart = accuracy_of_images(first, num_images).minus(accuracy_of_images(second, num_images))
        down, up = apart.value - apart.low, apart.high - apart.value
    else:
        more = np.concatenate([gaps, [1.0, -1.0]])
        down = up = Z_95 * float(more.std()) / math.sqrt(len(more))
    reach = t_half_width(spread.unit_std, len(spread.units))
    return Estimate(
        spread.mean,
        max(-1.0, spread.mean - math.hypot(down, reach)),
        min(1.0, spread.mean + math.hypot(up, reach)),
        spread.basis(num_images, (down + up) / 2 / Z_95, paired=gaps is not None),
    )


def accuracy_of_images(runs: Sequence[Run], num_images: int) -> Estimate:
    """Nested mean with the interval of the test images alone."""
    mean = nested_mean(runs)
    return Estimate(mean, *wilson_interval(min(mean, 1.0) * num_images, num_images))


Keyed = tuple[tuple[int | None, int], Run, Run]


def _pairs(first: Sequence[Run], second: Sequence[Run]) -> list[Keyed]:
    """Runs that belong together, with the key that orders them by source model and fit."""
    there = {run.key: run for run in second}
    same = [(run.key, run, there[run.key]) for run in first if run.key in there]
    if same:
        return same
    if all(run.source is None for run in first):
        return [(key, one, other) for key, other, one in _pairs_of_fits(second, first)]
    return _pairs_of_fits(first, second)


def _pairs_of_fits(fits: Sequence[Run], models: Sequence[Run]) -> list[Keyed]:
    """Fits beside models trained on D: by the source's seed, or by their own where there is one source."""
    if any(run.source is None for run in fits) or any(run.source is not None for run in models):
        return []
    by_seed = {run.seed: run for run in models}
    several = len({run.source for run in fits}) > 1
    return [
        (run.key, run, by_seed[seed])
        for run in fits
        if (seed := run.source if several else run.seed) in by_seed and seed is not None
    ]


def _apart(first: Sequence[Run], second: Sequence[Run], num_images: int) -> Estimate:
    """The difference of two means that share no seed."""
    one, other = accuracy(first, num_images), accuracy(second, num_images)
    gap = one.minus(other)
    a, b = one.basis, other.basis
    assert a is not None  # accuracy() gives it
    assert b is not None
    units = min(a, b, key=lambda basis: basis.num_units).units
    sources, fits = min(a.num_sources, b.num_sources), min(a.num_fits, b.num_fits)
    std, image = math.hypot(a.unit_std, b.unit_std), math.hypot(a.image_error, b.image_error)
    source, fit = math.hypot(a.source_error, b.source_error), math.hypot(a.fit_error, b.fit_error)
    return replace(gap, basis=Basis(sources, fits, num_images, units, std, image, source, fit, paired=False))


def _image_gaps(pairs: Sequence[Keyed]) -> "np.ndarray[Any, np.dtype[np.float64]] | None":
    """Mean difference of each test image over the models, nested as the accuracies are; (N,)."""
    by_source: dict[int, list[Any]] = {}
    for key, one, other in pairs:
        if one.right is None or other.right is None or len(one.right) != len(other.right):
            return None
        by_source.setdefault(_top(key), []).append(one.right.astype(np.float64) - other.right)
    means = [np.mean(gaps, axis=0) for gaps in by_source.values()]
    gaps: np.ndarray[Any, np.dtype[np.float64]] = np.mean(means, axis=0)
    return gaps


def _top(key: tuple[int | None, int]) -> int:
    """The source model that a run belongs to; a model trained on D is its own."""
    source, seed = key
    return seed if source is None else source


class _Nested:
    """Mean over source models of means over fits, and how it varies with either.

    Args:
        values: (source seed or None, fit seed) and a number.
    """

    def __init__(self, values: Sequence[tuple[tuple[int | None, int], float]]) -> None:
        if not values:
            raise ValueError("no values to take the mean of")
        groups: dict[int, list[float]] = {}
        for key, value in values:
            groups.setdefault(_top(key), []).append(value)
        self.groups = groups
        self.direct = all(source is None for (source, _), _ in values)
        self.source_means = [fmean(group) for group in groups.values()]
        self.mean = fmean(self.source_means)
        self.num_fits = min(len(group) for group in groups.values())
        several = len(groups) > 1
        self.units = self.source_means if several else next(iter(groups.values()))
        self.unit_name = "source models" if several else "fits" if len(self.units) > 1 else ""
        self.unit_std = _std(self.units)

    def basis(self, num_images: int, image_error: float, *, paired: bool = True) -> Basis:
        """With the variance of the mean split by a one-way analysis of variance.

        fit: mean variance within a source model/(S·F); source: what the spread of the source models' means has
        beyond that, at least 0.
        """
        num_sources = len(self.groups)
        repeated = [group for group in self.groups.values() if len(group) > 1]
        freedom = sum(len(group) - 1 for group in repeated)
        within = sum(_std(group) ** 2 * (len(group) - 1) for group in repeated) / freedom if freedom else 0.0
        fit = within / (num_sources * self.num_fits)
        source = max(0.0, self.unit_std**2 / num_sources - fit) if num_sources > 1 else 0.0
        counts, errors = (num_sources, self.num_fits, num_images), (image_error, math.sqrt(source), math.sqrt(fit))
        return Basis(*counts, self.unit_name, self.unit_std, *errors, paired, self.direct)


def _std(values: Sequence[float]) -> float:
    """Standard deviation (ddof = 1); 0 for one value."""
    if len(values) < 2:
        return 0.0
    mean = fmean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def t_half_width(std: float, num_units: int) -> float:
    """Half width of the 95% interval of a mean over source models or fits: t(0.975, n − 1)·std/sqrt(n); 0 for one."""
    return _t_quantile(num_units) * std / math.sqrt(num_units) if num_units > 1 else 0.0


@cache
def _t_quantile(num_units: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(num_units - 1, 0.975))


def power(margin: float, basis: Basis, num_units: int | None = None) -> float:
    """Chance that the interval of a difference lies above 0 when the true difference is `margin`.

    That tells the margin from 0. It is not the chance that `reaches(margin)` holds, which asks for a difference found
    of at least the margin, too, and of a true difference as large as the margin holds at most half the time.

    The estimate is normal around the margin with variance e² + σ²/S, where e is the standard error from the test
    images and σ the standard deviation of the source models' differences. Its interval's half width,
    sqrt((z·e)² + (t·s)²/S), varies with the standard deviation s found; the chance is averaged over
    s² ~ σ²·χ²(S − 1)/(S − 1).

    Args:
        margin: the true difference, a fraction.
        basis: of the difference; its spread is taken for the true one.
        num_units: S; by default as many as there are.
    """
    from scipy.special import chdtri, ndtr

    count = basis.num_units if num_units is None else num_units
    if count < 2 or basis.unit_std == 0:
        return float(ndtr(margin / max(basis.image_error, 1e-12) - Z_95))
    levels = (np.arange(200) + 0.5) / 200
    found = basis.unit_std**2 * chdtri(count - 1, 1 - levels) / (count - 1)  # quantiles of s²
    half = np.sqrt((Z_95 * basis.image_error) ** 2 + _t_quantile(count) ** 2 * found / count)
    error = math.sqrt(basis.image_error**2 + basis.unit_std**2 / count)
    return float(np.mean(ndtr((margin - half) / error)))


def units_for_power(margin: float, basis: Basis, wanted: float = POWER) -> int | None:
    """The fewest source models (or fits of a single one) with which `power` reaches `wanted`.

    Returns: None if MOST_SOURCES are too few, since the test images alone do not tell the margin from 0.
    """
    counts = range(2, MOST_SOURCES + 1)
    return next((count for count in counts if power(margin, basis, count) >= wanted), None)


def shares_of_variance(basis: Basis) -> Mapping[str, float]:
    """What part of an estimate's variance each level brings: "source models", "fits", "test images"; sums to 1."""
    parts = {"source models": basis.source_error**2, "fits": basis.fit_error**2, "test images": basis.image_error**2}
    total = sum(parts.values())
    return {name: part / total if total else 0.0 for name, part in parts.items()}
