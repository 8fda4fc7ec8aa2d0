"""A recipe of your own: images blended with others of D, labelled as they were.

construct:
  blended: {recipe: "lab.recipes:Blend", model: standard, share: 0.3}
fit:
  blended: {seeds: [0, 1], epochs: 20, batch_size: 128, lr: 0.3, schedule: one_cycle, weight_decay: 5.0e-4}
"""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from notbugs.construction.recipe import Constructed
from notbugs.construction.settings import ConstructSettings
from notbugs.data.images import ImageData, Images


class BlendSettings(ConstructSettings):
    """The keys beside `recipe` in params.yaml."""

    share: float = Field(ge=0, le=1)
    """Share of the other image."""


class Blended:
    """D, with the other image of each drawn."""

    def __init__(self, data: Images, share: float, others: Tensor) -> None:
        self.data, self.share, self.others = data, share, others

    def part(self, rows: slice) -> Constructed:
        """The examples made from these rows of D."""
        given, other = self.data.select(rows), self.data.select(self.others[rows])
        images = (1 - self.share) * given.images + self.share * other.images
        made = ImageData(images, given.labels, given.class_names)
        return Constructed(made, true_labels=given.labels, start_index=self.others[rows], columns={})


class Blend:
    """What params.yaml names. All that is random is drawn in `set_up`, for all of D."""

    settings = BlendSettings
    labels = "source"

    @staticmethod
    def set_up(model: Any, data: Images, *, generator: torch.Generator, share: float) -> Blended:
        """The recipe, ready to make parts."""
        return Blended(data, share, torch.randint(len(data), (len(data),), generator=generator))
