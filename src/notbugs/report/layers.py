"""What live charts are built of: lines, points, bars and their intervals, in layers over one table, and one legend.

A table has a row a point: `series`, `x`, `y`, and `low` and `high`, the ends of its interval. A series is told apart by
colour, marker and dashes at once, and the legend below the chart shows all three; a click on it brings a series out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from notbugs.report.drawing import GREY
from notbugs.report.keys import Key
from notbugs.report.live import LiveChart

HEIGHT = 290
"""Pixels of a chart's panel; its width follows from the page."""
LETTERS = 12
"""Pixels of all letters."""
SPREAD = "95% interval"
"""What low and high are, where nothing else is said."""
_THEME = {
    "font": "DejaVu Sans, Verdana, sans-serif",
    "background": "white",
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": LETTERS,
        "titleFontSize": LETTERS,
        "titleFontWeight": "normal",
        "labelFlush": False,
        "gridColor": "#e3e3e3",
        "titlePadding": 8,
    },
    "axisX": {"grid": False},
    "header": {"labelFontSize": LETTERS, "labelFontWeight": "bold", "labelAnchor": "start"},
    "legend": {
        "labelFontSize": LETTERS,
        "titleFontSize": LETTERS,
        "orient": "bottom",
        "symbolSize": 110,
        "symbolStrokeWidth": 1.5,
        "symbolOpacity": 1,
        "symbolOffset": 8,
        "labelOffset": 20,
        "columnPadding": 14,
        "offset": 6,
    },
    "text": {"fontSize": LETTERS},
    "line": {"strokeWidth": 2},
}
_KEY, _LETTER = 55, 6.6
"""Pixels that an entry of the legend takes besides its letters, and each of these."""
Layer = dict[str, Any]
"""A layer of a chart, as Vega-Lite has it."""
CHOSEN = alt.selection_point(name="chosen", fields=["series"], bind="legend")
"""The series that a click on the legend brings out."""


@dataclass(frozen=True)
class Frame:
    """What the axes show.

    Attributes:
        x, y: titles. places: names along x in their order; numbers without.
        percent: whether y is a fraction written as a percentage. top: of y; None where it follows from the values.
        bottom: the same.
    """

    x: str
    y: str
    places: Sequence[str] = ()
    percent: bool = True
    bottom: float | None = 0.0
    top: float | None = 1.0

    @classmethod
    def of_shares(cls, x: str, y: str, highest: Iterable[float], places: Sequence[str] = ()) -> "Frame":
        """From 0 to 100%, or as high as a value lies."""
        return cls(x, y, places, top=max(1.0, *highest))

    @property
    def format(self) -> str:
        """Of a value in words."""
        return ".1%" if self.percent else ".3~g"

    def across(self, field: str = "x") -> alt.X:
        """The channel x."""
        if not self.places:
            return alt.X(field, type="quantitative", title=self.x, scale=alt.Scale(zero=False, nice=False, padding=8))
        long = max(len(place) for place in self.places) * len(self.places) > 34
        # A word a line where the names would touch each other.
        words = alt.Axis(labelAngle=0, labelExpr="split(datum.label, ' ')" if long else "datum.label")
        return alt.X(field, type="ordinal", title=self.x, sort=list(self.places), axis=words)

    def up(self, field: str = "y") -> alt.Y:
        """The channel y."""
        scale = alt.Scale(zero=self.bottom == 0.0, nice=self.top is None)
        axis = alt.Axis(format=".0%" if self.percent else "~g", tickCount=6)
        if self.bottom is not None and self.top is not None:
            scale = alt.Scale(domain=[self.bottom, self.top], nice=False)
        return alt.Y(field, type="quantitative", title=self.y, scale=scale, axis=axis)


def key_scale(keys: Sequence[Key], values: Iterable[Any]) -> alt.Scale:
    """What each series has."""
    return alt.Scale(domain=[key.label for key in keys], range=list(values))


def shown(opacity: float) -> Any:
    """An opacity, as long as no other series is chosen."""
    return alt.when(CHOSEN).then(alt.value(opacity)).otherwise(alt.value(0.12 * opacity))


