"""Some of D's classes, or several as one, for every source."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from notbugs.data.sources import DataSettings, SourceData, SourceError, load_source
from notbugs.runtime.config import validate
from notbugs.testing import check_source


def load(root: Path, **section: object) -> SourceData:
    return load_source(validate(section, "data", DataSettings), seed=0, root=root)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """train/ and test/ of four classes, each of 6 and 3 pictures; the red of each is its class."""
    for split, count in (("train", 6), ("test", 3)):
        for label, name in enumerate(("car", "cat", "dog", "owl")):
            folder = tmp_path / "pets" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.full((8, 8, 3), (label, number, 10 if split == "train" else 200), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


FOLDER = {"source": "folder", "path": "pets", "image_size": 8, "validation_fraction": 0.5}


def test_a_subset_in_the_order_given(pets: Path) -> None:
    data = load(pets, **FOLDER, classes=["dog", "cat"])
    assert data.train.class_names == data.test.class_names == ("dog", "cat")
    assert [len(part) for part in data.splits.values()] == [6, 6, 6]
    for part in data.splits.values():
        red = part.raw(slice(0, len(part)))[:, 0, 0, 0]
        assert torch.equal(red.long(), torch.tensor([2, 1])[part.labels])  # dog, cat in the folder's own order
    assert all("/dog/" in name or "/cat/" in name for name in data.origins["train"])


def test_superclasses(pets: Path) -> None:
    data = load(pets, **FOLDER, superclasses={"animal": ["cat", "dog"], "vehicle": ["car"]})
    assert data.train.class_names == ("animal", "vehicle")
    assert data.test.labels.bincount().tolist() == [6, 3]
    red = data.test.raw(slice(0, 9))[:, 0, 0, 0]
    assert torch.equal(red == 0, data.test.labels == 1)


def test_a_maximum_counts_the_chosen_classes_alone(pets: Path) -> None:
    data = load(pets, **FOLDER, classes=["dog", "cat"], max_train=8, max_test=4)
    assert [len(part) for part in data.splits.values()] == [4, 4, 4]


def test_pictures_of_other_classes_are_not_read(pets: Path) -> None:
    (pets / "pets" / "train" / "owl" / "0.png").write_text("no picture")
    assert len(load(pets, **FOLDER, classes=["dog", "cat"]).test) == 6
    with pytest.raises(SourceError, match="1 of 36 files cannot be read as pictures"):
        load(pets, **FOLDER)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"classes": ["dog", "cta"]},
            r"^params\.yaml: data\.classes: 'cta': must be a class of D: car, cat, dog, owl; did you mean cat\?$",
        ),
        (
            {"superclasses": {"a": ["cat"], "b": ["bus"]}},
            r"^params\.yaml: data\.superclasses: 'bus': must be a class of D: car",
        ),
    ],
)
def test_an_unknown_class_is_one_line(pets: Path, section: dict[str, object], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        load(pets, **FOLDER, **section)


def test_digits_and_the_planted_world(tmp_path: Path) -> None:
    whole = load(tmp_path)
    few = load(tmp_path, classes=["3", "8"])
    assert few.test.class_names == ("3", "8")
    kept = (whole.test.labels == 3) | (whole.test.labels == 8)
    assert torch.equal(
        few.test.select(slice(0, len(few.test))).images, whole.test.select(kept.nonzero().flatten()).images
    )
    parity = load(tmp_path, superclasses={"even": ["0", "2", "4", "6", "8"], "odd": ["1", "3", "5", "7", "9"]})
    assert torch.equal(parity.test.labels, whole.test.labels % 2)
    assert torch.equal(parity.source_indices["test"], whole.source_indices["test"])
    planted = load(tmp_path, source="planted", classes=["dark", "red"], planted={"num_train": 80, "num_test": 40})
    assert planted.test.labels.bincount().tolist() == [10, 10]
    check_source(lambda seed: load_source(DataSettings(classes=("3", "8")), seed=seed, root=tmp_path))
