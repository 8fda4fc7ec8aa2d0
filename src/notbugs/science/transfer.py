"""Do the source model's adversarial examples fool other architectures, and do these learn from D_rand and D_det?

Ilyas et al. 2019, section 3.3 and Figure 3: an architecture that learns the source's non-robust features better
from D_det is also fooled more often by the source's adversarial examples.

Transfer success (Reviewer 2 asked for the exact definition): of the test images that source and X both classify
rightly and whose adversarial example fools the source, the share that X gets wrong (untargeted) or calls t
(targeted, t = y + 1). Unconditional: of all test images.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from notbugs.attacks import AttackSettings, pgd
from notbugs.attacks.engine import Engine
from notbugs.attacks.losses import NO_NUMBER
from notbugs.data.images import ImageData, make_generator
from notbugs.evaluation.accuracy import batches, called_by, model_device, shifted_labels
from notbugs.models import ModelSettings
from notbugs.runtime.config import Settings
from notbugs.science.common.recipe import Recipe

Goal = Literal["untargeted", "targeted"]
GOALS: tuple[Goal, ...] = ("untargeted", "targeted")


class TransferAttack(AttackSettings):
    """The attack on the source model whose examples are tried on the others."""

    eps: float = Field(gt=0, allow_inf_nan=False)
    """Radius of the perturbation ball, pixel units on [0, 1]."""


class TransferSettings(Settings):
    """Which architectures are tried, how they learn, and how the source is attacked."""

    architectures: dict[str, ModelSettings] = Field(min_length=1)
    """Name in tables and figures -> architecture X."""
    seeds: tuple[int, ...] = Field(default=(0,), strict=False, min_length=1)
    """Each architecture is trained once for each, on each dataset."""
    d: Recipe
    """How X is trained on D, independently of the source model."""
    rand: Recipe
    """How X is fitted on D_rand."""
    det: Recipe
    """How X is fitted on D_det."""
    attack: TransferAttack
    """The source's adversarial examples: the last iterate, as in D_rand and D_det."""

    @field_validator("seeds")
    @classmethod
    def _differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("seeds that differ from each other")
        return seeds


@dataclass(frozen=True)
class Examples:
    """Adversarial examples of the source model on the test images.

    Attributes:
        images: goal -> (N, C, H, W); "noise" holds random perturbations of the same length, the control.
        source_right: (N,) bool, the source calls the untouched image y.
        fooled: goal -> (N,) bool, the source calls the example something else than y (targeted: t).
        targets: (N,) t = (y + 1) mod C.
    """

    images: dict[str, Tensor]
    source_right: Tensor
    fooled: dict[Goal, Tensor]
    targets: Tensor


def adversarial_examples(
    source: nn.Module, data: ImageData, attack: TransferAttack, *, generator: torch.Generator, batch_size: int = 500
) -> Examples:
    """Attack the source model, untargeted and towards t = y + 1; last iterates.

    Args:
        source: the model that made D_rand and D_det.
        data: test images with their labels, (N, C, H, W).
        attack: norm, radius, steps.
        generator: of the noise control: a random direction, as long in L2 as the untargeted perturbation.
    """
    device = model_device(source)
    engine = Engine(source, data.images[:8].to(device))
    targets = shifted_labels(data.labels, len(data.class_names))
    aims: dict[Goal, Tensor] = {"untargeted": data.labels, "targeted": targets}
    images, fooled = {}, {}
    for goal, labels in aims.items():
        parts = [
            pgd(
                engine,
                data.images[batch].to(device),
                labels[batch].to(device),
                norm=attack.norm,
                eps=attack.eps,
                step_size=attack.step,
                num_steps=attack.num_steps,
                targeted=goal == "targeted",
                random_start=attack.random_start,
                num_restarts=attack.num_restarts,
                generator=generator,
                judge=False,
            ).x_adv.cpu()
            for batch in batches(len(data), batch_size)
        ]
        images[str(goal)] = torch.cat(parts)
        fooled[goal] = _hit(called_by(source, images[goal]), data.labels, targets, goal)
    lengths = (images["untargeted"] - data.images).flatten(1).norm(dim=1)  # (N,)
    images["noise"] = _with_noise(data.images, lengths, generator)
    right = called_by(source, data.images) == data.labels
    return Examples(images, right, fooled, targets)


