"""Inverting images, and what inverted images resemble.

x is the image whose representation is matched (its label is given), x' the training image at which the descent starts,
x_r where it ends.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from notbugs.attacks import Loss, pgd
from notbugs.attacks.engine import Engine, frozen
from notbugs.attacks.losses import representation_distance
from notbugs.data.images import Images, stratified_subset
from notbugs.evaluation.accuracy import batches, model_device
from notbugs.evaluation.neighbours import BATCH, nearest_rows
from notbugs.models.base import Classifier
from notbugs.runtime.progress import Track, silent
from notbugs.science.common.shares import share

Objective = Literal["representation", "cosine", "logits"]


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

    With the objective "representation" this is the paper's recipe (`construction.recipe.Inversion`).

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


def choose_pairs(data: Images, num_examples: int | None, generator: torch.Generator) -> Pairs:
    """x drawn by class, at most all of D (None: all), and x' uniformly among the other images of D.

    Raises: ValueError if fewer examples are asked for than D has classes.
    """
    count = len(data)
    target = stratified_subset(data.labels, min(num_examples or count, count), generator)
    offset = torch.randint(1, count, (len(target),), generator=generator)
    return Pairs(target, (target + offset) % count)


def resemblance(inverted: Tensor, data: Images, pairs: Pairs, model: Classifier | None = None) -> dict[str, Tensor]:
    """How far inverted images are from x and from x', and whom their neighbours among the rest of D are.

    Args:
        inverted: x_r, (M, C, H, W).
        data: D, read part by part.
        pairs: rows of x and x'.
        model: whose representation measures distances; None for pixels.
    Returns: columns, (M,) each: `to_target`, `to_start` (L2 there), `start_to_target` (of x' to x), `neighbour` (label
        of the nearest other image of D, x and x' left out).
    """

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
