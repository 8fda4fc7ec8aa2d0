"""A reader gives the same batches from memory and from disk; training on either gives the same bytes."""

import threading
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor

import notbugs.data.batches
from notbugs.attacks import AttackSettings
from notbugs.data.batches import BatchReader
from notbugs.data.images import ImageData, Images, Subset, as_floats, by_parts, part_rows
from notbugs.data.store import DatasetError, StoredDataset, load_dataset, save_dataset
from notbugs.models import create_model, set_normalisation
from notbugs.training.loop import train
from notbugs.training.settings import TrainSettings

CPU = torch.device("cpu")


def made(count: int = 50) -> ImageData:
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    return ImageData(pixels.float() / 255, torch.arange(count) % 4, ("a", "b", "c", "d"))


def stored(folder: Path, data: ImageData, dtype: str = "uint8") -> StoredDataset:
    table = pd.DataFrame({"index": range(len(data))})
    save_dataset(folder / dtype, data, table, name="D", source="made", settings={}, dtype=dtype, shard_size=16)  # type: ignore[arg-type]
    return load_dataset(folder / dtype)


def order(count: int = 50, size: int = 8) -> tuple[Tensor, ...]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(1)).split(size)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("resident", [True, False])
def test_batches_are_the_rows_asked_for(tmp_path: Path, dtype: str, resident: bool) -> None:
    data = made()
    reader = BatchReader(stored(tmp_path, data, dtype), CPU, resident=resident)
    assert len(reader) == 50
    expected = data.images.half().float() if dtype == "float16" else data.images
    found = list(reader.batches(order()))
    assert [len(rows) for rows, _, _ in found] == [8] * 6 + [2]
    for rows, images, labels in found:
        assert images.dtype == torch.float32
        assert torch.equal(images, expected[rows])
        assert torch.equal(labels, data.labels[rows])
    assert torch.equal(torch.cat([rows for rows, _, _ in found]), torch.cat(order()))


def test_bytes_on_disk_lose_nothing() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    floats = as_floats(every)
    assert torch.equal((floats * 255).round().to(torch.uint8), every)
    assert (float(floats[0]), float(floats[255])) == (0.0, 1.0)


def test_what_is_resident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU: what is in memory anyway, or no larger than the limit."""
    data = made()
    on_disk = stored(tmp_path, data)
    assert BatchReader(data, CPU).resident
    assert BatchReader(on_disk, CPU).resident
    monkeypatch.setattr(notbugs.data.batches, "CPU_BYTES", 50 * 3 * 8 * 8)
    assert BatchReader(on_disk, CPU).resident
    monkeypatch.setattr(notbugs.data.batches, "CPU_BYTES", 50 * 3 * 8 * 8 - 1)
    assert not BatchReader(on_disk, CPU).resident
    assert BatchReader(Subset(on_disk, torch.arange(49)), CPU).resident


def test_few_batches_are_read_ahead_and_the_reader_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk = stored(tmp_path, made())
    read: list[int] = []
    raw = on_disk.raw
    monkeypatch.setattr(on_disk, "raw", lambda rows: read.append(len(rows)) or raw(rows))
    batches = BatchReader(on_disk, CPU, resident=False).batches(order())
    read.clear()
    next(batches)
    assert len(read) <= 3
    batches.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]
    assert len(read) <= 3


def test_an_error_of_the_reader_is_the_feeds(tmp_path: Path) -> None:
    reader = BatchReader(stored(tmp_path, made()), CPU, resident=False)
    (tmp_path / "uint8" / "images-00001.safetensors").write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=r"images-00001\.safetensors: cannot be read"):
        list(reader.batches(order()))


ATTACK = AttackSettings(eps=0.5, num_steps=2, random_start=True)


@pytest.mark.parametrize("attack", [None, ATTACK])
def test_training_gives_the_same_bytes_from_memory_and_from_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: AttackSettings | None
) -> None:
    data = made()
    on_disk = stored(tmp_path, data)
    config = TrainSettings(
        epochs=2, batch_size=8, lr=0.1, crop_padding=1, flip=True, attack=attack, validation_attack=ATTACK
    )

    def trained(source: Images) -> tuple[dict[str, Tensor], list]:
        model = create_model(
            "small_cnn",
            source.image_shape,
            source.class_names,
            generator=torch.Generator().manual_seed(5),
        )
        set_normalisation(model, source)
        records = train(
            model, source, **config.arguments(), generator=torch.Generator().manual_seed(7), validation=source
        )
        return model.state_dict(), records

    weights, records = trained(data)
    for limit in (2**24, 0):
        monkeypatch.setattr(notbugs.data.batches, "CPU_BYTES", limit)
        again, again_records = trained(on_disk)
        assert all(torch.equal(value, again[name]) for name, value in weights.items())
        assert records == again_records


def test_a_subset_is_what_select_gives(tmp_path: Path) -> None:
    data = made()
    rows = torch.tensor([40, 3, 17, 18, 19, 0])
    subset, expected = Subset(stored(tmp_path, data), rows), data.select(rows)
    assert len(subset) == 6
    assert (subset.image_shape, subset.class_names) == ((3, 8, 8), data.class_names)
    assert torch.equal(subset.labels, expected.labels)
    for indices in (slice(0, 6), slice(2, 4), torch.tensor([5, 0, 0]), torch.tensor([True, False] * 3)):
        assert torch.equal(subset.select(indices).images, expected.select(indices).images)
        assert torch.equal(as_floats(subset.raw(indices)), expected.select(indices).images)


def test_normalisation_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = made()
    std, mean = torch.std_mean(data.images.double(), dim=(0, 2, 3))
    monkeypatch.setattr("notbugs.data.images.PART_BYTES", 7 * 4 * 3 * 8 * 8)
    assert len(part_rows(data)) == 8
    assert [len(part) for part in by_parts(data)] == [7] * 7 + [1]
    for source in (data, stored(tmp_path, data)):
        model = create_model("small_cnn", (3, 8, 8), data.class_names, generator=torch.Generator().manual_seed(0))
        set_normalisation(model, source)
        torch.testing.assert_close(model.normalise.mean.flatten().double(), mean, rtol=1e-7, atol=0)
        torch.testing.assert_close(model.normalise.std.flatten().double(), std, rtol=1e-7, atol=0)


@pytest.mark.cuda
@pytest.mark.parametrize("resident", [True, False])
def test_batches_arrive_on_the_device(tmp_path: Path, resident: bool) -> None:
    data = made()
    reader = BatchReader(stored(tmp_path, data), torch.device("cuda"), resident=resident)
    for rows, images, labels in reader.batches(order()):
        assert images.is_cuda
        assert labels.is_cuda
        torch.testing.assert_close(images.cpu(), data.images[rows], rtol=0, atol=1e-7)
