"""The user's own pictures: train/<class>/* and test/<class>/*, in a directory or an archive of it."""

import warnings
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from notbugs.data.sources.archives import Collection, Member, collection_name, open_collection
from notbugs.data.sources.base import Pictures, SourceError, limited
from notbugs.data.sources.pictures import UndecodableError, read_picture
from notbugs.runtime.progress import Track, silent

LAYOUT = "expected train/<class>/<picture> and test/<class>/<picture>"
SHOWN = 20
"""Names listed in an error; the others are counted."""

Classes = dict[str, dict[str, Member]]
"""Class name to the files of that class by their name."""


@dataclass(frozen=True)
class _Split:
    """Files of train/ or test/, sorted by class and then by name, or some of them.

    Attributes:
        members: N files.
        labels: (N,), int64.
        indices: (N,), int64, place of each among all files of the split.
    """

    members: list[Member]
    labels: Tensor
    indices: Tensor

    def select(self, indices: Tensor) -> "_Split":
        """The pictures at these places, int64 (n,), in this order."""
        return _Split([self.members[i] for i in indices.tolist()], self.labels[indices], self.indices[indices])


def read_folder(
    path: Path,
    *,
    image_size: int,
    grey: bool = False,
    skip_unreadable: bool = False,
    max_train: int | None = None,
    max_test: int | None = None,
    classes: Container[str] | None = None,
    seed: int,
    progress: Track = silent,
) -> tuple[Pictures, Pictures, list[str]]:
    """Read pictures that are sorted into folders.

    Files may lie deeper than in their class folder; hidden ones (.DS_Store) are left out. It may all lie in one
    top folder. What a picture becomes is said in `pictures.decode`. The source's own order is by class,
    then by name: the same for a directory and for an archive of it. Of a subset only the pictures chosen are
    decoded; the choice is made before it is known which can be read, so unreadable ones are missing from it.

    Args:
        path: directory or archive.
        image_size: height and width of the result, pixels.
        grey: one channel instead of three.
        skip_unreadable: go on without the files that are no pictures.
        max_train: at most this many training pictures.
        max_test: at most this many test pictures.
        classes: only pictures of these are read; None takes all. The labels stay those of all classes.
        seed: of the choice.
        progress: shows how far the listing and the reading are.
    Returns: training pool and test set, (N, 1 or 3, image_size, image_size), and the files skipped, with the
        reasons.
    Raises: SourceError if the layout is not as expected or files cannot be read.
    """
    name = _printable(collection_name(path))
    collection = open_collection(path)
    members = list(progress(collection.members(), f"list {name}, files", None))
    train, test = _classes_of(path, members)
    class_names = _checked_class_names(path, train, test)
    splits = []
    for part, (key, maximum) in zip((train, test), (("max_train", max_train), ("max_test", max_test)), strict=True):
        split = _sorted_split(part, classes)
        splits.append(split.select(limited(split.labels, maximum, key=key, seed=seed)))
    pixels, unreadable = _decode_all(collection, splits, image_size, grey, progress, f"read {name}, files")
    if unreadable and not skip_unreadable:
        raise SourceError(_listed(path, unreadable, sum(len(split.members) for split in splits)))
    pool, held = (
        _pictures(split, values, class_names, unreadable) for split, values in zip(splits, pixels, strict=True)
    )
    _require_all_classes(path, pool, held, classes)
    return pool, held, [f"{_printable(name)}: {reason}" for name, reason in sorted(unreadable.items())]


def _classes_of(path: Path, members: Sequence[Member]) -> tuple[Classes, Classes]:
    """The files of train/ and of test/ by class; of files with one name the last, as unpacking would leave.

    Raises: SourceError if train/ or test/ is missing or holds files outside the class folders.
    """
    top = _top_folder(path, members)
    splits: dict[str, Classes] = {}
    stray = []
    for member in members:
        name = member.name.removeprefix(top)
        split, *below = name.split("/")
        if not member.name.startswith(top) or split not in ("train", "test"):
            continue
        if not below and not member.is_folder:
            continue
        classes = splits.setdefault(split, {})
        if below and member.is_folder:
            classes.setdefault(below[0], {})
        elif len(below) == 1:
            stray.append(name)
        elif below:
            classes.setdefault(below[0], {})[name] = replace(member, name=name, path=member.name)
    for split in ("train", "test"):
        if split not in splits:
            have = sorted({member.name.split("/")[0] for member in members})
            raise SourceError(f"{path}: no {split}/ folder; {LAYOUT}; found {_some(have)}")
    if stray:
        raise SourceError(f"{path}: not in a class folder: {_some(stray)}; {LAYOUT}")
    return splits["train"], splits["test"]


