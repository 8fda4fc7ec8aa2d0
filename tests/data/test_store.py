"""Stored datasets come back as they were written; damage is found and named."""

import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from notbugs.data.images import ImageData
from notbugs.data.store import DatasetError, DatasetWriter, load_dataset, save_dataset
from notbugs.runtime.files import sha256

NAMES = ("cat", "dog", "owl")


def example_data(count: int = 10) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 2, 4, 4, generator=generator)
    return ImageData(images, torch.arange(count) % 3, NAMES)


def save(path: Path, data: ImageData, **changes: object) -> None:
    arguments: dict = {"name": "D_x", "source": "made", "settings": {"eps": 0.5}, "shard_size": 4, **changes}
    save_dataset(path, data, pd.DataFrame({"index": range(len(data))}), **arguments)


def test_round_trip_over_several_shards(tmp_path: Path) -> None:
    data = example_data()
    save(tmp_path / "x", data)
    stored = load_dataset(tmp_path / "x")
    assert [shard.num_examples for shard in stored.manifest.shards] == [4, 4, 2]
    assert torch.equal(stored.data().images, data.images)
    assert torch.equal(stored.data().labels, data.labels)
    assert stored.data().class_names == NAMES
    assert stored.manifest.settings == {"eps": 0.5}
    assert list(stored.examples["index"]) == list(range(10))
    assert sum(len(shard) for shard in stored.shards()) == 10


def test_it_is_a_torch_dataset(tmp_path: Path) -> None:
    data = example_data()
    save(tmp_path / "x", data)
    stored = load_dataset(tmp_path / "x")
    image, label = stored[-1]
    assert torch.equal(image, data.images[9])
    assert label == 0
    with pytest.raises(IndexError, match="10 out of range for 10"):
        stored[10]
    images, labels = next(iter(DataLoader(stored, batch_size=10)))
    assert torch.equal(images, data.images)
    assert torch.equal(labels, data.labels)


def test_float16_is_close_and_smaller(tmp_path: Path) -> None:
    data = example_data()
    save(tmp_path / "x", data, dtype="float16")
    images = load_dataset(tmp_path / "x").data().images
    assert images.dtype == torch.float32
    assert float((images - data.images).abs().max()) <= 2**-12


def test_same_content_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save(tmp_path / name, example_data())
    for file in sorted((tmp_path / "a").iterdir()):
        assert sha256(file) == sha256(tmp_path / "b" / file.name)


def test_saving_again_replaces_the_folder(tmp_path: Path) -> None:
    save(tmp_path / "x", example_data(10))
    save(tmp_path / "x", example_data(3))
    assert len(load_dataset(tmp_path / "x")) == 3
    assert not (tmp_path / "x" / "images-00001.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_an_interrupted_save_leaves_the_old_dataset(tmp_path: Path) -> None:
    save(tmp_path / "x", example_data(5))
    with pytest.raises(ValueError, match="Unable to serialize"):
        save(tmp_path / "x", example_data(3), settings={"not json": object()})
    assert len(load_dataset(tmp_path / "x")) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("file", ["images-00001.safetensors", "examples.parquet"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damage_is_named(tmp_path: Path, file: str, damage: str) -> None:
    save(tmp_path / "x", example_data())
    path = tmp_path / "x" / file
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-5])
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    message = "missing, though" if damage == "missing" else "truncated or altered"
    with pytest.raises(DatasetError, match=f"{file}: {message}"):
        load_dataset(tmp_path / "x")


def test_unverified_damage_is_still_an_error_of_the_store(tmp_path: Path) -> None:
    save(tmp_path / "x", example_data())
    path = tmp_path / "x" / "images-00000.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DatasetError, match=r"images-00000\.safetensors: cannot be read"):
        load_dataset(tmp_path / "x", verify=False)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(4, 2, 4, 5), torch.zeros(4, dtype=torch.int64), r"holds .*4, 2, 4, 5, 'float32'.* manifest says"),
        (torch.zeros(4, 2, 4, 4), torch.zeros(4), r"holds .*\(4, 'F32'\).* manifest says .*\(4, 'I64'\)"),
        (torch.full((4, 2, 4, 4), 2.0), torch.zeros(4, dtype=torch.int64), r"images must lie in \[0, 1\], not \[2\.0"),
        (torch.full((4, 2, 4, 4), torch.nan), torch.zeros(4, dtype=torch.int64), r"images must lie in .* not \[nan"),
        (torch.zeros(4, 2, 4, 4), torch.full((4,), 3), r"labels must lie in 0\.\.2; make the dataset again"),
    ],
)
def test_unverified_contents_that_cannot_be_are_errors_of_the_store(tmp_path: Path, images, labels, message) -> None:
    save(tmp_path / "x", example_data())
    save_file({"images": images, "labels": labels}, tmp_path / "x" / "images-00000.safetensors")
    for read in (lambda stored: stored.data(), lambda stored: stored.select(torch.tensor([0]))):
        with pytest.raises(DatasetError, match=message) as caught:
            read(load_dataset(tmp_path / "x", verify=False))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda manifest: manifest.pop("shards"), "not a manifest"),
        (lambda manifest: manifest.update(format=2), "not a manifest"),
        (lambda manifest: manifest.update(num_examples=11), "do not add up to 11"),
        (lambda manifest: manifest["shards"][0].update(file="../evil"), "not a manifest"),
    ],
)
def test_bad_manifests(tmp_path: Path, change: object, message: str) -> None:
    save(tmp_path / "x", example_data())
    file = tmp_path / "x" / "manifest.json"
    manifest = json.loads(file.read_text())
    change(manifest)  # type: ignore[operator]
    file.write_text(json.dumps(manifest))
    with pytest.raises(DatasetError, match=message):
        load_dataset(tmp_path / "x")


