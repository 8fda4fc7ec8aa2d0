"""What every source shares: its error, the pictures as read, and the choice of a subset."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from notbugs.errors import UserError
from notbugs.images import ImageData, Images, make_generator, stratified_subset

_CHUNK = 4096
"""Pictures converted to float32 at a time, so that no second copy of all of them is held."""


class SourceError(UserError):
    """The base dataset cannot be had: something is missing, damaged or not as it must be."""


class Pool(Protocol):
    """Labelled pictures, in memory (`Pictures`) or in files."""

    @property
    def labels(self) -> Tensor:
        """(N,), int64."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, in label order."""
        ...

    @property
    def source_indices(self) -> Tensor:
        """(N,), int64, place of each picture in the source's own order."""
        ...

    @property
    def origins(self) -> tuple[str, ...]:
        """N file names, "" where there is none."""
        ...

    def images(self, indices: Tensor) -> Images:
        """The pictures at `indices` (M,)."""
        ...


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures as they were read, one byte a value; drawn ones as they were drawn.

    Attributes:
        pixels: (N, C, H, W), uint8 in 0..white, or float32 in [0, 1] with white = 1.
        labels: (N,), int64.
        class_names: one name a class, in label order.
        source_indices: (N,), int64, place of each picture in the source's own order.
        origins: N file names, "" where there is none.
        white: the value that becomes 1.0.
    """

    pixels: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    source_indices: Tensor
    origins: tuple[str, ...]
    white: int = 255

    def select(self, indices: Tensor) -> "Pictures":
        """The pictures at `indices` (M,)."""
        origins = tuple(self.origins[i] for i in indices.tolist())
        return Pictures(
            self.pixels[indices],
            self.labels[indices],
            self.class_names,
            self.source_indices[indices],
            origins,
            self.white,
        )

    def images(self, indices: Tensor) -> ImageData:
        """The pictures at `indices` (M,) as float32 in [0, 1]."""
        images = torch.empty((len(indices), *self.pixels.shape[1:]), dtype=torch.float32)
        for start in range(0, len(indices), _CHUNK):
            part = slice(start, start + _CHUNK)
            images[part] = self.pixels[indices[part]]
        images /= self.white
        return ImageData(images, self.labels[indices], self.class_names)


def limited(labels: Tensor, maximum: int | None, *, key: str, seed: int) -> Tensor:
    """Sorted indices of at most `maximum` examples, the classes in their own proportions.

    Args:
        labels: (N,).
        maximum: None for all.
        key: the setting that the maximum comes from ("max_train"), which also names the random stream.
        seed: of the choice.
    Raises: SourceError if there are more classes than `maximum`.
    """
    if maximum is None or maximum >= len(labels):
        return torch.arange(len(labels))
    classes = len(labels.unique())
    if maximum < classes:
        raise SourceError(f"data.{key} = {maximum}: must be at least {classes}, one image a class")
    return stratified_subset(labels, maximum, make_generator(seed, "data", key))
