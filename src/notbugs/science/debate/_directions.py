"""Along what perturbations point: a linear classifier's weights, in closed form, and the class means of D."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from notbugs.attacks import pgd
from notbugs.data.images import ImageData, Images, by_parts
from notbugs.evaluation.comparison import t_half_width
from notbugs.science.common.shares import interval
from notbugs.science.debate._budgets import SPARSE, Budget

MOST = 2000
"""Noises that the linear classifier is tried on: its perturbations differ by clipping alone."""
ROOM = 0.45
"""Largest move of a pixel where nothing is to be clipped: noise of ±0.05 around grey then stays within [0, 1]."""
SHUFFLES = 20
"""Shuffled labels that a cosine is held against; its chance to exceed them all by luck is 1 in 21."""


def class_directions(data: Images) -> Tensor:
    """Mean image of each class less the mean of these means, (C, d) float64."""
    num_classes = len(data.class_names)
    sums, counts = torch.zeros(num_classes, math.prod(data.image_shape), dtype=torch.float64), torch.zeros(num_classes)
    for part in by_parts(data):
        more, number = _sums(part.images.flatten(1).double(), part.labels, num_classes)
        sums, counts = sums + more, counts + number
    return _centred(sums, counts)


def _sums(rows: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Sum of the rows of each class, (C, d), and how many there are, (C,): (N, d), (N,)."""
    members = nn.functional.one_hot(labels, num_classes).to(rows)  # (N, C)
    return members.T @ rows, members.sum(dim=0)


def _centred(sums: Tensor, counts: Tensor) -> Tensor:
    """Mean row of each class less the mean over classes, (C, d); a class without rows has the mean 0."""
    means = sums / counts.clamp(min=1)[:, None]
    return means - means.mean(dim=0)


def along_means(delta: Tensor, targets: Tensor, means: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """Cosine of the mean perturbation towards each class with that class's mean image, both less their mean over C.

    Args:
        delta: (N, C, H, W). targets: (N,). means: (C, d), from `class_directions`.
        generator: shuffles the targets for the control.
    Returns: `cosine`, the mean over classes with Student's t interval over them; `shuffled`, the largest of SHUFFLES.
    """
    rows = delta.flatten(1).double()

    def cosines(labels: Tensor) -> Tensor:
        return nn.functional.cosine_similarity(_centred(*_sums(rows, labels, len(means))), means)  # (C,)

    found = cosines(targets)
    shuffled = [cosines(targets[torch.randperm(len(targets), generator=generator)]) for _ in range(SHUFFLES)]
    mean, reach = float(found.mean()), t_half_width(float(found.std()), len(found))
    return {
        "cosine": interval(mean, mean - reach, mean + reach),
        "shuffled": round(max(float(one.mean()) for one in shuffled), 6),
    }


def linear_weights(data: Images, pair: tuple[int, int]) -> Tensor:
    """w of the logistic regression that tells the second class of D from the first, (C, H, W) float32."""
    from sklearn.linear_model import LogisticRegression

    given = data.select((data.labels == pair[0]) | (data.labels == pair[1]))
    found = LogisticRegression(max_iter=2000).fit(given.images.flatten(1).numpy(), (given.labels == pair[1]).numpy())
    return torch.from_numpy(found.coef_).float().view(data.image_shape)


def along_weights(weights: Tensor, noise: ImageData, budget: Budget, generator: torch.Generator) -> dict[str, Any]:
    """Cosine of w with the mean of s·δ, s = ±1 for the class that a noise is pushed to, for the linear classifier.

    Returns: `free` from noise so near to grey that nothing is clipped (None for l0, which has no other bound),
        `expected` for it in closed form, the cosine of w with the norm's step at w; `clipped` from the noise itself.
    """
    layer = nn.utils.skip_init(nn.Linear, weights.numel(), 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.stack([-weights.flatten(), weights.flatten()]) / 2)
    model = nn.Sequential(nn.Flatten(), layer).eval()
    images = noise.images[:MOST]
    targets = torch.randint(2, (len(images),), generator=generator)
    signs = (2 * targets - 1)[:, None].double()

    def cosine(start: Tensor, eps: float, step_size: float) -> float:
        how = {**budget.attack(), "eps": eps, "step_size": step_size, "targeted": True, "judge": False}
        delta = (pgd(model, start, targets, **how).x_adv - start).flatten(1).double()
        return _cosine((signs * delta).mean(dim=0), weights)

    found: dict[str, Any] = {"clipped": cosine(images, budget.eps, budget.step_size)}
    if budget.norm == SPARSE:
        return {**found, "free": None, "expected": None}
    step = budget.ball.steepest(weights[None])
    eps = min(budget.eps, ROOM / float(step.abs().max()))
    near = 0.5 + (images - 0.5) * 2 * (0.5 - eps * float(step.abs().max()))
    shorter = budget.step_size * eps / budget.eps
    return {**found, "free": cosine(near, eps, shorter), "expected": _cosine(step, weights)}


def _cosine(first: Tensor, second: Tensor) -> float:
    found = nn.functional.cosine_similarity(first.flatten().double(), second.flatten().double(), dim=0)
    return round(float(found), 6)
