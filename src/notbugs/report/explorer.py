"""Section with single images: of each constructed dataset a sample, before and after, with what models say of it.

Which images are shown follows a fixed rule: they are evenly spread over D in the order of its classes. A bound on
bytes gives their number. Only these rows are read. A dataset's images are tiles of one picture (a sheet).
"""

import base64
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from notbugs.data.images import as_floats
from notbugs.data.store import StoredDataset
from notbugs.evaluation.results import set_title
from notbugs.report.grids import amplification
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Section
from notbugs.report.source_grid import drawable

Pixels = NDArray[np.float32]
"""Images in [0, 1], (n, C, H, W)."""
MOST = 120
"""Images of a dataset at most."""
BYTES = 375_000
"""Of all sheets and texts on the page at most, beside the tables' own markup."""
USUAL_BYTES = 0.4
"""A value of an image takes about so many bytes or more; bounds what is read before the bytes are counted."""
SIDE = 64
"""Pixels of a side at most; larger images are shown at this size."""
LEVELS = 33
"""Brightnesses of a channel in a sheet: half the bytes of 256, which no eye tells apart here. Odd: grey is one."""
DIFFERENCES = 17
"""The same of differences, which do not compress otherwise."""
PIXELS = 72
"""A tile is shown at least this many pixels of the page wide, a whole number of them for each of its own."""


class Column(NamedTuple):
    """What the page says of an example in one column.

    Attributes:
        group, head: above it. facts: column of examples.parquet, whose rows it is left out without.
        before: column of the same about the untouched x, shown below it; empty where there is none.
        says: how a value is written: "class", "length", "probability" or "whether".
        filters: whether the reader chooses images by it.
    """

    group: str
    head: str
    facts: str
    says: str
    before: str = ""
    filters: bool = False


COLUMNS = (
    Column("", "y", "true_label", "class", filters=True),
    Column("", "label t", "given_label", "class", filters=True),
    Column("", "pushed to", "target_label", "class"),
    Column("L2 distance to", "x", "delta_norm", "length"),
    Column("L2 distance to", "x'", "pixel_distance_start", "length"),
    Column("probability of", "y", "probability_true_after", "probability", "probability_true_before"),
    Column("probability of", "t", "probability_given_after", "probability", "probability_given_before"),
    Column("called by", "robust model", "robust_prediction", "class", "robust_prediction_before"),
    Column("called by", "1-NN", "neighbour_prediction", "class", "neighbour_prediction_before"),
    Column("", "success", "success", "whether", filters=True),
    Column("", "still y", "still_y", "whether", filters=True),
)
"""From left to right."""


@dataclass(frozen=True)
class Sheet:
    """A picture of tiles.

    Attributes:
        png: the picture. width, height: of it. tile: (width, height) of a tile.
    """

    png: bytes
    width: int
    height: int
    tile: tuple[int, int]

    @property
    def base64(self) -> str:
        """The bytes as they stand in a data URL."""
        return base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class Explored:
    """A constructed dataset as the section shows it.

    Attributes:
        key, title: of it. factor: by which the difference is enlarged. columns: what is said of an example.
        sheet: a line of start x' (of inversions), of new images, of differences; the place of an example in the sample
            is that in each line.
        tiles: what the lines are called.
        rows: (place in the sample, [row of D, a text for each column, with what is below it after a line's end]).
    """

    key: str
    title: str
    factor: int
    columns: Sequence[Column]
    sheet: Sheet
    tiles: Sequence[str]
    rows: Sequence[tuple[int, Sequence[str]]]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Texts above the columns, and how many columns each spans."""
        above = [("", 1), ("image", 1 + len(self.tiles))]
        return above + [(group, len(list(columns))) for group, columns in groupby(self.columns, lambda one: one.group)]

    @property
    def filters(self) -> list[tuple[str, int]]:
        """(heading, number of its cell in a row) of each column by which images are chosen."""
        first = 2 + len(self.tiles)
        return [(one.head, first + place) for place, one in enumerate(self.columns) if one.filters]


def sample(labels: Tensor, count: int) -> list[int]:
    """Rows of D, evenly spread over D in the order of its classes; those of one class not side by side.

    Args:
        labels: of D, (N,). count: of rows; all if there are no more.
    """
    count = min(count, len(labels))
    ordered = labels.argsort(stable=True)
    rows = ordered[torch.arange(count) * len(labels) // max(1, count)]
    ranks = pd.Series(labels[rows].numpy()).groupby(labels[rows].numpy()).cumcount()
    return [int(rows[place]) for place in np.lexsort((labels[rows].numpy(), ranks))]


def numbers(project: Project, _: Facts) -> dict[str, Any]:
    """The sheets and the texts, of as many images as BYTES allow.

    Returns: `sets`: of each construction (`Explored`); `originals`: the sheet of x; `scale`: pixels of the page to
        one of a tile; `side`: to how many pixels images were reduced, None where they were not.
    """
    keys = list(project.constructions)
    if not keys:
        return {"sets": [], "originals": None, "scale": 1, "side": None}
    train = project.dataset("train")
    made = {key: project.dataset(key) for key in keys}
    values = train.image_shape[0] * min(SIDE, train.image_shape[1]) * min(SIDE, train.image_shape[2])
    count = int(max(1, min(MOST, BYTES / (USUAL_BYTES * values * (1 + 2 * len(keys))))))
    while True:
        rows = sample(train.labels, count)
        original = _images(train, rows)
        originals = _sheet([_in_levels(original, LEVELS)])
        sets = [_explored(key, made[key], train, rows, original) for key in keys]
        size = len(originals.base64) + sum(map(_size, sets))
        if size <= BYTES or count == 1:
            break
        count = max(1, min(count - 1, int(0.98 * count * BYTES / size)))
    scale = -(-PIXELS // originals.tile[0])
    side = SIDE if max(train.image_shape) > SIDE else None
    return {"sets": sets, "originals": originals, "scale": scale, "side": side}


def _size(explored: Explored) -> int:
    return len(explored.sheet.base64) + len(json.dumps(explored.rows))


def _explored(key: str, made: StoredDataset, train: StoredDataset, rows: list[int], original: Pixels) -> Explored:
    """A dataset's images of these rows of D; what was not made from one of them is left out."""
    facts = _facts(made, rows)
    places = [place for place, row in enumerate(rows) if row in facts.index]
    facts = facts.loc[[rows[place] for place in places]]
    new = np.full_like(original, 0.5)
    new[places] = _images(made, facts["index"].tolist())
    delta = np.zeros_like(original)
    delta[places] = new[places] - original[places]
    factor = amplification(torch.from_numpy(delta))
    difference = _in_levels((factor * delta + 0.5).clip(0, 1), DIFFERENCES)
    tiles = {"new image": _in_levels(new, LEVELS), f"difference ×{factor}": difference}
    starts = facts["start_index"]
    if (starts >= 0).any():
        start = np.full_like(original, 0.5)  # grey for noise, which is not kept
        known = [place for place, row in zip(places, starts, strict=True) if row >= 0]
        start[known] = _images(train, [int(row) for row in starts if row >= 0])
        tiles = {"start x'": _in_levels(start, LEVELS), **tiles}
    columns = [column for column in COLUMNS if _says_anything(column, facts)]
    written = [_written(column, facts, made.class_names) for column in columns]
    texts = zip([str(row) for row in facts.index], *written, strict=True)
    told = [(place, list(text)) for place, text in zip(places, texts, strict=True)]
    return Explored(key, set_title(key), factor, columns, _sheet(list(tiles.values())), list(tiles), told)


