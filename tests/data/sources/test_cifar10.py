import hashlib
import io
import tarfile
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from notbugs.data.sources import DataSettings, cifar10, load_source
from notbugs.data.sources.base import SourceError
from notbugs.data.sources.cifar10 import CLASSES, FOLDER, read_cifar10

NAME = "cifar-10-binary.tar.gz"


def batches() -> dict[str, bytes]:
    """Files in the official format, 20 pictures each instead of 10,000."""
    rng = np.random.default_rng(0)
    files = {}
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        labels = (np.arange(20) % 10).astype(np.uint8)[:, None]
        files[name] = np.concatenate([labels, rng.integers(0, 256, (20, 3072), dtype=np.uint8)], axis=1).tobytes()
    return {"batches.meta.txt": "\n".join(CLASSES).encode(), **files}


@pytest.fixture
def archive(monkeypatch) -> bytes:
    """A small archive in the official format, whose checksum is expected; its files in another order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in reversed(batches().items()):
            entry = tarfile.TarInfo(f"{FOLDER}/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(buffer.getvalue()).hexdigest())
    return buffer.getvalue()


@pytest.fixture
def requests(monkeypatch) -> list[tuple[str, float]]:
    """Every request fails as it does offline; gives their addresses and time limits."""
    asked = []

    def refused(address: str, timeout: float) -> None:
        asked.append((address, timeout))
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refused)
    return asked


def serve(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(urllib.request, "urlopen", lambda address, timeout: io.BytesIO(content))


def test_offline_says_which_file_to_put_where(tmp_path: Path, requests) -> None:
    with pytest.raises(SourceError) as caught:
        read_cifar10(tmp_path / "raw")
    assert str(caught.value) == (
        "cifar10: download failed (<urlopen error Name or service not known>); "
        "put cifar-10-binary.tar.gz (SHA-256 c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd) "
        f"into {tmp_path / 'raw'} and run the same command again, or set data.source to digits or folder"
    )
    assert requests == [("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", 30.0)]


@pytest.mark.parametrize("downloaded", [False, True])
def test_what_is_in_the_archive_is_read(tmp_path: Path, monkeypatch, archive, requests, downloaded) -> None:
    if downloaded:
        serve(monkeypatch, archive)
    else:
        (tmp_path / NAME).write_bytes(archive)
    train, test = read_cifar10(tmp_path)
    rows = np.frombuffer(batches()["data_batch_2.bin"], np.uint8).reshape(20, 3073)
    assert train.pixels.shape == (100, 3, 32, 32)
    assert train.pixels[20:40].flatten(1).numpy().tolist() == rows[:, 1:].tolist()  # stored as C, H, W
    assert train.labels.tolist() == [i % 10 for i in range(20)] * 5
    assert train.source_indices.tolist() == list(range(100))
    assert train.origins == ("",) * 100
    assert train.class_names == CLASSES
    assert train.white == 255
    rows = np.frombuffer(batches()["test_batch.bin"], np.uint8).reshape(20, 3073)
    assert test.pixels.flatten(1).numpy().tolist() == rows[:, 1:].tolist()
    assert requests == []
    assert [path.name for path in tmp_path.iterdir()] == [NAME]  # nothing is unpacked


def test_subsets(tmp_path: Path, archive) -> None:
    (tmp_path / "data" / "raw").mkdir(parents=True)
    (tmp_path / "data" / "raw" / NAME).write_bytes(archive)
    whole, _ = read_cifar10(tmp_path / "data" / "raw")
    settings = DataSettings(source="cifar10", max_train=20, max_test=10, validation_fraction=0.5)
    found = load_source(settings, seed=0, root=tmp_path)
    for data, count in ((found.train, 1), (found.validation, 1), (found.test, 1)):
        assert data.labels.bincount().tolist() == [count] * 10
    images = found.train.select(slice(0, 10)).images
    assert images.equal(whole.select(found.source_indices["train"]).images)


def test_another_archive_is_not_read(tmp_path: Path, archive, requests) -> None:
    (tmp_path / NAME).write_bytes(archive[:-100])
    with pytest.raises(SourceError, match=r"binary\.tar\.gz is not the official file; delete it, or put cifar-10-bin"):
        read_cifar10(tmp_path)
    assert requests == []


def test_a_download_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch) -> None:
    class Broken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", lambda address, timeout: Broken())
    with pytest.raises(SourceError, match=r"download failed \(timed out\)"):
        read_cifar10(tmp_path)
    assert list(tmp_path.iterdir()) == []
