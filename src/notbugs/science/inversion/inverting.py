"""A close look at inverted images x_r: do they resemble the start x' or the target x, and what is learnt from them?

Asked by Reviewer 1 of Ilyas et al. 2019, and as a posterior predictive check by the SEI/CMU discussion. x is the
image whose representation is matched (its label is given), x' the training image at which the descent starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks import AttackSettings, Loss, pgd
from notbugs.attacks.engine import Engine, frozen
from notbugs.attacks.losses import representation_distance
from notbugs.data.images import Images
from notbugs.evaluation.accuracy import adversarially_correct, batches, called_by, model_device
from notbugs.evaluation.neighbours import BATCH, nearest_rows
from notbugs.models.base import Classifier
from notbugs.runtime.config import Settings
from notbugs.runtime.progress import Track, silent
from notbugs.science.common.shares import share

Objective = Literal["representation", "cosine", "logits"]


class GapAttack(AttackSettings):
    """The attack under which the train/test gap is measured, besides untouched images."""

    eps: float = Field(gt=0, allow_inf_nan=False)
    """Radius of the perturbation ball, pixel units on [0, 1]."""


class InversionSettings(Settings):
    """How many images are inverted, how far, by which objectives."""

    num_examples: int = Field(ge=10)
    """Training images inverted by both models from the same x', drawn by class; at most all of D."""
    num_test: int = Field(ge=10)
    """Test images inverted to measure the fits on D_R and D_NR on images they did not learn."""
    objectives: tuple[Objective, ...] = Field(default=("representation", "cosine", "logits"), strict=False)
    """What is brought together; the paper's is representation (L2), which is always among them."""
    num_steps: int = Field(ge=1)
    """Gradient steps."""
    step_size: float = Field(gt=0, allow_inf_nan=False)
    """Length of a step on the normalised gradient, pixel units."""
    gap_attack: GapAttack
    """Attack of the adversarial train/test gap."""
    panel_classes: int = Field(default=8, ge=2, le=12)
    """Columns of the panel: one example of each of the first so many classes."""
    num_bootstrap: int = Field(default=200, ge=10)
    """Resamplings of the examples for the intervals of medians."""

    @field_validator("objectives")
    @classmethod
    def _has_the_papers(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if "representation" not in objectives or len(set(objectives)) != len(objectives):
            raise ValueError("different objectives, representation among them")
        return objectives


def cosine_distance(representation: Tensor, targets: Tensor) -> Tensor:
    """1 − cos(g(z), target), per example: (N, F), (N, F) -> (N,)."""
    return 1 - functional.cosine_similarity(representation, targets, dim=1)


OBJECTIVES: dict[Objective, Loss] = {
    "representation": Loss(representation_distance, reads="representation"),
    "cosine": Loss(cosine_distance, reads="representation"),
    "logits": Loss(representation_distance, reads="logits"),
}
"""What an inversion descends: ‖g(z) − g(x)‖₂ (the paper's), 1 − cos(g(z), g(x)), or ‖logits(z) − logits(x)‖₂."""


@torch.no_grad()
def features(model: Classifier, images: Tensor, *, reads: str = "representation", batch_size: int = BATCH) -> Tensor:
    """g(x), or the logits, in eval mode: (N, C, H, W) -> (N, F), float32 on the CPU."""
    device, network = model_device(model), model.representation if reads == "representation" else model
    with frozen(model):
        parts = [network(images[batch].to(device)).float().cpu() for batch in batches(len(images), batch_size)]
    return torch.cat(parts)


def invert(
    model: Classifier,
    targets: Tensor,
    starts: Tensor,
    objective: Objective,
    *,
    num_steps: int,
    step_size: float,
    batch_size: int = 500,
    progress: Track = silent,
    description: str = "invert",
) -> Tensor:
    """x_r: from each start x', descend an objective towards the target x, within [0, 1]; the last iterate.

    With the objective "representation" this is the paper's recipe (`construction.Inversion`).

    Args:
        model: gives g and logits.
        targets: x, (N, C, H, W). starts: x', same shape.
        objective: a name in OBJECTIVES.
        num_steps, step_size: of the descent, on the gradient normalised per example.
    Returns: (N, C, H, W), on the CPU.
    """
    loss, device = OBJECTIVES[objective], model_device(model)
    engine = Engine(model, targets[:8].to(device))
    goals = features(model, targets, reads=loss.reads)
    found = [
        pgd(
            engine,
            starts[batch].to(device),
            goals[batch].to(device),
            norm="box",
            eps=float("inf"),
            step_size=step_size,
            num_steps=num_steps,
            loss=loss,
            targeted=True,
            judge=False,
        ).x_adv.cpu()
        for batch in progress(list(batches(len(targets), batch_size)), description)
    ]
    return torch.cat(found)


@dataclass(frozen=True)
class Pairs:
    """Which images of D are inverted, and from where.

    Attributes:
        target: (M,) rows of x in D. start: (M,) rows of x' in D, never the same.
    """

    target: Tensor
    start: Tensor


def resemblance(
    inverted: Tensor, data: Images, pairs: Pairs, spaces: dict[str, Classifier | None]
) -> dict[str, dict[str, Tensor]]:
    """How far inverted images are from x and from x', and whom their neighbours among the rest of D are.

    Args:
        inverted: x_r, (M, C, H, W).
        data: D, read part by part.
        pairs: rows of x and x'.
        spaces: name -> model whose representation measures distances; None for pixels.
    Returns: space -> columns, (M,) each: `to_target`, `to_start` (L2 there), `start_to_target` (of x' to x),
        `neighbour` (label of the nearest other image of D, x and x' left out).
    """
    return {name: _resemblance(inverted, data, pairs, model) for name, model in spaces.items()}


def _resemblance(inverted: Tensor, data: Images, pairs: Pairs, model: Classifier | None) -> dict[str, Tensor]:
    def points(images: Tensor) -> Tensor:
        """Where images are in the space, (N, C, H, W) -> (N, F)."""
        return images.flatten(1) if model is None else features(model, images)

    new = points(inverted)  # (M, F)
    target, start = (points(data.select(rows).images) for rows in (pairs.target, pairs.start))
    others = (points(data.select(rows).images) for rows in batches(len(data), BATCH))
    neighbour = nearest_rows(new, others, [pairs.target, pairs.start])
    return {
        "to_target": (new - target).norm(dim=1),
        "to_start": (new - start).norm(dim=1),
        "start_to_target": (start - target).norm(dim=1),
        "neighbour": data.labels[neighbour],
    }


def summary(
    columns: dict[str, Tensor],
    target_labels: Tensor,
    start_labels: Tensor,
    *,
    num_bootstrap: int,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Medians of the distances, and shares that resemble the target, over the pairs of different classes.

    `reached`: median of ‖x_r − x‖ / ‖x' − x‖ in that space: 0 at the target, 1 at the start's distance.
    `nearer_target`: share nearer to x than to x'. `neighbour_target`, `neighbour_start`: share whose nearest other
    image has the class of x, of x'.

    Raises: ValueError if no pair has two classes.
    """
    differ = target_labels != start_labels
    if not differ.any():
        raise ValueError("every start has its target's class: a larger num_examples is needed")
    part = {name: values[differ] for name, values in columns.items()}
    ratio = part["to_target"] / part["start_to_target"].clamp(min=1e-12)
    return {
        "to_target": median(part["to_target"], num_bootstrap, generator),
        "to_start": median(part["to_start"], num_bootstrap, generator),
        "reached": median(ratio, num_bootstrap, generator),
        "nearer_target": share([part["to_target"] < part["to_start"]]),
        "neighbour_target": share([part["neighbour"] == target_labels[differ]]),
        "neighbour_start": share([part["neighbour"] == start_labels[differ]]),
    }


def median(values: Tensor, num_bootstrap: int, generator: torch.Generator) -> dict[str, float]:
    """Median with its 95% percentile bootstrap interval; values: (N,)."""
    values = values.double()
    draws = torch.randint(0, len(values), (num_bootstrap, len(values)), generator=generator)
    medians = values[draws].quantile(0.5, dim=1)
    low, high = medians.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"median": round(float(values.quantile(0.5)), 6), "low": round(low, 6), "high": round(high, 6)}


def accuracies(
    model: nn.Module, splits: Mapping[str, Images], attack: AttackSettings, *, generator: torch.Generator
) -> dict[str, Tensor]:
    """Which images a model gets right, untouched and attacked: "<split>.clean", "<split>.attacked" -> (N,) bool."""
    masks = {}
    for split, data in splits.items():
        masks[f"{split}.clean"] = called_by(model, data) == data.labels
        masks[f"{split}.attacked"] = adversarially_correct(model, data, attack, generator=generator)
    return masks
