"""A dataset in another format made into a stored dataset, which `load_dataset` opens. Everything in it is checked."""

import itertools
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from notbugs.data.images import ImageData
from notbugs.data.store import DatasetWriter, Manifest
from notbugs.exchange.base import (
    EXAMPLES,
    MANIFEST,
    MAX_CLASSES,
    MAX_EXAMPLES,
    MAX_SIDE,
    Foreign,
    FormatError,
    get_format,
    new_folder,
    readable,
    refuse_taken,
)
from notbugs.exchange.imagefolder import folder_names
from notbugs.runtime.files import sha256

MAX_NOTE = 64 * 2**20
UNKNOWN = -1
"""Stands in the table for a number that the format does not tell."""


def import_dataset(
    folder: Path, form: str, out: Path, *, class_names: Sequence[str] | None = None, split: str | None = None
) -> Manifest:
    """Make a stored dataset of one in another format.

    If it was exported by `export_dataset` (notbugs.json lies in it), the result is the dataset that was exported;
    if nothing was rounded, its files are compared with the checksums of that time.

    Args:
        folder: holds the foreign files.
        form: one of FORMATS.
        out: folder to be made.
        class_names: one a label; None takes the format's own, else the numbers.
        split: which of several; only huggingface has them.
    Raises: FormatError, in one line, if anything in it is missing, damaged, of the wrong shape, dtype or range,
        too large, or a link; or if `out` holds something.
    """
    if split is not None and form != "huggingface":
        raise FormatError(f"--split {split}: only --from huggingface has splits")
    if not folder.is_dir():
        raise FormatError(f"{folder}: no such folder")
    refuse_taken(out)
    _refuse_links(folder)
    note = _note(folder)
    with readable(folder):
        foreign = get_format(form).read(folder, split=split)
    names = _names(foreign, note, class_names, folder)
    _check_labels(foreign.labels, names, folder)
    examples = _examples(foreign, note, folder)
    with new_folder(out) as made:
        manifest = _write(foreign, note, names, examples, made, form, folder)
    return manifest


def _write(
    foreign: Foreign,
    note: Manifest | None,
    names: tuple[str, ...],
    examples: pd.DataFrame,
    made: Path,
    form: str,
    folder: Path,
) -> Manifest:
    first = next(foreign.images, None)
    if first is None:
        raise FormatError(f"{folder}: no images in it")
    _check_shape(first, len(foreign.labels), made, folder)
    if note is None:
        writer = DatasetWriter(made, dtype="float16" if first.dtype == torch.float16 else "float32")
    else:
        writer = DatasetWriter(made, dtype=note.dtype, shard_size=note.shards[0].num_examples)
    for part in _checked(itertools.chain([first], foreign.images), foreign.labels, names, folder):
        writer.add(part)
    if note is None:
        settings = {"imported_from": form}
        return writer.finish(examples, name=folder.resolve().name, source=f"import:{form}", settings=settings)
    lossy = {} if foreign.exact else {"rounded_to_bits": 8}
    manifest = writer.finish(examples, name=note.name, source=note.source, settings={**note.settings, **lossy})
    if foreign.exact and manifest.shards != note.shards:
        raise FormatError(
            f"{folder}: altered: its images or labels are not those that {MANIFEST} describes; without that file it "
            "is imported as it is"
        )
    return manifest


def _checked(images: Iterator[Tensor], labels: Tensor, names: tuple[str, ...], folder: Path) -> Iterator[ImageData]:
    """The parts as float32 in [0, 1], with their labels."""
    start, shape = 0, None
    for part in images:
        if shape not in (None, part.shape[1:]):
            raise FormatError(f"{folder}: images {tuple(shape or ())} and {tuple(part.shape[1:])}; all must be alike")
        shape = part.shape[1:]
        values = part.float() / 255.0 if part.dtype == torch.uint8 else part.float()
        stop = start + len(part)
        try:
            yield ImageData(values, labels[start:stop], names)
        except ValueError as error:
            raise FormatError(f"{folder}: examples {start} to {stop - 1}: {error}") from None
        start = stop
    if start != len(labels):
        raise FormatError(f"{folder}: {start} images and {len(labels)} labels; there must be one label an image")


