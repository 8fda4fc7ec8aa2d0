"""Images with labels, in memory or read part by part, and seeded, stratified splits of them."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Shape = tuple[int, int, int]
"""(C, H, W) of one image."""
PART_BYTES = 2**24
"""Bytes of images, as float32, that are worked on at a time where all of a dataset is gone through."""


class Images(Protocol):
    """Labelled images that are read part by part: in memory (`ImageData`) or on disk (`store.StoredDataset`)."""

    @property
    def image_shape(self) -> Shape:
        """(C, H, W)."""
        ...

    @property
    def labels(self) -> Tensor:
        """(N,), int64, all in memory."""
        ...

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, in label order."""
        ...

    def __len__(self) -> int: ...

    def select(self, indices: Tensor | slice) -> "ImageData":
        """Some of the examples, in memory; indices: (M,), a mask (N,), or a slice of step 1."""
        ...

    def raw(self, indices: Tensor | slice) -> Tensor:
        """Images (M, C, H, W) in the type that they are kept in; `as_floats` makes them what `select` gives."""
        ...


def as_floats(images: Tensor) -> Tensor:
    """Images as float32 in [0, 1]; bytes are 255ths."""
    return images.float() / 255 if images.dtype == torch.uint8 else images.float()


def part_size(image_shape: Shape) -> int:
    """Images in PART_BYTES, at least one."""
    return max(1, PART_BYTES // (4 * math.prod(image_shape)))


def part_rows(data: Images) -> list[slice]:
    """The rows of each part that `by_parts` gives."""
    count, size = len(data), part_size(data.image_shape)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def by_parts(data: Images) -> Iterator["ImageData"]:
    """All of a dataset in order, PART_BYTES at a time, so that memory does not grow with it."""
    yield from map(data.select, part_rows(data))


def fingerprints(images: Tensor) -> Tensor:
    """A number for the content of each image, by which equal ones are found: (N, ...) -> (N,) int64.

    64 bits of a hash: among a million different images two share one with a chance of 3e-8.
    """
    rows = images.contiguous().cpu().numpy().reshape(len(images), -1)
    digests = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in rows)
    numbers = [int.from_bytes(digest, "little", signed=True) for digest in digests]
    return torch.tensor(numbers, dtype=torch.int64)


@dataclass(frozen=True)
class ImageData:
    """Labelled images in memory.

    Attributes:
        images: (N, C, H, W), float32 in [0, 1].
        labels: (N,), int64 in 0..len(class_names) - 1.
        class_names: one name a class, in label order.
    Raises: ValueError if shapes, dtypes or ranges do not fit.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if images.ndim != 4 or images.dtype != torch.float32:
            raise ValueError(f"images must be (N, C, H, W) float32, not {tuple(images.shape)} {images.dtype}")
        if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
            raise ValueError(f"labels must be ({len(images)},) int64, not {tuple(labels.shape)} {labels.dtype}")
        if len(images) and not (float(images.min()) >= 0.0 and float(images.max()) <= 1.0):
            raise ValueError(f"images must lie in [0, 1], not [{float(images.min())}, {float(images.max())}]")
        if len(labels) and not (int(labels.min()) >= 0 and int(labels.max()) < len(self.class_names)):
            raise ValueError(f"labels must lie in 0..{len(self.class_names) - 1}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def image_shape(self) -> Shape:
        """(C, H, W)."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def select(self, indices: Tensor | slice) -> "ImageData":
        """The examples at `indices` (M,), of a slice, or where a mask (N,) is true."""
        return ImageData(self.images[indices], self.labels[indices], self.class_names)

    def raw(self, indices: Tensor | slice) -> Tensor:
        """The images at `indices`, float32."""
        return self.images[indices]

    def to(self, device: torch.device) -> "ImageData":
        """The same examples on another device."""
        return ImageData(self.images.to(device), self.labels.to(device), self.class_names)


@dataclass(frozen=True)
class Subset:
    """Some examples of a dataset, read when they are asked for.

    Attributes:
        data: the whole dataset.
        indices: (N,), int64, rows of it.
    """

    data: Images
    indices: Tensor

    @property
    def image_shape(self) -> Shape:
        """(C, H, W)."""
        return self.data.image_shape

    @property
    def labels(self) -> Tensor:
        """(N,), int64."""
        return self.data.labels[self.indices]

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, in label order."""
        return self.data.class_names

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, indices: Tensor | slice) -> ImageData:
        """See `Images`."""
        return self.data.select(self.indices[indices])

    def raw(self, indices: Tensor | slice) -> Tensor:
        """See `Images`."""
        return self.data.raw(self.indices[indices])


def make_generator(seed: int, *purpose: str | int) -> torch.Generator:
    """A CPU generator for one purpose: streams of different purposes are independent.

    The purpose is hashed into the seed, so adding a stream never shifts another.
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def stratified_split(labels: Tensor, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Split indices so that every class gives the same share to the second part.

    Args:
        labels: (N,).
        fraction: share of the second part, 0 < fraction < 1; each class gives round(fraction * its size),
            at least one and never all.
        generator: source of the shuffle.
    Returns: sorted indices of the first and of the second part.
    Raises: ValueError if the fraction is out of range, there are no examples, or a class has fewer than two.
    """
    if not 0.0 < fraction < 1.0:
        raise ValueError(f"fraction must be in (0, 1), not {fraction}")
    if len(labels) == 0:
        raise ValueError("no examples to split")
    second = []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero().flatten()
        if len(members) < 2:
            raise ValueError(f"class {label} has {len(members)} example: too few to split")
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        order = torch.randperm(len(members), generator=generator)
        second.append(members[order[:count]])
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[torch.cat(second)] = True
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


def stratified_subset(labels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Sorted indices of `size` examples with the classes in their own proportions, at least one of each.

    Raises: ValueError if there are fewer than `size` examples or more classes than `size`.
    """
    if size == len(labels):
        return torch.arange(size)
    classes, counts = labels.unique(return_counts=True)
    if not len(classes) <= size < len(labels):
        raise ValueError(f"size must be in {len(classes)}..{len(labels)}, not {size}")
    quota, remainder = counts * size // len(labels), counts * size % len(labels)  # (C,) exact, in integers
    by_remainder = torch.argsort(remainder, descending=True, stable=True)
    quota[by_remainder[: size - int(quota.sum())]] += 1
    for lacking in (quota == 0).nonzero().flatten().tolist():  # too small a class for a place takes the largest's
        quota[quota.argmax()] -= 1
        quota[lacking] = 1
    chosen = []
    for label, count in zip(classes.tolist(), quota.tolist(), strict=True):
        members = (labels == label).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:count]])
    return torch.cat(chosen).sort().values
