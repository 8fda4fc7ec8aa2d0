"""A dataset on disk: a manifest, a few large safetensors shards and one row of facts an example.

    data/train/manifest.json            what it is, its settings, the checksum of every other file
    data/train/images-00000.safetensors images (n, C, H, W) float32, float16 or uint8 (255ths), labels (n,) int64
    data/train/examples.parquet         one row an example: where it came from, its labels, its norms

A construction is one such dataset for each source model: data/det/source-0, data/det/source-1.

Nothing is pickled. Checksums are compared when a dataset is opened, so a truncated or altered shard is named
before anything is computed from it.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor
from torch.utils.data import Dataset

from notbugs.data.images import ImageData, Shape, as_floats
from notbugs.runtime.config import SOURCE
from notbugs.runtime.errors import UserError
from notbugs.runtime.files import sha256, whole_file, whole_folder, write_json

if TYPE_CHECKING:
    import pandas as pd

SHARD_SIZE = 8192
"""Default number of images in a shard, unless SHARD_BYTES are fewer."""
SHARD_BYTES = 2**24
"""Default size of a shard's images at most. A writer holds one shard."""
DTYPES = {"float32": torch.float32, "float16": torch.float16, "uint8": torch.uint8}
Dtype = Literal["float32", "float16"]
"""Precision of a constructed dataset: bytes would cost 0.063 in L2 on 32-pixel images, more than is searched for."""
StoredDtype = Literal["float32", "float16", "uint8"]
"""Precision on disk. Pictures that came as bytes lose nothing as bytes."""

STORED: dict[str, StoredDtype] = {"F32": "float32", "F16": "float16", "U8": "uint8"}
"""Type of a tensor in safetensors' words -> in ours."""


class DatasetError(UserError):
    """A stored dataset is missing, incomplete or altered."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Shard(_Part):
    """One file of images."""

    file: str = Field(pattern=r"^images-\d{5}\.safetensors$")
    num_examples: int = Field(ge=1)
    sha256: str


class ExampleTable(_Part):
    """The per-example table."""

    file: Literal["examples.parquet"] = "examples.parquet"
    sha256: str


class Manifest(_Part):
    """What a stored dataset is."""

    format: Literal[1] = 1
    name: str
    """Name in the paper's words, such as "D_det"."""
    source: str
    """Where D came from, such as "digits"."""
    num_examples: int = Field(ge=1)
    image_shape: tuple[int, int, int]
    """(C, H, W)."""
    dtype: StoredDtype
    class_names: tuple[str, ...]
    shards: tuple[Shard, ...]
    examples: ExampleTable
    settings: dict[str, Any]
    """The settings that made it, as in params.yaml."""
    checksum: str | None = None
    """SHA-256 of all the other fields, so that an altered manifest is noticed; none in older ones."""

    def sealed(self) -> "Manifest":
        """The same with its checksum."""
        return self.model_copy(update={"checksum": self.digest()})

    def digest(self) -> str:
        """What `checksum` must be."""
        fields = self.model_dump(mode="json", exclude={"checksum"})
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


