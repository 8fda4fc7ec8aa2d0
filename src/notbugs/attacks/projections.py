"""Norms: for each, the projection onto its ball, the direction of steepest ascent, and a random start."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def _column(values: Tensor, like: Tensor) -> Tensor:
    """(N,) -> (N, 1, ..., 1), to broadcast against `like` (N, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def _direction_and_norm(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """t/‖t‖₂ (zero where t is zero) and ‖t‖₂, per example: (N, ...), (N,).

    Divided by the largest entry first: a confident network's gradients of 1e-20 and less neither underflow in
    the squares nor need a guard that would shorten them.
    """
    largest = torch.linalg.vector_norm(tensor.flatten(1), ord=torch.inf, dim=1)  # (N,)
    scaled = tensor / _column(torch.where(largest > 0, largest, 1), tensor)
    lengths = torch.linalg.vector_norm(scaled.flatten(1), dim=1)  # (N,) 0, or in [1, √d]
    return scaled / _column(lengths.clamp(min=1), tensor), largest * lengths


def project_l2(delta: Tensor, eps: float) -> Tensor:
    """Euclidean projection onto the L2 ball, per example.

    argmin_p ‖delta - p‖₂  subject to  ‖p‖₂ <= eps

    Args:
        delta: Perturbations, (N, ...), pixel units.
        eps: Radius, same units, eps >= 0.
    Returns: Same shape as `delta`.
    Raises: ValueError if eps is negative.
    Source: Boyd & Vandenberghe 2004, section 8.1.
    """
    _check_eps(eps)
    direction, norms = _direction_and_norm(delta)
    return torch.where(_column(norms > eps, delta), direction * eps, delta)


def project_linf(delta: Tensor, eps: float) -> Tensor:
    """Euclidean projection onto the L-infinity ball, per example: clamp to [-eps, eps].

    Args:
        delta: Perturbations, (N, ...), pixel units.
        eps: Radius, same units, eps >= 0.
    Returns: Same shape as `delta`.
    Raises: ValueError if eps is negative.
    """
    _check_eps(eps)
    return delta.clamp(-eps, eps)


def project_box(delta: Tensor, eps: float) -> Tensor:
    """No ball at all: `delta` as it is (the attack still clips images to [0, 1])."""
    return delta


def steepest_l2(gradient: Tensor) -> Tensor:
    """Direction of steepest ascent in L2, per example: g/‖g‖₂ (zero where g is zero).

    Args:
        gradient: (N, ...).
    Returns: Same shape, each example of norm 1 or 0.
    """
    return _direction_and_norm(gradient)[0]


def steepest_linf(gradient: Tensor) -> Tensor:
    """Direction of steepest ascent in L-infinity: sign(g)."""
    return gradient.sign()


def random_l2(like: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """Uniform in the L2 ball: a Gaussian direction, a radius eps·u^(1/d)."""
    noise = torch.randn(like.shape, generator=generator).to(like)
    radius = torch.rand(len(like), generator=generator).to(like) ** (1 / math.prod(like.shape[1:]))
    return steepest_l2(noise) * _column(eps * radius, like)


def random_linf(like: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """Uniform in the L-infinity ball."""
    return (torch.rand(like.shape, generator=generator).to(like) * 2 - 1) * eps


@dataclass(frozen=True)
class Norm:
    """What the attack loop needs to know of a norm.

    Attributes:
        project: (delta (N, ...), eps) -> the nearest point of the ball.
        steepest_step: gradient (N, ...) -> unit direction of steepest ascent.
        random: (like (N, ...), eps, generator) -> uniform points of the ball.
    """

    project: Callable[[Tensor, float], Tensor]
    steepest_step: Callable[[Tensor], Tensor]
    random: Callable[[Tensor, float, torch.Generator | None], Tensor]


NORMS = {
    "l2": Norm(project_l2, steepest_l2, random_l2),
    "linf": Norm(project_linf, steepest_linf, random_linf),
    "box": Norm(project_box, steepest_l2, random_l2),
}
"""`box` is no ball: steps of fixed L2 length, bounded by [0, 1] alone."""


def _check_eps(eps: float) -> None:
    if not eps >= 0:
        raise ValueError(f"eps must be >= 0, not {eps}")
