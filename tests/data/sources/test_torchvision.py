"""Datasets of torchvision, made up in its own formats: read as they are, and one line where they are not."""

import pickle
import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision import datasets

from notbugs.data.sources import DataSettings, SourceError, load_source
from notbugs.data.sources.of_torchvision import DATASETS
from notbugs.runtime.config import validate
from notbugs.testing import check_source
from torchvision_files import idx, md5, write_cifar100, write_fashion_mnist

DRAW = np.random.default_rng(0)


def settings(source: str, **section: object) -> DataSettings:
    return validate({"source": f"torchvision:{source}", "validation_fraction": 0.25, **section}, "data", DataSettings)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **more: object) -> None:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", refused)


@pytest.fixture
def fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, NDArray[np.uint8]]:
    return write_fashion_mnist(tmp_path / "data" / "raw", monkeypatch)


@pytest.fixture
def cifar100(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return write_cifar100(tmp_path / "data" / "raw", monkeypatch)


def test_fashion_mnist(tmp_path: Path, fashion: dict[str, NDArray[np.uint8]]) -> None:
    read = settings("FashionMNIST", dtype="uint8")
    data = load_source(read, seed=0, root=tmp_path)
    assert data.name == "torchvision:FashionMNIST"
    assert data.train.class_names[:2] == ("T-shirt/top", "Trouser")
    assert [len(part) for part in data.splits.values()] == [40, 20, 20]
    test = data.test.select(slice(0, 20))
    assert torch.equal(test.images * 255, torch.from_numpy(fashion["t10k-images-idx3-ubyte.gz"])[:, None].float())
    assert test.labels.tolist() == [number % 10 for number in range(20)]
    rows = data.source_indices["train"]
    expected = torch.from_numpy(fashion["train-images-idx3-ubyte.gz"])[rows][:, None]
    assert torch.equal(data.train.raw(slice(0, 40)), expected)
    check_source(lambda seed: load_source(read, seed=seed, root=tmp_path))


def test_cifar100(tmp_path: Path, cifar100: dict[str, Any]) -> None:
    read = settings("CIFAR100")
    data = load_source(read, seed=0, root=tmp_path)
    assert data.train.class_names == tuple(f"kind {number}" for number in range(100))
    expected = torch.from_numpy(cifar100["test"]["data"].reshape(-1, 3, 32, 32))
    assert torch.equal(data.test.raw(slice(0, 100)), expected)
    assert data.test.labels.tolist() == cifar100["test"]["fine_labels"]
    check_source(lambda seed: load_source(read, seed=seed, root=tmp_path))


def test_svhn_names_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scipy.io import savemat

    images, listed = {}, {}
    (tmp_path / "data" / "raw").mkdir(parents=True)
    for part, count in (("train", 40), ("test", 20), ("extra", 80)):
        images[part] = DRAW.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        file = tmp_path / "data" / "raw" / f"{part}_32x32.mat"
        savemat(file, {"X": images[part], "y": (np.arange(count) % 10 + 1)[:, None]})
        listed[part] = ["http://nowhere", file.name, md5(file.read_bytes())]
    monkeypatch.setattr(datasets.SVHN, "split_list", listed)
    data = load_source(settings("SVHN"), seed=0, root=tmp_path)
    assert [len(part) for part in data.splits.values()] == [30, 10, 20]
    assert data.test.labels.tolist() == [(number + 1) % 10 for number in range(20)]  # 10 stands for 0
    assert torch.equal(
        data.test.raw(slice(3, 4))[0], torch.from_numpy(images["test"][..., 3].transpose(2, 0, 1).copy())
    )
    more = load_source(settings("SVHN", splits={"train": "extra", "test": "test"}), seed=0, root=tmp_path)
    assert [len(part) for part in more.splits.values()] == [60, 20, 20]
    alone = load_source(settings("SVHN", splits={"train": "extra"}, test_fraction=0.5), seed=0, root=tmp_path)
    assert [len(part) for part in alone.splits.values()] == [30, 10, 40]
    with pytest.raises(
        SourceError, match=r"^torchvision:SVHN: Unknown value 'more' for argument split\. Valid .*splits"
    ):
        load_source(settings("SVHN", splits={"train": "more"}), seed=0, root=tmp_path)
    with pytest.raises(SourceError, match=r"data\.kwargs: split: must be left out for torchvision:SVHN"):
        load_source(settings("SVHN", kwargs={"split": "extra"}), seed=0, root=tmp_path)


@pytest.fixture
def caltech(tmp_path: Path) -> Path:
    """Caltech101's tree: two classes of ten pictures, each of its own size; one is grey."""
    top = tmp_path / "data" / "raw" / "caltech101" / "101_ObjectCategories"
    for name in ("BACKGROUND_Google", "ant", "bass"):
        (top / name).mkdir(parents=True)
        for number in range(1, 11):
            shape = (20 + number, 30) if (name, number) == ("ant", 1) else (20 + number, 30, 3)
            picture = Image.fromarray(DRAW.integers(0, 256, shape, dtype=np.uint8))
            picture.save(top / name / f"image_{number:04d}.jpg")
    return tmp_path


def read_all(config: DataSettings, root: Path) -> None:
    data = load_source(config, seed=0, root=root)
    data.train.select(slice(0, len(data.train)))


def test_a_dataset_of_one_part_and_of_several_sizes(caltech: Path) -> None:
    read = settings("Caltech101", image_size=16, channels="rgb", test_fraction=0.3)
    data = load_source(read, seed=0, root=caltech)
    assert data.train.class_names == ("ant", "bass")
    assert {split: part.labels.bincount().tolist() for split, part in data.splits.items()} == {
        "train": [5, 5],
        "validation": [2, 2],
        "test": [3, 3],
    }
    everything = torch.cat([data.source_indices[split] for split in data.splits])
    assert everything.sort().values.tolist() == list(range(20))
    assert data.train.image_shape == (3, 16, 16)
    check_source(lambda seed: load_source(read, seed=seed, root=caltech))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"channels": "rgb"},
            r"item \d+ is \(3, \d+, 30\) uint8, and the first \(3, 21, 30\) uint8: .*; data\.image_size",
        ),
        (
            {"image_size": 16},
            r"item \d+ is \(3, 16, 16\) uint8, and the first \(1, 16, 16\) uint8: .*; data\.channels make",
        ),
        (
            {"image_size": 16, "splits": {"train": "a"}},
            r"^params\.yaml: data\.splits: must be null: torchvision:Caltech",
        ),
        (
            {"image_size": 16, "kwargs": {"colour": 1}},
            r"unexpected keyword argument 'colour'; data\.splits and data\.kwargs",
        ),
        (
            {"image_size": 16, "kwargs": {"root": "x"}},
            r"^params\.yaml: data\.kwargs: root: must be left out for torchvision",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(caltech: Path, section: dict[str, object], message: str) -> None:
    with pytest.raises(SourceError, match=message) as raised:
        read_all(settings("Caltech101", **section), caltech)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["FashionMNIST", "CIFAR100", "SVHN", "Caltech101", "FER2013"])