def _check_shape(part: Tensor, count: int, made: Path, folder: Path) -> None:
    """The size of an image is sane, and the disk has room for all of them."""
    channels, height, width = part.shape[1:]
    if not (1 <= channels <= 16 and 1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        must = f"(C, H, W) with at most 16 channels and {MAX_SIDE} pixels a side"
        raise FormatError(f"{folder}: images of shape {tuple(part.shape[1:])}; must be {must}, channels first")
    need = count * math.prod(part.shape[1:]) * (2 if part.dtype == torch.float16 else 4)
    free = shutil.disk_usage(made).free
    if need > free:
        raise FormatError(f"{folder}: takes {need / 2**30:.1f} GiB, and {free / 2**30:.1f} GiB are free")


def _check_labels(labels: Tensor, names: tuple[str, ...], folder: Path) -> None:
    if not 1 <= len(labels) <= MAX_EXAMPLES:
        raise FormatError(f"{folder}: {len(labels)} examples; there must be 1 to {MAX_EXAMPLES}")
    if int(labels.min()) < 0 or int(labels.max()) >= len(names):
        raise FormatError(
            f"{folder}: labels {int(labels.min())} to {int(labels.max())}, and {len(names)} classes: they must lie in "
            f"0..{len(names) - 1}"
        )


def _names(foreign: Foreign, note: Manifest | None, given: Sequence[str] | None, folder: Path) -> tuple[str, ...]:
    """Class names: those of the export, those given, the format's own, or the numbers."""
    if note is not None:
        if given is not None:
            raise FormatError(f"--classes: {folder / MANIFEST} names the classes already")
        own = foreign.class_names
        if own is not None and list(own) not in (list(note.class_names), folder_names(note.class_names)):
            raise FormatError(f"{folder}: altered: its classes are not those that {MANIFEST} names")
        return note.class_names
    if given is not None and foreign.class_names is not None and len(given) != len(foreign.class_names):
        raise FormatError(f"--classes: {len(given)} names for {len(foreign.class_names)} classes")
    names = given if given is not None else foreign.class_names
    if names is None:
        top = int(foreign.labels.max()) if len(foreign.labels) else 0
        if not 0 <= top < MAX_CLASSES:
            raise FormatError(f"{folder}: label {top}; labels must lie in 0..{MAX_CLASSES - 1}")
        names = [str(label) for label in range(top + 1)]
    if not names or any(not name or not name.isprintable() for name in names) or len(set(names)) != len(names):
        raise FormatError(f"{folder}: class names must be printable, not empty and all different: {list(names)[:20]}")
    return tuple(names)


def _examples(foreign: Foreign, note: Manifest | None, folder: Path) -> pd.DataFrame:
    """The table of the export as it was; else one with the columns that `load_dataset` always has, and what is known.

    Columns: index, source_index and true_label (-1: unknown), given_label, origin (file name, "" if unknown), then
    the format's own.
    """
    count = len(foreign.labels)
    if note is not None:
        path = folder / EXAMPLES
        if not path.is_file() or sha256(path) != note.examples.sha256:
            raise FormatError(f"{path}: missing or altered: not the table that {MANIFEST} describes")
        with readable(path):
            table = pd.read_parquet(path)
        if not len(table) == count == note.num_examples:
            raise FormatError(f"{folder}: {count} images, {len(table)} rows; {MANIFEST} says {note.num_examples}")
        return table
    known = pd.DataFrame(
        {
            "index": range(count),
            "source_index": UNKNOWN,
            "true_label": UNKNOWN,
            "given_label": foreign.labels.numpy(),
            "origin": foreign.origins or "",
        }
    )
    if foreign.table is None:
        return known
    own = foreign.table.drop(columns=["index", "given_label"], errors="ignore")
    return pd.concat([known.drop(columns=[name for name in own if name in known]), own], axis=1)


def _note(folder: Path) -> Manifest | None:
    """The manifest of an exported dataset."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    if not path.is_file() or path.stat().st_size > MAX_NOTE:
        raise FormatError(f"{path}: no manifest, or larger than {MAX_NOTE} bytes")
    with readable(path):
        return Manifest.model_validate_json(path.read_bytes())


def _refuse_links(folder: Path) -> None:
    """A link could bring in files from anywhere."""
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise FormatError(f"{path}: a link, or no regular file; what is imported must hold files alone")
