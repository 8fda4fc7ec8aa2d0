"""Norms: each is one class, which says all that attacks, levels and the report ask of it.

    norm: l2                 # built in: l2, linf, l1
    norm: lab.norms:Mixed    # the user's own: a subclass of `Ball`

A norm of one's own should pass `notbugs.testing.check_norm`.
"""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Self

import torch
from pydantic import AfterValidator
from torch import Tensor

from notbugs.attacks.projections import (
    SPARSE,
    column,
    lengths,
    lengths_l1,
    lengths_linf,
    project_l1,
    random_l1,
    random_l2,
    random_linf,
    shrinkage,
    steepest_l1,
    steepest_l2,
)
from notbugs.runtime.registry import Registry, RegistryError


class Ball(ABC):
    """The balls around a batch of images in one norm: all that is asked of the norm.

    `climb_` and `project_` are made for an attack's loop: everything in place.

    Args:
        centre: images in [0, 1], (N, ...).
        eps: radius, pixel units.
    """

    title: ClassVar[str] = ""
    """The norm's name in print; the name of the class where it is empty."""
    in_libraries: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Library -> what it calls the norm; only those that know it."""
    minimised_by: ClassVar[tuple[str, ...]] = ()
    """Attacks of `library.MINIMUM_NORM` that look for the smallest perturbation in this norm."""
    attacked_by: ClassVar[tuple[str, ...]] = ()
    """Attacks of `library.FIXED_EPS` that work within balls of this norm."""

    def __init__(self, centre: Tensor, eps: float) -> None:
        self.centre, self.eps = centre, eps

    def climb_(self, x: Tensor, gradient: Tensor, step_size: float) -> None:
        """x ← x + step_size · (direction of steepest ascent), projected; a negative step descends."""
        x.add_(self.steepest(gradient), alpha=step_size)
        self.project_(x)

    @abstractmethod
    def project_(self, x: Tensor) -> None:
        """x ← the nearest point of the ball and of [0, 1]."""

    @staticmethod
    @abstractmethod
    def length(delta: Tensor, /) -> Tensor:
        """‖δ‖ of each example, (N, ...) -> (N,) float64."""

    @staticmethod
    @abstractmethod
    def dual_length(gradient: Tensor, /) -> Tensor:
        """The largest ⟨g, δ⟩ over ‖δ‖ <= 1, which a linear loss rises by in a ball of radius 1: (N, ...) -> (N,)."""

    @classmethod
    @abstractmethod
    def steepest(cls, gradient: Tensor, /) -> Tensor:
        """The direction in which a step of length 1 climbs most, (N, ...) -> the same shape; 0 where g is 0."""

    @staticmethod
    @abstractmethod
    def random(like: Tensor, eps: float, generator: torch.Generator | None, /) -> Tensor:
        """Uniform points of a ball around 0, shaped as `like` (N, ...)."""

    @staticmethod
    @abstractmethod
    def largest_radius(image: Tensor, /) -> float:
        """The radius from which the ball around any image of this shape holds all of [0, 1]^d."""

    def select(self, rows: Tensor) -> Self:
        """The balls of some of the examples; rows: (n,) indices."""
        return type(self)(self.centre[rows], self.eps)


class L2Ball(Ball):
    """Steps along g/‖g‖₂; points beyond the ball are moved straight towards its centre."""

    title = "L2"
    in_libraries = MappingProxyType({"pyautoattack": "L2", "foolbox": "L2"})
    minimised_by = ("ddn", "cw")
    attacked_by = ("apgd_ce", "apgd_t", "fab_t", "square")
    length, dual_length = staticmethod(lengths), staticmethod(lengths)
    random, steepest = staticmethod(random_l2), staticmethod(steepest_l2)

    def __init__(self, centre: Tensor, eps: float) -> None:
        super().__init__(centre, eps)
        self._delta = torch.empty_like(centre)

    @staticmethod
    def largest_radius(image: Tensor) -> float:
        """√d."""
        return math.sqrt(image.numel())

    def climb_(self, x: Tensor, gradient: Tensor, step_size: float) -> None:
        """x ← x + step_size · g/‖g‖₂, projected; nothing is allocated."""
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
        factors = shrinkage(lengths(self._delta), self.eps)
        torch.addcmul(self.centre, self._delta, column(factors, x).to(x.dtype), out=x)
        x.clamp_(0, 1)


class Box(L2Ball):
    """No ball at all: steps of fixed L2 length, bounded by [0, 1] alone."""

    def project_(self, x: Tensor) -> None:
        """x ← clip(x, 0, 1)."""
        x.clamp_(0, 1)


class LinfBall(Ball):
    """Steps along sign(g), clamped to [centre − eps, centre + eps] ∩ [0, 1]."""

    title = "L∞"
    in_libraries = MappingProxyType({"pyautoattack": "Linf", "foolbox": "LInf"})
    minimised_by = ("fmn",)
    attacked_by = L2Ball.attacked_by
    length, dual_length = staticmethod(lengths_linf), staticmethod(lengths_l1)
    random, steepest = staticmethod(random_linf), staticmethod(torch.sign)

    def __init__(self, centre: Tensor, eps: float) -> None:
        super().__init__(centre, eps)
        self._low, self._high = (centre - eps).clamp_(min=0), (centre + eps).clamp_(max=1)

    @staticmethod
    def largest_radius(image: Tensor) -> float:
        """1."""
        return 1.0

    def climb_(self, x: Tensor, gradient: Tensor, step_size: float) -> None:
        """x ← x + step_size · sign(g), projected; writes on the gradient, and allocates nothing."""
        x.add_(gradient.sign_(), alpha=step_size)
        self.project_(x)

    def project_(self, x: Tensor) -> None:
        """x ← clip(x, max(centre − eps, 0), min(centre + eps, 1))."""
        torch.clamp(x, self._low, self._high, out=x)


class L1Ball(Ball):
    """Sparse steps along the signs of the largest entries of g; the nearest point of the ball within [0, 1].

    Clipping after a projection onto the ball alone would give points that are feasible and not nearest: an attack
    then takes up room that it cannot use (Croce & Hein 2021).
    """

    title = "L1"
    in_libraries = MappingProxyType({"pyautoattack": "L1", "foolbox": "L1"})
    minimised_by = ("fmn", "ead")
    attacked_by = L2Ball.attacked_by
    length, dual_length, random = staticmethod(lengths_l1), staticmethod(lengths_linf), staticmethod(random_l1)
    quantile: ClassVar[float] = SPARSE
    """Of |g|: pixels below it stay in a step. A subclass may have another one."""

    @classmethod
    def steepest(cls, gradient: Tensor) -> Tensor:
        """Signs of the largest entries; at quantile 1 the direction of steepest ascent, the largest entry alone."""
        return steepest_l1(gradient, cls.quantile)

    @staticmethod
    def largest_radius(image: Tensor) -> float:
        """d."""
        return float(image.numel())

    def climb_(self, x: Tensor, gradient: Tensor, step_size: float) -> None:
        """x ← x + step_size · (sparse step of the pixels that can move that way), projected."""
        rises, unit = (gradient > 0 if step_size > 0 else gradient < 0), torch.finfo(x.dtype).eps
        at_the_end = torch.where(rises, x >= 1 - unit, x <= unit)
        x.add_(self.steepest(gradient.masked_fill(at_the_end, 0)), alpha=step_size)
        self.project_(x)

    def project_(self, x: Tensor) -> None:
        """x ← the nearest point of the ball within [0, 1]."""
        delta = x - self.centre
        room = torch.where(delta > 0, 1 - self.centre, self.centre)
        moved, unit = project_l1(delta, self.eps, room), torch.finfo(x.dtype).eps / 2
        # Rounded towards the centre: what 150,000 pixels gain by rounding adds up to more than the radius.
        torch.add(self.centre, (moved / unit).trunc_().mul_(unit), out=x)
        x.clamp_(0, 1)


def of_class(given: Any) -> type[Ball]:
    """A norm of a package's or of the user's own.

    Raises: RegistryError if it is no subclass of `Ball`, or one that lacks something.
    """
    if not (isinstance(given, type) and issubclass(given, Ball)):
        raise RegistryError(f"a subclass of notbugs.attacks.Ball, not {_kind(given)}")
    if inspect.isabstract(given):
        missing = ", ".join(sorted(given.__abstractmethods__))
        raise RegistryError(f"a norm that says all of itself: {given.__name__} has no {missing}")
    return given


def _kind(given: Any) -> str:
    return f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"


_BUILT_IN: dict[str, type[Ball]] = {"l2": L2Ball, "linf": LinfBall, "l1": L1Ball}
NORMS = Registry("norms", _BUILT_IN, adapt=of_class)
"""The norms by name."""
NormName = Annotated[str, AfterValidator(NORMS.check)]
"""A norm as params.yaml names it."""


def norm_of(norm: str | type[Ball]) -> type[Ball]:
    """The norm that a name stands for, "box" for no ball at all; a class is what it is.

    Raises: RegistryError naming what is allowed.
    """
    if norm == "box":
        return Box
    try:
        return NORMS[norm] if isinstance(norm, str) else of_class(norm)
    except RegistryError as error:
        raise RegistryError(f"norm = {norm!r}: must be box (no ball), or {error}") from None


def norm_title(name: str) -> str:
    """A norm's name in print; that of one that is not to be found here is the name itself."""
    try:
        norm = NORMS[name]
    except RegistryError:
        return name
    return norm.title or norm.__name__
