"""Sample grids: constructed images beside the images they were made from, with their labels.

Which examples are shown follows a fixed rule, so that nobody picks the pretty ones: of each class, in label
order, the first example in D.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from notbugs.data.store import StoredDataset
from notbugs.report.drawing import new_figure
from notbugs.report.project import Project
from notbugs.runtime.config import dataset_name

FACTORS = (1, 2, 5, 10, 20, 50, 100)
"""Amplifications of δ that a grid may use: the largest at which nothing shown is clipped."""


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
    count = len(strips[0].images)
    cell = min(0.86, 7.8 / count)  # inches
    heights = [cell + 0.17 * strip.lines for strip in strips]
    figure, axes = new_figure(sum(heights) + 0.1 * len(strips), len(strips), count, width=cell * count + 1.2)
    engine = figure.get_layout_engine()
    if engine is not None:
        engine.set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)  # type: ignore[call-arg]
    for number, strip in enumerate(strips):
        row = axes[number * count : (number + 1) * count]
        for panel, image, caption in zip(row, strip.images, strip.captions, strict=True):
            _show(panel, image, caption)
        row[0].set_ylabel(strip.title, rotation=0, ha="right", va="center", fontsize=9, labelpad=6)
    return figure


def _show(panel: Axes, image: Tensor, caption: str) -> None:
    """One image (C, H, W): grey with one channel, RGB with three."""
    # Of three channels matplotlib ignores the colour map and its ends.
    panel.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")  # (H, W, C)
    panel.set(xticks=[], yticks=[])
    panel.grid(visible=False)
    for spine in panel.spines.values():
        spine.set(visible=True, color="#bbbbbb", linewidth=0.6)
    panel.set_xlabel(caption, fontsize=7.5, labelpad=2)
