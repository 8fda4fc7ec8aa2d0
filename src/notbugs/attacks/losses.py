"""Per-example losses that attacks climb (or, targeted, descend)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Loss:
    """A per-example loss and what it is computed from.

    Attributes:
        function: (outputs (N, K), targets (N, ...)) -> (N,).
        reads: whether the outputs are the model's logits or its representation; in the second case the last
            layer is not computed.
        slope: (outputs (N, K), targets) -> (N, K), the derivative of `function`, to a positive factor an example;
            None differentiates `function` by autograd.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    reads: Literal["logits", "representation"] = "logits"
    slope: Callable[[Tensor, Tensor], Tensor] | None = None


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """-log softmax(logits)[label], per example.

    Args:
        logits: (N, K).
        labels: (N,).
    Returns: (N,).
    """
    return functional.cross_entropy(logits, labels, reduction="none")


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """max over k ≠ label of logits[k], minus logits[label]: positive exactly where the label loses.

    Args:
        logits: (N, K).
        labels: (N,).
    Returns: (N,).
    Source: Carlini & Wagner 2017, f6 without the floor at 0.
    """
    true = logits.gather(1, labels[:, None])[:, 0]  # (N,)
    others = logits.scatter(1, labels[:, None], -torch.inf).amax(dim=1)  # (N,)
    return others - true


def representation_distance(representation: Tensor, targets: Tensor) -> Tensor:
    """‖g(z) − target‖₂, per example.

    Args:
        representation: g(z), (N, F).
        targets: (N, F).
    Returns: (N,); the gradient at distance 0 is 0, not NaN.
    Source: Ilyas et al. 2019, equation 5.
    """
    return torch.linalg.vector_norm(representation - targets, dim=1)


def _cross_entropy_slope(logits: Tensor, labels: Tensor) -> Tensor:
    slope = logits.softmax(dim=1)
    return slope.scatter_add_(1, labels[:, None], slope.new_full((len(slope), 1), -1.0))


LOSSES = {
    "cross_entropy": Loss(cross_entropy, slope=_cross_entropy_slope),
    "margin": Loss(margin),
    "representation_distance": Loss(representation_distance, reads="representation", slope=torch.sub),
}
