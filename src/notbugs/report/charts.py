"""Charts that studies give as numbers (`evaluation.statements.Chart`), drawn in the report's style."""

from collections.abc import Iterator, Sequence
from typing import Any

from notbugs.evaluation.statements import Chart
from notbugs.report import layers
from notbugs.report.drawing import GREY, Look
from notbugs.report.keys import Key
from notbugs.report.layers import Frame
from notbugs.report.live import LiveChart

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Of the series in turn: told apart with any colour vision, and in grey."""
MARKERS = "os^DPvX<>"
LINES = ("-", "--", "-.", ":")
LEVELS = ("--", ":", "-.")
"""Of level lines in turn."""
MOST_NUMBERS = 22
"""Bars above which a percentage finds room."""


def keys(chart: Chart) -> list[Key]:
    """How each series is drawn: no two alike in colour and marker (bars: colour and inside) before there are 14."""
    found = []
    for number, series in enumerate(chart.series):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
        line = LINES[number // len(COLOURS) % len(LINES)] if chart.kind == "lines" else ""
        if chart.kind == "bars":
            found.append(Key(series.label, Look(colour, "bar", ""), hollow=number % 2 == 1))
        else:
            found.append(Key(series.label, Look(colour, marker, line)))
    return found


def draw(chart: Chart) -> LiveChart:
    """The chart by its definition."""
    rows = list(_rows(chart))
    own = keys(chart)
    marks = chart.marks or {}
    level_keys = [Key(label, Look(GREY, "", LEVELS[number % len(LEVELS)])) for number, label in enumerate(marks)]
    frame = _axes(chart, rows)
    told = layers.told(frame, "series", "interval" if any(row["low"] is not None for row in rows) else "")
    drawn = [layers.levels(frame, [*own, *level_keys], marks)] if marks else []
    if chart.kind == "bars":
        drawn += [layers.bars(frame, own, told), layers.whiskers(frame, _grey(own), xOffset=layers.beside(own))]
        if chart.percent and len(rows) <= MOST_NUMBERS:
            drawn.append(layers.heights(frame, own))
    else:
        drawn.append(layers.whiskers(frame, own))
        drawn += [layers.lines(frame, own)] if chart.kind == "lines" else []
        drawn.append(layers.points(frame, own, told))
    legend = layers.in_legend([*own, *level_keys])
    return layers.layered(rows, [*drawn, legend], frame, about=chart.caption or f"{chart.y} against {chart.x}")


def _rows(chart: Chart) -> Iterator[dict[str, Any]]:
    """A row a point that was measured; without an interval its ends are None."""
    names = bool(_places(chart))
    for series in chart.series:
        lows, highs = (list(ends) or [None] * len(series.y) for ends in (series.low, series.high))
        for x, y, low, high in zip(series.x, series.y, lows, highs, strict=True):
            if y is not None:
                place = str(x) if names else x
                yield {"series": series.label, "x": place, "y": y, "low": low, "high": high}


def _places(chart: Chart) -> list[str]:
    """The names along x; none where numbers stand there."""
    places = list(dict.fromkeys(x for series in chart.series for x in series.x))
    named = chart.kind == "bars" or any(isinstance(x, str) for x in places)
    return [str(place) for place in places] if named else []


def _axes(chart: Chart, rows: Sequence[dict[str, Any]]) -> Frame:
    """Percentages from 0 to 100 or as high as a value lies; differences and other numbers have a range of their own."""
    ends = [row[key] for row in rows for key in ("y", "low", "high") if row[key] is not None]
    places = _places(chart)
    if chart.percent and all(row["y"] >= 0 for row in rows):
        return Frame.of_shares(chart.x, chart.y, [row["y"] for row in rows], places)
    bottom = 0.0 if chart.kind == "bars" and min(ends, default=0.0) >= 0 else None
    return Frame(chart.x, chart.y, places, chart.percent, bottom, None)


def _grey(own: Sequence[Key]) -> list[Key]:
    """The same series, for whiskers that show on their bars."""
    return [Key(key.label, Look(GREY, "", "")) for key in own]
