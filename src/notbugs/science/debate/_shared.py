"""What the parts of the debate share: datasets made here, fits on them, paired differences, numbers in words."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from notbugs.construction.building import construct
from notbugs.data.images import ImageData, Images
from notbugs.evaluation.accuracy import called_by, shifted_labels
from notbugs.evaluation.comparison import Estimate
from notbugs.evaluation.intervals import Z_95, wilson_interval
from notbugs.evaluation.statements import Verdict, reproduced_if
from notbugs.models.base import Classifier
from notbugs.science.common.lab import Lab
from notbugs.science.common.shares import Interval, interval
from notbugs.science.common.training import StudyTraining, trained

Masks = Sequence[Tensor]
"""Which test images are right, (N,) bool, one a seed."""


def in_words(share: Mapping[str, Any] | None) -> str:
    """A share with its interval: "23.5% [20.1, 27.2]"."""
    if share is None:
        return "not measured"
    middle = share["mean"] if "mean" in share else share["value"]
    return f"{100 * middle:.1f}% [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


def in_points(gap: Mapping[str, Any]) -> str:
    """A difference with its interval: "−18.7 points [−26.1, −11.2]"."""
    return Estimate(gap["value"], gap["low"], gap["high"]).points


def near(found: Mapping[str, Any], limit: float) -> bool:
    """Whether a share or difference lies within a standard error, by its 95% interval, of a limit."""
    error = (found["high"] - found["low"]) / 2 / Z_95
    return abs((found["mean"] if "mean" in found else found["value"]) - limit) < error


def judged(
    key: str,
    title: str,
    sentence: str,
    basis: str,
    *,
    holds: bool,
    why_open: str = "",
    on_edge: bool = False,
    elsewhere: str = "",
) -> Verdict:
    """Reproduced if it holds, not reproduced if not; inconclusive, and begun with the reason, where there is one."""
    if why_open:
        return Verdict(key, title, "", "inconclusive", f"{why_open} {sentence}", basis, elsewhere)
    return Verdict(key, title, "", reproduced_if(holds), sentence, basis, elsewhere, on_edge)


def sub_sample(data: Images, most: int | None, generator: torch.Generator) -> ImageData:
    """At most so many images, drawn at random, in D's order; None takes all."""
    rows = torch.arange(len(data))
    if most is not None and most < len(data):
        rows = torch.randperm(len(data), generator=generator)[:most].sort().values
    return data.select(rows)


def targeted(
    model: Classifier, data: Images, recipe: str, attack: Mapping[str, Any], generator: torch.Generator
) -> ImageData:
    """D_rand ("random_target") or D_det ("deterministic_target") of one model, by the recipe of the pipeline.

    Args:
        attack: norm, eps, num_steps, step_size, and any option of the recipe (docs/recipes.md).
    """
    return construct(model, data, recipe, **attack, generator=generator).data


def fits(
    lab: Lab,
    datasets: Mapping[str, Images],
    settings: StudyTraining,
    seeds: Sequence[int],
    part: str,
    test: ImageData | Mapping[str, ImageData],
) -> dict[str, list[Tensor]]:
    """Fit classifiers of the pipeline's architecture on datasets, and call the test images by them.

    Fits of one seed begin alike and see the rows in the same order, whatever they learn, so that they are pairs.
    Each is a task of its own, kept over a kill.

    Args:
        datasets: name (of letters, digits, _ . -) -> what is learnt.
        part: of the debate: its name begins those of the parts of work.
        test: what the fits call; or for each dataset its own.
    Returns: name -> classes (N,) int64 that each seed's fit gives the test images.
    """
    parts: dict[str, Callable[[Lab], Tensor]] = {}
    for name, data in datasets.items():
        asked = test[name] if isinstance(test, Mapping) else test
        for seed in seeds:
            made = partial(_called, data=data, settings=settings, seed=seed, part=part, test=asked.images)
            parts[f"{part}-{name}-seed-{seed}"] = made
    called = iter(lab.load_or_make_all(parts, f"{part}, fits"))
    return {name: [next(called) for _ in seeds] for name in datasets}


def _called(lab: Lab, *, data: Images, settings: StudyTraining, seed: int, part: str, test: Tensor) -> Tensor:
    model = trained(lab, lab.architecture, data, settings, (part, "fit", seed), f"{part}: fit, seed {seed}")
    return called_by(model, test)


