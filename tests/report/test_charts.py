"""Charts that are given as numbers."""

import pytest
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer

from notbugs.evaluation.statements import Chart, ChartKind, Series
from notbugs.report.charts import draw
from notbugs.report.drawing import report_style

SHARES = {0.1: {"mean": 0.25, "low": 0.2, "high": 0.3}, 0.2: None, 0.4: {"value": 0.75, "low": 0.7, "high": 0.8}}


def drawn(**more: object) -> Axes:
    series = [Series.of_shares("one", SHARES), Series("two", [0.1, 0.4], [0.5, 0.6])]
    given = {"name": "a", "caption": "", "x": "eps", "y": "accuracy", "series": series, **more}
    with report_style():
        return draw(Chart(**given)).axes[0]  # type: ignore[arg-type]


def test_lines_join_what_was_measured_and_show_intervals() -> None:
    axes = drawn(marks={"chance": 0.1})
    joined = [line for line in axes.lines if line.get_linestyle() == "-"]
    assert joined[0].get_xydata().tolist() == [[0.1, 0.25], [0.4, 0.75]]
    assert joined[1].get_xydata().tolist() == [[0.1, 0.5], [0.4, 0.6]]
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"] == [0.1]
    whiskers = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
    ends = whiskers[0].lines[2][0].get_segments()[0]
    assert ends[:, 1].tolist() == pytest.approx([0.2, 0.3])
    assert axes.get_xlabel(), axes.get_ylabel() == ("eps", "accuracy")
    assert axes.get_ylim() == (0, 1.02)


def test_points_are_not_joined() -> None:
    assert not [line for line in drawn(kind="points").lines if line.get_linestyle() == "-"]


def test_bars_stand_side_by_side_at_named_places() -> None:
    series = [Series("one", ["D", "D_R"], [0.5, 0.25]), Series("two", ["D_R"], [0.75])]
    axes = drawn(series=series, kind="bars")
    bars = [one.patches[0] for one in axes.containers if isinstance(one, BarContainer)]
    middles = [round(one.get_x() + one.get_width() / 2, 6) for one in bars]
    assert middles == [-0.2, 0.8, 1.2]
    assert [one.get_height() for one in bars] == [0.5, 0.25, 0.75]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["D", "D_R"]


@pytest.mark.parametrize("kind", ["lines", "points"])
def test_named_places_stand_in_their_order(kind: ChartKind) -> None:
    axes = drawn(series=[Series("one", ["b", "a"], [0.5, 0.25])], kind=kind)
    assert [text.get_text() for text in axes.get_xticklabels()] == ["b", "a"]


def test_differences_and_other_numbers_have_their_own_range() -> None:
    below = drawn(series=[Series("one", [1, 2], [-0.5, 0.5])])
    assert below.get_ylim()[0] < -0.5
    assert below.yaxis.get_major_formatter()(0.25) == "25%"
    plain = drawn(series=[Series("one", [1, 2], [3.0, 5.0])], percent=False)
    assert plain.get_ylim()[1] > 5


def test_a_chart_comes_back_from_a_file() -> None:
    from dataclasses import asdict

    chart = Chart("a", "c", "x", "y", [Series("one", [1], [0.5])], "bars", False, {"m": 0.1})
    assert Chart.of(asdict(chart)) == chart
