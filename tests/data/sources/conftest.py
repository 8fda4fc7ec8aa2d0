"""Small pictures and trees of them, made on the spot."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]
Tree = Callable[..., Path]


def _encode(pixels: np.ndarray, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, file_format, **options)
    return buffer.getvalue()


@pytest.fixture
def encode() -> Encode:
    """Encode an array (H, W) or (H, W, C), uint8 unless the format says otherwise."""
    return _encode


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """Write train/<class>/<ii>.png of 8 x 8 pixels, the red of each its number, counted over all in order."""

    def write(train: dict[str, int] | None = None, test: dict[str, int] | None = None, name: str = "pets") -> Path:
        number = 0
        for split, classes in (
            ("train", train or {"cat": 4, "dog": 3}),
            ("test", test or {"cat": 2, "dog": 2}),
        ):
            for class_name, count in classes.items():
                folder = tmp_path / name / split / class_name
                folder.mkdir(parents=True)
                for i in range(count):
                    pixels = np.full((8, 8, 3), (number, 100, 200), np.uint8)
                    (folder / f"{i:02}.png").write_bytes(_encode(pixels))
                    number += 1
        return tmp_path / name

    return write