class StoredDataset(Dataset[tuple[Tensor, int]]):
    """A dataset opened by `load_dataset`: item i is (image (C, H, W) float32, label)."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def __reduce__(self) -> tuple[type["StoredDataset"], tuple[Path, Manifest]]:
        """For another process: it reads from disk what it needs."""
        return StoredDataset, (self.path, self.manifest)

    def __len__(self) -> int:
        return self.manifest.num_examples

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} out of range for {len(self)} examples")
        return self.__getitems__([index % len(self)])[0]

    def __getitems__(self, indices: list[int]) -> list[tuple[Tensor, int]]:
        """The items of a batch, read together: a torch DataLoader asks so."""
        part = self.select(torch.tensor(indices))
        return list(zip(part.images, part.labels.tolist(), strict=True))

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class, in label order."""
        return self.manifest.class_names

    @property
    def image_shape(self) -> Shape:
        """(C, H, W)."""
        return self.manifest.image_shape

    @cached_property
    def labels(self) -> Tensor:
        """Given labels of all examples, (N,) int64."""
        return torch.cat([_read(self.path / shard.file, "labels") for shard in self.manifest.shards])

    def select(self, indices: Tensor | slice) -> ImageData:
        """Some of the examples, read from their shards; memory grows with their number only.

        Args:
            indices: (M,) in any order, a mask (N,), or a slice of step 1.
        """
        rows = self._rows(indices)
        return _as_data(self.path, as_floats(self.raw(rows)), self.labels[rows], self.class_names)

    def raw(self, indices: Tensor | slice) -> Tensor:
        """Images of some of the examples as they are stored, (M, C, H, W); `as_floats` makes them float32."""
        rows = self._rows(indices)
        images = torch.empty(len(rows), *self.image_shape, dtype=DTYPES[self.manifest.dtype])
        shard_of = torch.bucketize(rows, self._ends, right=True)
        for number in shard_of.unique().tolist():
            shard, mine = self.manifest.shards[number], (shard_of == number).nonzero().flatten()
            first = int(self._ends[number]) - shard.num_examples
            images[mine] = _read_rows(self.path / shard.file, rows[mine] - first)
        return images

    @cached_property
    def _ends(self) -> Tensor:
        """Row behind the last one of each shard, (number of shards,)."""
        return torch.tensor([shard.num_examples for shard in self.manifest.shards]).cumsum(0)

    def _rows(self, indices: Tensor | slice) -> Tensor:
        if isinstance(indices, slice):
            return torch.arange(len(self))[indices]
        return indices.nonzero().flatten() if indices.dtype == torch.bool else indices

    def shards(self) -> Iterator[ImageData]:
        """The examples shard by shard, so that memory does not grow with the dataset."""
        for shard in self.manifest.shards:
            file = self.path / shard.file
            yield _as_data(file, as_floats(_read(file, "images")), _read(file, "labels"), self.class_names)

    def data(self) -> ImageData:
        """All examples in memory."""
        return self._data

    @cached_property
    def _data(self) -> ImageData:
        parts = list(self.shards())
        if len(parts) == 1:
            return parts[0]
        images = torch.cat([part.images for part in parts])
        labels = torch.cat([part.labels for part in parts])
        return ImageData(images, labels, self.manifest.class_names)

    @cached_property
    def examples(self) -> "pd.DataFrame":
        """One row an example, in the order of the images."""
        import pandas as pd

        try:
            table = pd.read_parquet(self.path / self.manifest.examples.file)
        except Exception as error:  # pyarrow raises many kinds for a damaged file
            raise DatasetError(f"{self.path / self.manifest.examples.file}: cannot be read: {error}") from None
        if len(table) != len(self):
            raise DatasetError(f"{self.path / self.manifest.examples.file}: {len(table)} rows for {len(self)} images")
        return table


def save_dataset(
    path: Path,
    data: ImageData,
    examples: "pd.DataFrame",
    *,
    name: str,
    source: str,
    settings: dict[str, Any],
    dtype: StoredDtype = "float32",
    shard_size: int | None = None,
) -> Manifest:
    """Write a dataset; an interrupted call leaves what was there before.

    Args:
        path: folder, made or replaced.
        data: the images and their given labels.
        examples: one row an example.
        name, source, settings: recorded in the manifest.
        dtype: float32, or float16 (error about 0.01 in L2 on 32-pixel images); uint8 only for pictures that came so.
        shard_size: images in a file; None takes as many as fit in 16 MiB, at most 8192.
    Raises: ValueError if there are no examples or the table has another length.
    """
    with whole_folder(path) as folder:
        writer = DatasetWriter(folder, dtype=dtype, shard_size=shard_size)
        writer.add(data)
        return writer.finish(examples, name=name, source=source, settings=settings)


