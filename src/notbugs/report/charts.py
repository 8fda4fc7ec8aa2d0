"""Charts that studies give as numbers (`evaluation.statements.Chart`), drawn in the report's style."""

from collections.abc import Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from notbugs.evaluation.comparison import Estimate
from notbugs.evaluation.statements import Chart, Series
from notbugs.report.drawing import (
    GREY,
    bar,
    filled,
    legend,
    mark,
    new_figure,
    percent_axis,
    percent_ticks,
    point,
    stroke,
)

LOOKS = (
    ("#000000", "o"),
    ("#0072B2", "s"),
    ("#D55E00", "^"),
    ("#009E73", "D"),
    ("#CC79A7", "P"),
    ("#E69F00", "v"),
    ("#56B4E9", "X"),
)
"""Colour and marker of each series, in turn: told apart with any colour vision, and in grey."""
HEIGHT = 3.7
LINES = ("--", ":", "-.")


def draw(chart: Chart) -> Figure:
    """The chart as a figure."""
    figure, (axes,) = new_figure(HEIGHT)
    places = list(dict.fromkeys(x for series in chart.series for x in series.x))
    named = any(isinstance(x, str) for x in places)
    handles = []
    for number, (series, (colour, marker)) in enumerate(zip(chart.series, cycle(LOOKS), strict=False)):
        where = [float(places.index(x)) if named else float(x) for x in series.x]
        found = _estimates(series)
        if chart.kind == "bars":
            handles.append(_bars(axes, [float(places.index(x)) for x in series.x], found, series.label, number, chart))
            continue
        for place, value in zip(where, found, strict=True):
            point(axes, place, value, colour, marker)
        if chart.kind == "lines":
            known = [(place, value.value) for place, value in zip(where, found, strict=True) if value is not None]
            axes.plot([x for x, _ in known], [y for _, y in known], color=colour)
            handles.append(stroke(colour, series.label, marker=marker))
        else:
            handles.append(mark(colour, series.label, marker))
    for (label, level), style in zip((chart.marks or {}).items(), cycle(LINES), strict=False):
        axes.axhline(level, color=GREY, lw=1, ls=style, zorder=2.5)
        handles.append(stroke(GREY, label, style, lw=1))
    if named or chart.kind == "bars":
        axes.set_xticks(range(len(places)), [str(place) for place in places])
    axes.set_xlabel(chart.x)
    if chart.percent and all(value >= 0 for series in chart.series for value in series.y if value is not None):
        percent_axis(axes, chart.y)
    else:
        axes.set_ylabel(chart.y)
        if chart.percent:  # differences
            percent_ticks(axes.yaxis)
    legend(figure, handles, columns=3)
    return figure


def _estimates(series: Series) -> list[Estimate | None]:
    """Value and interval of each point; a point without an interval has one of no width."""
    lows, highs = (list(ends) or [None] * len(series.y) for ends in (series.low, series.high))
    found: list[Estimate | None] = []
    for value, low, high in zip(series.y, lows, highs, strict=True):
        if value is None:
            found.append(None)
        else:
            found.append(Estimate(value, value if low is None else low, value if high is None else high))
    return found


def _bars(
    axes: Axes, places: Sequence[float], found: Sequence[Estimate | None], label: str, number: int, chart: Chart
) -> object:
    """One series of bars, beside those of the others; its entry in the legend."""
    count = len(chart.series)
    width = 0.8 / count
    colour, _ = LOOKS[number % len(LOOKS)]
    hatched = number % 2 == 1
    for place, value in zip(places, found, strict=True):
        middle = place + (number - (count - 1) / 2) * width
        bar(axes, middle, value, colour, width=0.9 * width, hatched=hatched, decimals=0 if chart.percent else None)
    return filled(colour, label, hatched=hatched)
