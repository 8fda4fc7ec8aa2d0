"""How far an image may be pushed: the norms of the registry, and a sparse budget of so many numbers."""

from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from notbugs.attacks.norms import NORMS, Ball, norm_of
from notbugs.attacks.projections import column
from notbugs.runtime.config import Settings
from notbugs.runtime.registry import RegistryError

SPARSE = "l0"


class SparseBall(Ball):
    """Images that differ from the centre in at most `eps` numbers: the budget that Kumano et al. call L0.

    No norm, since twice a change has the same length; so it is no entry of the registry. A step moves the number with
    the largest gradient by `step_size`, the others in proportion.
    """

    title = "L0"

    def project_(self, x: Tensor) -> None:
        """x ← the nearest image of so few changes: those are kept whose loss would move it furthest."""
        delta, within = x - self.centre, x.clamp(0, 1)
        gained = (delta.square() - (x - within).square()).flatten(1)  # (N, d)
        few = gained.topk(min(int(self.eps), gained.shape[1]), dim=1).indices
        moves = torch.zeros_like(gained, dtype=torch.bool).scatter_(1, few, True).view_as(x)
        x.copy_(torch.where(moves, within, self.centre))

    @staticmethod
    def length(delta: Tensor) -> Tensor:
        """How many numbers change."""
        return (delta != 0).flatten(1).sum(dim=1).double()

    @staticmethod
    def dual_length(gradient: Tensor) -> Tensor:
        """The largest entry, which one changed number in [0, 1] can gain at most."""
        return gradient.flatten(1).abs().amax(dim=1).double()

    @classmethod
    def steepest(cls, gradient: Tensor) -> Tensor:
        """g/‖g‖∞."""
        largest = column(cls.dual_length(gradient), gradient).to(gradient.dtype)
        return gradient / torch.where(largest > 0, largest, 1)

    @staticmethod
    def random(like: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
        """No random start is asked for here: the centre."""
        return torch.zeros_like(like)

    @staticmethod
    def largest_radius(image: Tensor) -> float:
        """d."""
        return float(image.numel())


def _is_known(name: str) -> str:
    if name == SPARSE:
        return name
    try:
        return NORMS.check(name)
    except RegistryError as error:
        raise RegistryError(f"{SPARSE}, or {error}") from None


class Budget(Settings):
    """How far an image may be pushed."""

    norm: Annotated[str, AfterValidator(_is_known)] = "l2"
    """l2, linf, l1, your own (docs/norms.md), or l0: so many numbers of an image."""
    eps: float = Field(gt=0, allow_inf_nan=False)
    """Radius, pixel units; of l0 the numbers that may change."""
    num_steps: int = Field(ge=1)
    """Gradient steps."""
    step_size: float = Field(gt=0, allow_inf_nan=False)
    """Length of a step, pixel units; of l0 that of the number that moves most."""

    @property
    def ball(self) -> type[Ball]:
        """The class of its balls."""
        return SparseBall if self.norm == SPARSE else norm_of(self.norm)

    def attack(self) -> dict[str, Any]:
        """What `pgd` and the recipes are told."""
        return {"norm": self.ball, **self.model_dump(include={"eps", "num_steps", "step_size"})}
