"""D in one NumPy archive (.npz): two sets, or one pool."""

import zipfile
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from notbugs.data.sources.base import Found, Pictures, SourceError, Where
from notbugs.data.sources.items import as_pictures, attempt, named

PAIRS = (
    (("x_train", "y_train"), ("x_test", "y_test")),
    (("train_images", "train_labels"), ("test_images", "test_labels")),
)
"""Names of two sets: as Keras and as MedMNIST write them."""
POOL = ("images", "labels")
"""Names of one pool, as `notbugs export --to npz` writes it."""
NAMES = "class_names"
"""Text, one a class; may be missing."""
LAYOUT = "x_train, y_train, x_test, y_test (or train_images, train_labels, ...), or images and labels of one pool"


def read_npz(where: Where, *, path: str) -> Found:
    """Read an archive.

    Images are (N, H, W), (N, H, W, C) or (N, C, H, W) with C 1 or 3, uint8 of 255ths or floating point in [0, 1];
    labels (N,) or (N, 1), whole numbers from 0.

    Args:
        where: the project, the seed, the progress.
        path: of the archive.
    Raises: SourceError if arrays are missing, damaged, or not as they must be.
    """
    place = where.existing(path, "an .npz archive")
    name = f"npz:{place.stem}"
    if not zipfile.is_zipfile(place):
        raise SourceError(f"{place}: not an .npz archive of NumPy's")
    with attempt(lambda: np.load(place, allow_pickle=False), str(place)) as archive:
        there = set(archive.files)
        pairs = next((pairs for pairs in PAIRS if {*pairs[0], *pairs[1]} <= there), None)
        if pairs is None and not set(POOL) <= there:
            raise SourceError(f"{place}: must hold {LAYOUT}; it has {', '.join(sorted(there)[:20]) or 'nothing'}")
        used = pairs or (POOL,)
        arrays = {key: attempt(partial(archive.__getitem__, key), f"{place}: {key}") for pair in used for key in pair}
        given = attempt(lambda: archive[NAMES], f"{place}: {NAMES}") if NAMES in there else None
    sets = [(_images(arrays[x], f"{place}: {x}"), _labels(arrays[y], f"{place}: {y}")) for x, y in used]
    for (images, labels), keys in zip(sets, used, strict=True):
        if len(images) != len(labels) or len(labels) == 0:
            counts = f"{len(images)} images and {len(labels)} labels"
            raise SourceError(f"{place}: {' and '.join(keys)}: {counts}; there must be one label an image")
    names = _names(given, max(int(labels.max()) for _, labels in sets), place)
    pools = [_pool(images, labels, names, str(place)) for images, labels in sets]
    left = sorted(there - {key for pair in used for key in pair} - {NAMES})
    return Found(name, pools[0], pools[1] if pairs else None, [f"array {key} of {place.name}" for key in left])


def _pool(images: Tensor, labels: Tensor, names: tuple[str, ...], what: str) -> Pictures:
    return as_pictures(images, labels, named(labels, names, what))


def _images(array: NDArray[Any], what: str) -> Tensor:
    """(N, C, H, W), uint8 or float32."""
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise SourceError(f"{what}: must be uint8 or floating point, not {array.dtype}")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim != 4 or (array.shape[1] in (1, 3)) == (array.shape[3] in (1, 3)):
        raise SourceError(
            f"{what}: must be (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels C, not {array.shape}"
        )
    elif array.shape[3] in (1, 3):
        array = array.transpose(0, 3, 1, 2)
    if array.dtype == np.uint8:
        return torch.from_numpy(np.array(array, order="C"))
    values = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    if values.numel() and not (float(values.min()) >= 0.0 and float(values.max()) <= 1.0):
        raise SourceError(
            f"{what}: floating point must lie in [0, 1], not [{float(values.min()):g}, {float(values.max()):g}]"
        )
    return values


def _labels(array: NDArray[Any], what: str) -> Tensor:
    """(N,) int64."""
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise SourceError(f"{what}: must be (N,) whole numbers, not {array.shape} {array.dtype}")
    return torch.from_numpy(array.astype(np.int64))


def _names(given: NDArray[Any] | None, highest: int, place: Any) -> tuple[str, ...]:
    if given is None:
        return tuple(map(str, range(highest + 1)))
    if given.ndim != 1 or given.dtype.kind != "U":
        raise SourceError(f"{place}: {NAMES} must be (classes,) text, not {given.shape} {given.dtype}")
    return tuple(map(str, given.tolist()))
