"""One NumPy archive: `dataset.npz` with images, labels and class_names. Written and read in parts."""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from notbugs.data.store import StoredDataset
from notbugs.exchange.base import (
    CHUNK,
    MAX_CLASSES,
    MAX_EXAMPLES,
    Foreign,
    FormatError,
    Written,
    exported_dtype,
    exported_parts,
    readable,
)

FILE = "dataset.npz"
_LOADING = """\
import numpy as np

with np.load("dataset.npz", allow_pickle=False) as archive:
    images, labels = archive["images"], archive["labels"]  # (N, C, H, W) in [0, 1], (N,)
    class_names = archive["class_names"]
dataset = list(zip(images, labels))
"""


def write(data: StoredDataset, folder: Path, *, encoding: str) -> Written:
    """See `base.Format`. The archive is not compressed: a perturbed image hardly shrinks."""
    dtype, shape = exported_dtype(data), (len(data), *data.manifest.image_shape)
    with zipfile.ZipFile(folder / FILE, "w", zipfile.ZIP_STORED) as archive:
        with _member(archive, "images") as file:
            described = {"shape": shape, "fortran_order": False, "descr": np.lib.format.dtype_to_descr(np.dtype(dtype))}
            np.lib.format.write_array_header_1_0(file, described)
            for images, _ in exported_parts(data):
                file.write(images.numpy().tobytes())
        for name, values in (("labels", data.labels.numpy()), ("class_names", np.array(data.class_names))):
            with _member(archive, name) as file:
                np.lib.format.write_array(file, values, allow_pickle=False)
    files = f"`{FILE}`: `images` {shape} {dtype}, `labels` ({len(data)},) int64, `class_names`"
    return Written(files, _LOADING)


def read(folder: Path, *, split: str | None) -> Foreign:
    """See `base.Format`. The folder must hold one .npz file; the arrays in it must be called as `write` does."""
    found = sorted(folder.glob("*.npz"))
    if len(found) != 1:
        raise FormatError(f"{folder}: {len(found)} .npz files; there must be one, with images and labels in it")
    path = found[0]
    with readable(path), zipfile.ZipFile(path) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
        if len(sizes) != len(archive.infolist()):
            raise FormatError(f"{path}: a name in it occurs twice")
        for name in ("images.npy", "labels.npy"):
            if name not in sizes:
                raise FormatError(f"{path}: no array {name.removesuffix('.npy')!r} in it; found {_names(sizes)}")
        labels = _small(archive, "labels", sizes, 8 * MAX_EXAMPLES + 1024)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise FormatError(f"{path}: labels must be (N,) whole numbers, not {labels.shape} {labels.dtype}")
        names = None
        if "class_names.npy" in sizes:
            array = _small(archive, "class_names", sizes, 64 * 2**20)
            if array.ndim != 1 or array.dtype.kind != "U" or len(array) > MAX_CLASSES:
                raise FormatError(f"{path}: class_names must be (classes,) text, not {array.shape} {array.dtype}")
            names = tuple(array.tolist())
        with archive.open("images.npy") as file:
            shape, dtype = _read_header(file)
    if len(shape) != 4 or dtype.name not in ("uint8", "float16", "float32"):
        allowed = "(N, C, H, W) uint8, float16 or float32"
        raise FormatError(f"{path}: images must be {allowed}, not {shape} {dtype}")
    if shape[0] != len(labels):
        raise FormatError(f"{path}: {shape[0]} images and {len(labels)} labels; there must be one label an image")
    return Foreign(torch.from_numpy(labels.astype(np.int64)), _images(path, shape, dtype), names)


def _images(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Iterator[Tensor]:
    size = math.prod(shape[1:]) * dtype.itemsize
    with readable(path), zipfile.ZipFile(path) as archive, archive.open("images.npy") as file:
        _read_header(file)
        for start in range(0, shape[0], CHUNK):
            count = min(CHUNK, shape[0] - start)
            content = file.read(count * size)
            if len(content) != count * size:
                raise FormatError(f"{path}: ends after {start} of {shape[0]} images")
            yield torch.from_numpy(np.frombuffer(bytearray(content), dtype).reshape(count, *shape[1:]))
        if file.read(1):
            raise FormatError(f"{path}: more bytes than {shape[0]} images of {shape[1:]} take")


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """A member without a date, so that the same dataset gives the same bytes."""
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"an array of version {version}; 1.0 and 2.0 are read")
    shape, fortran, dtype = readers[version](file)
    if fortran or dtype.hasobject or dtype.byteorder == ">":
        raise ValueError("an array that is not of plain numbers, in C order, little-endian")
    return shape, dtype


def _small(archive: zipfile.ZipFile, name: str, sizes: dict[str, int], limit: int) -> NDArray[Any]:
    """An array that is read at once, if it takes no more than `limit` bytes."""
    with archive.open(f"{name}.npy") as file:
        shape, dtype = _read_header(file)
        size = dtype.itemsize * math.prod(shape)
        if max(size, sizes[f"{name}.npy"]) > limit:
            raise FormatError(f"{archive.filename}: {name} {shape} {dtype} takes {size} bytes; at most {limit}")
        content = file.read(size + 1)
    if len(content) != size:
        raise FormatError(f"{archive.filename}: {name} is not the {shape} {dtype} that it says")
    return np.frombuffer(content, dtype).reshape(shape)


def _names(sizes: dict[str, int]) -> str:
    return ", ".join(repr(name.removesuffix(".npy")) for name in sorted(sizes)[:10]) or "nothing"
