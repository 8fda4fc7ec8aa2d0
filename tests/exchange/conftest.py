"""Stored datasets to be exported: three classes, seven images, shards of three."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch

from notbugs.data.images import ImageData, make_generator
from notbugs.data.store import save_dataset

Store = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Save a dataset: store(channels=3, dtype="float32", class_names=...) -> its folder."""

    def save(
        *,
        channels: int = 3,
        dtype: str = "float32",
        class_names: tuple[str, ...] = ("cat", "dog", "owl"),
        size: int = 7,
    ) -> Path:
        images = torch.rand(size, channels, 6, 5, generator=make_generator(0, "images"))
        images = images.half().float() if dtype == "float16" else images
        labels = torch.arange(size) % len(class_names)
        table = pd.DataFrame(
            {
                "index": range(size),
                "source_index": range(10, 10 + size),
                "true_label": labels.roll(1).numpy(),
                "given_label": labels.numpy(),
                "delta_norm": torch.linspace(0.4, 0.5, size).numpy(),
                "probability": [float("nan")] * size,
                "success": [True, False, True, True, False, True, True][:size] + [True] * max(0, size - 7),
            }
        )
        folder = tmp_path / "stored" / "det"
        save_dataset(
            folder,
            ImageData(images, labels, class_names),
            table,
            name="D_det",
            source="digits",
            settings={"recipe": "deterministic_target", "eps": 0.5},
            dtype=dtype,  # type: ignore[arg-type]
            shard_size=3,
        )
        return folder

    return save
