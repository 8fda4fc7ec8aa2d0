"""Datasets of Hugging Face: local parquet files without its library, and its hub with it; nothing is fetched here."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from notbugs.data.sources import DataSettings, SourceError, load_source
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.testing import check_source

DRAW = np.random.default_rng(0)
PIXELS = DRAW.integers(0, 256, (36, 6, 6, 3), dtype=np.uint8)
NAMES = ["cat", "dog", "owl"]


def settings(source: str = "huggingface", **section: object) -> DataSettings:
    return validate({"source": source, "validation_fraction": 0.25, **section}, "data", DataSettings)


def png(pixels: np.ndarray) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def write(file: Path, rows: slice, labels: list[Any] | None = None, image: str = "image", label: str = "label") -> None:
    """A parquet file as the hub has them: encoded pictures and labels."""
    given = [row % 3 for row in range(36)][rows] if labels is None else labels
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({image: [png(pixels) for pixels in PIXELS[rows]], label: given}), file, row_group_size=5)


def pixels_of(data: Any) -> torch.Tensor:
    return data.raw(slice(0, len(data)))


def test_a_folder_of_splits(tmp_path: Path) -> None:
    write(tmp_path / "pets" / "data" / "train-00000-of-00002.parquet", slice(0, 12))
    write(tmp_path / "pets" / "data" / "train-00001-of-00002.parquet", slice(12, 24))
    write(tmp_path / "pets" / "data" / "validation-00000-of-00001.parquet", slice(24, 36))
    data = load_source(settings(path="pets", dtype="uint8"), seed=0, root=tmp_path)
    assert data.name == "huggingface:pets"
    assert torch.equal(pixels_of(data.test), torch.from_numpy(PIXELS[24:].transpose(0, 3, 1, 2).copy()))
    assert data.test.labels.tolist() == [row % 3 for row in range(24, 36)]
    assert data.train.class_names == ("0", "1", "2")
    rows = data.source_indices["train"]
    assert torch.equal(pixels_of(data.train), torch.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy())[rows])
    check_source(lambda seed: load_source(settings(path="pets"), seed=seed, root=tmp_path))


def test_a_file_is_one_pool_and_columns_are_named(tmp_path: Path) -> None:
    write(tmp_path / "pets.parquet", slice(0, 36), [NAMES[row % 3] for row in range(36)], "photo", "kind")
    columns = {"image": "photo", "label": "kind"}
    data = load_source(settings(path="pets.parquet", columns=columns, test_fraction=0.25), seed=0, root=tmp_path)
    assert data.train.class_names == ("cat", "dog", "owl")
    assert data.test.labels.bincount().tolist() == [3, 3, 3]
    with pytest.raises(
        SourceError, match=r"huggingface:pets: data\.columns\.image must name the column of the images, on"
    ):
        load_source(settings(path="pets.parquet"), seed=0, root=tmp_path)
    with pytest.raises(
        SourceError, match=r"data\.columns\.label must name the column of the labels, one of photo, kind"
    ):
        load_source(settings(path="pets.parquet", columns={**columns, "label": "sort"}), seed=0, root=tmp_path)


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    write(tmp_path / "pets.parquet", slice(0, 36))
    assert len(load_source(settings(path="pets.parquet"), seed=0, root=tmp_path).train) == 24
    message = (
        r"^params\.yaml: data\.source = 'huggingface:pets': must be of an installed library: datasets is not; `pip ins"
    )
    with pytest.raises(ConfigError, match=message):
        settings("huggingface:pets")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0.5] * 36, r"its column of labels must hold whole numbers or texts, not double"),
        ([None, *([1] * 35)], r"its column of labels has gaps"),
        ([-1, *([1] * 35)], r"labels lie in -1\.\.1, not 0\.\.1"),
    ],
)
def test_labels_that_are_none_are_one_line(tmp_path: Path, labels: list[Any], message: str) -> None:
    write(tmp_path / "pets.parquet", slice(0, 36), labels)
    with pytest.raises(SourceError, match=rf"^huggingface:pets.*: {message}") as raised:
        load_source(settings(path="pets.parquet"), seed=0, root=tmp_path)
    assert "\n" not in str(raised.value)


def test_files_that_do_not_fit_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"data\.path = 'pets': nothing there; must be a parquet file, or a folder of them"
    ):
        load_source(settings(path="pets"), seed=0, root=tmp_path)
    (tmp_path / "pets").mkdir()
    with pytest.raises(SourceError, match=r"pets: no \.parquet files in it"):
        load_source(settings(path="pets"), seed=0, root=tmp_path)
    (tmp_path / "pets" / "train.parquet").write_bytes(b"no parquet")
    with pytest.raises(SourceError, match=r"pets/train\.parquet: ArrowInvalid: .*Parquet magic bytes not found"):
        load_source(settings(path="pets"), seed=0, root=tmp_path)
    write(tmp_path / "pets" / "train.parquet", slice(0, 36))
    with pytest.raises(SourceError, match=r"^huggingface:pets: no split 'held': data\.splits must name some of train$"):
        load_source(settings(path="pets", splits={"train": "train", "test": "held"}), seed=0, root=tmp_path)
    table = pa.table({"image": [{"bytes": None, "path": "cat.png"}] * 4, "label": [0, 1, 0, 1]})
    pq.write_table(table, tmp_path / "pets" / "train.parquet")
    with pytest.raises(SourceError, match=r"item 0: only the name of a file, not the picture itself"):
        load_source(settings(path="pets"), seed=0, root=tmp_path)


def hub_dataset(rows: slice, arrays: bool = False) -> Any:
    datasets = pytest.importorskip("datasets")
    image = datasets.Array3D(shape=(3, 6, 6), dtype="float32") if arrays else datasets.Image()
    features = datasets.Features(image=image, label=datasets.ClassLabel(names=NAMES))
    pictures = [Image.fromarray(pixels) for pixels in PIXELS[rows]]
    values = list(PIXELS[rows].transpose(0, 3, 1, 2).astype(np.float32) / 255) if arrays else pictures
    return datasets.Dataset.from_dict(
        {"image": values, "label": [row % 3 for row in range(36)][rows]}, features=features
    )


@pytest.mark.parametrize("arrays", [False, True], ids=["pictures", "arrays"])
def test_a_dataset_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arrays: bool) -> None:
    datasets = pytest.importorskip("datasets")
    asked = []

    def load(name: str, **more: object) -> Any:
        asked.append((name, more))
        return datasets.DatasetDict(train=hub_dataset(slice(0, 24), arrays), test=hub_dataset(slice(24, 36), arrays))

    monkeypatch.setattr(datasets, "load_dataset", load)
    config = settings("huggingface:someone/pets", kwargs={"revision": "v1"})
    data = load_source(config, seed=0, root=tmp_path)
    assert asked == [("someone/pets", {"cache_dir": str(tmp_path / "data/raw/huggingface"), "revision": "v1"})]
    assert data.name == "huggingface:someone/pets"
    assert data.test.class_names == ("cat", "dog", "owl")
    expected = torch.from_numpy(PIXELS[24:].transpose(0, 3, 1, 2).copy())
    assert torch.equal(data.test.select(slice(0, 12)).images, expected.float() / 255)
    assert pixels_of(data.test).dtype == (torch.float32 if arrays else torch.uint8)
    check_source(lambda seed: load_source(config, seed=seed, root=tmp_path))


def test_offline_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def refused(name: str, **more: object) -> Any:
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub\n(LocalEntryNotFoundError)")

    monkeypatch.setattr(datasets, "load_dataset", refused)
    message = rf"^huggingface:pets: cannot be had from the hub or from {tmp_path}/data/raw/huggingface: Conn.* the Hub"
    with pytest.raises(SourceError, match=message) as raised:
        load_source(settings("huggingface:pets"), seed=0, root=tmp_path)
    assert "\n" not in str(raised.value)
    with pytest.raises(
        ConfigError, match=r"data\.path = 'x': must be null: .* huggingface reads it, and source is hugg"
    ):
        settings("huggingface:pets", path="x")
    with pytest.raises(SourceError, match=r"data\.kwargs: cache_dir, split: must be left out"):
        load_source(settings("huggingface:pets", kwargs={"split": "a", "cache_dir": "b"}), seed=0, root=tmp_path)
