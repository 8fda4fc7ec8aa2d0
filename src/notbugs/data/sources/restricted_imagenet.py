"""Restricted ImageNet: an ImageNet tree in torchvision's layout, its synsets mapped to nine classes of animals.

Pictures are decoded when they are asked for, so memory does not grow with the tree.

The classes are ranges of ILSVRC 2012's 1,000 classes, with the synsets in them: 203 in all, ends included. A class's
number is the rank of its WordNet id among the 1,000, as torchvision numbers the folders. The ranges are tabulated in
Ilyas et al. 2019, appendix C, and stand in the authors' library (MadryLab/robustness, tools/constants.py,
RESTRICTED_IMAGNET_RANGES; its comment counts 14 primates, its range 18). The ids are those of these ranks in ILSVRC
2012's list of classes (LOC_synset_mapping.txt). The table, synsets.txt, has a line a class, in the paper's order: name,
first and last rank, ids.
"""

import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from notbugs.data.images import ImageData, Shape, as_floats
from notbugs.data.sources.archives import Directory, Member, ReadContent
from notbugs.data.sources.base import SourceError
from notbugs.data.sources.pictures import UndecodableError, read_picture
from notbugs.runtime.progress import Track, silent

LAYOUT = "expected train/<synset>/<picture> and val/<synset>/<picture>, as torchvision's ImageNet has it"
IMAGE_SIZE = 224
"""Default height and width, pixels."""
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Files that torchvision's ImageFolder takes for pictures."""
DECODERS = 8
"""Threads that decode, at most."""
_LINES = [
    line.split() for line in files("notbugs.data.sources").joinpath("synsets.txt").read_text("utf-8").splitlines()
]

RANGES = {name: (int(first), int(last)) for name, first, last, *_ in _LINES}
"""First and last rank of each class."""
SYNSETS: dict[str, tuple[str, ...]] = {name: tuple(ids) for name, _, _, *ids in _LINES}
"""Class -> WordNet ids of its folders, in the paper's order of classes."""


@dataclass(frozen=True)
class PictureFiles:
    """Labelled picture files, decoded when they are asked for.

    Attributes:
        root: the tree.
        origins: N names relative to it, such as "train/n02085620/n02085620_10074.JPEG".
        labels: (N,), int64.
        image_size: height and width of the images, pixels.
        class_names: one name a class, in label order.
    """

    root: Path
    origins: tuple[str, ...]
    labels: Tensor
    image_size: int
    class_names: tuple[str, ...] = tuple(SYNSETS)

    @property
    def source_indices(self) -> Tensor:
        """(N,), int64, place of each among all pictures of its split, sorted by class, synset and name."""
        return torch.arange(len(self))

    @property
    def image_shape(self) -> Shape:
        """(3, S, S)."""
        return 3, self.image_size, self.image_size

    def __len__(self) -> int:
        return len(self.origins)

    def select(self, indices: Tensor | slice) -> ImageData:
        """Some of the pictures, decoded.

        Raises: SourceError naming the first that cannot be read.
        """
        return ImageData(as_floats(self.raw(indices)), self.labels[indices], self.class_names)

    def raw(self, indices: Tensor | slice) -> Tensor:
        """Some of the pictures, decoded, (M, 3, S, S) uint8."""
        rows = torch.arange(len(self))[indices].tolist()
        contents = Directory(self.root).read([Member(self.origins[row]) for row in rows])
        with warnings.catch_warnings(), ThreadPoolExecutor(min(DECODERS, os.cpu_count() or 1)) as decoders:
            warnings.simplefilter("ignore")  # Pillow warns of oddities in files that it can read all the same
            images = list(decoders.map(lambda found: self._decoded(*found), contents))
        return torch.stack(images) if images else torch.empty(0, *self.image_shape, dtype=torch.uint8)

    def _decoded(self, member: Member, content: ReadContent) -> Tensor:
        """The shorter side scaled to 8/7 of the size (256 for 224), and the square in the middle: (3, S, S) uint8."""
        side = round(self.image_size * 8 / 7)
        try:
            square = read_picture(content, side, grey=False)
        except UndecodableError as error:
            raise SourceError(f"{self.root / member.name}: cannot be read as a picture: {error}; remove it") from None
        first = (side - self.image_size) // 2
        middle = slice(first, first + self.image_size)
        return torch.from_numpy(np.ascontiguousarray(square[:, middle, middle]))


def read_restricted_imagenet(
    path: Path, *, image_size: int = IMAGE_SIZE, progress: Track = silent
) -> tuple[PictureFiles, PictureFiles, list[str]]:
    """List the pictures of the nine classes; other synsets of the tree are left out.

    The tree may hold some synsets only, but at least one of each class, the same ones in train/ and val/.

    Args:
        path: the tree, a directory.
        image_size: height and width of the images, pixels.
        progress: shows the listing.
    Returns: training pool, test set (val/), and a line about synsets that are not in the tree, if any.
    Raises: SourceError if the layout is not as expected.
    """
    trees = {split: _synsets(path / split) for split in ("train", "val")}
    train, val = (set(synsets) for synsets in trees.values())
    if train != val:
        where, lacking = ("val", train - val) if train - val else ("train", val - train)
        raise SourceError(f"{path}: {where}/ has no folder for the synsets {_some(sorted(lacking))}; {LAYOUT}")
    for name, ids in SYNSETS.items():
        if not train.intersection(ids):
            raise SourceError(f"{path}: no synset of the class {name} ({_some(ids)}); {LAYOUT}")
    pool, test = (_listed(path / split, synsets, image_size, progress) for split, synsets in trees.items())
    lacking = {name for ids in SYNSETS.values() for name in ids} - train
    note = f"{len(lacking)} of {sum(map(len, SYNSETS.values()))} synsets: not in the tree: {_some(sorted(lacking))}"
    return pool, test, [note] if lacking else []


def _synsets(folder: Path) -> dict[str, int]:
    """Folders of train/ or val/ that belong to a class -> its label, in the order of classes, then of ids."""
    try:
        there = {entry.name for entry in folder.iterdir() if entry.is_dir()}
    except OSError as error:
        raise SourceError(f"{folder}: {error.strerror}; {LAYOUT}") from None
    return {name: label for label, ids in enumerate(SYNSETS.values()) for name in sorted(ids) if name in there}


def _listed(folder: Path, synsets: dict[str, int], image_size: int, progress: Track) -> PictureFiles:
    """The pictures of a split.

    Raises: SourceError if a synset's folder holds none.
    """
    origins, labels = [], []
    for synset, label in progress(synsets.items(), f"list {folder.name}, classes"):
        names = sorted(entry.name for entry in os.scandir(folder / synset) if _is_picture(entry.name))
        if not names:
            raise SourceError(f"{folder / synset}: no pictures; {LAYOUT}")
        origins += [f"{folder.name}/{synset}/{name}" for name in names]
        labels += [label] * len(names)
    return PictureFiles(folder.parent, tuple(origins), torch.tensor(labels, dtype=torch.int64), image_size)


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(ENDINGS)


def _some(names: "list[str] | tuple[str, ...]") -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
