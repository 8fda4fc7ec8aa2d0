"""Small datasets in torchvision's own formats, as its downloads leave them, whose checksums are expected."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torchvision import datasets


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def idx(values: NDArray[np.uint8]) -> bytes:
    """An array in the format of MNIST's files."""
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def write_fashion_mnist(raw: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, NDArray[np.uint8]]:
    """FashionMNIST's four files, packed: 60 and 20 images. Returns what is in them, by name."""
    draw, made = np.random.default_rng(0), {}
    for part, count in (("train", 60), ("t10k", 20)):
        made[f"{part}-images-idx3-ubyte.gz"] = draw.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        made[f"{part}-labels-idx1-ubyte.gz"] = (np.arange(count) % 10).astype(np.uint8)
    folder = raw / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    resources = []
    for name, values in made.items():
        content = gzip.compress(idx(values))
        (folder / name).write_bytes(content)
        resources.append((name, md5(content)))
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    return made


def write_cifar100(raw: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """CIFAR-100's archive of pickles: 400 and 100 images. Returns what is pickled, by file."""
    draw, names = np.random.default_rng(0), [f"kind {number}" for number in range(100)]
    made: dict[str, Any] = {"meta": {"fine_label_names": names}}
    for part, count in (("train", 400), ("test", 100)):
        data = draw.integers(0, 256, (count, 3072), dtype=np.uint8)
        made[part] = {"data": data, "fine_labels": [number % 100 for number in range(count)]}
    files, buffer = {name: pickle.dumps(content) for name, content in made.items()}, io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"cifar-100-python/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    raw.mkdir(parents=True)
    (raw / "cifar-100-python.tar.gz").write_bytes(buffer.getvalue())
    kind = datasets.CIFAR100
    monkeypatch.setattr(kind, "tgz_md5", md5(buffer.getvalue()))
    monkeypatch.setattr(kind, "train_list", [["train", md5(files["train"])]])
    monkeypatch.setattr(kind, "test_list", [["test", md5(files["test"])]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(files["meta"])})
    return made
