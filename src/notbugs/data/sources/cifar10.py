"""CIFAR-10 in its official binary form, read out of its archive: bytes of labels and pixels, nothing pickled.

Source: Krizhevsky 2009, https://www.cs.toronto.edu/~kriz/cifar.html, "binary version". The images and their
order are those of the Python version, which is a pickle and therefore not read here.
"""

import http.client
import shutil
import urllib.request
from pathlib import Path

import numpy as np
import torch

from notbugs.data.sources.archives import Member, open_collection
from notbugs.data.sources.base import Pictures, SourceError
from notbugs.runtime.files import WriteError, sha256, whole_file

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
SHA256 = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
FOLDER = "cifar-10-batches-bin"
TRAIN = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = ("test_batch.bin",)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SHAPE = (3, 32, 32)
ROW = 1 + 3 * 32 * 32
"""Bytes of an example: its label, then red, green and blue, row by row."""

_TIMEOUT = 30.0
"""Seconds without an answer after which the download counts as failed."""


def read_cifar10(folder: Path) -> tuple[Pictures, Pictures]:
    """Read CIFAR-10, downloading its archive (170 MB) where it is not in `folder` yet.

    Args:
        folder: holds or gets the archive, which is not unpacked.
    Returns: the training pool (50,000) and the test set (10,000), (N, 3, 32, 32).
    Raises: SourceError, saying which file to put where, if it cannot be downloaded or is not the official one.
    """
    archive = folder / URL.rpartition("/")[2]
    if not archive.exists():
        _download(archive)
    if sha256(archive) != SHA256:
        raise SourceError(f"cifar10: {archive} is not the official file; delete it, or {_by_hand(archive)}")
    return _pictures(archive, TRAIN), _pictures(archive, TEST)


def _pictures(archive: Path, names: tuple[str, ...]) -> Pictures:
    """The examples of some files of the archive, one file after another."""
    collection = open_collection(archive)
    by_name: dict[str, Member] = {member.name: member for member in collection.members()}
    wanted = [f"{FOLDER}/{name}" for name in names]
    members = [by_name[name] for name in wanted]
    contents = {member.name: content() for member, content in collection.read(members)}
    rows = np.frombuffer(b"".join(contents[name] for name in wanted), np.uint8).reshape(-1, ROW)
    pixels = torch.from_numpy(rows[:, 1:].reshape(-1, *SHAPE).copy())
    labels = torch.from_numpy(rows[:, 0].astype(np.int64))
    return Pictures(pixels, labels, CLASSES, torch.arange(len(rows)), ("",) * len(rows))


def _download(archive: Path) -> None:
    try:
        with (
            urllib.request.urlopen(URL, timeout=_TIMEOUT) as answer,
            whole_file(archive) as temporary,
            temporary.open("wb") as file,
        ):
            shutil.copyfileobj(answer, file)
    except WriteError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise SourceError(f"cifar10: download failed ({error}); {_by_hand(archive)}") from error


def _by_hand(archive: Path) -> str:
    return (
        f"put {archive.name} (SHA-256 {SHA256}) into {archive.parent} and run the same command again, "
        "or set data.source to digits or folder"
    )
