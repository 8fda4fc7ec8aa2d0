"""Per-example losses that attacks climb (or, targeted, descend).

    loss: cross_entropy             # built in: cross_entropy, margin
    loss: lab.losses:soft_margin    # the user's own: (logits (N, K), labels (N,)) -> (N,)

A loss of one's own should pass `notbugs.testing.check_loss`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator
from torch import Tensor
from torch.nn import functional

from notbugs.runtime.errors import UserError
from notbugs.runtime.registry import OWN, Registry, RegistryError


class LossError(UserError):
    """A loss that gives no value an example, or has no gradient."""


@dataclass(frozen=True)
class Loss:
    """A per-example loss and what it is computed from.

    Attributes:
        function: (outputs (N, K), targets (N, ...)) -> (N,).
        reads: whether the outputs are the model's logits or its representation; in the second case the last
            layer is not computed.
        slope: (outputs (N, K), targets) -> (N, K), the derivative of `function`, to a positive factor an example;
            None differentiates `function` by autograd.
        score: (outputs (N, K), targets) -> (N,), rises where `function` does and does not saturate: what points are
            compared by. None compares them by `function`.
        name: what errors call it.
    """

    function: Callable[[Tensor, Tensor], Tensor]
    reads: Literal["logits", "representation"] = "logits"
    slope: Callable[[Tensor, Tensor], Tensor] | None = None
    score: Callable[[Tensor, Tensor], Tensor] | None = None
    name: str = "the loss"


NO_NUMBER = -1
"""What an image is called whose logits are no numbers."""


def called(logits: Tensor) -> Tensor:
    """The class with the largest logit, (N, K) -> (N,) int64; NO_NUMBER where the largest is NaN or infinite."""
    largest, index = logits.max(dim=1)  # NaN counts as the largest
    return index.where(largest.isfinite(), NO_NUMBER)


def fools(logits: Tensor, labels: Tensor) -> Tensor:
    """Which images are called by another class than their label, (N,) bool; logits that are no numbers fool nobody."""
    largest, index = logits.max(dim=1)
    return (index != labels) & largest.isfinite()


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
    others = _without(logits, labels).amax(dim=1)  # (N,)
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


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """log (1 − p)/p of the label's probability p = softmax(logits)[label], per example.

    The cross-entropy is log(1 + e^this), so the two rise together, but this one neither rounds to 0 for a confident
    network nor loses its gradient.

    Args:
        logits: (N, K).
        labels: (N,).
    Returns: (N,).
    """
    true = logits.gather(1, labels[:, None])[:, 0]  # (N,)
    return _without(logits, labels).logsumexp(dim=1) - true


def _cross_entropy_slope(logits: Tensor, labels: Tensor) -> Tensor:
    """(softmax − onehot)/(1 − p), which is the slope of `log_odds`.

    The softmax of the other classes without the label's logit, and −1 at the label: softmax − onehot itself is exactly
    0 in float32 from a margin of some 100 on, and its entry at the label from 17 on.
    """
    return _without(logits, labels).softmax(dim=1).scatter_(1, labels[:, None], -1.0)


def log_probability(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """-log p[label], per example, of outputs that are log-probabilities, or their mean over an ensemble.

    Args:
        log_probabilities: (N, K).
        labels: (N,).
    Returns: (N,); of an ensemble's mean it is the mean of the members' cross-entropies.
    """
    return -log_probabilities.gather(1, labels[:, None])[:, 0]


def _log_probability_slope(log_probabilities: Tensor, labels: Tensor) -> Tensor:
    """-1 at the label, (N, K)."""
    return torch.zeros_like(log_probabilities).scatter_(1, labels[:, None], -1.0)


def _without(logits: Tensor, labels: Tensor) -> Tensor:
    """The logits with the label's at minus infinity, (N, K)."""
    return logits.scatter(1, labels[:, None], -torch.inf)


def of_function(given: Any) -> Loss:
    """A loss of a package's or of the user's own: a function (logits (N, K), labels (N,)) -> (N,), or a `Loss`.

    Raises: RegistryError if it is neither.
    """
    if isinstance(given, Loss):
        return given
    if isinstance(given, type) or not callable(given):
        kind = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
        raise RegistryError(f"a function (logits (N, K), labels (N,)) -> (N,), or a notbugs.attacks.Loss, not {kind}")
    place = f"{getattr(given, '__module__', '')}:{getattr(given, '__qualname__', '')}"
    return Loss(given, name=f"loss {place}" if OWN.fullmatch(place) else "the loss")


LOSSES = Registry(
    "losses",
    {
        "cross_entropy": Loss(cross_entropy, slope=_cross_entropy_slope, score=log_odds),
        "log_probability": Loss(log_probability, slope=_log_probability_slope),
        "margin": Loss(margin),
        "representation_distance": Loss(representation_distance, reads="representation", slope=torch.sub),
    },
    adapt=of_function,
)
"""The losses by name."""


def _of_logits(name: str) -> str:
    """The name of a loss that a classifier can be attacked by."""
    if LOSSES[name].reads != "logits":
        raise ValueError("a loss that reads logits, such as cross_entropy or margin")
    return name


LossName = Annotated[str, AfterValidator(_of_logits)]
"""An attack's loss as params.yaml names it."""
USUAL_LOSS = "cross_entropy"
"""What attacks climb where nothing else is said."""


def loss_of(loss: str | Loss | Callable[[Tensor, Tensor], Tensor]) -> Loss:
    """The loss that a name stands for; a `Loss` is what it is, any other callable becomes one of logits.

    Raises: RegistryError naming what is allowed.
    """
    try:
        return LOSSES[loss] if isinstance(loss, str) else of_function(loss)
    except RegistryError as error:
        raise RegistryError(f"loss = {loss!r}: must be {error}") from None
