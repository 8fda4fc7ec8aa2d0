"""Exports: exact, opened by the libraries they are for, whole or not at all, and described by their card."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from notbugs.data.store import DatasetError, StoredDataset, load_dataset
from notbugs.exchange import FORMATS
from notbugs.exchange.base import FormatError
from notbugs.exchange.exporting import export_dataset
from notbugs.exchange.imagefolder import folder_names
from notbugs.exchange.importing import import_dataset
from notbugs.runtime.files import WriteError, sha256

ISSUES = pytest.mark.filterwarnings("default::DeprecationWarning", "default::FutureWarning")
"""Libraries that read exports warn of their own future."""


def hashes(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): sha256(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def loaded_as_the_card_says(folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    """Run the Python of the card in the export's folder; returns what it calls `dataset`."""
    code = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    exec(code[1], names)
    return names["dataset"]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hugging Face's `datasets`, with its caches in the test's folder."""
    datasets = pytest.importorskip("datasets", reason="needs the extra huggingface")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub")
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("form", FORMATS)
def test_there_and_back_is_the_same_to_the_byte(store, tmp_path, form, dtype):
    dataset = store(dtype=dtype)
    assert export_dataset(dataset, form, tmp_path / "out").rounding is None
    import_dataset(tmp_path / "out", form, tmp_path / "back")
    assert hashes(tmp_path / "back") == hashes(dataset)


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_dataset_gives_the_same_bytes(store, tmp_path, form):
    dataset = store()
    for name in ("a", "b"):
        export_dataset(dataset, form, tmp_path / name)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


@pytest.mark.parametrize("form", FORMATS)
def test_no_export_or_import_holds_all_images(store, tmp_path, form, monkeypatch):
    """Both go shard by shard, in parts no larger than one."""
    dataset = store()
    monkeypatch.setattr(StoredDataset, "data", lambda self: pytest.fail("all images at once"))
    monkeypatch.setattr(StoredDataset, "_data", property(lambda self: pytest.fail("all images at once")))
    for module in ("npz", "madry", "huggingface", "imagefolder"):
        monkeypatch.setattr(f"notbugs.exchange.{module}.CHUNK", 2)
    export_dataset(dataset, form, tmp_path / "out")
    import_dataset(tmp_path / "out", form, tmp_path / "back")
    assert hashes(tmp_path / "back") == hashes(dataset)


@ISSUES
@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("form", FORMATS)
def test_the_card_loads_it(store, tmp_path, form, channels, monkeypatch):
    dataset = store(channels=channels)
    export_dataset(dataset, form, tmp_path / "out")
    expected = load_dataset(dataset).data()
    found = loaded_as_the_card_says(tmp_path / "out", monkeypatch, tmp_path)
    items = [(item["image"], item["label"]) if isinstance(item, dict) else item for item in found]
    if form == "imagefolder":  # sorted by class
        places = [int(Path(path).stem) for path, _ in found.samples]
        items = [items[places.index(index)] for index in range(len(places))]
    assert torch.equal(torch.stack([torch.as_tensor(np.asarray(image)) for image, _ in items]), expected.images)
    assert [int(label) for _, label in items] == expected.labels.tolist()


def test_torchvision_gives_the_classes_their_labels(store, tmp_path):
    from torchvision.datasets import ImageFolder

    names = tuple(f"n/{number}" for number in range(12, 0, -1))  # no file names, and not in alphabetical order
    dataset = store(class_names=names, size=24)
    export_dataset(dataset, "imagefolder", tmp_path / "out")
    found = ImageFolder(tmp_path / "out", loader=np.load, is_valid_file=lambda path: path.endswith(".npy"))
    assert sorted((int(Path(path).stem), label) for path, label in found.samples) == [(i, i % 12) for i in range(24)]
    import_dataset(tmp_path / "out", "imagefolder", tmp_path / "back")
    assert load_dataset(tmp_path / "back").class_names == names


@pytest.mark.parametrize(
    ("names", "folders"),
    [
        (("a", "b c"), ["0_a", "1_b_c"]),
        (("b", "a"), ["0_b", "1_a"]),
        (("..", "x"), ["0___", "1_x"]),
        (("airplane", "frog"), ["airplane", "frog"]),
        (tuple(map(str, range(11))), [f"{label:02d}_{label}" for label in range(11)]),
    ],
)
def test_folders_of_classes(names, folders):
    assert folder_names(names) == folders
    assert sorted(folders) == folders


@ISSUES
@pytest.mark.usefixtures("hub")
def test_hugging_face_keeps_classes_facts_and_a_loader(store, tmp_path):
    import datasets

    dataset = store()
    export_dataset(dataset, "huggingface", tmp_path / "out")
    found = datasets.load_dataset(str(tmp_path / "out"))
    assert list(found) == ["train"]
    assert found["train"].features["label"].names == ["cat", "dog", "owl"]
    assert found["train"]["source_index"][:] == list(range(10, 17))
    assert found["train"]["success"][:] == load_dataset(dataset).examples["success"].tolist()
    batches = list(DataLoader(found["train"].with_format("torch", columns=["image", "label"]), batch_size=4))
    assert torch.equal(torch.cat([batch["image"] for batch in batches]), load_dataset(dataset).data().images)
    found["train"].save_to_disk(tmp_path / "arrow")
    import_dataset(tmp_path / "arrow", "huggingface", tmp_path / "back")
    back = load_dataset(tmp_path / "back")
    assert torch.equal(back.data().images, load_dataset(dataset).data().images)
    assert back.class_names == ("cat", "dog", "owl")
    assert back.examples["delta_norm"].tolist() == load_dataset(dataset).examples["delta_norm"].tolist()


@pytest.mark.parametrize("channels", [1, 3])
def test_eight_bits_are_measured_and_warned_of(store, tmp_path, channels):
    from torchvision import transforms
    from torchvision.datasets import ImageFolder

    dataset = store(channels=channels)
    written = export_dataset(dataset, "imagefolder", tmp_path / "out", encoding="png")
    images = load_dataset(dataset).data().images
    found = ImageFolder(tmp_path / "out", transform=transforms.ToTensor())
    order = sorted(range(7), key=lambda place: Path(found.samples[place][0]).stem)
    pictures = torch.stack([found[place][0] for place in order])[:, :channels]
    lost = (pictures - images).double()
    assert written.rounding is not None
    assert written.rounding.value == pytest.approx(float(lost.abs().max()), abs=1e-7)
    assert written.rounding.image == pytest.approx(float(lost.flatten(1).norm(dim=1).max()), abs=1e-6)
    assert 0.0015 < written.rounding.value <= 0.5 / 255 + 1e-7
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"by up to {written.rounding.value:.6f} and an image by up to {written.rounding.image:.6f}" in card
    import_dataset(tmp_path / "out", "imagefolder", tmp_path / "back")
    back = load_dataset(tmp_path / "back")
    assert torch.equal(back.data().images, pictures)
    assert back.manifest.settings["rounded_to_bits"] == 8


def test_a_folder_that_holds_something_is_never_overwritten(store, tmp_path):
    dataset = store()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    for make in (
        lambda: export_dataset(dataset, "npz", tmp_path / "out"),
        lambda: import_dataset(dataset, "npz", tmp_path / "out"),
    ):
        with pytest.raises(FormatError, match=r"--out .*out: something is there already, and nothing is overwritten"):
            make()
    assert hashes(tmp_path / "out").keys() == {"thesis.tex"}
    with pytest.raises(FormatError, match="lies in the dataset itself"):
        export_dataset(dataset, "npz", dataset / "export")


@pytest.mark.parametrize("form", FORMATS)
def test_an_export_that_fails_leaves_nothing(store, tmp_path, form, monkeypatch):
    dataset = store()

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("notbugs.exchange.exporting.card", full)
    with pytest.raises(WriteError, match=r"out: cannot be written: the disk is full"):
        export_dataset(dataset, form, tmp_path / "made" / "out")
    assert list((tmp_path / "made").iterdir()) == []


def test_a_damaged_dataset_is_not_exported(store, tmp_path):
    dataset = store()
    shard = dataset / "images-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"!")
    with pytest.raises(DatasetError, match=r"images-00001\.safetensors: truncated or altered"):
        export_dataset(dataset, "npz", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_encoding_is_only_for_trees(store, tmp_path):
    with pytest.raises(FormatError, match="--encoding png: only --to imagefolder"):
        export_dataset(store(), "npz", tmp_path / "out", encoding="png")
    with pytest.raises(FormatError, match="takes 1 or 3 channels, not 2"):
        export_dataset(store(channels=2), "imagefolder", tmp_path / "out", encoding="png")


def test_without_the_extra_one_line_says_so(store, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(FormatError, match=r"needs `datasets`: pip install 'notbugs\[huggingface\]'"):
        export_dataset(store(), "huggingface", tmp_path / "out")
    assert not (tmp_path / "out").exists()
