"""What every source shares: its error, the pictures as read, and the choice of a subset."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from notbugs.data.images import ImageData, Images, Shape, make_generator, stratified_subset
from notbugs.runtime.errors import UserError


class SourceError(UserError):
    """The base dataset cannot be had: something is missing, damaged or not as it must be."""


class Pool(Images, Protocol):
    """The pictures of a source, in memory (`Pictures`) or in files; float32 when they are asked for."""

    @property
    def source_indices(self) -> Tensor:
        """(N,), int64, place of each picture in the source's own order."""
        ...

    @property
    def origins(self) -> tuple[str, ...]:
        """N file names, "" where there is none."""
        ...


@dataclass(frozen=True)
class Pictures:
    """Labelled pictures as they were read, one byte a value; drawn ones as they were drawn. All are in memory.

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

    @property
    def image_shape(self) -> Shape:
        """(C, H, W)."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor | slice) -> ImageData:
        """Some of the pictures as float32 in [0, 1]."""
        return ImageData(self.pixels[indices].float() / self.white, self.labels[indices], self.class_names)

    def raw(self, indices: Tensor | slice) -> Tensor:
        """Some of the pictures, as bytes where these are 255ths; else float32 in [0, 1]."""
        return self.pixels[indices] if self.white == 255 else self.select(indices).images


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
