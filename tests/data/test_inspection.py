"""What is said of D before anything is trained."""

from pathlib import Path

import numpy as np
import pytest
import torch

from notbugs.data.images import ImageData
from notbugs.data.inspection import inspect_source
from notbugs.data.sources import DataSettings, SourceData, load_source


def source(**images: list[tuple[float, int]]) -> SourceData:
    """Splits of images of one value each, with their labels."""
    parts = {}
    for split, pairs in images.items():
        values = torch.tensor([value for value, _ in pairs])[:, None, None, None].expand(-1, 2, 3, 3).clone()
        parts[split] = ImageData(values, torch.tensor([label for _, label in pairs]), ("a", "b"))
    return SourceData("made", **parts, origins={}, source_indices={}, skipped=["b.png: no picture"])


def test_counts_values_and_duplicates() -> None:
    facts = inspect_source(
        source(
            train=[(0.1, 0), (0.2, 1), (0.2, 1), (0.2, 0), (0.5, 1)],
            validation=[(0.2, 1), (0.9, 0)],
            test=[(0.9, 1), (0.5, 1), (0.0, 0), (0.0, 0)],
        )
    )
    assert (facts.name, facts.image_shape, facts.class_names) == ("made", (2, 3, 3), ("a", "b"))
    train = facts.splits["train"]
    assert (train.count, train.class_counts, train.repeated, train.kept_as) == (5, (2, 3), 2, "float32")
    assert (train.low, train.high) == pytest.approx((0.1, 0.5))
    values = np.array([0.1, 0.2, 0.2, 0.2, 0.5])
    assert train.mean == pytest.approx([values.mean()] * 2)
    assert train.std == pytest.approx([values.std()] * 2)
    assert facts.splits["test"].repeated == 1
    assert facts.in_two_splits == {"validation": 1, "test": 2}
    assert facts.contradictory == 2  # 0.2 and 0.9 are called both a and b
    assert facts.skipped == ("b.png: no picture",)


def test_digits(tmp_path: Path) -> None:
    data = load_source(DataSettings(), seed=0, root=tmp_path)
    facts = inspect_source(data)
    whole = data.train.select(slice(0, len(data.train))).images.double()
    assert facts.splits["train"].mean == pytest.approx([float(whole.mean())])
    assert facts.splits["train"].std == pytest.approx([float(whole.std(correction=0))])
    assert [found.repeated for found in facts.splits.values()] == [0, 0, 0]
    assert facts.in_two_splits == {"validation": 0, "test": 0}
    assert sum(sum(found.class_counts) for found in facts.splits.values()) == 1797
