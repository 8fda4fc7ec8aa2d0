"""Charts that are given as numbers."""

from typing import Any

import pytest

from notbugs.evaluation.statements import Chart, ChartKind, Series
from notbugs.report.charts import draw, keys
from notbugs.report.live import LiveChart

SHARES = {0.1: {"mean": 0.25, "low": 0.2, "high": 0.3}, 0.2: None, 0.4: {"value": 0.75, "low": 0.7, "high": 0.8}}


def given(**more: Any) -> Chart:
    series = [Series.of_shares("one", SHARES), Series("two", [0.1, 0.4], [0.5, 0.6])]
    return Chart(**{"name": "a", "caption": "", "x": "eps", "y": "accuracy", "series": series, **more})


def drawn(**more: Any) -> LiveChart:
    return draw(given(**more))


def layer(chart: LiveChart, mark: str) -> dict[str, Any]:
    """The one layer of a kind of mark."""
    (found,) = [one for one in chart.spec["layer"] if one["mark"]["type"] == mark]
    return dict(found)


def marks(chart: LiveChart) -> list[str]:
    return [one["mark"]["type"] for one in chart.spec["layer"]]


def domain(chart: LiveChart) -> list[float] | None:
    found = layer(chart, "errorbar")["encoding"]["y"]["scale"].get("domain")
    return None if found is None else list(found)


def test_lines_join_what_was_measured_and_show_intervals() -> None:
    chart = drawn(marks={"chance": 0.1})
    assert chart.spec["data"]["values"] == [
        {"series": "one", "x": 0.1, "y": 0.25, "low": 0.2, "high": 0.3},
        {"series": "one", "x": 0.4, "y": 0.75, "low": 0.7, "high": 0.8},
        {"series": "two", "x": 0.1, "y": 0.5},
        {"series": "two", "x": 0.4, "y": 0.6},
    ]
    assert marks(chart) == ["rule", "errorbar", "line", "point", "point"]
    assert layer(chart, "rule")["data"]["values"] == [{"series": "chance", "y": 0.1}]
    whiskers = layer(chart, "errorbar")["encoding"]
    assert (whiskers["y"]["field"], whiskers["y2"]["field"]) == ("low", "high")
    line = layer(chart, "line")["encoding"]
    assert (line["x"]["title"], line["y"]["title"]) == ("eps", "accuracy")
    assert domain(chart) == [0, 1]


def test_what_the_mouse_is_told_is_value_and_interval() -> None:
    point = drawn().spec["layer"][2]
    assert [(one["field"], one.get("format")) for one in point["encoding"]["tooltip"]] == [
        ("series", None),
        ("x", None),
        ("y", ".1%"),
        ("interval", None),
    ]
    assert "datum.low" in drawn().spec["transform"][0]["calculate"]
    bare = drawn(series=[Series("two", [0.1, 0.4], [0.5, 0.6])]).spec["layer"][2]
    assert [one["field"] for one in bare["encoding"]["tooltip"]] == ["series", "x", "y"]


def test_a_click_on_the_legend_fades_all_other_series() -> None:
    chart = drawn(marks={"chance": 0.1})
    legend = chart.spec["layer"][-1]
    assert legend["params"] == [{"name": "chosen", "select": {"type": "point", "fields": ["series"]}, "bind": "legend"}]
    assert legend["encoding"]["shape"]["scale"]["domain"] == ["one", "two", "chance"]
    for one in chart.spec["layer"][:-1]:
        assert one["encoding"]["opacity"]["condition"][0]["param"] == "chosen"


def test_points_are_not_joined() -> None:
    assert "line" not in marks(drawn(kind="points"))


def test_bars_stand_side_by_side_at_named_places() -> None:
    series = [Series("one", ["D", "D_R"], [0.5, 0.25]), Series("two", ["D_R"], [0.75])]
    chart = drawn(series=series, kind="bars")
    bars = layer(chart, "bar")["encoding"]
    assert bars["x"]["sort"] == ["D", "D_R"]
    assert bars["xOffset"]["scale"]["domain"] == ["one", "two"]
    assert [row["y"] for row in chart.spec["data"]["values"]] == [0.5, 0.25, 0.75]
    assert "text" in marks(chart)  # the percentage above each bar
    many = [Series(str(number), ["D", "D_R", "D_NR"], [0.5] * 3) for number in range(8)]
    assert "text" not in marks(drawn(series=many, kind="bars"))


@pytest.mark.parametrize("kind", ["lines", "points"])
def test_named_places_stand_in_their_order(kind: ChartKind) -> None:
    chart = drawn(series=[Series("one", ["b", "a"], [0.5, 0.25])], kind=kind)
    assert chart.spec["layer"][-2]["encoding"]["x"]["sort"] == ["b", "a"]


def test_differences_and_other_numbers_have_their_own_range() -> None:
    below = drawn(series=[Series("one", [1, 2], [-0.5, 0.5])])
    assert domain(below) is None
    assert layer(below, "line")["encoding"]["y"]["axis"]["format"] == ".0%"
    plain = drawn(series=[Series("one", [1, 2], [3.0, 5.0])], percent=False)
    assert domain(plain) is None
    assert layer(plain, "line")["encoding"]["y"]["axis"]["format"] == "~g"


def test_a_share_above_100_percent_is_not_cut() -> None:
    assert domain(drawn(series=[Series("one", [1, 2], [0.5, 1.4])])) == [0, 1.4]


@pytest.mark.parametrize("kind", ["lines", "points", "bars"])
def test_twelve_series_are_told_apart(kind: ChartKind) -> None:
    series = [Series(f"series {number}", [1, 2], [0.1, number / 12]) for number in range(12)]
    found = keys(given(series=series, kind=kind))
    looks = {(key.look.colour, key.look.marker, key.inside) for key in found}
    assert len(looks) == 12
    for key in found:  # of one colour two differ in more than the line, which a point has not
        alike = [other for other in found if other.look.colour == key.look.colour]
        assert len({(other.look.marker, other.hollow) for other in alike}) == len(alike) <= 2
    legend = draw(given(series=series, kind=kind)).spec["layer"][-1]["encoding"]
    shown = zip(*(legend[channel]["scale"]["range"] for channel in ("shape", "fill", "stroke")), strict=True)
    assert len(set(shown)) == 12


def test_a_chart_comes_back_from_a_file() -> None:
    from dataclasses import asdict

    chart = Chart("a", "c", "x", "y", [Series("one", [1], [0.5])], "bars", False, {"m": 0.1})
    assert Chart.of(asdict(chart)) == chart
