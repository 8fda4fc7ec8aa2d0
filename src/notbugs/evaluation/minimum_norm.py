"""The smallest perturbation that fools, example by example: one attack gives accuracy at every eps at once."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from notbugs.attacks.engine import Engine
from notbugs.attacks.library import library_attack
from notbugs.attacks.losses import fools
from notbugs.attacks.norms import norm_of
from notbugs.attacks.projections import column
from notbugs.data.images import ImageData
from notbugs.evaluation.accuracy import called_by, engine_of, model_device, on_device, predict

BISECTIONS = 10
"""Bisections of the line from an image to what was found: DDN's radius changes by 5% a step, and starts at 1."""


def minimum_norms(
    model: nn.Module,
    data: ImageData,
    attack: str,
    *,
    norm: str,
    num_steps: int,
    batch_size: int = 500,
    generator: torch.Generator,
    engine: Engine | None = None,
) -> Tensor:
    """‖δ‖ of the nearest image that the attack found and the model gets wrong.

    What the attack found is moved back towards the image, by bisection, as long as the model gets it wrong.

    Args:
        attack: a name in `notbugs.attacks.library.MINIMUM_NORM`, one that the norm is `minimised_by`.
        engine: made from the model as it is now; None makes one.
    Returns: (N,) float64; 0 for an image that is wrong untouched, infinity where nothing was found. It is an upper
        bound of the distance to the decision boundary.
    """
    if not len(data):
        return torch.zeros(0, dtype=torch.float64)
    right = called_by(model, data, batch_size=batch_size) == data.labels
    found = torch.where(right, torch.inf, 0.0).double()  # (N,)
    rows = right.nonzero().flatten()
    engine = engine or engine_of(model, data)

    def search(part: slice, inputs: Tensor, labels: Tensor) -> None:
        """Note what the attack finds for some of the images that are right untouched."""
        x_adv = library_attack(attack, engine, inputs, labels, norm=norm, num_steps=num_steps, generator=generator)
        delta, on_host = x_adv - inputs, labels.cpu()
        fooled = fools(predict(model, x_adv), on_host)
        share = _smallest_share(model, inputs[fooled], delta[fooled], on_host[fooled])
        found[rows[part][fooled]] = norm_of(norm).length(delta).cpu()[fooled] * share

    on_device(attack, data.select(rows), model_device(model), batch_size, search)
    return found


def _smallest_share(model: nn.Module, inputs: Tensor, delta: Tensor, labels: Tensor) -> Tensor:
    """Share of each perturbation that still fools, (N,) float64, found by bisection; the whole of it fools."""
    low, high = torch.zeros(len(inputs), dtype=torch.float64), torch.ones(len(inputs), dtype=torch.float64)
    if not len(inputs):
        return high
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        fooled = fools(predict(model, inputs + column(middle.to(delta), delta) * delta), labels)
        low, high = torch.where(fooled, low, middle), torch.where(fooled, middle, high)
    return high


def smallest(norms: Sequence[Tensor]) -> Tensor:
    """Per example the smallest that any attack found; each (N,)."""
    return torch.stack(list(norms)).amin(dim=0)


def accuracy_curve(norms: Tensor, radii: Sequence[float]) -> list[float]:
    """Accuracy at each eps: the share of examples whose smallest perturbation is longer.

    Args:
        norms: (N,) from `minimum_norms`.
        radii: eps, each >= 0.
    """
    return [float((norms > eps).double().mean()) for eps in radii]
