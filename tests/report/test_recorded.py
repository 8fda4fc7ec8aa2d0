"""What was recorded on other data: shown beside a project's own numbers, never as them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from test_page import Page

import notbugs
from notbugs.report import recorded
from notbugs.report.page import write_report
from report.conftest import CLEAN, write_robustness

CHECKOUT = Path(notbugs.__file__).parents[2]
MakeProject = Callable[..., Path]
MADE_UP: dict[str, Any] = {
    "title": "Pictures (made up)",
    "source": "folder:pictures",
    "network": "resnet9, width 32",
    "train": 45000,
    "test": 10000,
    "eps": 0.25,
    "rows": [
        {"label": "D_det", "y": 0.4321, "shifted": 0.2109, "attacked": 0.0, "attack": "all attacks together"},
        {"label": "D_rand", "y": 0.6543, "shifted": None, "attacked": None, "attack": None},
    ],
    "sets": [{"title": "D_det", "norm": "l2", "eps": 1.5, "num_steps": 10, "success": 0.987, "still_y": 0.915}],
    "verdicts": [{"key": "det", "title": "Non-robust features suffice", "verdict": "reproduced"}],
    "debate": {
        "leakage": {
            "question": {
                "title": "Leakage",
                "says": "Does it leak?",
                "found": [],
                "position": {
                    "who": "X",
                    "claim": "It leaks.",
                    "reported": "3%.",
                    "source": "https://x.org",
                    "mind": "9%.",
                },
                "charts": [],
                "verdicts": [
                    {
                        "key": "leaks",
                        "title": "It teaches more than it leaks",
                        "statement": "",
                        "finding": "reproduced",
                        "sentence": "Made up: 13.2% against 41.8%.",
                    }
                ],
            }
        }
    },
    "version": "9.9",
    "minutes": 290,
    "machine": "2 processors (EPYC)",
}


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The made-up recording is the only one that comes with the package."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    (folder / "pictures.json").write_text(json.dumps(MADE_UP))
    monkeypatch.setattr(recorded, "RECORDINGS", folder)
    recorded.recordings.cache_clear()
    yield
    recorded.recordings.cache_clear()


def page_of(project: Path, out: Path) -> Page:
    write_report(project, out / "report.html", out / "figures")
    return Page((out / "report.html").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("recording", "blank_pictures")
def test_a_report_shows_what_other_data_showed_and_says_that_it_is_recorded(
    make_project: MakeProject, tmp_path: Path
) -> None:
    root = make_project(tmp_path / "lab")
    write_robustness(root, {**CLEAN, ("D_det", "standard"): (0.05, 0.90, (0.01, 0.00, 0.00))})
    page = page_of(root, tmp_path)
    assert "recorded" in page.ids
    assert "These numbers are not of this run, which is on digits" in page.text
    assert "43.2" in page.text
    assert "L2 eps 1.5 in 10 steps" in page.text
    assert "still calls 91.5% y" in page.text
    assert "What digits does not show, and what was recorded on Pictures (made up)" in page.text
    assert "reproduced there." in page.text
    assert "The debate there" in page.text
    assert "Made up: 13.2% against 41.8%." in page.text


@pytest.mark.usefixtures("recording", "blank_pictures")
def test_the_claims_that_hold_here_need_no_other_data(fake_project: Path, tmp_path: Path) -> None:
    page = page_of(fake_project, tmp_path)
    assert "recorded" in page.ids
    assert "does not show" not in page.text


@pytest.mark.usefixtures("recording", "blank_pictures")
def test_a_project_on_the_same_data_does_not_show_it(
    fake_project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(MADE_UP, "source", "digits")
    (recorded.RECORDINGS / "pictures.json").write_text(json.dumps(MADE_UP))
    page = page_of(fake_project, tmp_path)
    assert "recorded" not in page.ids
    assert "43.2" not in page.text


def test_what_comes_with_the_package_is_what_was_recorded() -> None:
    """Each results/NAME/summary.json, in Git, is src/notbugs/report/recordings/NAME.json."""
    kept = {file.parent.name: file.read_bytes() for file in (CHECKOUT / "results").glob("*/summary.json")}
    assert {file.stem: file.read_bytes() for file in recorded.RECORDINGS.glob("*.json")} == kept
