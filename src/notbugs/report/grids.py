"""Sample grids: constructed images beside the images they were made from, with their labels.

Which examples are shown follows a fixed rule, so that nobody picks the pretty ones: of each class, in label
order, the first example in D.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from textwrap import fill

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from notbugs.data.store import StoredDataset
from notbugs.report.project import Project
from notbugs.runtime.config import dataset_name

FACTORS = (1, 2, 5, 10, 20, 50, 100)
"""Amplifications of δ that a grid may use: the largest at which nothing shown is clipped."""
LINE = 0.15
"""Height of a line of a caption, in inches."""


@dataclass(frozen=True)
class Strip:
    """One row of a grid.

    Attributes:
        title: written at its left.
        images: (M, C, H, W) in [0, 1].
        captions: one below each image.
    """

    title: str
    images: Tensor
    captions: list[str]

    @property
    def lines(self) -> int:
        """Of its longest caption."""
        return 1 + max(caption.count("\n") for caption in self.captions)


def datasets_grid(project: Project) -> Figure | None:
    """The same images in D and in each of the paper's datasets, with the labels that they are given."""
    keys = [name for name in ("robust", "nonrobust", "rand", "det") if name in project.constructions]
    if not keys:
        return None
    train, rows = _chosen(project)
    names, labels = train.manifest.class_names, train.examples["label"].to_numpy()
    strips = [Strip("D", train.select(torch.tensor(rows)).images, [str(names[labels[row]]) for row in rows])]
    for key in keys:
        dataset = project.dataset(key)
        places = _rows_of(dataset, rows)
        given = [str(names[label]) for label in dataset.examples.iloc[places]["given_label"]]
        strips.append(Strip(dataset_name(key), dataset.select(torch.tensor(places)).images, given))
    return draw(strips)


def targeted_grid(project: Project, key: str) -> Figure | None:
    """D, the images made with the standard and the robust model, and their δ; `key` is "rand" or "det"."""
    name = dataset_name(key)
    titles = {key: f"{name}\nfrom standard", f"{key}_from_robust": f"{name}\nfrom robust"}
    return _pushed(project, titles)


def further_grid(project: Project) -> Figure | None:
    """D, and the images and δ of the sets that have other names than the paper's."""
    return _pushed(project, {key: project.sets[key].title for key in project.further})


def _pushed(project: Project, titles: Mapping[str, str]) -> Figure | None:
    """D, and of each construction its images and their δ; titles: key -> what is written beside its images."""
    keys = [name for name in titles if name in project.constructions]
    if not keys:
        return None
    train, rows = _chosen(project)
    original = train.select(torch.tensor(rows)).images
    names, labels = train.manifest.class_names, train.examples["label"].to_numpy()
    strips = [Strip("D", original, [f"y: {names[labels[row]]}" for row in rows])]
    made = {name: project.dataset(name) for name in keys}
    images = {name: dataset.select(torch.tensor(_rows_of(dataset, rows))).images for name, dataset in made.items()}
    factor = amplification(torch.cat([images[name] - original for name in keys]))
    for name in keys:
        facts = made[name].examples.iloc[_rows_of(made[name], rows)]
        given = [f"t: {names[label]}" for label in facts.get("target_label", facts["given_label"])]
        norms = [f"‖δ‖₂ {norm:.2f}" for norm in facts["delta_norm"]]
        strips.append(Strip(titles[name], images[name], given))
        delta = ((images[name] - original) * factor + 0.5).clamp(0, 1)
        strips.append(Strip(f"its δ, ×{factor}", delta, norms))
    return draw(strips)


def inverted_grid(project: Project) -> Figure | None:
    """D, and for D_R and D_NR the starts x' and what they became."""
    keys = [name for name in ("robust", "nonrobust") if name in project.constructions]
    if not keys:
        return None
    train, rows = _chosen(project)
    names, labels = train.manifest.class_names, train.examples["label"].to_numpy()
    strips = [Strip("D: x", train.select(torch.tensor(rows)).images, [f"y: {names[labels[row]]}" for row in rows])]
    for key in keys:
        dataset = project.dataset(key)
        places = _rows_of(dataset, rows)
        facts = dataset.examples.iloc[places]
        starts = [int(start) for start in facts["start_index"]]
        strips.append(_starts(train, starts))
        captions = [
            f"y: {names[label]}\nto x {to_x:.2f}\nto x' {to_start:.2f}"
            for label, to_x, to_start in zip(
                facts["given_label"], facts["delta_norm"], facts["pixel_distance_start"], strict=True
            )
        ]
        strips.append(Strip(dataset_name(key), dataset.select(torch.tensor(places)).images, captions))
    return draw(strips)


def _starts(train: StoredDataset, rows: list[int]) -> Strip:
    """The images x' in these rows of D; grey for −1, a start that is no image of D and is not kept."""
    images = train.select(torch.tensor(rows).clamp(min=0)).images
    images[torch.tensor(rows) < 0] = 0.5
    names, labels = train.manifest.class_names, train.examples["label"].to_numpy()
    return Strip("start x'", images, [str(names[labels[row]]) if row >= 0 else "noise" for row in rows])


def _chosen(project: Project) -> tuple[StoredDataset, list[int]]:
    """D and the rows shown: the first example of each of the first `grid_examples` classes."""
    train = project.dataset("train")
    labels = train.examples["label"]
    rows = [int(labels.eq(label).to_numpy().argmax()) for label in sorted(labels.unique())]
    return train, rows[: project.report.grid_examples]


def _rows_of(dataset: StoredDataset, sources: list[int]) -> list[int]:
    """Rows of a construction that were made from these rows of D."""
    row_of = {int(source): row for row, source in enumerate(dataset.examples["source_index"])}
    return [row_of[source] for source in sources]


def amplification(delta: Tensor) -> int:
    """The largest of FACTORS at which 0.5 + factor·δ stays in [0, 1] for every pixel of `delta`."""
    largest = float(delta.abs().max())
    return max((factor for factor in FACTORS if factor * largest <= 0.5), default=1)


def draw(strips: list[Strip]) -> Figure:
    """Strips below each other, images side by side, pixels enlarged without smoothing."""
    count, (tall, wide) = len(strips[0].images), strips[0].images.shape[2:]
    cell, left, gap = min(0.86, 7.8 / count), 1.2, 0.04  # inches
    side, high = cell - gap, (cell - gap) * tall / wide
    heights = [high + LINE * strip.lines + 0.14 for strip in strips]
    width, height = left + cell * count, sum(heights)
    figure = Figure(figsize=(width, height))
    # Inches from the upper left corner. One for all images: to lay out and to draw, axes take longer than an image.
    axes = figure.add_axes((0, 0, 1, 1))
    for strip, top in zip(strips, np.cumsum([gap, *heights[:-1]]).tolist(), strict=True):
        title = "\n".join(fill(line, 16) for line in strip.title.split("\n"))
        axes.text(left - 0.1, top + high / 2, title, ha="right", va="center", fontsize=9)
        for number, (image, caption) in enumerate(zip(strip.images, strip.captions, strict=True)):
            x = left + cell * number
            # Of three channels matplotlib ignores the colour map and its ends.
            pixels = image.permute(1, 2, 0).numpy()  # (H, W, C)
            panel = axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
            panel.set_extent((x, x + side, top + high, top))
            axes.add_patch(Rectangle((x, top), side, high, fill=False, edgecolor="#bbbbbb", lw=0.6))
            axes.text(x + side / 2, top + high + 0.04, caption, ha="center", va="top", fontsize=7.5)
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure
