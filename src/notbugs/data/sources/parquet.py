"""Images and class names in the parquet and Arrow files of Hugging Face's `datasets`, read with pyarrow alone."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

MAX_CLASSES = 100_000


def is_encoded(kind: Any) -> bool:
    """Whether a column holds encoded pictures: {"bytes": ..., "path": ...}."""
    return bool(pa.types.is_struct(kind))


def arrays(values: Any) -> Tensor:
    """A column of nested lists, all of one shape, as (n, C, H, W).

    Raises: ValueError for other shapes and types.
    """
    flat = values.storage if isinstance(values.type, pa.ExtensionType) else values
    shape = [len(flat)]
    while pa.types.is_list(flat.type) or pa.types.is_large_list(flat.type) or pa.types.is_fixed_size_list(flat.type):
        lengths = set(flat.value_lengths().to_pylist())
        if len(lengths) != 1 or None in lengths:
            raise ValueError("images of different shapes, or missing ones")
        shape.append(lengths.pop())
        flat = flat.flatten()
    if len(shape) != 4 or flat.null_count or str(flat.type) not in ("float", "halffloat", "uint8"):
        raise ValueError(f"images must be (C, H, W) float32, float16 or uint8, not {tuple(shape[1:])} {flat.type}")
    return torch.from_numpy(flat.to_numpy(zero_copy_only=False).reshape(shape).copy())


def class_names(schema: pa.Schema, label: str) -> tuple[str, ...] | None:
    """Names of a ClassLabel, from what `datasets` notes in the schema; None where there are none.

    Raises: ValueError if they are no list of text.
    """
    noted = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
    names = noted.get("info", {}).get("features", {}).get(label, {}).get("names")
    if names is None:
        return None
    if not isinstance(names, list) or len(names) > MAX_CLASSES or not all(isinstance(name, str) for name in names):
        raise ValueError(f"column {label}: its class names are no list of text")
    return tuple(names)


def split_of(file: Path, folder: Path) -> str:
    """data/train-00000-of-00001.parquet and train/data-00000-of-00001.arrow are both of `train`."""
    name = file.stem.split("-")[0]
    if name != "data":
        return name
    return file.parent.name if file.parent != folder else "train"
