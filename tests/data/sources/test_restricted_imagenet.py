"""An ImageNet tree of a few real synsets and tiny JPEGs becomes the paper's nine classes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from notbugs.data.sources import DataSettings, SourceError, load_source
from notbugs.data.sources.restricted_imagenet import RANGES, SYNSETS, read_restricted_imagenet
from notbugs.data.store import load_dataset
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.config import read_params, validate

FIRST = {name: ids[0] for name, ids in SYNSETS.items()}
"""Class -> one of its synsets."""

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Write an ImageNet tree: four pictures of each synset in train/ and two in val/, and a synset of no class.

    The picture's grey is 10 times its number among those of its split; from left to right it darkens by 8.
    """

    def write(*more: str, train: int = 4, val: int = 2) -> Path:
        for split, count in (("train", train), ("val", val)):
            number = 0
            for synset in [*FIRST.values(), *more, "n01440764"]:  # the last is a tench: rank 0, of no class
                folder = tmp_path / "imagenet" / split / synset
                folder.mkdir(parents=True)
                for i in range(count):
                    grey = np.tile(np.linspace(4, -4, 32), (24, 1)) + 10 * (number % 20) + 20
                    picture = Image.fromarray(np.repeat(grey[..., None], 3, axis=2).astype(np.uint8))
                    picture.save(folder / f"{synset}_{i}.JPEG", quality=100)
                    number += 1
        return tmp_path / "imagenet"

    return write


def settings(**section: object) -> DataSettings:
    return validate({"source": "restricted_imagenet", "path": "imagenet", **section}, "data", DataSettings)


def test_the_table_fits_its_ranges() -> None:
    """203 ids; sorted, the ranges lie in one order, and neighbours in rank are neighbours in id."""
    assert {name: last - first + 1 for name, (first, last) in RANGES.items()} == {
        name: len(ids) for name, ids in SYNSETS.items()
    }
    ids = [synset for ids in SYNSETS.values() for synset in ids]
    assert len(set(ids)) == 203
    assert all(len(synset) == 9 and synset[0] == "n" and synset[1:].isdigit() for synset in ids)
    by_rank = [synset for name in sorted(RANGES, key=lambda name: RANGES[name]) for synset in SYNSETS[name]]
    assert by_rank == sorted(by_rank)
    # ILSVRC 2012: Chihuahua, tabby, bullfrog, loggerhead, black grouse, orangutan, barracouta, Dungeness crab, beetle
    assert list(FIRST.values()) == [
        *("n02085620", "n02123045", "n01641577", "n01664065", "n01795545", "n02480495", "n02514041", "n01978287"),
        "n02165105",
    ]


def test_synsets_become_nine_classes(make: Make) -> None:
    root = make("n02088364", "n02123597")  # a beagle and a Siamese cat
    pool, test, notes = read_restricted_imagenet(root, image_size=14)
    assert pool.class_names == tuple(RANGES) == test.class_names
    assert pool.labels.bincount().tolist() == [8, 8, 4, 4, 4, 4, 4, 4, 4]
    assert test.labels.bincount().tolist() == [4, 4, 2, 2, 2, 2, 2, 2, 2]
    assert pool.origins[3:5] == ("train/n02085620/n02085620_3.JPEG", "train/n02088364/n02088364_0.JPEG")
    assert not any("n01440764" in origin for origin in pool.origins)
    assert pool.source_indices.tolist() == list(range(len(pool)))
    assert len(notes) == 1
    assert notes[0].startswith("192 of 203 synsets: not in the tree: n01644373, n01644900, ")


def test_pictures_are_scaled_to_eight_sevenths_and_cropped(make: Make) -> None:
    """24 x 32 pixels: the shorter side becomes 16, and the middle 14 x 14 remain: x 4.75 to 27.25 of 32."""
    pool, _, _ = read_restricted_imagenet(make(), image_size=14)
    found = pool.select(torch.tensor([5])).images * 255
    assert found.shape == (1, 3, 14, 14)
    middles = (32 - 24) / 2 + 24 / 16 * (1 + np.arange(14) + 0.5)  # of the pixels, in pixels of the picture
    expected = 4 - 8 * (middles - 0.5) / 31 + 10 * 5 + 20
    assert np.abs(found[0, 0, 7].numpy() - expected).max() < 1.5


