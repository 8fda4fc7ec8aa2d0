"""D from a function of the user's own, and one line for each that gives something else."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from notbugs.data.sources import DataSettings, SourceError, load_source
from notbugs.runtime import registry
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.testing import check_source

OWN = """
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset
from notbugs import ImageData

def images(seed, count, side=6):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3, side, side, generator=generator), torch.arange(count) % 3

def in_memory(root, seed, count=30):
    assert (root / "params.txt").exists()
    names = ("a", "b", "c")
    return tuple(ImageData(*images(2 * seed + part, count), names) for part in range(2))

class Pictures(Dataset):
    classes = ["cat", "dog", "owl"]

    def __init__(self, seed, count):
        values, self.given = images(seed, count)
        self.values = (values * 255).byte().permute(0, 2, 3, 1).numpy()

    def __len__(self):
        return len(self.values)

    def __getitem__(self, row):
        return Image.fromarray(self.values[row]), self.given[row]

def pictures(root, seed):
    return Pictures(2 * seed, 30), Pictures(2 * seed + 1, 12)

def tensors(root, seed):
    return TensorDataset(*images(seed, 40)), None

class Listed(Pictures):
    def __init__(self, seed, count):
        super().__init__(seed, count)
        self.targets = self.given.tolist()

def listed(root, seed):
    return Listed(2 * seed, 30), Listed(2 * seed + 1, 12)

class Lying(Listed):
    def __init__(self, seed, count):
        super().__init__(seed, count)
        self.targets = self.targets[::-1]

def lying(root, seed):
    return Lying(0, 30), Lying(1, 12)

def alone(root, seed):
    return in_memory(root, seed)[0]

def broken(root, seed):
    raise RuntimeError("no disk\\nat home")

def nothing(root, seed):
    return None, None

def dark(root, seed):
    values, labels = images(seed, 30)
    return TensorDataset(values * 2, labels), None

def wide(root, seed):
    return TensorDataset(*images(seed, 30)), TensorDataset(*images(seed, 30, 7))

def other_names(root, seed):
    train, test = in_memory(root, seed)
    return train, ImageData(test.images, test.labels, ("a", "b", "d"))

def words(root, seed):
    return [(image, "cat") for image in images(seed, 30)[0]], None

def triples(root, seed):
    return [(image, 1, 2) for image in images(seed, 30)[0]], None

def lists(root, seed):
    return [([[0.5]], 1)] * 30, None

def empty(root, seed):
    return [], None