def test_offline_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match=rf"^torchvision:{name}: not in {tmp_path}/data/raw, and ") as raised:
        load_source(settings(name), seed=0, root=tmp_path)
    text = str(raised.value)
    assert "\n" not in text
    if name == "FER2013":
        assert "torchvision cannot download it: RuntimeError: train.csv not found" in text
    elif name != "Caltech101":  # which asks Google's drive, by a library of its own
        assert "cannot be downloaded (put its files there by hand, or go online)" in text
        assert "Name or service not known" in text


def test_a_server_that_does_not_answer_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    def asked(*arguments: object, **more: object) -> None:
        limits.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setattr(urllib.request, "urlopen", asked)
    with pytest.raises(SourceError, match="timed out"):
        load_source(settings("SVHN"), seed=0, root=tmp_path)
    assert set(limits) == {30.0}
    assert socket.getdefaulttimeout() is None


class Evil:
    """Unpickled, it leaves a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_another_pickle_is_not_opened(tmp_path: Path, cifar100: dict[str, Any]) -> None:
    folder, mark = tmp_path / "data" / "raw" / "cifar-100-python", tmp_path / "mark"
    folder.mkdir()
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(pickle.dumps(Evil(mark)))
    (folder.parent / "cifar-100-python.tar.gz").unlink()
    with pytest.raises(SourceError, match="torchvision:CIFAR100: not in"):
        load_source(settings("CIFAR100"), seed=0, root=tmp_path)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists()


def test_only_what_is_wanted_is_decoded(caltech: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    take = datasets.Caltech101.__getitem__

    def noted(self: object, row: int) -> Any:
        asked.append(row)
        return take(self, row)

    monkeypatch.setattr(datasets.Caltech101, "__getitem__", noted)
    read = settings("Caltech101", image_size=16, channels="rgb", max_train=4, max_test=2)
    data = load_source(read, seed=0, root=caltech)
    data.train.select(slice(0, len(data.train)))
    assert len(asked) <= 1 + len(data.train)


def test_every_dataset_is_one_of_torchvision() -> None:
    for name, division in DATASETS.items():
        kind = getattr(datasets, name)
        assert issubclass(kind, datasets.VisionDataset)
        assert (division.argument is None) == (division.train is None)


def test_classes_without_images_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EMNIST's letters are numbered from 1, and class 0 is called N/A."""
    folder = tmp_path / "data" / "raw" / "EMNIST" / "raw"
    folder.mkdir(parents=True)
    for part, count in (("train", 104), ("test", 52)):
        images = DRAW.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (folder / f"emnist-letters-{part}-images-idx3-ubyte").write_bytes(idx(images))
        labels = (np.arange(count) % 26 + 1).astype(np.uint8)
        (folder / f"emnist-letters-{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    data = load_source(settings("EMNIST", kwargs={"split": "letters"}), seed=0, root=tmp_path)
    assert data.train.class_names == tuple("abcdefghijklmnopqrstuvwxyz")
    assert data.test.labels.tolist() == [number % 26 for number in range(52)]
    assert data.skipped == ["class N/A: no images"]
    with pytest.raises(
        SourceError, match=r"^torchvision:EMNIST: .*missing 1 required positional argument: 'split'; data"
    ):
        load_source(settings("EMNIST"), seed=0, root=tmp_path)