def colour(keys: Sequence[Key]) -> alt.Color:
    """The channel of a series' colour."""
    return alt.Color("series:N", scale=key_scale(keys, [key.look.colour for key in keys]), legend=None)


def bands(frame: Frame, keys: Sequence[Key], paint: alt.Color | None = None) -> Layer:
    """Intervals as bands; what of them lies outside the frame is not drawn."""
    ends = {"y": frame.up("low"), "y2": alt.Y2("high")}
    look = alt.Chart().mark_area(clip=True)
    return _unit(
        look.encode(frame.across(), color=paint or colour(keys), detail="series:N", opacity=shown(0.15), **ends)
    )


def whiskers(frame: Frame, keys: Sequence[Key], **beside: Any) -> Layer:
    """Intervals as whiskers."""
    ends = {"y": frame.up("low"), "y2": alt.Y2("high")}
    look = alt.Chart().mark_errorbar(ticks=alt.MarkConfig(size=6), rule=alt.MarkConfig(strokeWidth=1.2))
    return _unit(look.encode(frame.across(), color=colour(keys), opacity=shown(1.0), **ends, **beside))


def lines(frame: Frame, keys: Sequence[Key], paint: alt.Color | None = None) -> Layer:
    """The points of each series joined; a gap where none was measured."""
    dashes = alt.StrokeDash("series:N", scale=key_scale(keys, [key.dashes for key in keys]), legend=None)
    look = alt.Chart().mark_line()
    channels = {"color": paint or colour(keys), "strokeDash": dashes, "opacity": shown(1.0)}
    return _unit(look.encode(frame.across(), frame.up(), **channels))


def points(
    frame: Frame,
    keys: Sequence[Key],
    told: Sequence[alt.Tooltip],
    *,
    rows: Sequence[Mapping[str, Any]] = (),
    hollow_unless: str = "",
) -> Layer:
    """A marker a point, which says its numbers under the mouse.

    Args:
        rows: a table of its own; the chart's without.
        hollow_unless: column that says of each point whether it is filled; all are without.
    """
    shapes = alt.Shape("series:N", scale=key_scale(keys, [key.shape for key in keys]), legend=None)
    insides: Any = alt.Fill("series:N", scale=key_scale(keys, [key.inside for key in keys]), legend=None)
    if hollow_unless:
        insides = alt.condition(f"datum.{hollow_unless} == 1", insides, alt.value("white"))
    look = alt.Chart().mark_point(size=50, strokeWidth=1.5, opacity=1)
    channels = {"shape": shapes, "fill": insides, "stroke": stroke(keys), "opacity": shown(1.0)}
    return _unit(look.encode(frame.across(), frame.up(), tooltip=list(told), **channels), rows)


def dots(frame: Frame, told: Sequence[alt.Tooltip], paint: alt.Color) -> Layer:
    """A dot a point of many, each in a colour of its own."""
    look = alt.Chart().mark_point(size=9, filled=True, opacity=1)
    return _unit(look.encode(frame.across(), frame.up(), tooltip=list(told), color=paint, opacity=shown(1.0)))


def under_the_mouse(frame: Frame, told: Sequence[alt.Tooltip]) -> Layer:
    """What a line without markers says of itself, at every point of it."""
    look = alt.Chart().mark_point(size=90, filled=True, opacity=0)
    return _unit(look.encode(frame.across(), frame.up(), tooltip=list(told)))


def stroke(keys: Sequence[Key]) -> alt.Stroke:
    """The channel of an outline's colour."""
    return alt.Stroke("series:N", scale=key_scale(keys, [key.look.colour for key in keys]), legend=None)


def bars(frame: Frame, keys: Sequence[Key], told: Sequence[alt.Tooltip]) -> Layer:
    """Bars side by side, a series a colour; every other one is hollow."""
    insides = alt.Fill("series:N", scale=key_scale(keys, [key.inside for key in keys]), legend=None)
    channels = {"fill": insides, "stroke": stroke(keys), "opacity": shown(1.0), "xOffset": beside(keys)}
    look = alt.Chart().mark_bar(strokeWidth=1.5)
    return _unit(look.encode(frame.across(), frame.up(), tooltip=list(told), **channels))


