"""The figures draw what the results say: heights, lines, marks, labels."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from notbugs.evaluation.comparison import Estimate
from notbugs.evaluation.intervals import wilson_interval
from notbugs.evaluation.results import accuracy_table
from notbugs.report import figures
from notbugs.report.claims import CIFAR10
from notbugs.report.drawing import bar, filled, legend, look, new_figure, percent_axis, report_style, to_png
from notbugs.report.live import LiveChart
from notbugs.report.project import Project, load_project


@pytest.fixture(scope="module")
def project(fake_project: Path) -> Project:
    return load_project(fake_project)


@pytest.fixture(autouse=True)
def style() -> Iterator[None]:
    with report_style():
        yield


def bars(axes: Axes) -> list[Rectangle]:
    return [patch for patch in axes.patches if isinstance(patch, Rectangle)]


def test_figure_2_has_two_bars_a_model_with_the_right_heights(project: Project) -> None:
    figure = figures.figure_2(project)
    assert figure is not None
    (axes,) = figure.axes
    # Made up: clean 0.99, 0.96, ...; at the headline eps what all attacks together leave, not the weaker PGD.
    clean, attacked = (0.99, 0.96, 0.99, 0.98, 0.97, 0.85, 0.60), (0.325, 0.756, 0.346, 0.525, 0.197, 0.025, 0.003)
    heights = [bar.get_height() for bar in bars(axes)]
    assert heights == pytest.approx([x for pair in zip(clean, attacked, strict=True) for x in pair], abs=0.002)
    assert [label.get_text() for label in axes.get_xticklabels()] == [
        "D, standard", "D, robust", "D, fitted\nas D_R", "D_R", "D_NR", "D_rand", "D_det"
    ]  # fmt: skip
    assert axes.get_ylabel() == "test accuracy on y"
    assert [text.get_text() for text in axes.texts[:2]] == ["98.9", "32.5"]


def test_figure_2_shows_intervals_and_the_papers_values(project: Project) -> None:
    figure = figures.figure_2(project)
    assert figure is not None
    (axes,) = figure.axes
    whisker = axes.collections[0].get_segments()[0]
    row = accuracy_table(project.results)[0]
    assert row.clean is not None
    assert whisker[:, 1] == pytest.approx((row.clean.low, row.clean.high))
    marks = [np.asarray(line.get_ydata()).tolist() for line in axes.lines if line.get_marker() == "D"]
    assert marks == [[entry.clean, entry.adversarial[0.25]] for entry in CIFAR10.values()]
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "adversarial, L2 eps 0.5" in legend
    assert "the paper: CIFAR-10, ResNet-50, L2 eps 0.25" in legend


def test_a_percentage_above_100_is_not_cut() -> None:
    tops = {}
    for highest in (0.4, 1.0, 1.3):
        _, (axes,) = new_figure(2.0)
        axes.plot([0, 1], [0.1, highest])
        percent_axis(axes, "share")
        tops[highest] = axes.get_ylim()[1]
    assert tops == {0.4: 1.02, 1.0: 1.02, 1.3: pytest.approx(1.326)}


def test_colours_are_one_a_model_and_differ() -> None:
    models = [*figures.FIGURE_2]
    assert len({look(*model).colour for model in models}) == len(models)
    assert look("D_rand_from_robust").colour == look("D_rand").colour
    assert look("D_rand_still_y").colour == look("D_rand").colour
    assert [look(name).line for name in ("D_rand", "D_rand_from_robust", "D_rand_still_y")] == [
        "-",
        "--",
        ":",
    ]


def rows_of(chart: LiveChart, **named: str) -> list[dict[str, Any]]:
    """Rows of a chart's table."""
    return [row for row in chart.spec["data"]["values"] if named.items() <= row.items()]


def column(rows: list[dict[str, Any]], name: str) -> list[Any]:
    return [row[name] for row in rows]


def test_curves_hold_every_eps_of_one_attack(project: Project) -> None:
    chart = figures.accuracy_against_eps(project)
    assert chart is not None
    legend = chart.spec["layer"][-1]["encoding"]
    assert legend["shape"]["scale"]["domain"] == [
        "D, standard", "D, robust", "D, fitted as D_R", "D_R", "D_NR", "D_rand", "D_det", "D_rand from robust",
        "D_det from robust", "chance",
    ]  # fmt: skip
    robust = rows_of(chart, series="D, robust")
    assert column(robust, "x") == [0.0, 0.25, 0.5, 1.0]
    assert column(robust, "y") == pytest.approx([0.96, 0.90, 0.78, 0.45], abs=0.002)
    assert legend["stroke"]["scale"]["range"][1] == look("D", "robust").colour
    texts = [one["data"]["values"][0] for one in chart.spec["layer"] if one["mark"]["type"] == "text"]
    assert texts == [{"x": 0.5, "means": "headline eps"}, {"x": 1.0, "means": "eps of robust training"}]
    points = next(one for one in chart.spec["layer"] if one["mark"]["type"] == "point")
    assert "L2 radius of the attack (pgd20)" in points["encoding"]["x"]["title"]


def test_controls_are_dashed_and_of_the_colour_of_what_they_control(project: Project) -> None:
    chart = figures.accuracy_against_eps(project)
    assert chart is not None
    line = next(one for one in chart.spec["layer"] if one["mark"]["type"] == "line")["encoding"]
    names, dashes = (line["strokeDash"]["scale"][key] for key in ("domain", "range"))
    colours = dict(zip(names, line["color"]["scale"]["range"], strict=True))
    by_name = dict(zip(names, dashes, strict=True))
    assert colours["D_det from robust"] == colours["D_det"] == look("D_det").colour
    assert by_name["D_det"] == [1, 0]
    assert by_name["D_det from robust"] == [6, 3]
    assert by_name["D, fitted as D_R"] == [7, 3, 2, 3]


