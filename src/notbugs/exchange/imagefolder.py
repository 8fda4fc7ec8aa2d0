"""A tree of one file an image, <class>/<index>.npy or .png, as torchvision's ImageFolder reads it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from notbugs.data.store import StoredDataset
from notbugs.exchange.base import (
    CARD,
    CHUNK,
    EXAMPLES,
    MANIFEST,
    Foreign,
    FormatError,
    Rounding,
    Written,
    exported_dtype,
    exported_parts,
)
from notbugs.exchange.pictures import PICTURES, decode_picture, read_array

MAX_BYTES = 64 * 2**20
"""A larger file of an image is not read."""
_LOADING_NPY = """\
import numpy as np
from torchvision.datasets import ImageFolder

dataset = ImageFolder(".", loader=np.load, is_valid_file=lambda path: path.endswith(".npy"), allow_empty=True)
"""
_LOADING_PNG = """\
from torchvision import transforms
from torchvision.datasets import ImageFolder

dataset = ImageFolder(".", transform={transform}, allow_empty=True)
"""
_TO_TENSOR = {
    1: "transforms.Compose([transforms.Grayscale(), transforms.ToTensor()])",
    3: "transforms.ToTensor()",
}


def write(data: StoredDataset, folder: Path, *, encoding: str) -> Written:
    """See `base.Format`.

    Raises: FormatError if pictures have neither one nor three channels and PNG is asked for.
    """
    channels = data.manifest.image_shape[0]
    if encoding == "png" and channels not in _TO_TENSOR:
        raise FormatError(f"--encoding png: takes 1 or 3 channels, not {channels}; take npy")
    folders = [folder / name for name in folder_names(data.class_names)]
    for path in folders:
        path.mkdir()
    digits = len(str(len(data) - 1))
    lost = Rounding(0.0, 0.0)
    first = 0
    for images, labels in exported_parts(data):
        names = [f"{index:0{digits}d}" for index in range(first, first + len(labels))]
        files = [folders[label] / name for label, name in zip(labels.tolist(), names, strict=True)]
        if encoding == "npy":
            for file, image in zip(files, images.numpy(), strict=True):
                np.save(file.with_suffix(".npy"), image, allow_pickle=False)
        else:
            lost = _write_pngs(images.float(), files, lost)
        first += len(labels)
    shape = ", ".join(map(str, data.manifest.image_shape))
    if encoding == "npy":
        return Written(f"`<class>/<index>.npy`: one image ({shape}) {exported_dtype(data)}", _LOADING_NPY)
    loading = _LOADING_PNG.format(transform=_TO_TENSOR[channels])
    return Written(f"`<class>/<index>.png`: one image ({shape}), rounded to 8 bits", loading, lost)


def read(folder: Path, *, split: str | None) -> Foreign:
    """See `base.Format`. Labels are the places of the class folders in alphabetical order, as torchvision's."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    files, labels = [], []
    for label, path in enumerate(classes):
        inside = _images_in(path)
        files += inside
        labels += [label] * len(inside)
    if not files:
        raise FormatError(f"{folder}: no images; expected <class>/<image> with {_endings()}")
    stray = [path.name for path in sorted(folder.iterdir()) if not _belongs(path)]
    if stray:
        raise FormatError(f"{folder / stray[0]}: not in a class folder; expected <class>/<image>")
    kinds = {file.suffix.lower() == ".npy" for file in files}
    if len(kinds) > 1:
        raise FormatError(f"{folder}: both .npy files and pictures; there must be one kind")
    stems = [file.stem for file in files]
    if all(stem.isdecimal() for stem in stems) and sorted(map(int, stems)) == list(range(len(files))):
        order = sorted(range(len(files)), key=lambda place: int(stems[place]))  # as they were exported
        files, labels = [files[place] for place in order], [labels[place] for place in order]
    return Foreign(
        torch.tensor(labels, dtype=torch.int64),
        _parts(files),
        tuple(path.name for path in classes),
        tuple(file.relative_to(folder).as_posix() for file in files),
        exact=kinds == {True},
    )


def folder_names(class_names: Sequence[str]) -> list[str]:
    """A folder for every class, in alphabetical order, so that torchvision gives them the same labels.

    The names themselves where they can be file names and are in that order; else numbered ones.
    """
    safe = all(name and not name.startswith(".") and name.replace("_", "a").isalnum() for name in class_names)
    if safe and list(class_names) == sorted(set(class_names)) and max(map(len, class_names)) <= 100:
        return list(class_names)
    digits = len(str(len(class_names) - 1))
    return [f"{label:0{digits}d}_{_file_name(name)}" for label, name in enumerate(class_names)]


def _file_name(text: str) -> str:
    return "".join(letter if letter.isalnum() else "_" for letter in text)[:60]


def _write_pngs(images: Tensor, files: Sequence[Path], lost: Rounding) -> Rounding:
    """Write 8-bit pictures; returns the largest rounding until now."""
    pixels = (images * 255.0).round()  # (n, C, H, W)
    differences = (pixels / 255.0 - images).double().flatten(1)  # (n, C*H*W)
    for file, image in zip(files, pixels.to(torch.uint8).numpy(), strict=True):
        picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
        picture.save(file.with_suffix(".png"))
    return Rounding(
        max(lost.value, float(differences.abs().max())), max(lost.image, float(differences.norm(dim=1).max()))
    )


def _images_in(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    for path in found:
        if not path.is_file() or path.suffix.lower() not in (".npy", *PICTURES):
            raise FormatError(f"{path}: not an image; a class folder holds {_endings()} and nothing else")
        if path.stat().st_size > MAX_BYTES:
            raise FormatError(f"{path}: {path.stat().st_size} bytes; at most {MAX_BYTES}")
    return found


def _parts(files: Sequence[Path]) -> Iterator[Tensor]:
    first: Tensor | None = None
    for start in range(0, len(files), CHUNK):
        images = []
        for file in files[start : start + CHUNK]:
            image = read_array(file) if file.suffix.lower() == ".npy" else decode_picture(file.read_bytes(), file)
            first = image if first is None else first
            if (image.shape, image.dtype) != (first.shape, first.dtype):
                have, must = (f"{tuple(one.shape)} {one.dtype}" for one in (image, first))
                raise FormatError(f"{file}: {have}, and {files[0].name} is {must}; all images must be alike")
            images.append(image)
        yield torch.stack(images)


def _belongs(path: Path) -> bool:
    return path.is_dir() or path.name.startswith(".") or path.name in (CARD, EXAMPLES, MANIFEST)


def _endings() -> str:
    return ", ".join((".npy", *PICTURES))
