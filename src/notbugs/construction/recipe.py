"""What a recipe is, and what it makes of a part of D."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from notbugs.data.images import ImageData
from notbugs.data.store import DTYPES, Dtype
from notbugs.runtime.errors import UserError


class RecipeError(UserError):
    """A recipe cannot be set up, or does not give what a recipe must. Its message is one line."""


@dataclass(frozen=True)
class Constructed:
    """A constructed dataset and, an example a row, how it came about.

    Attributes:
        data: images (N, C, H, W) and the labels given to them (N,).
        true_labels: (N,) labels of the source images.
        start_index: (N,) row of x' in D; -1 where there is none.
        columns: further per-example numbers, (N,) each, by the names of examples.parquet.
    """

    data: ImageData
    true_labels: Tensor
    start_index: Tensor
    columns: dict[str, Tensor]

    def rounded(self, dtype: Dtype) -> "Constructed":
        """The same with the images as they will be stored, so that what is said of them holds for the stored ones."""
        images = self.data.images.to(DTYPES[dtype]).float()
        return replace(self, data=replace(self.data, images=images))


def joined(made: Sequence[Constructed]) -> Constructed:
    """Parts in their order, as one.

    Raises: ValueError if there is none.
    """
    if not made:
        raise ValueError("no parts to join")
    data = ImageData(
        torch.cat([part.data.images for part in made]),
        torch.cat([part.data.labels for part in made]),
        made[0].data.class_names,
    )
    columns = {}
    for name in made[0].columns:
        columns[name] = torch.cat([part.columns[name] for part in made])
    true_labels = torch.cat([part.true_labels for part in made])
    return Constructed(data, true_labels, torch.cat([part.start_index for part in made]), columns)


class Recipe(Protocol):
    """A dataset that can be made in parts, in any order: everything random was drawn when it was set up."""

    def part(self, rows: slice) -> Constructed:
        """The examples made from these rows of D."""
        ...


def pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖₂ of each pair of images: (N, C, H, W) twice -> (N,)."""
    return (a - b).flatten(1).norm(dim=1)
