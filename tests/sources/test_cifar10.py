import hashlib
import io
import pickle
import socket
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from notbugs.sources.base import SourceError
from notbugs.sources.cifar10 import read_cifar10

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def batches() -> dict[str, bytes]:
    """Files in the official format, 20 pictures each instead of 10,000."""
    rng = np.random.default_rng(0)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    files = {}
    for name in names:
        pixels = rng.integers(0, 256, (20, 3072), dtype=np.uint8)
        files[name] = pickle.dumps({"data": pixels, "labels": [i % 10 for i in range(20)]}, protocol=2)
    return {**files, "batches.meta": pickle.dumps({"label_names": CLASSES}, protocol=2)}


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def no_network(monkeypatch) -> list[str]:
    """Every request fails as it does offline; gives the list of requests."""
    requests = []

    def refused(request: urllib.request.Request, *args: object, **kwargs: object) -> None:
        requests.append(request.full_url)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    return requests


@pytest.fixture
def archive(monkeypatch) -> bytes:
    """A small archive in the official format, whose MD5 sums torchvision is told to expect."""
    return accept(monkeypatch, batches())


def accept(monkeypatch, files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"{CIFAR10.base_folder}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(CIFAR10, "tgz_md5", md5(buffer.getvalue()))
    monkeypatch.setattr(
        CIFAR10, "train_list", [[f"data_batch_{i}", md5(files[f"data_batch_{i}"])] for i in range(1, 6)]
    )
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5(files["test_batch"])]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5(files["batches.meta"])})
    return buffer.getvalue()


def test_offline_says_which_file_to_put_where(tmp_path: Path, no_network) -> None:
    with pytest.raises(SourceError) as caught:
        read_cifar10(tmp_path / "raw", seed=0)
    assert str(caught.value) == (
        "cifar10: download failed (<urlopen error Name or service not known>); "
        "put cifar-10-python.tar.gz (MD5 c58f30108f718f92721af3b95e74349a) "
        f"into {tmp_path / 'raw'} and run the same command again, or set data.source to digits or folder"
    )
    assert no_network


def test_the_time_limit_of_the_network_is_set_back(tmp_path: Path, monkeypatch) -> None:
    limits = []

    def slow(*args: object, **kwargs: object) -> None:
        limits.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", slow)
    with pytest.raises(SourceError, match=r"download failed \(timed out\)"):
        read_cifar10(tmp_path, seed=0)
    assert limits[0] == 30.0
    assert socket.getdefaulttimeout() is None


def test_the_archive_put_there_by_hand_is_read_offline(tmp_path: Path, archive, no_network) -> None:
    (tmp_path / CIFAR10.filename).write_bytes(archive)
    train, test = read_cifar10(tmp_path, seed=0)
    first = pickle.loads(batches()["data_batch_1"])
    assert train.pixels.shape == (100, 3, 32, 32)
    assert train.pixels[:20].flatten(1).numpy().tolist() == first["data"].tolist()  # stored as C, H, W
    assert train.labels.tolist() == [i % 10 for i in range(20)] * 5
    assert train.source_indices.tolist() == list(range(100))
    assert train.origins == ("",) * 100
    assert train.class_names == tuple(CLASSES)
    assert train.white == 255
    assert test.pixels.flatten(1).numpy().tolist() == pickle.loads(batches()["test_batch"])["data"].tolist()
    assert no_network == []


def test_old_pickles_are_read_without_a_warning(tmp_path: Path, monkeypatch) -> None:
    # The dtypes in the official files are made of integers, (0, 1), where today's pickles have (False, True).
    # NumPy 2.4.0 to 2.4.4 warns of them; the other releases do so only of integers other than these.
    files = {name: content.replace(b"\x89\x88\x87", b"K\x03K\x01\x87") for name, content in batches().items()}
    assert files["test_batch"] != batches()["test_batch"]
    (tmp_path / CIFAR10.filename).write_bytes(accept(monkeypatch, files))
    assert len(read_cifar10(tmp_path, seed=0)[1].labels) == 20


def test_subsets(tmp_path: Path, archive) -> None:
    (tmp_path / CIFAR10.filename).write_bytes(archive)
    whole, _ = read_cifar10(tmp_path, seed=0)
    train, test = read_cifar10(tmp_path, max_train=20, max_test=10, seed=0)
    assert train.labels.bincount().tolist() == [2] * 10
    assert test.labels.bincount().tolist() == [1] * 10
    assert train.pixels.equal(whole.pixels[train.source_indices])


def test_a_damaged_archive_offline(tmp_path: Path, archive, no_network) -> None:
    (tmp_path / CIFAR10.filename).write_bytes(archive[:-100])
    with pytest.raises(SourceError, match=r"download failed .* put cifar-10-python\.tar\.gz \(MD5 [0-9a-f]{32}\)"):
        read_cifar10(tmp_path, seed=0)


def test_a_file_altered_after_unpacking_is_unpacked_anew(tmp_path: Path, archive, no_network) -> None:
    (tmp_path / CIFAR10.filename).write_bytes(archive)
    read_cifar10(tmp_path, seed=0)
    altered = tmp_path / CIFAR10.base_folder / "data_batch_3"
    altered.write_bytes(b"altered")
    assert len(read_cifar10(tmp_path, seed=0)[0].labels) == 100
    assert altered.read_bytes() == batches()["data_batch_3"]


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_that_is_not_the_official_one_is_never_read(tmp_path: Path, archive, no_network) -> None:
    (tmp_path / CIFAR10.filename).write_bytes(archive)
    read_cifar10(tmp_path, seed=0)
    (tmp_path / CIFAR10.filename).unlink()
    (tmp_path / CIFAR10.base_folder / "test_batch").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    with pytest.raises(SourceError, match="download failed"):
        read_cifar10(tmp_path, seed=0)
    assert not (tmp_path / "sprung").exists()


def test_a_pickle_that_is_not_the_official_one_is_never_read_even_after_a_download(
    tmp_path: Path, archive, monkeypatch
) -> None:
    (tmp_path / CIFAR10.filename).write_bytes(archive)
    read_cifar10(tmp_path, seed=0)
    trap = pickle.dumps(Trap(tmp_path / "sprung"))
    (tmp_path / CIFAR10.base_folder / "test_batch").write_bytes(trap)
    monkeypatch.setattr("torchvision.datasets.utils.download_and_extract_archive", lambda *args, **kwargs: None)
    with pytest.raises(SourceError, match=r"test_batch is not the official file; put cifar-10-python\.tar\.gz"):
        read_cifar10(tmp_path, seed=0)
    assert not (tmp_path / "sprung").exists()