def beside(keys: Sequence[Key]) -> alt.XOffset:
    """The channel that puts bars side by side."""
    labels = [key.label for key in keys]
    return alt.XOffset("series:N", sort=labels, scale=alt.Scale(domain=labels, paddingInner=0.12))


def heights(frame: Frame, keys: Sequence[Key]) -> Layer:
    """The percentage of each bar above it and its whisker."""
    look = (
        alt.Chart()
        .mark_text(dy=-4, baseline="bottom")
        .transform_calculate(number="format(100 * datum.y, '.0f')", above="isValid(datum.high) ? datum.high : datum.y")
    )
    channels = {"text": alt.Text("number:N"), "xOffset": beside(keys), "opacity": shown(1.0)}
    return _unit(look.encode(frame.across(), frame.up("above"), **channels))


def levels(frame: Frame, keys: Sequence[Key], marks: Mapping[str, float]) -> Layer:
    """Level lines, such as that of chance."""
    table = [{"series": label, "y": level} for label, level in marks.items()]
    dashes = alt.StrokeDash("series:N", scale=key_scale(keys, [key.dashes for key in keys]), legend=None)
    look = alt.Chart().mark_rule(strokeWidth=1.2)
    told = [alt.Tooltip("series:N", title="level"), alt.Tooltip("y:Q", title=frame.y, format=frame.format)]
    drawn = look.encode(frame.up(), color=colour(keys), strokeDash=dashes, opacity=shown(1.0), tooltip=told)
    return _unit(drawn, table)


def uprights(frame: Frame, marks: Sequence[tuple[float, str]], right: float) -> list[Layer]:
    """Dotted lines at places along x, each with its meaning above the panel, a line of text each.

    Args:
        right: the largest x that is drawn; a text near an end is written inwards.
    """
    drawn = []
    for number, (place, text) in enumerate(marks):
        share = place / right if right else 0.5
        align: Any = "left" if share < 0.2 else "right" if share > 0.8 else "center"
        line = alt.Chart().mark_rule(color=GREY, strokeDash=[2, 2]).encode(frame.across())
        above = alt.Chart().mark_text(color=GREY, align=align, dy=-8 - 15 * number)
        above = above.encode(frame.across(), y=alt.value(0), text="means:N")
        drawn += [_unit(one, [{"x": place, "means": text}]) for one in (line, above)]
    return drawn


def said_above(expression: str, column: str) -> Layer:
    """A text at the top right of a panel, by Vega's expression of the smallest value of a column that is shown."""
    look = alt.Chart().mark_text(align="right", dy=-8, color=GREY)
    smallest = [alt.AggregatedFieldDef(op="min", field=column, **{"as": column})]
    look = look.transform_aggregate(smallest).transform_calculate(said=expression)
    return _unit(look.encode(x=alt.value("width"), y=alt.value(0), text="said:N"))


def told(frame: Frame, series: str, spread: str = SPREAD) -> list[alt.Tooltip]:
    """What the mouse is told of a point: its series, its place, its value, and its interval where it has one."""
    kind: Any = "ordinal" if frame.places else "quantitative"
    return [
        alt.Tooltip("series:N", title=series or "series"),
        alt.Tooltip("x", type=kind, title=frame.x),
        alt.Tooltip("y:Q", title=frame.y, format=frame.format),
        *([alt.Tooltip("interval:N", title=spread)] if spread else []),
    ]


