"""A source of D of your own: grey images of a bright bar in noise, whose class is its place.

data:
  source: lab.sources:bars
  kwargs: {count: 1000}
"""

from pathlib import Path

import torch

from notbugs.data.images import ImageData

CLASSES = ("top", "bottom", "left", "right")


def bars(root: Path, seed: int, count: int = 1000) -> tuple[ImageData, None]:
    """Images (count, 1, 8, 8) in [0, 1]; without a test set of their own, so `test_fraction` of them becomes one.

    Args:
        root: the project's folder.
        seed: of params.yaml.
        count: images of all classes together.
    """
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 8, 8, generator=generator) * 0.6
    labels = torch.arange(count) % len(CLASSES)
    places = [
        (slice(0, 2), slice(None)),
        (slice(6, 8), slice(None)),
        (slice(None), slice(0, 2)),
        (slice(None), slice(6, 8)),
    ]
    for label, (rows, columns) in enumerate(places):
        mine = images[labels == label]
        mine[:, :, rows, columns] += 0.4
        images[labels == label] = mine
    return ImageData(images, labels, CLASSES), None
