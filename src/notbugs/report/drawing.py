"""How the pictures of the report look, and what they are drawn with: bars, whiskers, heatmaps, legends.

A model has one colour everywhere. PNG bytes do not vary. Whatever has a value and the ends of its interval (an
`Estimate`, an `Accuracy`) can be drawn as a bar or as a point.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter

from notbugs.evaluation.comparison import Estimate
from notbugs.evaluation.results import FITTED_AS, STILL_Y, Accuracy
from notbugs.report.sets import ConstructedSet
from notbugs.runtime.config import dataset_name

WIDTH = 9.0
"""Inches of a full-width figure; the page shows it at 900 pixels, so 9 points are 12.5 pixels."""
DPI = 160
GREY = "#595959"
"""For what belongs to no model: chance, marks, the paper's values."""
BASE = "#8c8c8c"
"""Of D fitted by the recipe of a construction: lighter, so that whiskers show on its bars."""
HATCH = "////"
"""Of the second of two bars."""
COLOURS = "viridis"
"""Of heatmaps, and of lines that belong to one quantity."""

# Okabe and Ito's palette, told apart with any colour vision; a control shares the colour of what it controls.
_LOOKS = {
    ("D", "standard"): ("#000000", "o"),
    ("D", "robust"): ("#0072B2", "s"),
    ("D_R", "standard"): ("#56B4E9", "^"),
    ("D_NR", "standard"): ("#E69F00", "v"),
    ("D_rand", "standard"): ("#009E73", "D"),
    ("D_det", "standard"): ("#CC79A7", "P"),
    ("D_rand_from_robust", "standard"): ("#009E73", "D"),
    ("D_det_from_robust", "standard"): ("#CC79A7", "P"),
}
_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.0,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.7,
    "hatch.linewidth": 0.8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and line style of one model."""

    colour: str
    marker: str
    line: str


_own: ContextVar[Mapping[str, tuple[str, str]]] = ContextVar("own", default=MappingProxyType({}))
"""Colour and marker of a project's own sets, by dataset."""
_MIXES = ((0, 0.35), (255, 0.45), (0, 0.6), (255, 0.7))
"""Of further sets of a recipe, in turn: black or white, and the share of it that is mixed into the paper's colour."""


@contextmanager
def drawn_as(sets: Iterable[ConstructedSet]) -> Iterator[None]:
    """Draw the constructions of a project in the colours that params.yaml gives, or that follow from their recipes.

    Further sets of a recipe have the marker of the paper's set, and are darker and lighter than it in turn.
    """
    found: dict[str, tuple[str, str]] = {}
    further: Counter[str] = Counter()
    for one in sets:
        known = _LOOKS.get((one.name, "standard"))
        colour, marker = known or _LOOKS.get((dataset_name(one.like), "standard"), (one.kind.colour, "X"))
        if known is None:
            number, further[colour] = further[colour], further[colour] + 1
            colour = _mixed(colour, *_MIXES[number % len(_MIXES)])
        found[one.name] = (one.settings.colour or colour, marker)
    token = _own.set(found)
    try:
        yield
    finally:
        _own.reset(token)


def _mixed(colour: str, end: int, share: float) -> str:
    parts = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    return "#" + "".join(f"{round((1 - share) * part + share * end):02X}" for part in parts)


def look(dataset: str, estimator: str = "standard") -> Look:
    """How a model is drawn everywhere: controls dashed, still-y fits dotted, D by another recipe dash-dotted."""
    line = ":" if dataset.endswith(STILL_Y) else "--" if dataset.endswith("_from_robust") else "-"
    if estimator.startswith(FITTED_AS):
        return Look(BASE, look(estimator.removeprefix(FITTED_AS)).marker, "-.")
    name = dataset.removesuffix(STILL_Y)
    colour, marker = _own.get().get(name) or _LOOKS.get((name, estimator), (GREY, "x"))
    return Look(colour, marker, line)


@contextmanager
def report_style() -> Iterator[None]:
    """The report's style on matplotlib's defaults, whatever the user's matplotlibrc says."""
    skipped = {"backend", "backend_fallback", "interactive"}
    defaults = {str(key): value for key, value in matplotlib.rcParamsDefault.items() if key not in skipped}
    chosen: Any = {**defaults, **_STYLE}
    with matplotlib.rc_context(chosen):
        yield


