"""How the pictures of the report look: one colour a model everywhere, sizes, PNG bytes that do not vary."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from notbugs.evaluation.results import FITTED_AS, STILL_Y

WIDTH = 9.0
"""Inches of a full-width figure; the page shows it at 900 pixels, so 9 points are 12.5 pixels."""
DPI = 160
GREY = "#595959"
"""For what belongs to no model: chance, marks, the paper's values."""

# Okabe and Ito's palette, told apart with any colour vision; a control shares the colour of what it controls.
_COLOURS = {
    ("D", "standard"): "#000000",
    ("D", "robust"): "#0072B2",
    ("D_R", "standard"): "#56B4E9",
    ("D_NR", "standard"): "#E69F00",
    ("D_rand", "standard"): "#009E73",
    ("D_det", "standard"): "#CC79A7",
    ("D_rand_from_robust", "standard"): "#009E73",
    ("D_det_from_robust", "standard"): "#CC79A7",
}
_MARKERS = {
    ("D", "standard"): "o",
    ("D", "robust"): "s",
    ("D_R", "standard"): "^",
    ("D_NR", "standard"): "v",
    ("D_rand", "standard"): "D",
    ("D_det", "standard"): "P",
    ("D_rand_from_robust", "standard"): "D",
    ("D_det_from_robust", "standard"): "P",
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


def look(dataset: str, estimator: str = "standard") -> Look:
    """How a model is drawn everywhere: controls dashed, still-y fits dotted, D by another recipe dash-dotted."""
    model = (dataset.removesuffix(STILL_Y), estimator)
    line = ":" if dataset.endswith(STILL_Y) else "--" if dataset.endswith("_from_robust") else "-"
    if estimator.startswith(FITTED_AS):
        made = estimator.removeprefix(FITTED_AS)
        return Look(GREY, _MARKERS.get((made, "standard"), "x"), "-.")
    return Look(_COLOURS.get(model, GREY), _MARKERS.get(model, "x"), line)


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
    """Make y run over accuracies: fractions from 0 to 1, written as percentages."""
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_ylabel(label)


def to_png(figure: Figure) -> bytes:
    """The figure as PNG: the same figure gives the same bytes (no date, no version of the software)."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    return buffer.getvalue()
