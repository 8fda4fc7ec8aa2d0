"""Datasets of other people, item by item: (picture or tensor, label), made into a pool of D.

A picture is one of Pillow's. A tensor is (C, H, W) or (H, W), uint8 of 255ths or floating point in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from notbugs.data.images import ImageData, Shape, as_floats
from notbugs.data.sources.base import Pictures, Pool, SourceError
from notbugs.data.sources.pictures import is_grey, squared
from notbugs.runtime.errors import one_line
from notbugs.runtime.progress import Track, silent

Channels = Literal["rgb", "grey"]
LABELS = ("targets", "labels", "_labels", "y")
"""Attributes in which datasets keep the labels of all items, one whole number each."""
SAMPLES = ("_samples", "samples")
"""Attributes in which datasets keep pairs of a file and a label."""


class MapStyle(Protocol):
    """What torch calls a map-style dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True)
class Form:
    """What the images are to be.

    Attributes:
        image_size: height and width that pictures are scaled and cropped to; None leaves their size.
        channels: colour or grey; None takes what the first picture has.
    """

    image_size: int | None = None
    channels: Channels | None = None

    def pixels(self, image: Any) -> Tensor:
        """An image as (C, H, W), uint8 of 255ths or float32.

        Raises: ValueError saying what it must be.
        """
        if isinstance(image, Tensor):
            return self._tensor(image)
        if not (hasattr(image, "convert") and hasattr(image, "size")):  # Pillow is not imported for tensors alone
            raise ValueError(f"an image must be a picture of Pillow's or a tensor (C, H, W), not {_kind(image)}")
        grey = is_grey(image) if self.channels is None else self.channels == "grey"
        return torch.from_numpy(np.array(squared(image, self.image_size, grey=grey)))

    def _tensor(self, image: Tensor) -> Tensor:
        image = image[None] if image.ndim == 2 else image
        if image.ndim != 3 or not (image.dtype == torch.uint8 or image.is_floating_point()):
            raise ValueError(
                f"an image must be (C, H, W) uint8 or floating point, not {tuple(image.shape)} {image.dtype}"
            )
        if self.image_size not in (None, image.shape[1]) or self.image_size not in (None, image.shape[2]):
            raise ValueError(f"data.image_size scales pictures, and this is a tensor {tuple(image.shape)}")
        if self.channels is not None and image.shape[0] != (1 if self.channels == "grey" else 3):
            raise ValueError(
                f"data.channels: {self.channels} turns pictures, and this is a tensor {tuple(image.shape)}"
            )
        if image.dtype == torch.uint8:
            return image
        if not (float(image.min()) >= 0.0 and float(image.max()) <= 1.0):
            raise ValueError(f"values must lie in [0, 1], not [{float(image.min()):g}, {float(image.max()):g}]")
        return image.detach().cpu().float()


@dataclass(frozen=True)
class Items:
    """A map-style dataset as a pool, whose items are asked for when they are wanted.

    Attributes:
        dataset: item i is (image, label).
        labels: (N,), int64.
        class_names: one name a class, in label order.
        form: what the images become.
        image_shape: (C, H, W), of the first.
        dtype: uint8 or float32, of the first.
        name: what errors call it.
    """

    dataset: MapStyle
    labels: Tensor
    class_names: tuple[str, ...]
    form: Form
    image_shape: Shape
    dtype: torch.dtype
    name: str

    @property
    def source_indices(self) -> Tensor:
        """(N,), int64: the place in the dataset."""
        return torch.arange(len(self))

    @property
    def origins(self) -> tuple[str, ...]:
        """Nothing: items have no names."""
        return ("",) * len(self)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor | slice) -> ImageData:
        """See `Images`.

        Raises: SourceError naming the first item that is not as it must be.
        """
        return ImageData(as_floats(self.raw(indices)), self.labels[indices], self.class_names)

    def raw(self, indices: Tensor | slice) -> Tensor:
        """See `Images`."""
        rows = torch.arange(len(self))[indices].tolist()
        images = torch.empty(len(rows), *self.image_shape, dtype=self.dtype)
        for place, row in enumerate(rows):
            image, label = item(self.dataset, row, self.form, self.name)
            _require_like_first(image, self.image_shape, self.dtype, row, self.name)
            if label != int(self.labels[row]):
                listed = int(self.labels[row])
                raise SourceError(
                    f"{self.name}: item {row} has label {label}, and its list of all labels says {listed}"
                )
            images[place] = image
        return images


