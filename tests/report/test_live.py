"""Live charts: one definition is the picture and the chart, it is valid, and it needs nothing but the page."""

import io
import json
import re
from pathlib import Path
from typing import Any

import altair
import pytest
from PIL import Image
from sweep_files import write_sweep

from notbugs.evaluation.statements import Chart, Series
from notbugs.report import charts, figures, live, studies
from notbugs.report.live import LiveChart
from notbugs.report.project import load_project
from notbugs.report.sections import environment

SERIES = [Series("one <b>", ["a", "b"], [0.5, 0.25], [0.4, 0.2], [0.6, 0.3]), Series("two", ["a", "b"], [0.1, 0.9])]


def chart(series: list[Series] = SERIES) -> LiveChart:
    return charts.draw(Chart("a", "What it shows.", "x", "share", series, marks={"chance": 0.1}))


@pytest.fixture(scope="module")
def drawn(fake_project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, LiveChart]:
    project = load_project(fake_project)
    root = tmp_path_factory.mktemp("study")
    write_sweep(root)
    study = studies.load_study(root, "small")
    found = {
        "eps": figures.accuracy_against_eps(project),
        "norm": figures.minimum_norm(project),
        "learning": figures.learning_curves(project),
        "lines": studies.lines(study),
        "steps": studies.steps(study),
        "chart": chart(),
        "bars": charts.draw(Chart("a", "c", "x", "y", SERIES, kind="bars")),
    }
    return {name: one for name, one in found.items() if one is not None}


NAMES = ("eps", "norm", "learning", "lines", "steps", "chart", "bars")


@pytest.mark.parametrize("name", NAMES)
def test_a_definition_is_valid_and_says_what_it_shows(drawn: dict[str, LiveChart], name: str) -> None:
    altair.Chart.from_dict(drawn[name].fitted(live.WIDTH), validate=True)
    assert drawn[name].spec["description"]


@pytest.mark.parametrize("name", NAMES)
def test_the_picture_is_drawn_from_the_definition_and_is_the_same_each_time(
    drawn: dict[str, LiveChart], name: str, recwarn: pytest.WarningsRecorder
) -> None:
    first = drawn[name].png()
    assert LiveChart(json.loads(drawn[name].json())).png() == first == drawn[name].png()
    picture = Image.open(io.BytesIO(first))
    assert live.WIDTH - 80 <= picture.width / live.SCALE <= live.WIDTH + 6  # panels may take less
    assert len(picture.getcolors() or ()) > 10
    assert not recwarn.list


def test_the_picture_follows_the_numbers() -> None:
    other = [SERIES[0], Series("two", ["a", "b"], [0.1, 0.2])]
    assert chart(other).png() != chart().png()


def test_letters_of_a_picture_can_be_read_on_a_narrow_page(drawn: dict[str, LiveChart]) -> None:
    sizes = [int(size) for one in drawn.values() for size in re.findall(r'"[a-zA-Z]*[fF]ontSize":(\d+)', one.json())]
    assert sizes
    on_screen = 353  # of a window of 420: margins, a scroll bar, and padding of the picture
    assert min(sizes) * on_screen / live.WIDTH >= 9


def test_nothing_in_a_definition_ends_the_script_that_holds_it() -> None:
    text = chart().json()
    assert "<" not in text
    assert json.loads(text) == chart().spec
    assert "one <b>" in json.dumps(json.loads(text))


def test_panels_stand_beside_each_other_as_far_as_there_is_room(drawn: dict[str, LiveChart]) -> None:
    def panels(width: int) -> tuple[int, int]:
        found: dict[str, Any] = drawn["learning"].fitted(width)["vconcat"][0]
        return found["columns"], found["spec"]["width"]

    assert [panels(width)[0] for width in (300, 500, 900)] == [1, 2, 3]
    for width in (300, 500, 900):
        columns, each = panels(width)
        assert columns * each + (columns - 1) * live.BETWEEN + live.AROUND <= width


def test_the_page_fits_a_chart_as_the_picture_is_fitted() -> None:
    """The script of the page says in its language what `fitted` does, with the same numbers."""
    text = environment().get_template("live.html.j2").render(vega="")
    for name in ("PANEL", "AROUND", "BEFORE", "BETWEEN"):
        assert f"{name} = {getattr(live, name)}" in text


def test_the_script_is_made_once_defines_one_name_and_ends_nowhere_else(tmp_path: Path) -> None:
    first = live.script(tmp_path)
    kept = list((tmp_path / ".notbugs" / "report").glob("*.json"))
    assert len(kept) == 1
    stamp = kept[0].stat().st_mtime_ns
    assert live.script(tmp_path) == first
    assert kept[0].stat().st_mtime_ns == stamp
    assert first.startswith("(() => {")
    assert first.endswith("})();")
    assert re.findall(r"window\.(\w+)\s*=[^=]", first) == ["vegaEmbed"]
    assert "</script" not in first.lower()


def test_a_slider_chooses_among_the_eps_of_the_study(drawn: dict[str, LiveChart]) -> None:
    spec = drawn["steps"].spec
    (slider,) = spec["params"]
    assert slider == {
        "name": "eps",
        "value": 1.0,
        "bind": {"input": "range", "min": 0.5, "max": 2.0, "step": 0.5, "name": "eps"},
    }
    rows = spec["data"]["values"]
    assert {row["eps"] for row in rows} == {0.5, 1.0, 2.0}
    assert {row["panel"] for row in rows} == {"D_rand", "D_det"}
    assert {row["series"] for row in rows} == {
        "test accuracy on y",
        "test accuracy on y + 1",
        "still y, robust model",
    }
    one = next(row for row in rows if (row["panel"], row["eps"], row["x"]) == ("D_det", 2.0, "16"))
    assert one["y"] == pytest.approx(0.80)
    assert spec["transform"][-1] == {"filter": "datum.gap === datum.least"}


def test_a_slider_stops_at_every_eps_if_it_can() -> None:
    from notbugs.report.study_curves import stop

    assert stop([0.6, 1.1, 1.6]) == 0.5
    assert stop([0.25, 0.5, 1.0]) == 0.25
    assert stop([0.0, 0.001, 1.0]) == 0.01  # a hundred stops; the nearest eps is shown