def test_reading_in_parts_is_reading_at_once(make: Make) -> None:
    pool, _, _ = read_restricted_imagenet(make(), image_size=8)
    whole = pool.select(slice(0, len(pool)))
    rows = torch.tensor([35, 2, 2, 17])
    assert torch.equal(pool.select(rows).images, whole.images[rows])
    assert torch.equal(pool.select(rows).labels, whole.labels[rows])
    assert torch.equal(pool.raw(rows).float() / 255, whole.images[rows])
    assert pool.raw(slice(3, 3)).shape == (0, 3, 8, 8)


def test_only_what_is_asked_for_is_decoded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []

    def decode(data: bytes, side: int, *, grey: bool) -> np.ndarray:
        decoded.append(side)
        return np.zeros((3, side, side), np.uint8)

    monkeypatch.setattr("notbugs.data.sources.pictures.decode", decode)
    pool, _, _ = read_restricted_imagenet(make(), image_size=14)
    assert decoded == []
    pool.select(slice(4, 7))
    assert decoded == [16, 16, 16]


def test_subsets_are_drawn_by_class(make: Make) -> None:
    source = load_source(settings(image_size=8, max_train=27, max_test=9), seed=0, root=make().parent)
    assert (source.train.labels.bincount() + source.validation.labels.bincount()).tolist() == [3] * 9
    assert source.test.labels.tolist() == list(range(9))
    assert source.name == "restricted_imagenet"


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_missing_split_is_named(make: Make, split: str) -> None:
    root = make()
    shutil.rmtree(root / split)
    with pytest.raises(SourceError, match=rf"imagenet/{split}: No such file or directory; expected train/<synset>/"):
        read_restricted_imagenet(root)


def test_a_class_without_synsets_is_named(make: Make) -> None:
    root = make()
    for split in ("train", "val"):
        shutil.rmtree(root / split / FIRST["crab"])
    with pytest.raises(SourceError, match=r"no synset of the class crab \(n01978287, n01978455, n01980166, n0"):
        read_restricted_imagenet(root)


def test_splits_that_do_not_fit_are_named(make: Make) -> None:
    root = make("n02088364")
    shutil.rmtree(root / "val" / "n02088364")
    with pytest.raises(SourceError, match=r"val/ has no folder for the synsets n02088364; expected"):
        read_restricted_imagenet(root)


def test_a_synset_without_pictures_is_named(make: Make) -> None:
    root = make()
    for file in (root / "val" / FIRST["dog"]).iterdir():
        file.rename(file.with_suffix(".txt"))
    with pytest.raises(SourceError, match=r"val/n02085620: no pictures; expected"):
        read_restricted_imagenet(root)


def project(root: Path, **data: object) -> Path:
    text = (Path(__file__).parents[3] / "presets" / "restricted_imagenet.yaml").read_text()
    params = yaml.safe_load(text)
    params["data"].update(path="imagenet", image_size=16, **data)
    params["device"] = "cpu"
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    return root


def test_a_damaged_picture_stops_prepare_and_leaves_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")
    root = make()
    for file in (root / "train" / FIRST["bird"]).iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(SourceError, match=r"train/n01795545/n01795545_\d\.JPEG: cannot be read as a pic.*; remove it"):
        run_stage(open_project(project(root.parent, validation_fraction=0.5)), "prepare")
    assert not list((root.parent / "data").glob("*"))


def test_prepare_writes_bytes_that_lose_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage on the preset: stored as bytes or as floats, the images are the same."""
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")
    monkeypatch.setattr("notbugs.data.images.PART_BYTES", 5 * 4 * 3 * 16 * 16)  # five images at a time
    root = project(make().parent)
    run_stage(open_project(root), "prepare")
    stored = {split: load_dataset(root / "data" / split) for split in ("train", "validation", "test")}
    assert [len(part) for part in stored.values()] == [27, 9, 18]
    assert stored["train"].manifest.dtype == "uint8"
    assert stored["train"].manifest.source == "restricted_imagenet"
    source = load_source(validate(read_params(root / "params.yaml")["data"], "data", DataSettings), seed=0, root=root)
    for split, data in stored.items():
        expected = source.splits[split].select(slice(0, len(data)))
        assert torch.equal(data.data().images, expected.images)
        assert torch.equal(data.labels, expected.labels)
        assert data.examples["origin"].tolist() == source.origins[split]
    assert (stored["train"].path / "images-00000.safetensors").stat().st_size < 1.1 * 27 * 3 * 16 * 16 + 1000
