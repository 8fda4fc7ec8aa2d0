"""What all formats share: their error, what is written and read, and folders that are never overwritten."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

import pandas as pd
from torch import Tensor

from notbugs.data.store import DTYPES, StoredDataset
from notbugs.runtime.errors import UserError
from notbugs.runtime.files import whole_folder

MANIFEST = "notbugs.json"
"""The manifest of the stored dataset, as it was, in the folder of an export."""
EXAMPLES = "examples.parquet"
"""The table of the stored dataset, as it was, in the folder of an export."""
CARD = "README.md"
MAX_EXAMPLES = 20_000_000
MAX_CLASSES = 100_000
MAX_SIDE = 4096
"""Pixels; larger images are not imported."""
CHUNK = 256
"""Images that are read at a time."""


class FormatError(UserError):
    """A dataset cannot be exported, or what is to be imported is damaged or not what it must be."""


@dataclass(frozen=True)
class Rounding:
    """What an 8-bit export lost, pixel units on [0, 1].

    Attributes:
        value: largest difference of a pixel value.
        image: largest L2 distance between an image and its rounded copy.
    """

    value: float
    image: float


@dataclass(frozen=True)
class Written:
    """What a format says of the files it wrote.

    Attributes:
        files: what lies where, one line of Markdown.
        loading: Python that loads it, run in the folder; the dataset ends up in the name `dataset`.
        rounding: what was lost; None if every bit was kept.
        front_matter: for the card's YAML head.
    """

    files: str
    loading: str
    rounding: Rounding | None = None
    front_matter: str = ""


@dataclass(frozen=True)
class Foreign:
    """A dataset in another format, opened.

    Attributes:
        labels: (N,) int64.
        images: parts (n, C, H, W) in the order of the labels: uint8 (0..255), float16 or float32 (0..1).
        class_names: None if the format does not tell.
        origins: file name of every image, None if they lie together.
        table: what else it says of every example.
        exact: False if its images are a rounded copy, as 8-bit pictures are.
    """

    labels: Tensor
    images: Iterator[Tensor]
    class_names: tuple[str, ...] | None = None
    origins: tuple[str, ...] | None = None
    table: pd.DataFrame | None = None
    exact: bool = True


class Format(Protocol):
    """What the module of a format offers."""

    def write(self, data: StoredDataset, folder: Path, *, encoding: str) -> Written:
        """Write the images and labels into an empty folder, shard by shard."""
        ...

    def read(self, folder: Path, *, split: str | None) -> Foreign:
        """Open the folder; images are read when they are asked for.

        Raises: FormatError naming the file and what is wrong with it.
        """
        ...


def exported_dtype(data: StoredDataset) -> Literal["float16", "float32"]:
    """Precision of an export: the stored one, and float32, which holds every 255th, for images stored as bytes."""
    return "float16" if data.manifest.dtype == "float16" else "float32"


def exported_parts(data: StoredDataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (n, C, H, W) in `exported_dtype` and labels (n,), shard by shard."""
    dtype = DTYPES[exported_dtype(data)]
    for part in data.shards():
        yield part.images.to(dtype), part.labels


def get_format(name: str) -> Format:
    """The module of a format in FORMATS."""
    module: Format = import_module(f"notbugs.exchange.{name}")
    return module


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever a library raises over a damaged or hostile file into one line that names it.

    Raises: FormatError.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # readers of damaged files raise errors of every kind
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FormatError(f"{path}: cannot be read: {reason}") from None


def refuse_taken(path: Path) -> None:
    """Raises: FormatError unless nothing, or an empty folder, is at `path`."""
    if path.is_symlink() or path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise FormatError(f"--out {path}: something is there already, and nothing is overwritten; name a new folder")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `path`, which must be missing or empty, if the block ends well.

    Raises: FormatError if something is there; WriteError if the disk is full or read-only.
    """
    refuse_taken(path)
    with whole_folder(path) as folder:
        yield folder