def _facts(made: StoredDataset, rows: list[int]) -> pd.DataFrame:
    """What is known of the examples made from these rows of D, by row of D; the others are not kept in memory."""
    file = made.path / made.manifest.examples.file
    found = pd.read_parquet(file, filters=[("source_index", "in", rows)])
    return found.drop_duplicates("source_index").set_index("source_index")


def _says_anything(column: Column, facts: pd.DataFrame) -> bool:
    """Whether the dataset holds it; the probability of t is that of y where all are labelled y."""
    if column.facts not in facts or bool(facts[column.facts].isna().all()):
        return False
    return column.facts != "probability_given_after" or bool((facts["given_label"] != facts["true_label"]).any())


def _written(column: Column, facts: pd.DataFrame, names: Sequence[str]) -> list[str]:
    """A column's texts, that of the untouched x below."""
    texts = [_text(value, column.says, names) for value in facts[column.facts]]
    if column.before not in facts:
        return texts
    before = [_text(value, column.says, names) for value in facts[column.before]]
    return [f"{after}\n{old}" for after, old in zip(texts, before, strict=True)]


def _text(value: Any, says: str, names: Sequence[str]) -> str:
    if pd.isna(value):
        return "–"
    if says == "class":
        return names[int(value)] if int(value) >= 0 else "–"
    if says == "whether":
        return "yes" if value else "no"
    return f"{value:.2f}" if says == "length" else f"{value:.3f}"


def _images(dataset: StoredDataset, rows: list[int]) -> Pixels:
    """Images of some rows as they are shown, (n, 1 or 3, H, W) in [0, 1], no side longer than SIDE."""
    images = drawable(as_floats(dataset.raw(torch.tensor(rows, dtype=torch.int64))))
    height, width = images.shape[2:]
    if max(height, width) <= SIDE:
        return images.numpy()
    longest = max(height, width)
    return adaptive_avg_pool2d(images, (max(1, height * SIDE // longest), max(1, width * SIDE // longest))).numpy()


def _sheet(lines: Sequence[Pixels]) -> Sheet:
    """Lines of tiles, each (n, C, H, W), below each other: alike neighbours take fewer bytes."""
    tiles = np.stack(lines)  # (lines, n, C, H, W)
    down, across, channels, height, width = tiles.shape
    pixels = (
        (tiles.transpose(0, 3, 1, 4, 2).reshape(down * height, across * width, channels) * 255).round().astype(np.uint8)
    )
    buffer = io.BytesIO()
    # Noise repeats nothing: to look for it takes twice the time, and helps less than what is coded alone.
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(buffer, "PNG", compress_type=zlib.Z_RLE)
    return Sheet(buffer.getvalue(), across * width, down * height, (width, height))


def _in_levels(images: Pixels, levels: int) -> Pixels:
    return ((images * (levels - 1)).round() / (levels - 1)).astype(np.float32)


SECTION = Section("explorer", numbers=numbers)
