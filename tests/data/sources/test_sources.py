import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from notbugs.data.images import ImageData, Images
from notbugs.data.sources import DataSettings, SourceData, SourceError, load_source
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError


def settings(**section: object) -> DataSettings:
    return validate(section, "data", DataSettings)


def whole(images: Images) -> ImageData:
    return images.select(slice(0, len(images)))


def equal(one: SourceData, other: SourceData) -> bool:
    return all(
        whole(one.splits[split]).images.equal(whole(other.splits[split]).images)
        and one.splits[split].labels.equal(other.splits[split].labels)
        and one.source_indices[split].equal(other.source_indices[split])
        for split in ("train", "validation", "test")
    )


def test_defaults_are_the_digits() -> None:
    default = settings()
    assert (default.source, default.validation_fraction, default.test_fraction) == ("digits", 0.1, 0.2)
    assert (default.max_train, default.max_test, default.shard_size) == (None, None, None)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"source": "mnist"},
            r"data\.source = 'mnist': must be one of digits, cifar10, folder, planted, restricted_imagenet, npz, "
            r"stored, huggingface, torchvision:NAME, huggingface:NAME or package\.module:attribute of your own$",
        ),
        ({"source": "digit"}, r"data\.source = 'digit': must be one of .*; did you mean digits\?"),
        (
            {"source": "folder", "image_size": 32},
            r"data\.path = None: must be given for source: folder \(a dir",
        ),
        ({"source": "folder", "path": "x"}, r"data\.image_size = None: must be given for source: folder"),
        (
            {"path": "x"},
            r"data\.path = 'x': must be null: only source: folder, restricted_imagenet, npz, stored or huggingface "
            r"reads it, and source is digits",
        ),
        (
            {"source": "cifar10", "image_size": 32},
            r"data\.image_size = 32: must be null: .* source is cifar10",
        ),
        (
            {"channels": "grey"},
            r"data\.channels = 'grey': must be null: only source: folder, huggingface, torchvision:NAME, "
            r"huggingface:NAME or your own reads it, and source is digits",
        ),
        (
            {"source": "folder", "path": "x", "image_size": 3},
            r"data\.image_size = 3: must be greater than or",
        ),
        (
            {"source": "restricted_imagenet"},
            r"data\.path = None: must be given for source: restricted_imagenet",
        ),
        (
            {"source": "restricted_imagenet", "path": "x", "channels": "grey"},
            r"'grey': must be null: only source: fo",
        ),
        ({"dtype": "uint8"}, r"data\.dtype = 'uint8': must be float32 where source is digits: its values are no bytes"),
        ({"dtype": "float16"}, r"data\.dtype = 'float16': must be 'float32' or 'uint8'"),
        ({"source": "folder", "path": ""}, r"data\.path = '': must "),
        (
            {"source": "folder", "path": "x", "image_size": 8, "channels": "blue"},
            r"'blue': must be 'rgb' or 'grey'",
        ),
        ({"validation_fraction": 0.0}, r"data\.validation_fraction = 0\.0: must be greater than 0"),
        (
            {"validation_fraction": 0.51},
            r"data\.validation_fraction = 0\.51: must be less than or equal to 0\.5",
        ),
        ({"test_fraction": float("nan")}, r"data\.test_fraction = nan: must be"),
        ({"max_train": 1}, r"data\.max_train = 1: must be greater than or equal to 2"),
        ({"max_test": 0}, r"data\.max_test = 0: must be greater than or equal to 1"),
        ({"max_test": 10.0}, r"data\.max_test = 10\.0: must be a valid integer"),
        ({"shard_size": 0}, r"data\.shard_size = 0: must be greater than or equal to 1"),
        (
            {"kwargs": {"a": 1}},
            r"data\.kwargs = .*: must be null: only source: torchvision:NAME, huggingface:NAME or your",
        ),
        ({"columns": {}}, r"data\.columns = .*: must be null: only source: huggingface or huggingface:NAME reads it"),
        ({"source": "npz"}, r"data\.path = None: must be given for source: npz \(an \.npz archive\)"),
        ({"source": "stored"}, r"data\.path = None: must be given for source: stored \(a stored dataset, or a folder"),
        ({"source": "huggingface"}, r"data\.path = None: must be given for source: huggingface \(a parquet file, or"),
        (
            {"source": "torchvision:Kinetics"},
            r"'torchvision:Kinetics': must be a classification dataset of torchvision",
        ),
        (
            {"source": "torchvision:FashionMnist"},
            r"torchvision\.datasets; did you mean FashionMNIST\?; allowed: MNIST, ",
        ),
        ({"source": "torchvision:SVHN", "path": "x"}, r"data\.path = 'x': must be null: .* source is torchvision:SVHN"),
        ({"classes": ["1"]}, r"data\.classes = \['1'\]: must be a list of at least 2"),
        ({"classes": ["1", "2", "1"]}, r"data\.classes = .*: must be a list of classes, each once"),
        ({"classes": [1, 2]}, r"data\.classes\.0 = 1: must be a valid string"),
        ({"superclasses": {"low": ["0"]}}, r"data\.superclasses = .*: must be a mapping of at least 2 superclasses"),
        ({"superclasses": {"a": ["0"], "b": []}}, r"data\.superclasses\.b = \[\]: must be a list of at least 1"),
        (
            {"superclasses": {"a": ["0", "1"], "b": ["1"]}},
            r"data\.superclasses = .*: must be a mapping in which each class stands once; 1 stands twice",
        ),
        (
            {"classes": ["0", "1"], "superclasses": {"a": ["0"], "b": ["1"]}},
            r"data\.superclasses = .*: must be null where classes is given",
        ),
        ({"image_sise": 32}, r"data\.image_sise: unknown key; did you mean image_size\?"),
    ],
)
def test_impossible_settings_are_refused(section: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(**section)


@pytest.mark.parametrize("section", [{}, {"source": "planted"}, {"source": "folder", "path": "x", "image_size": 8}])
def test_settings_of_before_are_written_as_before(section: dict[str, object]) -> None:
    """A manifest holds them, and kept work is known by them."""
    assert list(settings(**section).model_dump(mode="json")) == [
        *("source", "path", "image_size", "channels", "planted", "skip_unreadable", "validation_fraction"),
        *("test_fraction", "max_train", "max_test", "dtype", "shard_size"),
    ]
    some = settings(**section, classes=["1", "2"])
    assert some.model_dump(mode="json")["classes"] == ["1", "2"]
    assert settings(**some.model_dump(mode="json")) == some


def test_digits_are_split_into_three(tmp_path: Path) -> None:
    data = load_source(settings(validation_fraction=0.15), seed=0, root=tmp_path)
    assert data.name == "digits"
    indices = torch.cat([data.source_indices[split] for split in ("train", "validation", "test")])
    assert indices.sort().values.tolist() == list(range(1797))
    for split in ("train", "validation", "test"):
        part = whole(data.splits[split])
        assert part.images.shape == (len(part), 1, 8, 8)
        assert part.images.dtype == torch.float32
        assert (float(part.images.min()), float(part.images.max())) == (0.0, 1.0)
        assert data.origins[split] == [""] * len(part)
    pool = data.train.labels.bincount() + data.validation.labels.bincount()
    assert data.validation.labels.bincount().tolist() == [round(0.15 * size) for size in pool.tolist()]
    assert data.skipped == []


def test_digits_pixels_are_sixteenths(tmp_path: Path) -> None:
    images = whole(load_source(settings(), seed=0, root=tmp_path).train).images
    assert (images * 16).frac().abs().max() == 0


def test_seed_decides(tmp_path: Path) -> None:
    zero, again, one = (load_source(settings(max_train=200), seed=seed, root=tmp_path) for seed in (0, 0, 1))
    assert equal(zero, again)
    assert not whole(zero.validation).images.equal(whole(one.validation).images)


def test_the_test_split_does_not_depend_on_the_other_settings(tmp_path: Path) -> None:
    plain = load_source(settings(), seed=0, root=tmp_path)
    other = load_source(settings(max_train=300, validation_fraction=0.4), seed=0, root=tmp_path)
    assert whole(plain.test).images.equal(whole(other.test).images)
    assert len(other.train) + len(other.validation) == 300


def test_a_folder_is_split_into_three(tree, tmp_path: Path) -> None:
    tree(train={"cat": 10, "dog": 20}, test={"cat": 3, "dog": 3})
    section = {"source": "folder", "path": "pets", "image_size": 8, "validation_fraction": 0.2}
    data = load_source(settings(**section), seed=0, root=tmp_path)
    assert data.name == "folder:pets"
    assert data.train.class_names == data.validation.class_names == data.test.class_names == ("cat", "dog")
    assert data.validation.labels.bincount().tolist() == [2, 4]
    assert data.train.labels.bincount().tolist() == [8, 16]
    for split, offset in (("train", 0), ("validation", 0), ("test", 30)):
        images, indices = whole(data.splits[split]).images, data.source_indices[split]
        assert images[:, 0, 0, 0].equal((indices + offset).float() / 255)  # red is the number in the tree
        assert images[:, 1, 0, 0].unique().tolist() == [torch.tensor(100 / 255).item()]
        numbers = [int(Path(name).stem) + 10 * ("/dog/" in name) for name in data.origins[split]]
        if split != "test":
            assert numbers == indices.tolist()


def test_grey_folder(tree, tmp_path: Path) -> None:
    tree()
    section = {"source": "folder", "path": "pets", "image_size": 4, "channels": "grey"}
    assert load_source(settings(**section), seed=0, root=tmp_path).test.image_shape == (1, 4, 4)


def test_skipped_files_are_told(tree, tmp_path: Path) -> None:
    (tree() / "train/cat/letter.png").write_text("Dear Sir")
    section = {"source": "folder", "path": "pets", "image_size": 8, "skip_unreadable": True}
    data = load_source(settings(**section), seed=0, root=tmp_path)
    assert data.skipped == ["train/cat/letter.png: not a picture of a known format"]


def test_a_class_of_one_image_cannot_be_split(tree, tmp_path: Path) -> None:
    tree(train={"cat": 3, "dog": 1})
    section = {"source": "folder", "path": "pets", "image_size": 8}
    with pytest.raises(SourceError, match="class dog has 1 image to learn from; at least 2 are needed"):
        load_source(settings(**section), seed=0, root=tmp_path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"^params\.yaml: data\.path = 'nowhere': nothing there; must be a"):
        load_source(settings(source="folder", path="nowhere", image_size=8), seed=0, root=tmp_path)


def test_cifar10_is_looked_for_in_data_raw(tmp_path: Path, monkeypatch) -> None:
    looked = []

    def read(folder: Path) -> None:
        looked.append(folder)
        raise SourceError("not there")

    monkeypatch.setattr("notbugs.data.sources.cifar10.read_cifar10", read)
    with pytest.raises(SourceError, match="not there"):
        load_source(settings(source="cifar10", max_train=100), seed=3, root=tmp_path)
    assert looked == [tmp_path / "data" / "raw"]


@pytest.mark.parametrize("section", [{}, {"source": "planted", "planted": {"num_train": 400, "num_test": 200}}])
def test_subsets_come_out_of_their_own_part(section: dict[str, object], tmp_path: Path) -> None:
    def pools(**limits: int) -> tuple[list[int], list[int], torch.Tensor]:
        found = load_source(settings(**section, **limits), seed=0, root=tmp_path)
        learnt = torch.cat([found.source_indices["train"], found.source_indices["validation"]])
        labels = torch.cat([found.train.labels, found.validation.labels])
        return learnt.tolist(), found.source_indices["test"].tolist(), labels

    pool, test, _ = pools()
    fewer, fewer_test, labels = pools(max_train=100, max_test=50)
    assert (len(fewer), len(fewer_test)) == (100, 50)
    assert set(fewer) < set(pool)
    assert set(fewer_test) < set(test)
    assert labels.bincount().min() >= 9
    assert pools(max_train=10_000, max_test=10_000)[:2] == (pool, test)  # a maximum above the size takes all


def test_a_subset_needs_one_of_each_class(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"data\.max_test = 9: must be at least 10, one image a class"):
        load_source(settings(max_test=9), seed=0, root=tmp_path)


def test_importing_the_settings_does_not_import_the_readers() -> None:
    code = "import sys, notbugs.data.sources; print(sorted({'sklearn', 'torchvision', 'PIL'} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert result.stdout.strip() == "[]"


def test_a_path_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--set data.path=~/pics`: no shell puts the home there, behind the =."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("train/a/x.png", "train/a/y.png", "train/b/x.png", "train/b/y.png", "test/a/x.png", "test/b/x.png"):
        file = tmp_path / "pics" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), len(name)).save(file)
    config = settings(source="folder", path="~/pics", image_size=8)
    assert len(load_source(config, seed=0, root=tmp_path / "project").test) == 2
    with pytest.raises(SourceError, match=r"data\.path = '~nobody-here/pics': nothing there"):
        load_source(config.model_copy(update={"path": "~nobody-here/pics"}), seed=0, root=tmp_path)
