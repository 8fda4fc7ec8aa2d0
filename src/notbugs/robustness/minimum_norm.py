"""The smallest perturbation that fools, example by example: one attack gives accuracy at every eps at once."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from notbugs.attacks.engine import Engine
from notbugs.attacks.library import distances, library_minimum
from notbugs.evaluation import batches, model_device, predict
from notbugs.images import ImageData


def minimum_norms(
    model: nn.Module,
    data: ImageData,
    attack: str,
    *,
    norm: Literal["l2", "linf"],
    num_steps: int,
    batch_size: int = 500,
    generator: torch.Generator,
    engine: Engine | None = None,
) -> Tensor:
    """‖δ‖ of the nearest image that the attack found and the model gets wrong.

    Args:
        attack: a name in `notbugs.attacks.library.MINIMUM_NORM[norm]`.
        engine: made from the model as it is now; None makes one.
    Returns: (N,) float64; 0 for an image that is wrong untouched, infinity where nothing was found. It is an upper
        bound of the distance to the decision boundary.
    """
    device = model_device(model)
    right = predict(model, data.images, batch_size=batch_size).argmax(dim=1) == data.labels
    found = torch.where(right, torch.inf, 0.0).double()  # (N,)
    rows = right.nonzero().flatten()
    for part in batches(len(rows), batch_size):
        chosen = rows[part]
        inputs, labels = data.images[chosen].to(device), data.labels[chosen].to(device)
        engine = engine or Engine(model, inputs[:8])
        x_adv = library_minimum(attack, engine, inputs, labels, norm=norm, num_steps=num_steps, generator=generator)
        fooled = predict(model, x_adv).argmax(dim=1) != data.labels[chosen]
        found[chosen[fooled]] = distances(x_adv - inputs, norm).cpu()[fooled]
    return found


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
