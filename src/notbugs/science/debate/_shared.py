"""What the parts of the debate share: datasets made here, fits on them, paired differences, numbers in words."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from notbugs.construction.building import construct
from notbugs.data.images import ImageData, Images
from notbugs.evaluation.accuracy import called_by, shifted_labels
from notbugs.evaluation.comparison import Estimate, Run, difference
from notbugs.models.base import Classifier
from notbugs.science.common.lab import Lab
from notbugs.science.common.training import StudyTraining, trained

Masks = Sequence[Tensor]
"""Which test images are right, (N,) bool, one a seed."""


def gap(first: Masks, second: Masks) -> Estimate:
    """How much oftener the first masks are true: mean over seeds of the paired differences, 95% interval.

    Args:
        first, second: one mask (N,) a seed, on the same images; seed by seed they are a pair.
    """
    return difference(_runs(first), _runs(second), len(first[0]))


def _runs(masks: Masks) -> list[Run]:
    return [Run(None, seed, float(mask.double().mean()), mask.numpy()) for seed, mask in enumerate(masks)]


def in_words(share: Mapping[str, Any] | None) -> str:
    """A share with its interval: "23.5% [20.1, 27.2]"."""
    if share is None:
        return "not measured"
    middle = share["mean"] if "mean" in share else share["value"]
    return f"{100 * middle:.1f}% [{100 * share['low']:.1f}, {100 * share['high']:.1f}]"


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
    test: ImageData,
) -> dict[str, list[Tensor]]:
    """Fit classifiers of the pipeline's architecture on datasets, and call the test images by them.

    Fits of one seed begin alike and see the rows in the same order, whatever they learn, so that they are pairs.
    Each is a task of its own, kept over a kill.

    Args:
        datasets: name (of letters, digits, _ . -) -> what is learnt.
        part: of the debate: its name begins those of the parts of work.
    Returns: name -> classes (N,) int64 that each seed's fit gives the test images.
    """
    parts: dict[str, Callable[[Lab], Tensor]] = {}
    for name, data in datasets.items():
        for seed in seeds:
            made = partial(_called, data=data, settings=settings, seed=seed, part=part, test=test.images)
            parts[f"{part}-{name}-seed-{seed}"] = made
    called = iter(lab.load_or_make_all(parts, f"{part}: fits"))
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
