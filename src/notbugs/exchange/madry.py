"""The files of the paper's authors (github.com/MadryLab/constructed-datasets): CIFAR_ims and CIFAR_lab.

Each is a list of tensors written by `torch.save`, images (n, C, H, W) float32 and labels (n,) int64, to be
concatenated. `torch.save` pickles; a pickle can run code when it is loaded, so only `weights_only=True` is used,
which builds tensors and plain containers and nothing else.
"""

import math
import pickle
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from notbugs.data.store import StoredDataset
from notbugs.exchange.base import CHUNK, Foreign, FormatError, Written, readable

IMAGES, LABELS = "CIFAR_ims", "CIFAR_lab"
_LOADING = """\
import torch

images = torch.cat(torch.load("CIFAR_ims", weights_only=True))  # (N, C, H, W) in [0, 1]
labels = torch.cat(torch.load("CIFAR_lab", weights_only=True))  # (N,)
dataset = torch.utils.data.TensorDataset(images, labels)
"""


def write(data: StoredDataset, folder: Path, *, encoding: str) -> Written:
    """See `base.Format`. float32, whatever the stored precision; each shard is a tensor of the list."""
    sizes = [shard.num_examples for shard in data.manifest.shards]
    plain = folder / f"{IMAGES}.tmp"
    with plain.open("wb") as file:
        for part in data.shards():
            part.images.numpy().tofile(file)
    shape = data.manifest.image_shape
    images = torch.from_file(str(plain), shared=False, size=len(data) * math.prod(shape), dtype=torch.float32)
    torch.save(list(images.view(-1, *shape).split(sizes)), folder / IMAGES)  # reads the mapped file as it writes
    plain.unlink()
    torch.save(list(data.labels.split(sizes)), folder / LABELS)
    text = ", ".join(map(str, shape))
    return Written(f"`{IMAGES}`: list of tensors (n, {text}) float32; `{LABELS}`: list of tensors (n,) int64", _LOADING)


def read(folder: Path, *, split: str | None) -> Foreign:
    """See `base.Format`. The format holds no class names."""
    labels = _tensors(folder / LABELS)
    images = _tensors(folder / IMAGES)
    for tensor in labels:
        if tensor.ndim != 1 or tensor.dtype not in (torch.int64, torch.int32, torch.uint8):
            kind = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise FormatError(f"{folder / LABELS}: must hold tensors (n,) of whole numbers, not {kind}")
    for tensor in images:
        if tensor.ndim != 4 or tensor.dtype not in (torch.float32, torch.float16):
            kind = f"{tuple(tensor.shape)} {tensor.dtype}"
            raise FormatError(f"{folder / IMAGES}: must hold tensors (n, C, H, W) float32 or float16, not {kind}")
    counts = sum(map(len, images)), sum(map(len, labels))
    if counts[0] != counts[1]:
        raise FormatError(f"{folder}: {counts[0]} images and {counts[1]} labels; there must be one label an image")
    return Foreign(torch.cat(labels).long(), _parts(images))


def _parts(images: list[Tensor]) -> Iterator[Tensor]:
    for tensor in images:
        for start in range(0, len(tensor), CHUNK):
            yield tensor[start : start + CHUNK].clone()


def _tensors(path: Path) -> list[Tensor]:
    """The list of tensors in a file; its storages are mapped, or, in the form before torch 1.6, read."""
    if not path.is_file():
        raise FormatError(f"{path}: missing; the format has the files {IMAGES} and {LABELS}")
    size = path.stat().st_size
    with readable(path), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what is refused below
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
        except pickle.UnpicklingError as error:
            reason = " ".join(str(error).split())
            raise FormatError(
                f"{path}: refused: not only tensors in it, or no file of torch.save; a pickle that builds anything "
                f"else could run code ({_cause(reason)})"
            ) from None
    if not isinstance(found, list) or not found:
        raise FormatError(f"{path}: must hold a list of tensors, not {_kind(found)}")
    for tensor in found:
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise FormatError(f"{path}: must hold a list of tensors; in it is {_kind(tensor)}")
        if not tensor.is_contiguous():
            raise FormatError(f"{path}: a tensor {tuple(tensor.shape)} in it is not contiguous")
    if sum(tensor.nbytes for tensor in found) > size:
        raise FormatError(f"{path}: claims {sum(tensor.nbytes for tensor in found)} bytes of tensors and has {size}")
    return [tensor.detach() for tensor in found]


def _cause(reason: str) -> str:
    """What the unpickler objected to, without torch's advice on how to load it all the same."""
    for mark in ("WeightsUnpickler error: ", "Weights only load failed. "):
        if mark in reason:
            reason = reason.split(mark, 1)[1]
    return reason.split(" Please ")[0].split(". ")[0][:160]


def _kind(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)} of layout {value.layout} on {value.device}"
    return f"an empty {type(value).__name__}" if value in ([], (), {}) else f"a {type(value).__name__}"
