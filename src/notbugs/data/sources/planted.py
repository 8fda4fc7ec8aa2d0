"""A world whose features are known: the class of an image is carried by two planted patterns.

    x = 1/2 + A·s_k + a·h_y + u

s_k is a smooth glow of one of four colours, of large amplitude A; h_y a pattern of high frequency and tiny amplitude a;
u uniform noise. The fine pattern is always the one of the class y. The smooth one is so (k = y) for a known share of
the images, and that of another class for the rest. Nothing is ever clipped, so the usefulness and the robust usefulness
of the matched filters are known exactly (`notbugs.science.planted.truth`).
"""

import math
from typing import Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from notbugs.data.images import make_generator
from notbugs.data.sources.base import Pictures
from notbugs.runtime.config import Settings

SHAPE = (3, 32, 32)
"""(C, H, W) of the images."""
CLASS_NAMES = ("yellow", "red", "green", "dark")
COLOURS = ((1, 1), (1, -1), (-1, 1), (-1, -1))
"""Of each class: the glow in red and green."""
WAVES = ((16, 0), (0, 16), (16, 16), (8, 8))
"""Of each class: the fine pattern's cycles across and down an image, in blue."""
Pattern = Literal["smooth", "fine"]
PATTERNS: tuple[Pattern, ...] = ("smooth", "fine")


class PlantedSettings(Settings):
    """A planted world; amplitudes are L2 lengths in pixel units on [0, 1]."""

    num_train: int = Field(default=1000, ge=8)
    """Images of train and validation together; rounded down to a multiple of the classes."""
    num_test: int = Field(default=1000, ge=8)
    """Images of the test split; rounded down likewise."""
    smooth_amplitude: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    """A: length of the smooth pattern."""
    fine_amplitude: float = Field(default=0.4, gt=0, allow_inf_nan=False)
    """a: length of the fine pattern."""
    smooth_agreement: float = Field(default=0.95, gt=0, le=1)
    """Share of the images whose smooth pattern is the one of their class; the rest show another class's."""
    noise: float = Field(default=0.1, gt=0, allow_inf_nan=False)
    """Every value gets its own noise, uniform within ± this."""

    @model_validator(mode="after")
    def _never_clips(self) -> "PlantedSettings":
        if self.reach > 0.5:
            raise ValueError(f"amplitudes and noise that stay within 0.5 of grey; these reach {self.reach:.3f}")
        return self

    @property
    def reach(self) -> float:
        """How far from grey (1/2) a value can be."""
        unit = patterns()
        smooth, fine = (float(unit[name].abs().max()) for name in PATTERNS)
        return self.smooth_amplitude * smooth + self.fine_amplitude * fine + self.noise


def patterns() -> dict[Pattern, Tensor]:
    """The patterns of each class, of length 1: (4, 3, 32, 32) float64 for "smooth" and "fine".

    Every smooth pattern is orthogonal to every fine one, and two fine ones are orthogonal. The smooth ones are two
    antipodal pairs, yellow and dark, red and green: inner product -1 within a pair, 0 between the pairs.
    """
    side = torch.arange(SHAPE[1], dtype=torch.float64)
    ripple = torch.cos(2 * math.pi * (side + 0.5) / len(side))
    glow = 1 - (ripple[:, None] + ripple) / 4  # (32, 32), brightest in the middle
    turns = torch.stack([across * side + down * side[:, None] for across, down in WAVES])  # (4, 32, 32)
    smooth, fine = torch.zeros(2, len(CLASS_NAMES), *SHAPE, dtype=torch.float64)
    smooth[:, :2] = torch.tensor(COLOURS, dtype=torch.float64)[:, :, None, None] * glow
    fine[:, 2] = torch.cos(2 * math.pi * turns / len(side))
    return {"smooth": _unit(smooth), "fine": _unit(fine)}


def _unit(waves: Tensor) -> Tensor:
    return waves / waves.flatten(1).norm(dim=1)[:, None, None, None]


def draw(settings: PlantedSettings, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """`count` images of the world, the classes in turn.

    Returns: images (N, 3, 32, 32) float32, labels (N,), and the class that the smooth pattern shows (N,).
    Raises: AssertionError if a pixel left [0, 1], which the settings exclude.
    """
    classes = len(CLASS_NAMES)
    labels = torch.arange(count) % classes
    lies = torch.rand(count, generator=generator) >= settings.smooth_agreement
    other = torch.randint(1, classes, (count,), generator=generator)
    shown = torch.where(lies, (labels + other) % classes, labels)
    unit = patterns()
    noise = (torch.rand(count, *SHAPE, generator=generator, dtype=torch.float64) * 2 - 1) * settings.noise
    smooth, fine = settings.smooth_amplitude * unit["smooth"][shown], settings.fine_amplitude * unit["fine"][labels]
    images = (0.5 + smooth + fine + noise).float()
    assert 0 <= float(images.min()) <= float(images.max()) <= 1, "a planted image left [0, 1]"
    return images, labels, shown


def read_planted(settings: PlantedSettings, *, seed: int) -> tuple[Pictures, Pictures]:
    """Draw the world.

    Args:
        settings: patterns, amplitudes, noise, sizes.
        seed: of everything drawn.
    Returns: the training pool and the test set, (N, 3, 32, 32), float32 in [0, 1].
    """
    parts = []
    for part, size in (("train", settings.num_train), ("test", settings.num_test)):
        count = size - size % len(CLASS_NAMES)
        images, labels, _ = draw(settings, count, make_generator(seed, "planted", part))
        parts.append(Pictures(images, labels, CLASS_NAMES, torch.arange(count), ("",) * count, white=1))
    return parts[0], parts[1]