def in_legend(keys: Sequence[Key], title: str = "") -> Layer:
    """The legend, without a mark of its own: of an invisible layer, since only there may lines and markers be one.

    Its columns follow from `room`, the pixels that it may take: `LiveChart.fitted` says how many these are.
    """
    widest = max(len(key.label) for key in keys) * _LETTER + _KEY
    columns = alt.ExprRef(f"max(1, min({len(keys)}, floor(room / {widest:.0f})))")
    entry = alt.Legend(title=title or None, columns=columns, labelLimit=alt.ExprRef(f"room - {_KEY - 14}"))
    channels = {
        "shape": alt.Shape("series:N", scale=key_scale(keys, [key.symbol for key in keys]), legend=entry),
        "fill": alt.Fill("series:N", scale=key_scale(keys, [key.inside for key in keys]), legend=entry),
        "stroke": alt.Stroke("series:N", scale=key_scale(keys, [key.look.colour for key in keys]), legend=entry),
    }
    nothing = alt.Chart().transform_filter("false").mark_point(opacity=0)
    return _unit(nothing.encode(**channels).add_params(CHOSEN))


def _unit(drawn: alt.Chart, rows: Sequence[Mapping[str, Any]] = ()) -> Layer:
    """A layer over the chart's table, or over one of its own. Tests check it against the schema: that takes long."""
    found = drawn.to_dict(validate=False, context={"top_level": False})
    del found["data"]  # altair's name for none
    return {"data": of_rows(rows), **found} if rows else found


def of_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A table as Vega-Lite has it; what is None is left out, and numbers keep five digits.

    As JSON: Vega reads CSV by a function that it makes of a text, which a page may forbid.
    """
    table = []
    for row in rows:
        table.append({name: _brief(value) for name, value in row.items() if value is not None})
    return {"values": table}


def _brief(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


def layered(
    rows: Sequence[Mapping[str, Any]], drawn: Sequence[Layer], frame: Frame, *, about: str, height: int = HEIGHT
) -> LiveChart:
    """The layers over one table.

    Args:
        rows: of the table.
        about: what a reader who sees no picture is told.
    """
    fit = {"type": "fit-x", "contains": "padding"}
    data = {"data": of_rows(rows), "transform": [_interval(frame)]}
    return finished({**data, "width": "container", "autosize": fit, "height": height, **_together(drawn)}, about)


def in_panels(
    rows: Sequence[Mapping[str, Any]],
    drawn: Sequence[Layer],
    frame: Frame,
    keys: Sequence[Key],
    *,
    about: str,
    height: int,
    params: Sequence[Mapping[str, Any]] = (),
    chosen: Sequence[Mapping[str, Any]] = (),
    columns: int = 3,
) -> LiveChart:
    """The layers in a panel for each value of the column `panel`, in their order, and the legend of all below them.

    Args:
        keys: of the legend.
        params: of Vega-Lite, such as a slider. chosen: transformations that pick the rows by them.
        columns: so many panels beside each other at most.
    """
    titles = list(dict.fromkeys(row["panel"] for row in rows))
    by = {"field": "panel", "type": "nominal", "sort": titles, "title": None}
    data = {"params": list(params), "data": of_rows(rows), "transform": [_interval(frame), *chosen]}
    apart = {"scale": {"x": "independent"}, "axis": {"x": "independent"}}
    panels = {"facet": by, "columns": min(columns, len(titles)), "resolve": apart}
    panels["spec"] = {"height": height, **_together(drawn)}
    legend = {"height": 1, "width": 1, **in_legend(keys)}  # a part of its own: panels would each have one
    return finished({**data, "vconcat": [panels, legend], "spacing": 0}, about)


def _together(drawn: Sequence[Layer]) -> dict[str, Any]:
    apart = dict.fromkeys(("color", "shape", "fill", "stroke", "strokeDash"), "independent")  # the legend's are others
    return {"layer": list(drawn), "resolve": {"scale": apart}}


def _interval(frame: Frame) -> dict[str, str]:
    """The interval of a point in words."""
    low, high = (f"format(datum.{end}, '{frame.format}')" for end in ("low", "high"))
    return {"calculate": f"isValid(datum.low) ? {low} + ' to ' + {high} : 'none'", "as": "interval"}


def finished(spec: Mapping[str, Any], about: str) -> LiveChart:
    """A chart with the report's looks; its width follows from the page."""
    return LiveChart({"$schema": alt.SCHEMA_URL, "description": about, "config": _THEME, "padding": 8, **spec})
