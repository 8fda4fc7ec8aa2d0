"""A dataset in our own format as D: what `notbugs import` made of somebody else's, or what another project holds."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from notbugs.data.images import ImageData, Shape
from notbugs.data.sources.base import Found, Where
from notbugs.data.store import StoredDataset, load_dataset

TRAIN, TEST = "train", "test"
"""Folders of a pair of datasets."""


@dataclass(frozen=True)
class Kept:
    """A stored dataset as a pool, read from its shards when it is asked for."""

    data: StoredDataset

    @property
    def labels(self) -> Tensor:
        """(N,), int64: those that it gives."""
        return self.data.labels

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, in label order."""
        return self.data.class_names

    @property
    def image_shape(self) -> Shape:
        """(C, H, W)."""
        return self.data.image_shape

    @property
    def source_indices(self) -> Tensor:
        """(N,), int64: the row in the dataset."""
        return torch.arange(len(self))

    @property
    def origins(self) -> tuple[str, ...]:
        """What its table says, "" where it says nothing."""
        table = self.data.examples
        if "origin" not in table:
            return ("",) * len(self)
        return tuple(str(origin) for origin in table["origin"])

    def __len__(self) -> int:
        return len(self.data)

    def select(self, indices: Tensor | slice) -> ImageData:
        """See `Images`."""
        return self.data.select(indices)

    def raw(self, indices: Tensor | slice) -> Tensor:
        """See `Images`; half precision as float32, which holds it."""
        images = self.data.raw(indices)
        return images.float() if images.dtype == torch.float16 else images


def read_stored(where: Where, *, path: str) -> Found:
    """Open a dataset, which is one pool; or a folder with datasets train/ and test/ in it.

    Args:
        where: the project, the seed, the progress.
        path: of the folder.
    Raises: SourceError if nothing is there; DatasetError if files are missing or altered.
    """
    place = where.existing(path, "a stored dataset (`notbugs import` makes one), or a folder with train/ and test/")
    name = f"stored:{place.resolve().name}"
    if not _is_pair(place):
        return Found(name, Kept(load_dataset(place)), None)
    train, test = (Kept(load_dataset(place / part)) for part in (TRAIN, TEST))
    others = sorted(folder.name for folder in place.iterdir() if (folder / "manifest.json").is_file())
    return Found(name, train, test, [f"dataset {other}" for other in others if other not in (TRAIN, TEST)])


def _is_pair(place: Path) -> bool:
    return not (place / "manifest.json").exists() and all((place / part).is_dir() for part in (TRAIN, TEST))
