"""CIFAR-10 in its official form, through torchvision."""

import hashlib
import http.client
import socket
import warnings
from pathlib import Path
from typing import Any

import torch

from notbugs.sources.base import Pictures, SourceError, limited

_TIMEOUT = 30.0
"""Seconds without an answer after which the download counts as failed."""


def read_cifar10(
    folder: Path, *, max_train: int | None = None, max_test: int | None = None, seed: int
) -> tuple[Pictures, Pictures]:
    """Read CIFAR-10, downloading it (170 MB, with a progress bar) where it is not in `folder` yet.

    Args:
        folder: holds or gets the archive and the files unpacked from it.
        max_train: at most this many of the 50,000 training images.
        max_test: at most this many of the 10,000 test images.
        seed: of the choice.
    Returns: the training pool and the test set, (N, 3, 32, 32).
    Raises: SourceError, saying which file to put where, if it cannot be downloaded or is damaged.
    """
    if _first_bad_file(folder) is not None:
        _download(folder)
    # torchvision unpickles these files, and a pickle can run code. So they are read only when each has the
    # MD5 sum of the official one.
    bad = _first_bad_file(folder)
    if bad is not None:
        raise SourceError(f"cifar10: {bad} is not the official file; {_by_hand(folder)}")
    train = _pictures(folder, train=True)
    test = _pictures(folder, train=False)
    return (
        train.select(limited(train.labels, max_train, key="max_train", seed=seed)),
        test.select(limited(test.labels, max_test, key="max_test", seed=seed)),
    )


def _pictures(folder: Path, *, train: bool) -> Pictures:
    from torchvision.datasets import CIFAR10

    with warnings.catch_warnings():
        # NumPy 2.4.0 to 2.4.4 finds fault with the dtypes in these files, which are older than Python 3.
        warnings.filterwarnings("ignore", message=r"dtype\(\): align should be passed")
        dataset: Any = CIFAR10(folder, train=train, download=False)
    pixels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)  # (N, 3, 32, 32)
    return Pictures(
        pixels,
        torch.tensor(dataset.targets, dtype=torch.int64),
        tuple(dataset.classes),
        torch.arange(len(pixels)),
        ("",) * len(pixels),
    )


def _download(folder: Path) -> None:
    """Fetch the archive unless it is there already, and unpack it."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import download_and_extract_archive

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_TIMEOUT)  # torchvision sets none: a silent network would hang for ever
    try:
        download_and_extract_archive(CIFAR10.url, folder, filename=CIFAR10.filename, md5=CIFAR10.tgz_md5)
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        raise SourceError(f"cifar10: download failed ({error}); {_by_hand(folder)}") from error
    finally:
        socket.setdefaulttimeout(before)


def _by_hand(folder: Path) -> str:
    from torchvision.datasets import CIFAR10

    return (
        f"put {CIFAR10.filename} (MD5 {CIFAR10.tgz_md5}) into {folder} and run the same command again, "
        "or set data.source to digits or folder"
    )


def _first_bad_file(folder: Path) -> Path | None:
    """The first file of the dataset that is missing or is not the official one; None if all are right."""
    from torchvision.datasets import CIFAR10

    wanted = [*CIFAR10.train_list, *CIFAR10.test_list, [CIFAR10.meta["filename"], CIFAR10.meta["md5"]]]
    for name, md5 in wanted:
        path = folder / CIFAR10.base_folder / name
        if not path.is_file() or _md5(path) != md5:
            return path
    return None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