def test_bands_are_the_intervals_over_images_and_trainings(project: Project) -> None:
    chart = figures.accuracy_against_eps(project)
    assert chart is not None
    row = accuracy_table(project.results)[0]  # D, standard
    assert row.clean is not None
    at_zero = rows_of(chart, series="D, standard")[0]
    assert (at_zero["low"], at_zero["high"]) == pytest.approx((row.clean.low, row.clean.high), abs=1e-5)
    low, high = wilson_interval(row.clean.value * 360, 360)
    assert row.clean.low < low < high < row.clean.high
    band = next(one for one in chart.spec["layer"] if one["mark"]["type"] == "area")["encoding"]
    assert (band["y"]["field"], band["y2"]["field"]) == ("low", "high")


def test_the_smallest_perturbations_give_a_falling_curve_with_pgd_as_marks(project: Project) -> None:
    chart = figures.minimum_norm(project)
    assert chart is not None
    robust = rows_of(chart, series="D, robust")
    assert len(robust) == figures.CURVE_STEPS + 1
    heights = column(robust, "y")
    assert heights == sorted(heights, reverse=True)
    (marks,) = [one for one in chart.spec["layer"] if one["mark"]["type"] == "point" and "data" in one]
    own = [row for row in marks["data"]["values"] if row["series"] == "D, robust"]
    assert [row["x"] for row in own] == [0.0, 0.25, 0.5, 1.0]


def test_curve_attack_prefers_coverage_then_fewer_steps(project: Project) -> None:
    assert figures.curve_attack(accuracy_table(project.results)) == "pgd20"
    assert figures.curve_attack([]) is None


def test_label_accuracies_show_both_labels_and_both_judges(project: Project) -> None:
    figure = figures.label_accuracies(project)
    assert figure is not None
    (axes,) = figure.axes
    heights = [bar.get_height() for bar in bars(axes)]
    # D_rand, D_rand still y, D_rand from robust, D_det, D_det still y, D_det from robust: on y, on y + 1
    expected = [0.85, 0.02, 0.82, 0.02, 0.40, 0.05, 0.60, 0.20, 0.50, 0.30, 0.05, 0.90]
    assert heights == pytest.approx(expected, abs=0.002)
    shares = [line.get_ydata() for line in axes.lines if line.get_marker() in ("^", "v")]
    assert np.ravel(shares).tolist() == [0.93, 0.91] * 4


def test_a_legend_has_as_many_columns_as_fit() -> None:
    for text, columns in (("short", 6), ("what the robust model calls y, of those that it called so before", 2)):
        figure, _ = new_figure(3.0)
        legend(figure, [filled("black", text)] * 6)
        to_png(figure)
        (made,) = figure.legends
        assert made._ncols == columns
        assert made.get_window_extent().x1 <= figure.bbox.x1


def test_no_legend_of_the_labels_is_cut(project: Project) -> None:
    figure = figures.label_accuracies(project)
    assert figure is not None
    to_png(figure)
    (made,) = figure.legends
    assert made.get_window_extent().x0 >= 0
    assert made.get_window_extent().x1 <= figure.bbox.x1


def test_distances_count_every_image(project: Project) -> None:
    figure = figures.distances(project)
    assert figure is not None
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "D_R", "D_NR", "D_rand", "D_det", "D_rand from robust", "D_det from robust"
    ]  # fmt: skip
    assert [len(axes.patches) for axes in figure.axes] == [2, 2, 1, 1, 1, 1]


def test_histogram_of_equal_values_is_one_bin() -> None:
    import pandas as pd

    for value in (0.0, 0.5):
        _, (axes,) = new_figure(2.0)
        figures._histogram(axes, pd.Series([value] * 7), "black", "stepfilled")
        outline = np.asarray(axes.patches[0].get_path().vertices)
        assert outline[:, 1].max() == 7


def test_learning_curves_are_means_over_seeds_where_measured(project: Project) -> None:
    chart = figures.learning_curves(project)
    assert chart is not None
    assert chart.spec["vconcat"][0]["facet"]["sort"][:3] == ["D, standard", "D, robust", "D_R"]
    validation, shifted, attacked = (
        rows_of(chart, panel="D, robust", series=f"validation, {what}") for what in ("on y", "on y + 1", "under attack")
    )
    assert column(validation, "x") == [2, 4]
    assert column(validation, "y") == pytest.approx([0.77, 0.87])
    assert column(shifted, "y") == pytest.approx([0.05, 0.05])
    assert column(attacked, "y") == pytest.approx([0.4, 0.45])
    assert set(column(validation, "colour")) == {look("D", "robust").colour}
    assert not rows_of(chart, panel="D_R", series="validation, under attack")


def test_png_bytes_do_not_vary_and_ignore_the_users_style(project: Project) -> None:
    def drawn() -> bytes:
        with report_style():
            figure = figures.figure_2(project)
            assert figure is not None
            return to_png(figure)

    first = drawn()
    with matplotlib.rc_context({"axes.edgecolor": "red", "font.size": 20.0}):
        assert drawn() == first
    assert first.startswith(b"\x89PNG")
    assert b"Software" not in first
    assert b"tIME" not in first


def test_the_number_above_a_bar_clears_a_mark_beside_it() -> None:
    heights = {}
    for beside in (None, 0.42, 0.9):
        _, (axes,) = new_figure(3.0)
        bar(axes, 0, Estimate(0.33, 0.27, 0.40), "#000000", decimals=1, beside=beside)
        heights[beside] = axes.texts[0].xy[1]
    assert heights == {None: 0.40, 0.42: pytest.approx(0.435), 0.9: 0.40}