def test_no_dataset_there(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no dataset there .*`dvc repro` makes it"):
        load_dataset(tmp_path)


def test_wrong_number_of_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="10 images and 9 rows"):
        save_dataset(tmp_path / "x", example_data(), pd.DataFrame({"i": range(9)}), name="x", source="", settings={})


@pytest.mark.parametrize(
    "indices",
    [
        torch.tensor([8, 0, 3, 3, 7]),
        torch.tensor([True, False, False, True, True, False, False, False, True, True]),
        slice(2, 7),
        slice(0, 0),
    ],
)
def test_select_reads_only_some(tmp_path, indices):
    data = example_data()
    save(tmp_path / "x", data, shard_size=4)
    found, expected = load_dataset(tmp_path / "x").select(indices), data.select(indices)
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.labels, expected.labels)
    assert found.class_names == data.class_names


def test_written_in_parts_is_written_at_once(tmp_path):
    data = example_data()
    save(tmp_path / "x", data, shard_size=4)
    (tmp_path / "y").mkdir()
    writer = DatasetWriter(tmp_path / "y", shard_size=4)
    for rows in (slice(0, 1), slice(1, 1), slice(1, 7), slice(7, 10)):
        writer.add(data.select(rows))
    made = load_dataset(tmp_path / "x").manifest
    writer.finish(pd.DataFrame({"index": range(10)}), name=made.name, source=made.source, settings=made.settings)
    files = sorted(path.name for path in (tmp_path / "x").iterdir())
    assert [shard.num_examples for shard in made.shards] == [4, 4, 2]
    assert files == sorted(path.name for path in (tmp_path / "y").iterdir())
    assert all((tmp_path / "x" / file).read_bytes() == (tmp_path / "y" / file).read_bytes() for file in files)


def test_a_data_loader_reads_batches_and_holds_nothing(tmp_path):
    data = example_data()
    save(tmp_path / "x", data, shard_size=4)
    stored = load_dataset(tmp_path / "x")
    batches = list(DataLoader(stored, batch_size=4, sampler=[9, 2, 5, 5, 0]))
    assert torch.equal(torch.cat([images for images, _ in batches]), data.images[[9, 2, 5, 5, 0]])
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.labels[[9, 2, 5, 5, 0]])
    assert torch.equal(stored[-1][0], data.images[9])
    assert "_data" not in vars(stored)


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_raw_is_what_lies_on_disk(tmp_path, dtype):
    data = example_data()
    data = ImageData((data.images * 255).round() / 255, data.labels, data.class_names)
    save(tmp_path / "x", data, dtype=dtype, shard_size=4)
    stored = load_dataset(tmp_path / "x")
    rows = torch.tensor([9, 0, 5, 4])
    assert stored.raw(rows).dtype == getattr(torch, dtype)
    expected = data.images.half().float() if dtype == "float16" else data.images
    assert torch.equal(stored.select(rows).images, expected[rows])
    assert torch.equal(stored.data().images, expected)
    assert stored.image_shape == data.image_shape


def test_parts_must_be_alike(tmp_path):
    writer = DatasetWriter(tmp_path)
    writer.add(ImageData(torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), ("a",)))
    with pytest.raises(ValueError, match=r"parts of one dataset must be alike: \(1, 4, 4\) and \(1, 5, 4\)"):
        writer.add(ImageData(torch.zeros(2, 1, 5, 4), torch.zeros(2, dtype=torch.int64), ("a",)))


def test_large_images_make_shards_of_at_most_16_mib(tmp_path, monkeypatch):
    monkeypatch.setattr("notbugs.data.store.SHARD_BYTES", 3 * 4 * 16)
    writer = DatasetWriter(tmp_path)
    writer.add(ImageData(torch.zeros(7, 1, 4, 4), torch.zeros(7, dtype=torch.int64), ("a",)))
    manifest = writer.finish(pd.DataFrame({"i": range(7)}), name="x", source="", settings={})
    assert [shard.num_examples for shard in manifest.shards] == [3, 3, 1]
