"""A picture of a few constructed images, to be looked at beside their run."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from notbugs.data.images import Images

HEIGHT = 64
"""Pixels that an image is enlarged to, at least."""


def write_samples(path: Path, data: Images, made: Images) -> None:
    """Write a PNG: a column for the first image of each class with x, what was made from it, and 1/2 + 5·(difference).

    Args:
        data: D; `made` was made from it row by row.
    """
    from PIL import Image

    labels = data.labels[: len(made)]
    rows = torch.tensor([int((labels == label).nonzero()[0]) for label in labels.unique()])
    old, new = data.select(rows).images, made.select(rows).images  # (K, C, H, W)
    strips = torch.cat([old, new, (0.5 + 5 * (new - old)).clamp(0, 1)])
    grid = _tiled(strips, len(rows))
    pixels = (255 * grid).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)


def _tiled(images: Tensor, columns: int) -> Tensor:
    """(R·columns, C, H, W) -> one image (C, ...), row by row, enlarged without smoothing, a white line between."""
    factor = max(1, HEIGHT // images.shape[2])
    large = functional.interpolate(images, scale_factor=factor, mode="nearest")
    framed = functional.pad(large, [2] * 4, value=1.0)
    rows = [torch.cat(list(row), dim=2) for row in framed.split(columns)]
    return torch.cat(rows, dim=1)
