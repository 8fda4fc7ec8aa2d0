"""Projected gradient descent as params.yaml writes it."""

from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from notbugs.attacks.losses import USUAL_LOSS, LossName
from notbugs.attacks.norms import NormName
from notbugs.attacks.pgd import usual_step_size
from notbugs.runtime.config import Settings


class WithLoss(Settings):
    """Settings of attacks whose loss can be chosen; written down without it where it is the usual one."""

    options = frozenset({"loss"})
    loss: LossName = USUAL_LOSS
    """What PGD climbs: cross_entropy, margin, or package.module:function of your own, (logits, labels) -> (N,)."""


class AttackSettings(WithLoss):
    """Projected gradient descent, untargeted."""

    norm: NormName = "l2"
    """Norm that measures the perturbation: l2, linf, l1, or package.module:attribute of your own."""
    eps: float = Field(ge=0, allow_inf_nan=False)
    """Radius of the perturbation ball, pixel units on [0, 1]."""
    num_steps: int = Field(ge=1)
    """Gradient steps."""
    step_size: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Length of a step, pixel units; null takes 2.5·eps/num_steps."""
    random_start: bool = False
    """Start at a random point of the ball instead of the image itself."""
    num_restarts: int = Field(default=1, ge=1)
    """Independent tries; the best is kept. More than one needs random_start."""

    @field_validator("num_restarts")
    @classmethod
    def _has_chance(cls, num_restarts: int, info: ValidationInfo) -> int:
        if num_restarts > 1 and not info.data.get("random_start"):
            raise ValueError("1 where random_start is false: every restart would be the same")
        return num_restarts

    @property
    def step(self) -> float:
        """The step size in force."""
        return usual_step_size(self.eps, self.num_steps) if self.step_size is None else self.step_size

    def arguments(self) -> dict[str, Any]:
        """What `pgd`, and all that runs it, is told."""
        return {name: getattr(self, name) for name in AttackSettings.model_fields}
