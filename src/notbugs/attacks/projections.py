"""Norms: for each, lengths, the projection onto its ball, the step of steepest ascent, and a random start."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from notbugs.runtime.devices import traits, widened


def column(values: Tensor, like: Tensor) -> Tensor:
    """(N,) -> (N, 1, ..., 1), to broadcast against `like` (N, ...)."""
    return values.view(-1, *[1] * (like.ndim - 1))


def lengths(tensor: Tensor) -> Tensor:
    """‖t‖₂ of each example: (N, ...) -> (N,) float64.

    Summed in float64: a confident network's gradients of 1e-20 and less neither underflow in the squares nor
    need a guard that would shorten them. Where a device has no float64, they are divided by their largest value first.
    """
    if tensor.ndim == 1:
        return widened(tensor.abs())
    dims, wide = tuple(range(1, tensor.ndim)), traits(tensor.device).widest
    if wide == torch.float64:
        return torch.linalg.vector_norm(tensor, dim=dims, dtype=wide)
    largest = tensor.abs().amax(dim=dims).to(wide)  # (N,)
    scaled = tensor / column(torch.where(largest > 0, largest, 1), tensor)
    return torch.linalg.vector_norm(scaled, dim=dims, dtype=wide) * largest


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
    return (delta * column(_shrinkage(lengths(delta), eps), delta)).to(delta.dtype)


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


def steepest_l2(gradient: Tensor) -> Tensor:
    """Direction of steepest ascent in L2, per example: g/‖g‖₂ (zero where g is zero).

    Args:
        gradient: (N, ...).
    Returns: Same shape, each example of norm 1 or 0.
    """
    norms = lengths(gradient)
    return (gradient / column(torch.where(norms > 0, norms, 1), gradient)).to(gradient.dtype)


def random_l2(like: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """Uniform in the L2 ball: a Gaussian direction, a radius eps·u^(1/d)."""
    noise = _drawn(torch.randn, like.shape, like, generator)
    radius = _drawn(torch.rand, like.shape[:1], like, generator) ** (1 / math.prod(like.shape[1:]))
    return steepest_l2(noise) * column(eps * radius, like)


def random_linf(like: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """Uniform in the L-infinity ball."""
    return (_drawn(torch.rand, like.shape, like, generator) * 2 - 1) * eps


class Ball(ABC):
    """The balls around a batch of images in one norm: all that an attack asks of the norm.

    `climb_` and `project_` are made for an attack's loop: everything in place, nothing allocated.

    Args:
        centre: images in [0, 1], (N, ...).
        eps: radius, pixel units.
    """

    def __init__(self, centre: Tensor, eps: float) -> None:
        self.centre, self.eps = centre, eps

    @abstractmethod
    def climb_(self, x: Tensor, gradient: Tensor, step_size: float) -> None:
        """x ← x + step_size · (direction of steepest ascent), projected; a negative step descends."""

    @abstractmethod
    def project_(self, x: Tensor) -> None:
        """x ← the nearest point of the ball and of [0, 1]."""

    @staticmethod
    @abstractmethod
    def length(delta: Tensor, /) -> Tensor:
        """‖δ‖ of each example, (N, ...) -> (N,) float64."""

    @staticmethod
    @abstractmethod
    def random(like: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
        """Uniform points of a ball around 0, shaped as `like` (N, ...)."""

    @staticmethod
    @abstractmethod
    def largest_radius(image: Tensor) -> float:
        """The radius from which the ball around any image of this shape holds all of [0, 1]^d."""

    def select(self, rows: Tensor) -> Self:
        """The balls of some of the examples; rows: (n,) indices."""
        return type(self)(self.centre[rows], self.eps)


class L2Ball(Ball):
    """Steps along g/‖g‖₂; points beyond the ball are moved straight towards its centre."""

    length, random = staticmethod(lengths), staticmethod(random_l2)

    def __init__(self, centre: Tensor, eps: float) -> None:
        super().__init__(centre, eps)
        self._delta = torch.empty_like(centre)

    @staticmethod
    def largest_radius(image: Tensor) -> float:
        """√d."""
        return math.sqrt(image.numel())

    def climb_(self, x: Tensor, gradient: Tensor, step_size: float) -> None:
        """x ← x + step_size · g/‖g‖₂, projected."""
        norms = lengths(gradient)
        largest = torch.finfo(x.dtype).max
        # A factor of infinity would make NaN of a gradient of 0, which is to give no step.
        factors = (step_size / norms.clamp_(min=torch.finfo(norms.dtype).tiny)).clamp_(-largest, largest)  # (N,)
        x.addcmul_(gradient, column(factors, x).to(x.dtype))
        self.project_(x)

    def project_(self, x: Tensor) -> None:
        """x ← the nearest point of the ball, clipped to [0, 1].

        Clipping moves every pixel towards the centre, which lies in [0, 1], so it never leaves the ball.
        """
        torch.sub(x, self.centre, out=self._delta)
        factors = _shrinkage(lengths(self._delta), self.eps)
        torch.addcmul(self.centre, self._delta, column(factors, x).to(x.dtype), out=x)
        x.clamp_(0, 1)


class Box(L2Ball):
    """No ball at all: steps of fixed L2 length, bounded by [0, 1] alone."""

    def project_(self, x: Tensor) -> None:
        """x ← clip(x, 0, 1)."""
        x.clamp_(0, 1)


class LinfBall(Ball):
    """Steps along sign(g), clamped to [centre − eps, centre + eps] ∩ [0, 1]."""

    random = staticmethod(random_linf)

    def __init__(self, centre: Tensor, eps: float) -> None:
        super().__init__(centre, eps)
        self._low, self._high = (centre - eps).clamp_(min=0), (centre + eps).clamp_(max=1)

    @staticmethod
    def length(delta: Tensor) -> Tensor:
        """max |δ| of each example."""
        return widened(delta.flatten(1).abs().amax(dim=1))

    @staticmethod
    def largest_radius(image: Tensor) -> float:
        """1."""
        return 1.0

    def climb_(self, x: Tensor, gradient: Tensor, step_size: float) -> None:
        """x ← x + step_size · sign(g), projected; writes on the gradient."""
        x.add_(gradient.sign_(), alpha=step_size)
        self.project_(x)

    def project_(self, x: Tensor) -> None:
        """x ← clip(x, max(centre − eps, 0), min(centre + eps, 1))."""
        torch.clamp(x, self._low, self._high, out=x)


NORMS: dict[str, type[Ball]] = {"l2": L2Ball, "linf": LinfBall, "box": Box}
"""The norms that attacks know by name."""


def _drawn(draw: Callable[..., Tensor], shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Random numbers, drawn where the generator is, with the precision and on the device of `like`."""
    return draw(shape, generator=generator, device=generator.device if generator else None).to(like)


def _shrinkage(norms: Tensor, eps: float) -> Tensor:
    """Factors that bring vectors of these norms (overwritten) into the ball: min(1, eps/norm), (N,)."""
    return (eps / norms.clamp_(min=torch.finfo(norms.dtype).tiny)).clamp_(max=1)


def _check_eps(eps: float) -> None:
    if not eps >= 0:
        raise ValueError(f"eps must be >= 0, not {eps}")
