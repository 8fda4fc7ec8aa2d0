"""What the images of a recipe begin as, and how their steps differ from plain ones: drawn once, for all examples.

Whatever is random is drawn when a recipe is set up, or from a seed of the example's own that is drawn then, so neither
the parts that a dataset is made in nor their order matter.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from notbugs.attacks.course import Course, Schedule, draw_views
from notbugs.construction.recipe import RecipeError
from notbugs.data.images import Images, make_generator

Start = Literal["x", "another_image", "noise"]
"""x itself, a uniformly random other image of D, or uniform noise in [0, 1]."""
SEEDS = 2**62
"""Seeds of examples are drawn below this."""


@dataclass(frozen=True)
class Beginnings:
    """What each example begins as.

    Attributes:
        data: D.
        start: of all of them.
        index: (N,) row of the other image in D; −1 where there is none.
        seeds: (N,) of the noise; None where there is none.
    """

    data: Images
    start: Start
    index: Tensor
    seeds: Tensor | None

    @classmethod
    def drawn(cls, start: Start, data: Images, generator: torch.Generator) -> "Beginnings":
        """Draw what is random about it; of x nothing is.

        Raises: RecipeError if there is no other image.
        """
        count = len(data)
        if start == "another_image":
            if count < 2:
                raise RecipeError(f"start = another_image: D needs at least 2 images, not {count}")
            index = (torch.arange(count) + torch.randint(1, count, (count,), generator=generator)) % count
            return cls(data, start, index, None)
        seeds = draw_seeds(count, generator) if start == "noise" else None
        return cls(data, start, torch.full((count,), -1), seeds)

    def images(self, rows: slice, x: Tensor) -> Tensor:
        """(n, C, H, W); x: the images of D in these rows."""
        if self.start == "another_image":
            return self.data.select(self.index[rows]).images
        if self.seeds is None:
            return x
        generators = [make_generator(seed, "noise") for seed in self.seeds[rows].tolist()]
        return torch.stack([torch.rand(x.shape[1:], generator=generator) for generator in generators])


@dataclass(frozen=True)
class Steps:
    """How far, how often and along what each example is moved.

    Attributes:
        num_steps, step_size: gradient steps, and the length of the first, pixel units.
        schedule, momentum: see `attacks.course.Course`.
        views: k random flips and shifts that each gradient is averaged over; 0 takes that of the image itself.
        seeds: (N,) of the views.
    """

    num_steps: int
    step_size: float
    schedule: Schedule = "constant"
    momentum: float = 0.0
    views: int = 0
    seeds: Tensor | None = None

    def course(self, rows: slice, image_shape: tuple[int, int, int]) -> Course | None:
        """That of some of the examples; None where all is plain."""
        if self.schedule == "constant" and not self.momentum and self.seeds is None:
            return None
        views = None
        if self.seeds is not None:
            generators = [make_generator(seed, "views") for seed in self.seeds[rows].tolist()]
            views = draw_views(self.views, self.num_steps, image_shape, generators)
        return Course(self.schedule, self.momentum, views)


def draw_seeds(count: int, generator: torch.Generator) -> Tensor:
    """A seed for each example, (count,)."""
    return torch.randint(SEEDS, (count,), generator=generator)
