"""Datasets of Hugging Face: of its hub, by `datasets` (the extra `huggingface`); or local parquet files, without it."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from notbugs.data.sources import parquet
from notbugs.data.sources.base import Found, Pool, SourceError, Where
from notbugs.data.sources.items import Channels, Form, attempt, pool_of
from notbugs.data.sources.pictures import opened

IMAGES = ("image", "images", "img", "picture")
LABELS = ("label", "labels", "fine_label", "class")
"""Names that the columns of images and labels usually have."""
TESTS = ("test", "validation", "valid", "val")
"""Names of splits that serve as the test set: the first that is there."""


class Rows:
    """A table in memory as a map-style dataset: (picture or tensor, label).

    Args:
        images: column of encoded pictures, or of nested lists.
        labels: (N,), int64.
    """

    def __init__(self, images: pa.ChunkedArray, labels: Tensor) -> None:
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        one, label = self.images.slice(row, 1).combine_chunks(), int(self.labels[row])
        if isinstance(one, pa.ChunkedArray):  # of an extension type
            one = one.chunk(0)
        if not parquet.is_encoded(one.type):
            return parquet.arrays(one)[0], label
        content = (one[0].as_py() or {}).get("bytes")
        if not isinstance(content, bytes):
            raise ValueError("only the name of a file, not the picture itself")
        return opened(content), label


class HubRows:
    """A dataset of `datasets` whose pictures it decodes, as a map-style dataset."""

    def __init__(self, dataset: Any, image: str, labels: Tensor) -> None:
        self.dataset, self.image, self.labels = dataset.select_columns([image]), image, labels

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self.dataset[row][self.image], int(self.labels[row])


def read_local(
    where: Where,
    *,
    path: str,
    splits: Mapping[str, str] | None,
    columns: Mapping[str, str] | None,
    image_size: int | None,
    channels: Channels | None,
) -> Found:
    """Read a parquet file, which is one pool, or a folder of them, whose names begin with their splits'.

    Args:
        where: the project, the seed, the progress.
        path: of the file or folder.
        splits: {"train": ..., "test": ...}; None takes train and the first of TESTS.
        columns: {"image": ..., "label": ...}; None takes what is called as usual.
        image_size: that pictures are scaled and cropped to; None for those that are all alike.
        channels: None takes what the first picture has.
    Raises: SourceError if files are damaged, or columns are not there.
    """
    place = where.existing(path, "a parquet file, or a folder of them")
    files = [place] if place.is_file() else sorted(place.rglob("*.parquet"))
    by_split: dict[str, list[Path]] = {}
    for file in files:
        by_split.setdefault("train" if place.is_file() else parquet.split_of(file, place), []).append(file)
    name = f"huggingface:{place.stem if place.is_file() else place.resolve().name}"
    if not by_split:
        raise SourceError(f"{place}: no .parquet files in it")
    tables: dict[str, tuple[pa.Table, str]] = {}
    names: tuple[str, ...] | None = None
    for part, split in _parts(by_split, splits, name).items():
        found = [attempt(partial(pq.read_table, file, partitioning=None), str(file)) for file in by_split[split]]
        table = attempt(partial(pa.concat_tables, found), f"{name}: split {split}")
        image, label = _columns(table.column_names, columns, name)
        names = names or attempt(partial(parquet.class_names, table.schema, label), f"{name}: split {split}")
        tables[part] = table.select([image, label]).rename_columns([_IMAGE, _LABEL]), split
    labels, names = _labels({part: table.column(_LABEL) for part, (table, _) in tables.items()}, names, name)
    pools: dict[str, Pool] = {}
    for part, (table, split) in tables.items():
        rows = Rows(table.column(_IMAGE), labels[part])
        pools[part] = pool_of(rows, names, Form(image_size, channels), f"{name}: split {split}")
    return Found(name, pools["train"], pools.get("test"))


_IMAGE, _LABEL = "image", "label"


def read_hub(
    hub_name: str,
    where: Where,
    *,
    splits: Mapping[str, str] | None,
    columns: Mapping[str, str] | None,
    image_size: int | None,
    channels: Channels | None,
    kwargs: Mapping[str, Any] | None,
) -> Found:
    """Read a dataset of the hub, downloading it where it is not in data/raw/huggingface yet.

    Args: as `read_local`, and
        hub_name: "mnist", "owner/name".
        kwargs: further arguments of `datasets.load_dataset`, such as `name` and `revision`.
    Raises: SourceError, in one line, if it cannot be had.
    """
    import datasets

    what = f"huggingface:{hub_name}"
    taken = {"path", "cache_dir", "split", "streaming"} & set(kwargs or {})
    if taken:
        raise SourceError(f"params.yaml: data.kwargs: {', '.join(sorted(taken))}: must be left out")
    found = attempt(
        lambda: datasets.load_dataset(hub_name, cache_dir=str(where.raw / "huggingface"), **(kwargs or {})),
        f"{what}: cannot be had from the hub or from {where.raw / 'huggingface'}",
    )
    parts = {part: found[split] for part, split in _parts(found, splits, what).items()}
    image, label = _columns(parts["train"].column_names, columns, what)
    for part in parts.values():
        _columns(part.column_names, {"image": image, "label": label}, what)
    given_labels = {part: _column(data, label) for part, data in parts.items()}
    feature = parts["train"].features[label]
    given = tuple(feature.names) if isinstance(feature, datasets.ClassLabel) else None
    labels, names = _labels(given_labels, given, what)
    pools: dict[str, Pool] = {}
    for part, data in parts.items():
        is_picture = isinstance(data.features[image], datasets.Image)
        rows = HubRows(data, image, labels[part]) if is_picture else Rows(_column(data, image), labels[part])
        pools[part] = pool_of(rows, names, Form(image_size, channels), what)
    return Found(what, pools["train"], pools.get("test"))


def _column(dataset: Any, name: str) -> pa.ChunkedArray:
    """A column of a dataset of `datasets`, in memory, as it is stored."""
    return dataset.select_columns([name]).with_format("arrow")[:].column(name)


def _parts(there: Mapping[str, Any], splits: Mapping[str, str] | None, name: str) -> dict[str, str]:
    """The splits that serve as "train" and, where there is one, as "test".

    Raises: SourceError if one that is asked for is not there.
    """
    if splits is None:
        test = next((split for split in TESTS if split in there), None)
        train = "train" if "train" in there or len(there) > 1 else next(iter(there))
        splits = {"train": train, **({"test": test} if test not in (None, train) else {})}
    for split in splits.values():
        if split not in there:
            raise SourceError(f"{name}: no split {split!r}: data.splits must name some of {', '.join(map(str, there))}")
    return {part: str(split) for part, split in splits.items()}


def _columns(there: Sequence[str], columns: Mapping[str, str] | None, name: str) -> tuple[str, str]:
    """The columns of images and of labels.

    Raises: SourceError if one that is asked for is not there, or none or several are called as usual.
    """
    found = []
    for key, usual in (("image", IMAGES), ("label", LABELS)):
        wanted = [columns[key]] if columns and key in columns else [column for column in usual if column in there]
        if len(wanted) != 1 or wanted[0] not in there:
            raise SourceError(
                f"{name}: data.columns.{key} must name the column of the {key}s, one of {', '.join(there[:20])}"
            )
        found.append(wanted[0])
    return found[0], found[1]


def _labels(
    columns: Mapping[str, pa.ChunkedArray], names: tuple[str, ...] | None, name: str
) -> tuple[dict[str, Tensor], tuple[str, ...] | None]:
    """The labels of each part, (N,) int64, and the names of the classes; texts are numbered in alphabetical order.

    Raises: SourceError for other columns than of whole numbers or of texts, without gaps.
    """
    values = {part: column.to_numpy() for part, column in columns.items()}
    texts = all(pa.types.is_string(column.type) or pa.types.is_large_string(column.type) for column in columns.values())
    if any(column.null_count for column in columns.values()):
        raise SourceError(f"{name}: its column of labels has gaps")
    if texts:
        names = tuple(sorted(set().union(*(map(str, found) for found in values.values()))))
        values = {part: np.searchsorted(names, found.astype(str)) for part, found in values.items()}
    if any(part.dtype.kind not in "iu" for part in values.values()):
        raise SourceError(f"{name}: its column of labels must hold whole numbers or texts, not {_types(columns)}")
    return {part: torch.from_numpy(found.astype(np.int64)) for part, found in values.items()}, names


def _types(columns: Mapping[str, pa.ChunkedArray]) -> str:
    return ", ".join(sorted({re.sub(r"\s+", " ", str(column.type)) for column in columns.values()}))
