"""How an attack's steps may differ from plain ones: shorter towards the end, with momentum, averaged over views."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from notbugs.attacks.projections import column
from notbugs.data.batches import cropped, mirrored

Schedule = Literal["constant", "linear"]
View = Callable[[Tensor], Tensor]
"""Images (N, C, H, W) -> what the network is shown of them, of the same shape."""
Look = Callable[[int, View | None], Tensor]
"""(number of the step, a view or None for the images themselves) -> the loss's gradient at the images, (N, ...)."""
MOVED = 8
"""A view is moved by at most a side of the image divided by this: 4 of CIFAR's 32 pixels, as its usual crops."""


@dataclass(frozen=True)
class Course:
    """What is done at each step besides looking and climbing.

    Attributes:
        schedule: "linear" takes step s of n with 1 − s/n of its length, s from 0: the length falls to 0.
        momentum: μ in g ← μ·g + ∇/‖∇‖₁, along which is then stepped; 0 steps along the gradient alone.
        views: (N, n, k, 3) what the k views of each example at each of n steps are, see `draw_views`: the gradient is
            averaged over them. None looks at the image itself.
    Raises: ValueError for a momentum outside [0, 1), or an unknown schedule.
    Source: Dong et al. 2018, algorithm 1 (momentum); Athalye et al. 2018 (gradients averaged over views).
    """

    schedule: Schedule = "constant"
    momentum: float = 0.0
    views: Tensor | None = None

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "linear"):
            raise ValueError(f"schedule must be constant or linear, not {self.schedule!r}")
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum must be >= 0 and < 1, not {self.momentum}")

    def of(self, rows: slice | Tensor) -> "Course":
        """That of some of the examples."""
        return self if self.views is None else replace(self, views=self.views[rows])

    def steps(self, num_steps: int, look: Look) -> Iterator[tuple[Tensor, float]]:
        """For each step the direction to climb in, (N, ...), and the share of its length that is gone.

        The images that `look` looks at are to be moved before the next one is asked for.
        """
        gathered: Tensor | None = None
        for number in range(num_steps):
            gradient = self._gradient(number, look)
            if self.momentum:
                gradient = gradient / column(_total(gradient), gradient)
                gathered = gradient if gathered is None else gathered.mul_(self.momentum).add_(gradient)
                gradient = gathered.clone()  # a ball may write on what it is given
            yield gradient, 1 - number / num_steps if self.schedule == "linear" else 1.0

    def _gradient(self, number: int, look: Look) -> Tensor:
        """At the images, or summed over their views: the mean's direction, and steps go by that alone."""
        if self.views is None:
            return look(number, None)
        first, *others = (partial(seen, how=how) for how in self.views[:, number].unbind(1))
        total = look(number, first)
        for view in others:
            total += look(number, view)
        return total


def draw_views(
    num_views: int, num_steps: int, image_shape: tuple[int, int, int], generators: Sequence[torch.Generator]
) -> Tensor:
    """Random flips and shifts, for each example from a generator of its own.

    Args:
        num_views: k, of each step.
        image_shape: (C, H, W).
        generators: one an example, so that its views do not depend on the others.
    Returns: (N, num_steps, k, 3) int16: first row and column of a crop, and whether it is mirrored; see `seen`.
    """
    ends = 2 * _margin(image_shape) + 1

    def drawn(generator: torch.Generator) -> Tensor:
        moves = torch.randint(0, ends, (num_steps, num_views, 2), generator=generator)
        flips = torch.randint(0, 2, (num_steps, num_views, 1), generator=generator)
        return torch.cat([moves, flips], dim=2).to(torch.int16)

    return torch.stack([drawn(generator) for generator in generators])


def seen(images: Tensor, how: Tensor) -> Tensor:
    """A view of each image: moved, what comes in being black, and perhaps mirrored; autograd follows it.

    Args:
        images: (N, C, H, W).
        how: (N, 3), from `draw_views`.
    Returns: (N, C, H, W).
    """
    moved = cropped(images, _margin(images.shape[1:]), how[:, :2].T.long())
    return mirrored(moved, how[:, 2] > 0)


def _margin(image_shape: Sequence[int]) -> int:
    """Pixels that a view is moved by at most."""
    return max(1, min(image_shape[1:]) // MOVED)


def _total(gradient: Tensor) -> Tensor:
    """‖g‖₁ of each example, (N,), and 1 where that is 0."""
    totals = gradient.abs().flatten(1).sum(dim=1)
    return torch.where(totals > 0, totals, 1)
