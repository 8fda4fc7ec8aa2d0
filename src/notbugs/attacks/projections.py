"""Lengths in each norm, the projection onto its ball, the step of steepest ascent, and a random start, as formulas.

`norms` makes of them what an attack asks of a norm.
"""

import math
from collections.abc import Callable

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


def lengths_l1(tensor: Tensor) -> Tensor:
    """‖t‖₁ of each example: (N, ...) -> (N,) float64."""
    return torch.linalg.vector_norm(tensor.flatten(1), ord=1, dim=1, dtype=traits(tensor.device).widest)


def lengths_linf(tensor: Tensor) -> Tensor:
    """max |t| of each example: (N, ...) -> (N,) float64."""
    return widened(tensor.flatten(1).abs().amax(dim=1))


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
    return (delta * column(shrinkage(lengths(delta), eps), delta)).to(delta.dtype)


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


def project_l1(delta: Tensor, eps: float, room: Tensor | None = None) -> Tensor:
    """Euclidean projection onto the L1 ball, per example; given room, onto what of the ball lies in a box.

    argmin_p ‖delta - p‖₂  subject to  ‖p‖₁ <= eps  and  |p| <= room

    Its solution is p = sign(delta) · min(max(|delta| - θ, 0), room), with the smallest θ >= 0 at which it lies in the
    ball; see `_threshold`.

    Args:
        delta: Perturbations, (N, ...), pixel units.
        eps: Radius, same units, eps >= 0.
        room: Largest size of each entry in the direction that it has, same shape, >= 0; None for no box.
    Returns: Same shape as `delta`.
    Raises: ValueError if eps is negative.
    Source: Duchi et al. 2008, figure 1; in a box Croce & Hein 2021, "Mind the box".
    """
    _check_eps(eps)
    sizes = delta.abs()
    threshold = _threshold(sizes.flatten(1), None if room is None else room.flatten(1), eps)
    kept = (sizes - column(threshold, delta)).clamp_(min=0)  # in float64: a threshold may be far larger than eps
    if room is not None:
        kept = torch.minimum(kept, room)
    # Only rounding needs this.
    kept = kept * column(shrinkage(lengths_l1(kept), eps), delta)
    return (delta.sign() * kept).to(delta.dtype)


def steepest_l2(gradient: Tensor) -> Tensor:
    """Direction of steepest ascent in L2, per example: g/‖g‖₂ (zero where g is zero).

    Args:
        gradient: (N, ...).
    Returns: Same shape, each example of norm 1 or 0.
    """
    norms = lengths(gradient)
    return (gradient / column(torch.where(norms > 0, norms, 1), gradient)).to(gradient.dtype)


SPARSE = 0.99
"""Quantile of a gradient's entries above which a step in L1 moves: the hundredth of them that is largest."""


def steepest_l1(gradient: Tensor, quantile: float = SPARSE) -> Tensor:
    """Sparse direction of ascent in L1, per example: the same on all entries from a quantile of |g| on, 0 elsewhere.

    Each of the k entries moves by sign(g)/k. The step of steepest ascent moves the largest alone (quantile 1), which
    takes as many steps as there are pixels to be moved; a quantile moves many of the best at a time.

    Args:
        gradient: (N, ...).
        quantile: share of the entries that stay, in [0, 1]; the largest one always moves.
    Returns: Same shape, each example of L1 norm 1, or 0 where the gradient is 0.
    Source: Tramer & Boneh 2019 (sparse L1 descent, SLIDE).
    """
    sizes = gradient.abs().flatten(1)  # (N, d)
    count = sizes.shape[1]
    smallest = sizes.topk(count - math.ceil((count - 1) * quantile), dim=1).values[:, -1:]  # (N, 1)
    moves = (sizes >= smallest) & (sizes > 0)
    step = gradient.flatten(1).sign() * moves / moves.sum(dim=1, keepdim=True).clamp_(min=1)
    return step.to(gradient.dtype).view(gradient.shape)


def random_l2(like: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """Uniform in the L2 ball: a Gaussian direction, a radius eps·u^(1/d)."""
    noise = _drawn(torch.randn, like.shape, like, generator)
    radius = _drawn(torch.rand, like.shape[:1], like, generator) ** (1 / math.prod(like.shape[1:]))
    return steepest_l2(noise) * column(eps * radius, like)


def random_linf(like: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """Uniform in the L-infinity ball."""
    return (_drawn(torch.rand, like.shape, like, generator) * 2 - 1) * eps


def random_l1(like: Tensor, eps: float, generator: torch.Generator | None) -> Tensor:
    """Uniform in the L1 ball: exponential sizes over their sum, with signs, and a radius eps·u^(1/d)."""
    uniform = _drawn(torch.rand, like.shape, like, generator) * 2 - 1  # sign, and size in [0, 1]
    tiny = torch.finfo(like.dtype).tiny
    sizes = -uniform.abs().clamp_(min=tiny).log() + tiny  # not all of them 0
    radius = _drawn(torch.rand, like.shape[:1], like, generator) ** (1 / math.prod(like.shape[1:]))
    share = eps * radius / sizes.flatten(1).sum(dim=1)
    return torch.where(uniform < 0, -sizes, sizes) * column(share, like)


def _drawn(draw: Callable[..., Tensor], shape: torch.Size, like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Random numbers, drawn where the generator is, with the precision and on the device of `like`."""
    return draw(shape, generator=generator, device=generator.device if generator else None).to(like)


def shrinkage(norms: Tensor, eps: float) -> Tensor:
    """Factors that bring vectors of these norms (overwritten) into the ball: min(1, eps/norm), (N,)."""
    return (eps / norms.clamp_(min=torch.finfo(norms.dtype).tiny)).clamp_(max=1)


def _threshold(sizes: Tensor, room: Tensor | None, eps: float) -> Tensor:
    """The smallest θ >= 0 with Σ min(max(size - θ, 0), room) <= eps, (N,) float64.

    The sum falls with θ along straight lines. An entry begins to take part in its slope where θ falls below its size,
    and ceases to where θ falls below size - room. So of these points, sorted from the largest down to 0, the first at
    which the sum is eps or more ends the line that θ lies on. What is outside by rounding alone gets 0.

    Args:
        sizes: (N, d), >= 0. room: same shape, >= 0; None for no bound.
    """
    count = sizes.shape[1]
    ends = [] if room is None else [(sizes - room).clamp_(min=0)]
    points, order = torch.cat([sizes, *ends, sizes.new_zeros(len(sizes), 1)], dim=1).sort(dim=1, descending=True)
    points = points.to(traits(sizes.device).widest)  # (N, m)
    turns = torch.where(order < count, 1, -1)
    slope, mass = turns.cumsum(dim=1), (turns * points).cumsum(dim=1)
    at_next = mass[:, :-1] - slope[:, :-1] * points[:, 1:]  # the sum at the next point, (N, m - 1)
    line = (at_next >= eps).to(torch.uint8).argmax(dim=1, keepdim=True)  # the first, (N, 1)
    threshold = (mass.gather(1, line) - eps) / slope.gather(1, line).clamp_(min=1)
    outside = at_next[:, -1] > eps * (1 + 2 * torch.finfo(sizes.dtype).eps)
    return torch.where(outside, threshold[:, 0].clamp_(min=0), 0)


def _check_eps(eps: float) -> None:
    if not eps >= 0:
        raise ValueError(f"eps must be >= 0, not {eps}")
