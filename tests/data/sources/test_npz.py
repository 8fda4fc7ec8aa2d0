"""D in a NumPy archive: two sets or one pool, in every layout, and one line for each that is not as it must be."""

from pathlib import Path

import numpy as np
import pytest
import torch

from notbugs.data.sources import DataSettings, SourceError, load_source
from notbugs.runtime.config import validate
from notbugs.testing import check_source

DRAW = np.random.default_rng(0)
BYTES = DRAW.integers(0, 256, (30, 3, 6, 5), dtype=np.uint8)
LABELS = np.arange(30) % 3


def settings(**section: object) -> DataSettings:
    return validate({"source": "npz", "path": "made.npz", "validation_fraction": 0.25, **section}, "data", DataSettings)


def write(root: Path, **arrays: object) -> Path:
    np.savez(root / "made.npz", **arrays)  # type: ignore[arg-type]
    return root


def two(images: np.ndarray, labels: np.ndarray = LABELS) -> dict[str, np.ndarray]:
    return {"x_train": images[:20], "y_train": labels[:20], "x_test": images[20:], "y_test": labels[20:]}


@pytest.mark.parametrize("labels", [LABELS, LABELS[:, None].astype(np.uint8)], ids=["flat", "column"])
@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_two_sets(tmp_path: Path, dtype: str, layout: str, labels: np.ndarray) -> None:
    images = BYTES if dtype == "uint8" else (BYTES / 255).astype(dtype)
    images = images if layout == "NCHW" else images.transpose(0, 2, 3, 1)
    write(tmp_path, **two(images, labels))
    data = load_source(settings(), seed=0, root=tmp_path)
    assert data.name == "npz:made"
    assert [len(part) for part in data.splits.values()] == [14, 6, 10]
    torch.testing.assert_close(
        data.test.select(slice(0, 10)).images, torch.from_numpy(BYTES[20:]) / 255, rtol=0, atol=1e-7
    )
    assert data.test.labels.tolist() == LABELS[20:].tolist()
    assert data.test.raw(slice(0, 1)).dtype == (torch.uint8 if dtype == "uint8" else torch.float32)
    check_source(lambda seed: load_source(settings(), seed=seed, root=tmp_path))


def test_a_pool_is_divided_by_class(tmp_path: Path) -> None:
    write(tmp_path, images=BYTES[:, 0], labels=LABELS, class_names=np.array(["ant", "bee", "cow"]))
    data = load_source(settings(test_fraction=0.4), seed=0, root=tmp_path)
    assert data.train.class_names == ("ant", "bee", "cow")
    assert data.train.image_shape == (1, 6, 5)
    assert data.test.labels.bincount().tolist() == [4, 4, 4]
    rows = data.source_indices["test"]
    assert torch.equal(data.test.raw(slice(0, 12))[:, 0], torch.from_numpy(BYTES[:, 0])[rows])
    check_source(lambda seed: load_source(settings(), seed=seed, root=tmp_path))


def test_names_of_medmnist(tmp_path: Path) -> None:
    arrays = {
        f"{part}_{what}": value
        for part in ("train", "val", "test")
        for what, value in zip(("images", "labels"), (BYTES, LABELS), strict=True)
    }
    write(tmp_path, **arrays)
    data = load_source(settings(), seed=0, root=tmp_path)
    assert len(data.test) == 30
    assert data.skipped == ["array val_images of made.npz", "array val_labels of made.npz"]


def test_bytes_are_kept_as_bytes(tmp_path: Path) -> None:
    write(tmp_path, **two(BYTES))
    assert load_source(settings(dtype="uint8"), seed=0, root=tmp_path).train.raw(slice(0, 2)).dtype == torch.uint8
    write(tmp_path, **two(BYTES / 255))
    with pytest.raises(
        SourceError, match=r"data\.dtype = 'uint8': must be float32: the values of npz:made are no bytes"
    ):
        load_source(settings(dtype="uint8"), seed=0, root=tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x_train": BYTES, "y_train": LABELS}, r"must hold x_train, y_train, .*; it has x_train, y_train$"),
        ({}, r"must hold x_train, .*; it has nothing$"),
        (two(BYTES.astype(np.int64)), r"x_train: must be uint8 or floating point, not int64"),
        (two(BYTES * 2.0), r"x_train: floating point must lie in \[0, 1\], not \["),
        (two(np.full((30, 4, 4), np.nan)), r"x_train: floating point must lie in \[0, 1\], not \[nan, nan\]"),
        (two(BYTES[:, :2]), r"x_train: must be \(N, H, W\), .* with 1 or 3 channels C, not \(20, 2, 6, 5\)"),
        (two(BYTES[..., :3]), r"x_train: must be .* with 1 or 3 channels C, not \(20, 3, 6, 3\)"),
        (two(BYTES.reshape(30, -1)), r"x_train: must be \(N, H, W\), .*, not \(20, 90\)"),
        (two(BYTES, LABELS / 2), r"y_train: must be \(N,\) whole numbers, not \(20,\) float64"),
        (two(BYTES, np.eye(3)[LABELS]), r"y_train: must be \(N,\) whole numbers, not \(20, 3\)"),
        (two(BYTES, LABELS - 1), r"made\.npz: labels lie in -1\.\.1, not 0\.\.1"),
        ({**two(BYTES), "y_test": LABELS}, r"x_test and y_test: 10 images and 30 labels; there must be one label an"),
        ({**two(BYTES), "class_names": np.array(["a", "b"])}, r"made\.npz: labels lie in 0\.\.2, not 0\.\.1"),
        (
            {**two(BYTES), "class_names": np.array([1, 2, 3])},
            r"class_names must be \(classes,\) text, not \(3,\) int64",
        ),
        ({**two(BYTES), "class_names": np.array(["a", "b", "a"])}, r"two classes are called 'a'; names must differ"),
        (
            {**two(BYTES), "y_test": np.array([{}] * 10)},
            r"made\.npz: y_test: Object arrays cannot be loaded when allow",
        ),
        ({**two(BYTES), "x_test": BYTES[20:, :, :4]}, r"images of train are \(3, 6, 5\) and of test \(3, 4, 5\)"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    write(tmp_path, **arrays)
    with pytest.raises(SourceError, match=message) as raised:
        load_source(settings(), seed=0, root=tmp_path)
    assert "\n" not in str(raised.value)


def test_what_is_no_archive_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"data\.path = 'made\.npz': nothing there; must be an \.npz archive"):
        load_source(settings(), seed=0, root=tmp_path)
    (tmp_path / "made.npz").write_bytes(b"no archive")
    with pytest.raises(SourceError, match=r"made\.npz: not an \.npz archive of NumPy's"):
        load_source(settings(), seed=0, root=tmp_path)
    write(tmp_path, **two(BYTES))
    content = bytearray((tmp_path / "made.npz").read_bytes())
    content[300:340] = bytes(40)
    (tmp_path / "made.npz").write_bytes(content)
    with pytest.raises(SourceError, match=r"made\.npz: x_train: BadZipFile: Bad CRC-32"):
        load_source(settings(), seed=0, root=tmp_path)
