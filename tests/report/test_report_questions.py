"""The section on questions of one's own: what was asked and said, and every number of the metrics file."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from notbugs.evaluation.results import ResultsError
from notbugs.report.page import SECTIONS
from notbugs.report.project import Project, load_project
from notbugs.report.questions import MOST, SECTION, rows
from notbugs.science.common.question import DESCRIBED

ABOUT = {"title": "Sure calls <b>", "says": "Of how many is it sure?", "found": ["standard: sure of 85.0%"]}
SHARE = {"mean": 0.85, "low": 0.81, "high": 0.883, "std": 0.01, "n": 300, "num_seeds": 2}


@pytest.fixture
def asking(fake_project: Path, tmp_path: Path) -> Path:
    """The made-up project with an entry `margin`."""
    root = shutil.copytree(fake_project, tmp_path / "lab")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["science"] = {"margin": {"study": "lab.questions:MARGIN"}}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    (root / "metrics" / "science").mkdir()
    return root


def rendered(root: Path, metrics: dict[str, Any]) -> str:
    """The section as HTML."""
    (root / "metrics" / "science" / "margin.json").write_text(json.dumps({**metrics, DESCRIBED: ABOUT}))
    project: Project = load_project(root)
    return str(SECTION.render(project, SECTION.metrics(project), {}, ()))


def test_it_says_what_was_asked_and_every_number(asking: Path) -> None:
    html = rendered(asking, {"sure": {"standard": SHARE}, "count": 3})
    for text in ("<h3>Sure calls &lt;b&gt;</h3>", "Of how many is it sure?", "<p>standard: sure of 85.0%</p>"):
        assert text in html
    assert "sure.standard" in html
    assert "85.0%<small>81.0–88.3%</small>" in html
    assert "metrics/science/margin.json" in html
    assert "further row" not in html


def test_a_long_table_is_cut(asking: Path) -> None:
    html = rendered(asking, {str(number): number for number in range(MOST + 2)})
    assert html.count("<tr>") == MOST + 1
    assert "2 further rows stand there" in html


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"a": {"b": SHARE}}, [("a.b", "85.0%", "81.0–88.3%")]),
        ({"a": {"value": 2.5, "low": 2.0, "high": 3.0}}, [("a", "2.500 [2.000, 3.000]", "")]),
        ({"a": {"mean": 12.0, "low": 11.0}}, [("a.mean", "12", ""), ("a.low", "11", "")]),
        ({"a": {"value": 9.0, "ratio": 1.5}}, [("a.value", "9", ""), ("a.ratio", "1.5", "")]),
        ({"a": [1, None, "x"], "b": True}, [("a", "1, –, x", ""), ("b", "yes", "")]),
        ({"a": list(range(9)), "b": [{}], "c": []}, [("a", "9 values", ""), ("b", "1 value", ""), ("c", "", "")]),
        ({"a": -0.25, "b": -3, "c": "low-end"}, [("a", "−0.25", ""), ("b", "−3", ""), ("c", "low-end", "")]),
        (
            {"a": {"mean": None, "low": None, "high": None}},
            [("a.mean", "–", ""), ("a.low", "–", ""), ("a.high", "–", "")],
        ),
    ],
)
def test_numbers_in_print(value: Any, expected: list[tuple[str, str, str]]) -> None:
    assert list(rows("", value)) == expected


def test_it_is_there_only_with_entries_that_were_run(asking: Path, fake_project: Path) -> None:
    assert SECTION in SECTIONS
    assert not SECTION.is_in(load_project(fake_project))
    assert not SECTION.is_in(load_project(asking))
    (asking / "metrics" / "science" / "margin.json").write_text("{}")
    assert SECTION.is_in(load_project(asking))


@pytest.mark.parametrize("about", [3, {"title": "x"}])
def test_a_file_without_what_was_asked_is_named(asking: Path, about: Any) -> None:
    (asking / "metrics" / "science" / "margin.json").write_text(json.dumps({DESCRIBED: about}))
    with pytest.raises(ResultsError, match=r"margin\.json: question must hold title, .*`dvc repro science@margin`$"):
        SECTION.metrics(load_project(asking))
