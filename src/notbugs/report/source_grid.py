"""Samples of D as they were read: a row a class, before anything is trained."""

import torch
from matplotlib.figure import Figure
from torch import Tensor

from notbugs.data.images import Images
from notbugs.report.drawing import report_style, to_png
from notbugs.report.grids import Strip, draw

ROWS = 20
"""Classes that are shown at most: the first ones."""
COLUMNS = 10
"""Images of a class that are shown at most."""


def source_png(data: Images) -> bytes:
    """The first images of each class of a split, pixels enlarged without smoothing, as PNG."""
    with report_style():
        return to_png(_grid(data))


def _grid(data: Images) -> Figure:
    labels = data.labels
    counts = torch.bincount(labels, minlength=len(data.class_names))
    shown = counts.nonzero().flatten().tolist()[:ROWS]
    columns = min(COLUMNS, *(int(counts[label]) for label in shown), int(counts.max()))
    strips = []
    for label in shown:
        rows = (labels == label).nonzero().flatten()[:columns]
        strips.append(Strip(_short(data.class_names[label]), drawable(data.select(rows).images), [""] * columns))
    return draw(strips)


def drawable(images: Tensor) -> Tensor:
    """Images with 1 or 3 channels; of any other number their mean."""
    return images if images.shape[1] in (1, 3) else images.mean(dim=1, keepdim=True)


def _short(name: str) -> str:
    text = name if len(name) <= 16 else name[:15] + "…"
    return text.replace("$", r"\$")  # which would begin a formula