def new_figure(height: float, rows: int = 1, columns: int = 1, *, width: float = WIDTH) -> tuple[Figure, list[Axes]]:
    """A figure of `width` × `height` inches and its axes, row by row."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def percent_axis(axes: Axes, label: str) -> None:
    """Make y run over accuracies: fractions from 0 to 1, or as high as what was drawn, written as percentages."""
    highest = float(axes.dataLim.y1)
    axes.set_ylim(0, 1.02 * max(1.0, highest if np.isfinite(highest) else 0.0))
    percent_ticks(axes.yaxis)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_ylabel(label)


def percent_ticks(axis: Any) -> None:
    """Write fractions as percentages."""
    axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))


def to_png(figure: Figure) -> bytes:
    """The figure as PNG: the same figure gives the same bytes (no date, no version of the software)."""
    buffer = io.BytesIO()
    layout = figure.get_layout_engine()
    if layout is not None:  # once, by hand: savefig would draw all of the figure for it, and then once more
        layout.execute(figure)
        figure.set_layout_engine("none")
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()


Interval = Estimate | Accuracy
"""A number with the ends of its interval."""


def reach(found: Interval) -> list[list[float]]:
    """How far the interval goes down and up, as matplotlib wants it; rounding must not make it negative."""
    return [[max(0.0, found.value - found.low)], [max(0.0, found.high - found.value)]]


def bar(
    axes: Axes,
    x: float,
    found: Interval | None,
    colour: str,
    *,
    width: float = 0.357,
    hatched: bool = False,
    decimals: int | None = None,
    beside: float | None = None,
) -> None:
    """One bar with its interval; nothing where nothing was measured.

    Args:
        decimals: of the percentage written above it; none without.
        beside: height of a mark at the bar's edge, which the percentage must not cover.
    """
    if found is None:
        return
    face, hatch = ("white", HATCH) if hatched else (colour, None)
    axes.bar(x, found.value, width, facecolor=face, edgecolor=colour, hatch=hatch, lw=1.2)
    axes.errorbar(x, found.value, reach(found), fmt="none", ecolor=GREY, elinewidth=1.1, capsize=2.5, zorder=3)
    if decimals is None:
        return
    above = {"xytext": (0, 2), "textcoords": "offset points"}
    top = found.high
    if beside is not None and top - 0.02 < beside < top + 0.07:
        top = beside + 0.015
    text = axes.annotate(f"{100 * found.value:.{decimals}f}", (x, top), **above)  # type: ignore[arg-type]
    text.set(ha="center", va="bottom", fontsize=8, zorder=5)
    text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.75})


def point(axes: Axes, x: Interval | float, y: Interval | None, colour: str, marker: str, **look: Any) -> None:
    """A mark with its interval, upwards and, where x has one, sideways; nothing where y was not measured."""
    if y is None:
        return
    place, sideways = (x, None) if isinstance(x, int | float) else (x.value, reach(x))
    kept = {"elinewidth": 0.9, "capsize": 2.5, **look}
    axes.errorbar(place, y.value, yerr=reach(y), xerr=sideways, fmt=marker, color=colour, **kept)


def chance_line(axes: Axes, num_classes: int) -> None:
    """What guessing gives."""
    axes.axhline(1 / num_classes, color=GREY, lw=1, ls="--", zorder=2.5)


def heatmap(
    axes: Axes, values: Any, text: Callable[[float], str], hatched: Any, low: float = 0.0, high: float = 1.0
) -> None:
    """A cell a number, with its text in it.

    Args:
        values: (rows, columns), the first row at the bottom; NaN leaves its cell blank.
        text: what is written for a number.
        hatched: (rows, columns) bool, cells to be read with caution.
        low, high: ends of the colours.
    """
    axes.imshow(values, origin="lower", aspect="auto", cmap=COLOURS, vmin=low, vmax=high)
    for row, column in np.ndindex(values.shape):
        if np.isnan(values[row, column]):
            continue
        dark = (values[row, column] - low) / (high - low) < 0.6
        ink, edge = ("white", "#ffffff80") if dark else ("black", "#00000060")
        axes.text(column, row, text(values[row, column]), ha="center", va="center", fontsize=8, color=ink)
        if hatched[row, column]:
            corner = (column - 0.5, row - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="///", edgecolor=edge, lw=0))
    axes.grid(False)


def filled(colour: str, label: str, *, hatched: bool = False) -> Patch:
    """A bar in a legend."""
    if hatched:
        return Patch(facecolor="white", edgecolor=colour, hatch=HATCH, label=label)
    return Patch(facecolor=colour, label=label)


def mark(colour: str, label: str, marker: str = "o", **look: Any) -> Line2D:
    """A point in a legend."""
    return Line2D([], [], ls="", marker=marker, color=colour, label=label, **look)


def stroke(colour: str, label: str, style: str = "-", **look: Any) -> Line2D:
    """A line in a legend."""
    return Line2D([], [], color=colour, ls=style, label=label, **look)


def legend(area: Any, handles: Sequence[Any], columns: int = 8, place: str = "outside upper center") -> None:
    """One legend for a figure or a part of one, outside its panels, in as many columns as fit; nothing without handles.

    Args:
        columns: at most.
    """
    for count in range(min(len(handles), columns), 0, -1):
        made = area.legend(handles=handles, loc=place, ncols=count)
        if count == 1 or made.get_window_extent().width <= area.bbox.width:
            return
        made.remove()


def panels(count: int, height: float, extra: float, most: int = 3) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, at most so many in a row; what is left of the last row stays blank.

    Args:
        height: of a row, inches. extra: for the legend above them.
    """
    columns = min(most, count)
    rows = -(-count // columns)
    figure, axes = new_figure(height * rows + extra, rows, columns)
    for blank in axes[count:]:
        blank.set_axis_off()
    return figure, axes[:count]