number = 3
"""


@pytest.fixture
def root(tmp_path: Path, fresh_names: None) -> Path:
    """A project whose src holds lab/data.py."""
    module = tmp_path / "src" / "lab" / "data.py"
    module.parent.mkdir(parents=True)
    module.write_text(OWN)
    (tmp_path / "params.txt").touch()
    registry.allow([], tmp_path)
    return tmp_path


def settings(function: str, **section: object) -> DataSettings:
    registry.allow([f"lab.data:{function}"])
    return validate({"source": f"lab.data:{function}", "validation_fraction": 0.2, **section}, "data", DataSettings)


def read_all(config: DataSettings, root: Path) -> None:
    data = load_source(config, seed=0, root=root)
    data.train.select(slice(0, len(data.train)))


@pytest.mark.parametrize("function", ["in_memory", "pictures", "tensors", "listed"])
def test_sources_of_ones_own(root: Path, function: str) -> None:
    check_source(lambda seed: load_source(settings(function), seed=seed, root=root))


def test_images_and_names_are_those_given(root: Path) -> None:
    data = load_source(settings("in_memory", kwargs={"count": 15}), seed=1, root=root)
    expected = torch.rand(15, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    assert torch.equal(data.test.select(slice(0, 15)).images, expected)
    assert data.train.class_names == ("a", "b", "c")
    assert data.name == "lab.data:in_memory"
    pictures = load_source(settings("pictures", dtype="uint8"), seed=1, root=root)
    assert torch.equal(pictures.test.raw(slice(0, 9)), (expected[:9] * 255).byte())
    assert pictures.test.class_names == ("cat", "dog", "owl")


def test_pictures_are_scaled_and_turned_grey(root: Path) -> None:
    data = load_source(settings("pictures", image_size=4, channels="grey"), seed=0, root=root)
    assert data.train.image_shape == (1, 4, 4)


def test_a_pool_without_a_test_set_is_divided(root: Path) -> None:
    data = load_source(settings("tensors", test_fraction=0.25), seed=0, root=root)
    assert data.test.labels.bincount().tolist() == [4, 3, 3]
    assert data.test.class_names == ("0", "1", "2")
    rows = torch.cat([data.source_indices[split] for split in data.splits])
    assert rows.sort().values.tolist() == list(range(40))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("alone", r"lab\.data:alone: must give \(train, test\), not a ImageData"),
        ("broken", r"lab\.data:broken: RuntimeError: no disk at home"),
        ("nothing", r"lab\.data:nothing: train: needs a map-style dataset, with a length and items, not a NoneType"),
        ("empty", r"lab\.data:empty: train: holds no images"),
        ("dark", r"lab\.data:dark: train: item \d+: values must lie in \[0, 1\], not \["),
        ("wide", r"lab\.data:wide: images of train are \(3, 6, 6\) and of test \(3, 7, 7\); they must be alike"),
        ("other_names", r"lab\.data:other_names: the classes of train and of test must be the same; only one .* c, d$"),
        ("words", r"lab\.data:words: train: item 0: its label must be a whole number from 0, not a str cat"),
        ("triples", r"lab\.data:triples: train: item 0 must be \(image, label\), not a tuple"),
        ("lists", r"lab\.data:lists: train: item 0: an image must be a picture of Pillow's or a tensor .*, not a list"),
        ("lying", r"lab\.data:lying: t\w+: item \d+ has label \d, and its list of all labels says \d"),
    ],
)
def test_what_is_no_dataset_is_one_line(root: Path, function: str, message: str) -> None:
    with pytest.raises(SourceError, match=rf"^{message}") as raised:
        read_all(settings(function), root)
    assert "\n" not in str(raised.value)


def test_arguments_reach_the_function(root: Path) -> None:
    with pytest.raises(SourceError, match=r"lab\.data:in_memory: TypeError: .*unexpected keyword argument 'size'"):
        load_source(settings("in_memory", kwargs={"size": 3}), seed=0, root=root)
    with pytest.raises(
        SourceError, match=r"data\.dtype = 'uint8': must be float32: the values of lab\.data:in_memory are"
    ):
        load_source(settings("in_memory", dtype="uint8"), seed=0, root=root)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("lab.data:picture", r"must be something that is there: .*data\.py has no picture; did you mean pictures\?"),
        ("lab.date:pictures", r"must be something that is there: no module lab\.date in "),
        ("lab.data:number", r"must be a function read\(root, seed, \*\*kwargs\) -> \(train, test\), not a int"),
    ],
)
def test_a_name_that_stands_for_nothing_is_one_line(root: Path, source: str, message: str) -> None:
    registry.allow([source])
    with pytest.raises(ConfigError, match=rf"^params\.yaml: data\.source = '{source}': {message}") as raised:
        validate({"source": source}, "data", DataSettings)
    assert "\n" not in str(raised.value)


def test_it_is_imported_only_if_somebody_names_it(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"must be named in params\.yaml, too, to be imported"):
        validate({"source": "lab.data:pictures"}, "data", DataSettings)
    assert "lab" not in sys.modules


def test_packages_add_sources_by_entry_points(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("their_data", "lab.data:pictures", "notbugs.sources")
    monkeypatch.setattr(registry, "_packaged", lambda group: {entry.name: entry} if group == entry.group else {})
    registry.allow(["their_data"])
    config = validate({"source": "their_data", "image_size": 4}, "data", DataSettings)
    assert load_source(config, seed=0, root=root).train.image_shape == (3, 4, 4)
    with pytest.raises(ConfigError, match=r"'their_dat': must be .*; did you mean their_data\?"):
        validate({"source": "their_dat"}, "data", DataSettings)