def _top_folder(path: Path, members: Sequence[Member]) -> str:
    """Name, with "/", of the one folder that holds train/, or "" where train/ is at the top."""
    tops = set()
    for member in members:
        parts = member.name.split("/")
        if parts[0] == "train":
            return ""
        if len(parts) > 1 and parts[1] == "train":
            tops.add(parts[0] + "/")
    if len(tops) > 1:
        raise SourceError(f"{path}: several folders hold a train/ folder: {_some(sorted(tops))}; name one of them")
    return tops.pop() if tops else ""


def _checked_class_names(path: Path, train: Classes, test: Classes) -> tuple[str, ...]:
    """The class names, sorted.

    Raises: SourceError if train and test have different classes, a class has no file, or there is one class.
    """
    for have, lack, where in ((train, test, "test"), (test, train, "train")):
        if missing := sorted(set(have) - set(lack)):
            raise SourceError(f"{path}: {where}/ has no folder for the classes {_some(missing)}; {LAYOUT}")
    for split, classes in (("train", train), ("test", test)):
        if empty := sorted(name for name, files in classes.items() if not files):
            raise SourceError(f"{path}: no files in {split}/ for the classes {_some(empty)}; every class needs some")
    if len(train) < 2:
        raise SourceError(f"{path}: {len(train)} class; at least 2 are needed; {LAYOUT}")
    return tuple(map(_printable, sorted(train)))


def _sorted_split(classes: Classes, wanted: Container[str] | None) -> _Split:
    members, labels = [], []
    for label, name in enumerate(sorted(classes)):
        if wanted is not None and _printable(name) not in wanted:
            continue
        members += [member for _, member in sorted(classes[name].items())]
        labels += [label] * len(classes[name])
    return _Split(members, torch.tensor(labels, dtype=torch.int64), torch.arange(len(members)))


def _decode_all(
    collection: Collection, splits: Sequence[_Split], side: int, grey: bool, progress: Track, description: str
) -> tuple[list[NDArray[np.uint8]], dict[str, str]]:
    """Decode the files of all splits in one pass.

    Returns: (N, C, side, side) for each split, and the reason for each file that could not be read, by name;
    the place of such a file is left at zero.
    """
    pixels = [np.zeros((len(split.members), 1 if grey else 3, side, side), np.uint8) for split in splits]
    places = {
        m.name: values[i] for split, values in zip(splits, pixels, strict=True) for i, m in enumerate(split.members)
    }
    unreadable = {m.name: m.problem for split in splits for m in split.members if m.problem}
    wanted = [m for split in splits for m in split.members if not m.problem]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of oddities in files that it can read all the same
        for member, content in progress(collection.read(wanted), description, len(wanted)):
            try:
                places[member.name][...] = read_picture(content, side, grey=grey)
            except UndecodableError as error:
                unreadable[member.name] = str(error)
    return pixels, unreadable


def _pictures(
    split: _Split, pixels: NDArray[np.uint8], class_names: tuple[str, ...], unreadable: dict[str, str]
) -> Pictures:
    """The pictures of a split that could be read."""
    rows = torch.tensor([i for i, m in enumerate(split.members) if m.name not in unreadable]).long()
    read = split.select(rows)
    origins = tuple(_printable(member.name) for member in read.members)
    values = torch.from_numpy(pixels)
    values = values[rows] if unreadable else values  # a copy only where one is needed
    return Pictures(values, read.labels, class_names, read.indices, origins)


def _require_all_classes(path: Path, train: Pictures, test: Pictures, wanted: Container[str] | None) -> None:
    for split, part in (("train", train), ("test", test)):
        counts = Counter(part.labels.tolist())
        expected = [(label, name) for label, name in enumerate(part.class_names) if wanted is None or name in wanted]
        if gone := [name for label, name in expected if not counts[label]]:
            raise SourceError(f"{path}: no readable picture in {split}/ for the classes {_some(gone)}")


def _listed(path: Path, unreadable: dict[str, str], total: int) -> str:
    lines = [f"  {_printable(name)}: {reason}" for name, reason in sorted(unreadable.items())[:SHOWN]]
    if len(unreadable) > SHOWN:
        lines.append(f"  and {len(unreadable) - SHOWN} more")
    head = f"{path}: {len(unreadable)} of {total} files cannot be read as pictures"
    return "\n".join([f"{head}; remove them or set data.skip_unreadable to true:", *lines])


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(map(_printable, names[:SHOWN])) or "nothing") + more


def _printable(name: str) -> str:
    """The name with bytes that are no text replaced, since it goes into files in UTF-8."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
