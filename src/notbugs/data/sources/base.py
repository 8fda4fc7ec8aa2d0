"""What every source shares: what it is, its error, the pictures as read, and the choice of a subset."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from notbugs.data.images import ImageData, Images, Shape, make_generator, stratified_subset
from notbugs.runtime.errors import UserError
from notbugs.runtime.progress import Track, silent

RAW_FOLDER = "data/raw"
"""Where downloads go, relative to the project."""


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
class Where:
    """Where a source is read.

    Attributes:
        root: the project's folder, which `data.path` is relative to and which holds data/raw.
        seed: of what a source draws.
        progress: shows how far it is.
    """

    root: Path
    seed: int
    progress: Track = silent

    @property
    def raw(self) -> Path:
        """Where downloads go."""
        return self.root / RAW_FOLDER

    def place(self, path: str) -> Path:
        """Where `data.path` leads: relative to the project, or from the user's home (~), as in a shell."""
        try:
            return self.root / Path(path).expanduser()
        except RuntimeError:  # ~name of somebody who has no account here
            return self.root / path

    def existing(self, path: str, what: str) -> Path:
        """The same.

        Raises: SourceError if nothing is there; `what` says what must be.
        """
        found = self.place(path)
        if not found.exists():
            raise SourceError(f"params.yaml: data.path = {path!r}: nothing there; must be {what}")
        return found


@dataclass(frozen=True)
class Found:
    """What a source holds.

    Attributes:
        name: of D, such as "folder:pets"; no path.
        pool: the pictures to learn from, which become train and validation.
        test: the test set; None takes `data.test_fraction` of the pool, by class.
        skipped: what was left out, with the reason.
    """

    name: str
    pool: Pool
    test: Pool | None
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """Where D can come from.

    Attributes:
        read: called with a `Where`, and with the settings that it reads by their names.
        reads: settings of the section `data` that `read` is given. Those that no other source reads must be left out
            elsewhere.
        needs: settings that must be given -> what they are.
        in_bytes: whether all values are 255ths, which uint8 holds; None where the data decides.
    """

    read: Callable[..., Found]
    reads: tuple[str, ...] = ()
    needs: Mapping[str, str] = field(default_factory=dict)
    in_bytes: bool | None = True


@dataclass(frozen=True)
class Chosen:
    """Some pictures of a pool, perhaps under other labels; read when they are asked for.

    Attributes:
        pool: all pictures.
        rows: (N,), int64, rows of the pool.
        labels: (N,), int64.
        class_names: one name a class, in label order.
    """

    pool: Pool
    rows: Tensor
    labels: Tensor
    class_names: tuple[str, ...]

    @property
    def image_shape(self) -> Shape:
        """(C, H, W)."""
        return self.pool.image_shape

    @property
    def source_indices(self) -> Tensor:
        """See `Pool`."""
        return self.pool.source_indices[self.rows]

    @property
    def origins(self) -> tuple[str, ...]:
        """See `Pool`."""
        names = self.pool.origins
        return tuple(names[row] for row in self.rows.tolist())

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: Tensor | slice) -> ImageData:
        """See `Images`."""
        images = self.pool.select(self.rows[indices]).images
        return ImageData(images, self.labels[indices], self.class_names)

    def raw(self, indices: Tensor | slice) -> Tensor:
        """See `Images`."""
        return self.pool.raw(self.rows[indices])


def part_of(pool: Pool, rows: Tensor) -> Chosen:
    """The pictures of some rows, under the labels that they have."""
    return Chosen(pool, rows, pool.labels[rows], pool.class_names)


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