class DatasetWriter:
    """Writes a dataset part by part; memory does not grow with it.

    Args:
        folder: an empty folder; `files.whole_folder` gives one that appears only when all is written.
        dtype: stored precision.
        shard_size: images in a file; None takes as many as fit in 16 MiB, at most 8192.
    """

    def __init__(self, folder: Path, *, dtype: StoredDtype = "float32", shard_size: int | None = None) -> None:
        self.folder = folder
        self.dtype: StoredDtype = dtype
        self.shard_size = shard_size
        self._shards: list[Shard] = []
        self._images: Tensor | None = None  # a shard, of which the first _filled are there
        self._labels: list[Tensor] = []
        self._filled = 0
        self._class_names: tuple[str, ...] = ()
        self._image_shape: tuple[int, ...] = ()

    def add(self, part: ImageData) -> None:
        """Append examples; full shards are written at once.

        Raises: ValueError if their shape or classes are not those of the parts before.
        """
        if not self._image_shape:
            self._class_names, self._image_shape = part.class_names, part.image_shape
        if (part.class_names, part.image_shape) != (self._class_names, self._image_shape):
            raise ValueError(f"parts of one dataset must be alike: {self._image_shape} and {part.image_shape}")
        if self.shard_size is None:
            self.shard_size = largest_shard(self._image_shape, self.dtype)
        start = 0
        while start < len(part):
            piece = part.select(slice(start, start + self.shard_size - self._filled))
            self._hold(piece)
            start += len(piece)
            if self._filled == self.shard_size:
                self._write_shard()

    def finish(self, examples: "pd.DataFrame", *, name: str, source: str, settings: dict[str, Any]) -> Manifest:
        """Write what is left, the table of the examples and the manifest.

        Raises: ValueError if there are no examples or the table has another length.
        """
        if self._filled:
            self._write_shard()
        return write_manifest(
            self.folder,
            self._shards,
            examples,
            class_names=self._class_names,
            name=name,
            source=source,
            settings=settings,
        )

    def _hold(self, piece: ImageData) -> None:
        """Put examples into the shard that is being filled."""
        if self._images is None:
            self._images = torch.empty(self.shard_size or 1, *self._image_shape, dtype=DTYPES[self.dtype])
        end = self._filled + len(piece)
        images = (piece.images * 255).round() if self.dtype == "uint8" else piece.images
        self._images[self._filled : end] = images
        self._labels.append(piece.labels.cpu())
        self._filled = end

    def _write_shard(self) -> None:
        assert self._images is not None
        images, labels = self._images[: self._filled], torch.cat(self._labels)
        self._shards.append(write_shard(self.folder, len(self._shards), images, labels))
        self._labels, self._filled = [], 0


