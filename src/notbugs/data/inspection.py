"""What can be said of D before anything is trained: sizes, values, classes, images that lie there more than once."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from notbugs.data.images import Images, Shape, by_parts, fingerprints, part_rows
from notbugs.data.sources import SourceData
from notbugs.runtime.progress import Track, silent


@dataclass(frozen=True)
class SplitFacts:
    """One split of D.

    Attributes:
        count: images.
        kept_as: "uint8" or "float32": the type that they come in.
        low, high: smallest and largest value, on [0, 1].
        mean, std: of all values of each channel.
        class_counts: images of each class, in label order.
        repeated: images that are equal to an earlier one of the split.
    """

    count: int
    kept_as: str
    low: float
    high: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_counts: tuple[int, ...]
    repeated: int


@dataclass(frozen=True)
class Facts:
    """D as it was read and split.

    Attributes:
        name: of the source.
        image_shape: (C, H, W).
        class_names: one name a class, in label order.
        splits: "train", "validation", "test" -> what it holds.
        in_two_splits: see `in_two_splits`.
        contradictory: different images that lie in D under more than one label.
        skipped: what was left out, with the reason.
    """

    name: str
    image_shape: Shape
    class_names: tuple[str, ...]
    splits: dict[str, SplitFacts]
    in_two_splits: dict[str, int]
    contradictory: int
    skipped: tuple[str, ...]


def inspect_source(source: SourceData, progress: Track = silent) -> Facts:
    """Look at all images once, in parts.

    Args:
        source: D, split.
        progress: shows how far it is.
    """
    splits, contents = {}, {}
    for split, data in source.splits.items():
        splits[split], contents[split] = _split_facts(data, split, progress)
    labels = torch.cat([data.labels for data in source.splits.values()])
    return Facts(
        name=source.name,
        image_shape=source.train.image_shape,
        class_names=tuple(source.train.class_names),
        splits=splits,
        in_two_splits=in_two_splits(contents),
        contradictory=_contradictory(torch.cat(list(contents.values())), labels),
        skipped=tuple(source.skipped),
    )


def in_two_splits(contents: Mapping[str, Tensor]) -> dict[str, int]:
    """How many validation images are in train too, and how many test images in train or validation.

    Args:
        contents: split -> fingerprints (N,) of its images.
    """
    known = torch.cat([contents["train"], contents["validation"]])
    return {
        "validation": int(torch.isin(contents["validation"], contents["train"]).sum()),
        "test": int(torch.isin(contents["test"], known).sum()),
    }


def _split_facts(data: Images, split: str, progress: Track) -> tuple[SplitFacts, Tensor]:
    """What a split holds, and the fingerprints (N,) of its images."""
    channels, height, width = data.image_shape
    total, squares = torch.zeros(2, channels, dtype=torch.float64)
    lows, highs, prints = [], [], []
    for part in progress(by_parts(data), f"look at {split}, parts", len(part_rows(data))):
        values = part.images.double()
        total += values.sum(dim=(0, 2, 3))  # (C,)
        squares += values.square().sum(dim=(0, 2, 3))
        lows.append(float(values.min()))
        highs.append(float(values.max()))
        prints.append(fingerprints(part.images))
    number = len(data) * height * width
    mean = total / number
    contents = torch.cat(prints)
    facts = SplitFacts(
        count=len(data),
        kept_as=str(data.raw(slice(0, 1)).dtype).removeprefix("torch."),
        low=min(lows),
        high=max(highs),
        mean=tuple(mean.tolist()),
        std=tuple((squares / number - mean.square()).clamp(min=0).sqrt().tolist()),
        class_counts=tuple(torch.bincount(data.labels, minlength=len(data.class_names)).tolist()),
        repeated=len(contents) - len(contents.unique()),
    )
    return facts, contents


def _contradictory(contents: Tensor, labels: Tensor) -> int:
    """How many different images have several labels; (N,) fingerprints and (N,) labels."""
    pairs = torch.stack([contents, labels], dim=1).unique(dim=0)  # (M, 2)
    return int((pairs[:, 0].unique(return_counts=True)[1] > 1).sum())
