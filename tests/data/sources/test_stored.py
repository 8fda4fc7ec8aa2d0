"""A dataset in our own format as D."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from notbugs.data.images import ImageData, make_generator
from notbugs.data.sources import DataSettings, SourceError, load_source
from notbugs.data.store import DatasetError, save_dataset
from notbugs.exchange.importing import import_dataset
from notbugs.runtime.config import validate
from notbugs.testing import check_source


def settings(**section: object) -> DataSettings:
    return validate({"source": "stored", "path": "kept", "validation_fraction": 0.25, **section}, "data", DataSettings)


def store(
    path: Path, count: int, part: int = 0, dtype: str = "float32", names: tuple[str, ...] = ("a", "b")
) -> ImageData:
    images = torch.rand(count, 1, 5, 4, generator=make_generator(part, "stored")).half().float()
    data = ImageData(images, torch.arange(count) % 2, names)
    table = pd.DataFrame({"origin": [f"{part}/{row}" for row in range(count)]})
    save_dataset(path, data, table, name="D", source="x", settings={}, dtype=dtype, shard_size=7)  # type: ignore[arg-type]
    return data


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_one_dataset_is_a_pool(tmp_path: Path, dtype: str) -> None:
    whole = store(tmp_path / "kept", 30, dtype=dtype)
    data = load_source(settings(test_fraction=0.2), seed=0, root=tmp_path)
    assert data.name == "stored:kept"
    assert data.test.labels.bincount().tolist() == [3, 3]
    for split, part in data.splits.items():
        rows = data.source_indices[split]
        assert torch.equal(part.select(slice(0, len(part))).images, whole.images[rows])
        assert torch.equal(part.labels, whole.labels[rows])
        assert data.origins[split] == [f"0/{row}" for row in rows.tolist()]
    check_source(lambda seed: load_source(settings(), seed=seed, root=tmp_path))


def test_train_and_test_are_a_pair(tmp_path: Path) -> None:
    store(tmp_path / "kept" / "train", 20)
    store(tmp_path / "kept" / "validation", 8, 2)
    test = store(tmp_path / "kept" / "test", 10, 1)
    data = load_source(settings(), seed=0, root=tmp_path)
    assert torch.equal(data.test.select(slice(0, 10)).images, test.images)
    assert len(data.train) + len(data.validation) == 20
    assert data.skipped == ["dataset validation"]
    store(tmp_path / "kept" / "test", 10, 1, names=("a", "c"))
    with pytest.raises(
        SourceError, match=r"^stored:kept: the classes of train and of test must be the same; only one .* b, c"
    ):
        load_source(settings(), seed=0, root=tmp_path)


def test_what_was_imported_is_d(tmp_path: Path) -> None:
    """Anybody's format: here an archive of NumPy's."""
    images = np.random.default_rng(0).random((20, 3, 4, 4), dtype=np.float32)
    (tmp_path / "theirs").mkdir()
    np.savez(tmp_path / "theirs" / "dataset.npz", images=images, labels=np.arange(20) % 2)
    import_dataset(tmp_path / "theirs", "npz", tmp_path / "kept", class_names=["cat", "dog"])
    data = load_source(settings(), seed=0, root=tmp_path)
    assert data.train.class_names == ("cat", "dog")
    rows = data.source_indices["train"]
    assert torch.equal(data.train.select(slice(0, len(rows))).images, torch.from_numpy(images)[rows])


def test_what_is_not_there_or_altered_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(
        SourceError, match=r"data\.path = 'kept': nothing there; must be a stored dataset \(`notbugs imp"
    ):
        load_source(settings(), seed=0, root=tmp_path)
    (tmp_path / "kept").mkdir()
    with pytest.raises(DatasetError, match=r"kept: no dataset there \(manifest\.json is missing\)"):
        load_source(settings(), seed=0, root=tmp_path)
    store(tmp_path / "kept", 20)
    shard = tmp_path / "kept" / "images-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DatasetError, match=r"images-00001\.safetensors: truncated or altered"):
        load_source(settings(), seed=0, root=tmp_path)


def test_bytes_are_asked_for_only_of_bytes(tmp_path: Path) -> None:
    store(tmp_path / "kept", 20)
    with pytest.raises(SourceError, match=r"data\.dtype = 'uint8': must be float32: the values of stored:kept are no"):
        load_source(settings(dtype="uint8"), seed=0, root=tmp_path)
    store(tmp_path / "kept", 20, dtype="uint8")
    assert load_source(settings(dtype="uint8"), seed=0, root=tmp_path).train.raw(slice(0, 1)).dtype == torch.uint8