def largest_shard(image_shape: tuple[int, ...], dtype: StoredDtype) -> int:
    """As many images as fit in 16 MiB, at most 8192."""
    return min(SHARD_SIZE, max(1, SHARD_BYTES // (DTYPES[dtype].itemsize * math.prod(image_shape))))


def write_shard(folder: Path, number: int, images: Tensor, labels: Tensor) -> Shard:
    """Write one file of images, whole or not at all; (n, C, H, W) in the stored precision and (n,), on the CPU."""
    from safetensors.torch import save_file

    file = folder / f"images-{number:05d}.safetensors"
    with whole_file(file) as temporary:
        save_file({"images": images, "labels": labels}, temporary)
    return Shard(file=file.name, num_examples=len(labels), sha256=sha256(file))


def write_manifest(
    folder: Path,
    shards: Sequence[Shard],
    examples: "pd.DataFrame",
    *,
    class_names: tuple[str, ...],
    name: str,
    source: str,
    settings: dict[str, Any],
) -> Manifest:
    """Make a dataset of written shards: the table of the examples and the manifest.

    Raises: ValueError if there are no examples or the table has another length.
    """
    count = sum(shard.num_examples for shard in shards)
    if count == 0 or len(examples) != count:
        raise ValueError(f"{name}: {count} images and {len(examples)} rows: need the same number, at least 1")
    table = folder / "examples.parquet"
    with whole_file(table) as temporary:
        examples.to_parquet(temporary, index=False)
    with _opened(folder / shards[0].file) as first:
        images = first.get_slice("images")
        _, channels, height, width = images.get_shape()
        dtype = STORED[images.get_dtype()]
    manifest = Manifest(
        name=name,
        source=source,
        num_examples=count,
        image_shape=(channels, height, width),
        dtype=dtype,
        class_names=class_names,
        shards=tuple(shards),
        examples=ExampleTable(sha256=sha256(table)),
        settings=settings,
    ).sealed()
    write_json(folder / "manifest.json", manifest.model_dump(mode="json"))
    return manifest


def source_folders(path: Path) -> dict[int, Path]:
    """Source seed -> folder of the dataset made from its model, in rising order; none if `path` is no construction."""
    names = (folder.name.removeprefix(SOURCE) for folder in path.glob(f"{SOURCE}*") if folder.is_dir())
    seeds = sorted(int(name) for name in names if name.isdecimal())
    return {seed: path / f"{SOURCE}{seed}" for seed in seeds}


def load_dataset(path: Path | str, *, verify: bool = True) -> StoredDataset:
    """Open a stored dataset.

    Args:
        path: its folder.
        verify: compare the checksum of every file with the manifest's.
    Raises: DatasetError naming the file that is missing, truncated or altered.
    """
    path = Path(path)
    try:
        text = (path / "manifest.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        parts = [folder.name for folder in source_folders(path).values()]
        if parts:
            raise DatasetError(
                f"{path}: holds a dataset for each source model: name one of {', '.join(parts)}"
            ) from None
        raise DatasetError(f"{path}: no dataset there (manifest.json is missing); `dvc repro` makes it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path / 'manifest.json'}: cannot be read: {error}") from None
    try:
        manifest = Manifest.model_validate(json.loads(text))
    except (ValidationError, ValueError, RecursionError) as error:
        first = str(error).splitlines()
        raise DatasetError(f"{path / 'manifest.json'}: not a manifest: {' '.join(first[:3])}") from None
    if sum(shard.num_examples for shard in manifest.shards) != manifest.num_examples:
        raise DatasetError(f"{path / 'manifest.json'}: shards do not add up to {manifest.num_examples} examples")
    if manifest.checksum not in (None, manifest.digest()):
        raise DatasetError(f"{path / 'manifest.json'}: altered (its checksum does not fit); make the dataset again")
    for shard in manifest.shards:
        _check(path / shard.file, shard.sha256, verify)
        _check_header(path / shard.file, shard, manifest)
    _check(path / manifest.examples.file, manifest.examples.sha256, verify)
    return StoredDataset(path, manifest)


def _check(file: Path, expected: str, verify: bool) -> None:
    try:
        if not verify:
            file.stat()
        elif sha256(file) != expected:
            raise DatasetError(f"{file}: truncated or altered (its SHA-256 is not the manifest's); make it again")
    except FileNotFoundError:
        raise DatasetError(f"{file}: missing, though the manifest names it; make the dataset again") from None
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror}") from None


def _check_header(file: Path, shard: Shard, manifest: Manifest) -> None:
    with _opened(file) as opened:
        images, labels = opened.get_slice("images"), opened.get_slice("labels")
        found = (*images.get_shape(), STORED.get(images.get_dtype())), (*labels.get_shape(), labels.get_dtype())
    expected = (shard.num_examples, *manifest.image_shape, manifest.dtype), (shard.num_examples, "I64")
    if found != expected:
        raise DatasetError(f"{file}: holds {found}, the manifest says {expected}; make the dataset again")


def _as_data(place: Path, images: Tensor, labels: Tensor, class_names: tuple[str, ...]) -> ImageData:
    try:
        return ImageData(images, labels, class_names)
    except ValueError as error:
        raise DatasetError(f"{place}: {error}; make the dataset again") from None


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A shard whose tensors are read when they are asked for."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as shard:
            yield shard
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError, LookupError) as error:
        raise DatasetError(f"{file}: cannot be read: {' '.join(str(error).split())[:300]}") from None


def _read(file: Path, name: str) -> Tensor:
    """All "images" of a shard, as stored, or all "labels"."""
    with _opened(file) as shard:
        found: Tensor = shard.get_tensor(name)
        return found


def _read_rows(file: Path, rows: Tensor) -> Tensor:
    """Some images of a shard, (n, C, H, W) as stored; rows: (n,). Neighbours are read together, one run uncopied."""
    ends = [0, *((rows.diff() != 1).nonzero().flatten() + 1).tolist(), len(rows)]
    runs = [(int(rows[a]), int(rows[b - 1]) + 1) for a, b in itertools.pairwise(ends)]
    with _opened(file) as shard:
        images = shard.get_slice("images")
        found = [images[start:stop] for start, stop in runs]
        return found[0] if len(found) == 1 else torch.cat(found)
