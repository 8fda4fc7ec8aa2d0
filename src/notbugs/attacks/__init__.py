"""Attacks on classifiers of images in [0, 1]."""

from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from notbugs.attacks.losses import LOSSES, Loss
from notbugs.attacks.pgd import PGDResult, pgd
from notbugs.attacks.projections import NORMS, project_l2, project_linf
from notbugs.runtime.config import Settings

__all__ = ["LOSSES", "NORMS", "AttackSettings", "Loss", "PGDResult", "pgd", "project_l2", "project_linf", "run_attack"]


class AttackSettings(Settings):
    """Projected gradient descent as params.yaml writes it."""

    norm: Literal["l2", "linf"] = "l2"
    """Norm that measures the perturbation."""
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
        return self.step_size if self.step_size is not None else 2.5 * self.eps / self.num_steps


def run_attack(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    settings: AttackSettings,
    *,
    iterate: Literal["last", "best", "first_success"] = "last",
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
    judge: bool = True,
    check: bool = True,
) -> PGDResult:
    """`pgd` on the cross-entropy, untargeted, as `settings` say; the other arguments are `pgd`'s."""
    return pgd(
        model,
        inputs,
        labels,
        norm=settings.norm,
        eps=settings.eps,
        step_size=settings.step,
        num_steps=settings.num_steps,
        random_start=settings.random_start,
        num_restarts=settings.num_restarts,
        iterate=iterate,
        generator=generator,
        judge=judge,
        check=check,
    )