def on_y(called: Masks, test: ImageData) -> list[Tensor]:
    """Which test images each fit calls y."""
    return [one == test.labels for one in called]


def on_shifted(called: Masks, test: ImageData) -> list[Tensor]:
    """Which test images each fit calls y + 1."""
    shifted = shifted_labels(test.labels, len(test.class_names))
    return [one == shifted for one in called]


def gaps(rows: Mapping[str, tuple[Masks, Masks]]) -> dict[str, Interval]:
    """How much oftener first masks are true than second ones, row by row: mean over seeds of the paired differences.

    Seed by seed they are a pair, on the same images. The spread over seeds is pooled over the rows: two seeds alone
    would be given ±12.7 standard errors, and rows of one kind know the spread better (`share_table`).
    """
    parts: dict[str, _Part] = {}
    for name, (first, second) in rows.items():
        more = _stacked(first) - _stacked(second)
        parts[name] = _Part(float(more.mean()), more)
    found = _with_intervals(parts)
    return {name: interval(one["value"], max(-1.0, one["low"]), min(1.0, one["high"])) for name, one in found.items()}


def kept(rows: Mapping[str, tuple[Masks, Masks]], floor: float = 0.0) -> dict[str, Interval | None]:
    """Which share of an accuracy above `floor` is left, row by row: R = (after − floor)/(before − floor).

    Its interval is that of the mean of ((after − floor) − R·(before − floor))/(mean before − floor), the delta method.

    Args:
        rows: name -> (after, before): a mask (N,) a seed each, on the same images; means of masks may stand there, too.
        floor: what is no merit: chance, or 0.
    Returns: name -> share; None where `before` is not above the floor.
    """
    parts: dict[str, _Part] = {}
    for name, (after, before) in rows.items():
        left, had = _stacked(after) - floor, _stacked(before) - floor
        merit, count = float(had.mean()), had.shape[1]
        if wilson_interval(min(merit + floor, 1.0) * count, count)[0] > floor:
            ratio = float(left.mean()) / merit
            parts[name] = _Part(ratio, (left - ratio * had) / merit, 1 / merit)
    return {**dict.fromkeys(rows), **_with_intervals(parts)}


def over_seeds(rows: Mapping[str, Sequence[float]]) -> dict[str, Interval]:
    """Row -> mean of a number over seeds, with Student's 95% interval; the spread is pooled over the rows."""
    by_row = {name: torch.tensor(values, dtype=torch.float64) for name, values in rows.items()}
    freedom = sum(len(values) - 1 for values in by_row.values())
    squares = sum(float((values - values.mean()).square().sum()) for values in by_row.values())
    reach = _student(freedom) * math.sqrt(squares / freedom) if freedom else 0.0
    ends = {name: (float(values.mean()), reach / math.sqrt(len(values))) for name, values in by_row.items()}
    return {name: interval(middle, middle - half, middle + half) for name, (middle, half) in ends.items()}


class _Part(NamedTuple):
    """A value and what it is the mean of, to a constant: (S, N), of each seed and image; `image`: one image's worth."""

    value: float
    terms: Tensor
    image: float = 1.0


def _stacked(masks: Masks) -> Tensor:
    return torch.stack([mask.double() for mask in masks])


def _with_intervals(parts: Mapping[str, _Part]) -> dict[str, Interval]:
    """95% intervals that join in quadrature the images (two added, one won by each side) and Student's t over seeds."""
    by_seed = {name: part.terms.mean(dim=1) for name, part in parts.items()}
    freedom = sum(len(seeds) - 1 for seeds in by_seed.values())
    squares = sum(float((seeds - seeds.mean()).square().sum()) for seeds in by_seed.values())
    student = _student(freedom) * math.sqrt(squares / freedom) if freedom else 0.0
    found: dict[str, Interval] = {}
    for name, (value, terms, image) in parts.items():
        images = torch.cat([terms.mean(dim=0), terms.new_tensor([image, -image])])
        by_images = Z_95 * float(images.std(correction=0)) / math.sqrt(len(images))
        reach = math.hypot(by_images, student / math.sqrt(len(terms)) if len(terms) > 1 else 0.0)
        found[name] = interval(value, value - reach, value + reach)
    return found


def _student(freedom: int) -> float:
    """Student's t of two-sided 95% intervals."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))