def _with_noise(images: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
    """Images moved by `lengths` (N,) in random directions, clipped to [0, 1]."""
    noise = torch.randn(images.shape, generator=generator)
    noise *= (lengths / noise.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    return (images + noise).clamp(0, 1)


def transfer_rates(model: nn.Module, data: ImageData, examples: Examples) -> dict[str, Tensor]:
    """What X says of the source's examples: "<goal>.<rate>" -> (n,) bool, one entry an image that counts.

    Rates: `conditional` over the images that both models get right and that fool the source; `unconditional`
    over all images; `clean` over all untouched images and `noise` over all randomly perturbed ones, by the same
    measure (wrong, or called t).

    Args:
        model: X, independently trained.
        data: the test images, with D's own labels.
        examples: from `adversarial_examples` on the same images.
    """
    seen = {"clean": data.images, **examples.images}
    called = {kind: called_by(model, images) for kind, images in seen.items()}
    right = called["clean"] == data.labels
    rates = {}
    for goal in GOALS:
        hit = {kind: _hit(answer, data.labels, examples.targets, goal) for kind, answer in called.items()}
        counts = right & examples.source_right & examples.fooled[goal]
        rates[f"{goal}.conditional"] = hit[goal][counts]
        rates[f"{goal}.unconditional"] = hit[goal]
        rates[f"{goal}.clean"] = hit["clean"]
        rates[f"{goal}.noise"] = hit["noise"]
    return rates


def _hit(called: Tensor, labels: Tensor, targets: Tensor, goal: Goal) -> Tensor:
    """Whether an answer is what the attack aimed at, (N,) bool; an answer that is no number is no success."""
    return (called != labels) & (called != NO_NUMBER) if goal == "untargeted" else called == targets


def correlation(x: Sequence[float], y: Sequence[float]) -> dict[str, Any] | None:
    """How two columns rise together: Pearson's r, Spearman's rho, and rho with each point left out in turn.

    A handful of architectures is no sample of anything, so no interval is given. The null of `p_value` is that the
    columns were paired at random: the share of all pairings whose rho is at least as large (of NUM_PAIRINGS random ones
    beyond EXACT_POINTS points). The range of `rho_without_one` says how much hangs on a single point.

    Returns: None for fewer than three points or a constant column.
    """
    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    left_out = [
        _rho([value for i, value in enumerate(x) if i != gone], [value for i, value in enumerate(y) if i != gone])
        for gone in range(len(x))
    ]
    known = [value for value in left_out if value is not None]
    return {
        "pearson": round(_pearson(x, y), 4),
        "spearman": round(_rho(x, y) or 0.0, 4),
        "p_value": round(_permutation_p(x, y), 4),
        "rho_without_one": [round(min(known), 4), round(max(known), 4)] if known else None,
        "num_points": len(x),
    }


EXACT_POINTS = 8
"""Up to this many points every pairing is tried: 40,320."""
NUM_PAIRINGS = 20_000
"""Random pairings tried beyond EXACT_POINTS."""


def _permutation_p(x: Sequence[float], y: Sequence[float]) -> float:
    """One-sided p of Spearman's rho: the share of pairings of x with y whose rho is at least the one found."""
    ranks, others = (torch.tensor(_ranks(values), dtype=torch.float64) for values in (x, y))
    if len(x) <= EXACT_POINTS:
        orders = torch.tensor(list(permutations(range(len(x)))))  # (n!, n)
    else:
        generator = make_generator(0, "transfer", "pairings")
        orders = torch.rand(NUM_PAIRINGS, len(x), generator=generator).argsort(dim=1)
    # rho rises with Σ rank·rank, for given ranks; 1e-9: equal sums must count as equal.
    sums = (ranks * others[orders]).sum(dim=1)
    found = float((ranks * others).sum())
    return float((sums >= found - 1e-9).double().mean())


def _pearson(x: Sequence[float], y: Sequence[float]) -> float:
    return float(torch.corrcoef(torch.tensor([list(x), list(y)], dtype=torch.float64))[0, 1])


def _rho(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Pearson's r of the ranks; None where a column is constant."""
    if len(set(x)) == 1 or len(set(y)) == 1:
        return None
    return _pearson(_ranks(x), _ranks(y))


def _ranks(values: Sequence[float]) -> list[float]:
    """Ranks from 0, ties their mean rank."""
    return [sum(other < value for other in values) + (values.count(value) - 1) / 2 for value in list(values)]
