"""The gradient of a loss with respect to the image, for whatever a network does on the way there."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

INWARD = 1e-4
"""Distance from 0 and 1 at which a gradient is looked for that is no number there, as that of a square root is at 0."""


def look(
    network: Callable[[Tensor], Tensor],
    x: Tensor,
    slope: Callable[[Tensor], Tensor],
    *,
    look_again: bool = True,
    copy: bool = True,
) -> tuple[Tensor, Tensor]:
    """The outputs at x and the gradient of a loss of them, to a positive factor an example.

    The factor makes the largest slope at the outputs 1: half precision, and confident networks, then lose nothing on
    the way back to the image.

    Args:
        network: (N, ...) -> (N, K).
        x: (N, ...), in [0, 1].
        slope: outputs (N, K) -> the loss's derivative there, (N, K), to a positive factor an example.
        look_again: where pixels' derivatives are no numbers, take those at the nearest image that lies INWARD within
            (0, 1). It makes the host wait for the device.
        copy: as for `followed`.
    Returns: outputs (N, K), gradient (N, ...); 0 for pixels without a derivative, or for all where the network hides
        its gradient altogether (detached, constant, or computed outside torch).
    """
    outputs, leaf = _from_leaf(network, x, copy)
    seen = outputs.detach()
    if not outputs.requires_grad:
        return seen, torch.zeros_like(x)
    steepness = slope(seen).nan_to_num(0.0, 0.0, 0.0)  # (N, K); logits that are no numbers have no slope
    largest = torch.linalg.vector_norm(steepness, torch.inf, dim=1, keepdim=True)  # (N, 1)
    steepness = steepness / largest.clamp_(min=torch.finfo(steepness.dtype).tiny)
    gradient = _back(outputs, leaf, steepness)
    # One number tells whether all are numbers: nothing of the gradient's size is made.
    if look_again and not math.isfinite(gradient.sum().item()):
        outputs, leaf = _from_leaf(network, x.clamp(INWARD, 1 - INWARD), copy)
        gradient = torch.where(gradient.isfinite(), gradient, _back(outputs, leaf, steepness))
    return seen, gradient.nan_to_num(0.0, 0.0, 0.0)  # a copy: steps write on it, and a network may own what it gave


def has_derivative(
    network: Callable[[Tensor], Tensor], x: Tensor, slope: Callable[[Tensor], Tensor], *, copy: bool = True
) -> bool:
    """Whether the gradient at x itself consists of numbers, as one that is hidden altogether does; see `look`."""
    outputs, leaf = _from_leaf(network, x, copy)
    return not outputs.requires_grad or bool(_back(outputs, leaf, slope(outputs.detach())).isfinite().all())


def followed(network: Callable[[Tensor], Tensor], x: Tensor, *, copy: bool = True) -> Tensor:
    """The outputs at x, (N, K); without a gradient where the network leaves torch on the way.

    Args:
        copy: give the network a copy of x, since some write on what they get; an `Engine` takes care of that itself.
    """
    try:
        return network(x.clone() if copy else x)
    except RuntimeError as error:
        # NumPy refuses a tensor that is followed by autograd; its own words are the only sign.
        if not x.requires_grad or "requires grad" not in str(error):
            raise
    with torch.no_grad():
        return network(x.detach().clone())


def _from_leaf(network: Callable[[Tensor], Tensor], x: Tensor, copy: bool) -> tuple[Tensor, Tensor]:
    """Outputs (N, K), and the image (N, ...) that autograd can differentiate them by."""
    with torch.enable_grad():
        leaf = (x.clone() if x.is_inference() else x.detach()).requires_grad_()
        return followed(network, leaf, copy=copy), leaf


def _back(outputs: Tensor, leaf: Tensor, steepness: Tensor) -> Tensor:
    """The derivative of Σ steepness · outputs by the image, (N, ...); 0 where the outputs do not depend on it."""
    (gradient,) = torch.autograd.grad(outputs, leaf, steepness, allow_unused=True)
    return torch.zeros_like(leaf) if gradient is None else gradient