def pool_of(dataset: Any, class_names: Sequence[str] | None, form: Form, name: str, progress: Track = silent) -> Pool:
    """A map-style dataset as a pool.

    Its labels are taken from one of LABELS or SAMPLES, and its images read when they are asked for. Where it has none
    of these, all of it is read at once.

    Args:
        dataset: item i is (image, label), label a whole number from 0.
        class_names: one a label; None takes the numbers.
        form: what the images become.
        name: what errors call it.
        progress: shows the reading.
    Raises: SourceError if it is empty, or an item is not as it must be.
    """
    try:
        count = len(dataset)
        dataset.__getitem__  # noqa: B018 (asked whether it is there)
    except (TypeError, AttributeError, NotImplementedError):
        raise SourceError(f"{name}: needs a map-style dataset, with a length and items, not {_kind(dataset)}") from None
    if count == 0:
        raise SourceError(f"{name}: holds no images")
    labels = labels_of(dataset)
    names = () if labels is None else named(labels, class_names, name)
    first, _ = item(dataset, 0, form, name)
    channels, height, width = first.shape
    if labels is not None:
        return Items(dataset, labels, names, form, (channels, height, width), first.dtype, name)
    images, found = torch.empty(count, *first.shape, dtype=first.dtype), torch.empty(count, dtype=torch.int64)
    for row in progress(range(count), f"read {name}, images", count):
        image, label = item(dataset, row, form, name)
        _require_like_first(image, first.shape, first.dtype, row, name)
        images[row], found[row] = image, label
    return as_pictures(images, found, named(found, class_names, name))


def as_pictures(images: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> Pictures:
    """Images in memory, (N, C, H, W) uint8 of 255ths or float32 in [0, 1], as a pool."""
    white = 255 if images.dtype == torch.uint8 else 1
    return Pictures(images, labels, class_names, torch.arange(len(labels)), ("",) * len(labels), white)


def labels_of(dataset: Any) -> Tensor | None:
    """The labels of all items, (N,) int64, if the dataset keeps them; images are not read for them."""
    for attribute in LABELS:
        found = _whole_numbers(getattr(dataset, attribute, None), len(dataset))
        if found is not None:
            return found
    for attribute in SAMPLES:
        pairs = getattr(dataset, attribute, None)
        if isinstance(pairs, list) and all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
            return _whole_numbers([pair[1] for pair in pairs], len(dataset))
    return None


def _whole_numbers(given: Any, count: int) -> Tensor | None:
    """(count,) int64 of a list, an array or a tensor of whole numbers; None for anything else."""
    if given is None or isinstance(given, str | dict) or callable(given):
        return None
    try:
        values = np.asarray(given)
    except (TypeError, ValueError, RuntimeError):
        return None
    if values.shape != (count,) or values.dtype.kind not in "iu":
        return None
    return torch.from_numpy(values.astype(np.int64))


def named(labels: Tensor, class_names: Sequence[str] | None, name: str) -> tuple[str, ...]:
    """A name for each class: those given, or the numbers.

    Raises: SourceError if a label has no name.
    """
    low, high = int(labels.min()), int(labels.max())
    count = high + 1 if class_names is None else len(class_names)
    if low < 0 or high >= count:
        raise SourceError(f"{name}: labels lie in {low}..{high}, not 0..{count - 1}")
    return tuple(map(str, range(count))) if class_names is None else tuple(class_names)


def item(dataset: MapStyle, row: int, form: Form, name: str) -> tuple[Tensor, int]:
    """One item: its image (C, H, W), uint8 or float32, and its label.

    Raises: SourceError, in one line, for whatever the dataset raises, and for an item that is no pair.
    """
    found = attempt(lambda: dataset[row], f"{name}: item {row}")
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise SourceError(f"{name}: item {row} must be (image, label), not {_kind(found)}")
    image, label = found
    try:
        whole = int(label)
    except (TypeError, ValueError, RuntimeError):
        whole = -1
    if whole < 0 or whole != label:
        raise SourceError(
            f"{name}: item {row}: its label must be a whole number from 0, not {_kind(label)} {label!s:.40}"
        )
    return attempt(lambda: form.pixels(image), f"{name}: item {row}"), whole


def attempt(work: Callable[[], Any], what: str) -> Any:
    """What the work gives, which is other people's code or runs on other people's files.

    Raises: SourceError, in one line that begins with `what`, for whatever it raises.
    """
    try:
        return work()
    except (SourceError, MemoryError):
        raise
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise SourceError(f"{what}: {kind}{one_line(error)}") from None


def _require_like_first(image: Tensor, shape: Sequence[int], dtype: torch.dtype, row: int, name: str) -> None:
    if tuple(image.shape) == tuple(shape) and image.dtype == dtype:
        return
    have = f"{tuple(image.shape)} {image.dtype}".replace("torch.", "")
    must = f"{tuple(shape)} {dtype}".replace("torch.", "")
    key = "data.channels" if image.shape[1:] == tuple(shape)[1:] else "data.image_size"
    raise SourceError(
        f"{name}: item {row} is {have}, and the first {must}: all images must be alike; {key} makes pictures so"
    )


def _kind(value: Any) -> str:
    return f"a {type(value).__name__}"
