"""The section on the debate: own parts, recorded ones in their place, and where the numbers are from."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from notbugs.report import recorded
from notbugs.report.debate import SECTION, Part, parts
from notbugs.report.drawing import report_style
from notbugs.report.head import render_head
from notbugs.report.live import to_png
from notbugs.report.project import load_project
from notbugs.report.questions import SECTION as QUESTIONS
from notbugs.report.sections import Picture
from notbugs.science.common.question import Question
from notbugs.science.debate import questions

POSITION = {"who": "Goh <2019>", "claim": "It leaks.", "reported": "23.5% & 6.8%.", "source": "https://example.org/goh"}
VERDICT = {"key": "k", "title": "It teaches more", "statement": "", "finding": "not reproduced", "sentence": "9%."}
CHART = {"name": "c", "caption": "What it <shows>.", "x": "x", "y": "y", "kind": "bars"}
ABOUT: dict[str, Any] = {
    "title": "Leakage & more",
    "says": "Does it leak?",
    "found": ["said"],
    "position": {**POSITION, "mind": "50%."},
    "verdicts": [VERDICT],
    "charts": [{**CHART, "series": [{"label": "s", "x": ["a"], "y": [0.5]}]}],
}
RECORDING = {
    "title": "scikit-learn's digits",
    "source": "digits",
    "network": "small_cnn, width 16",
    "train": 1221,
    "test": 359,
    "version": "9.9",
}


@pytest.fixture(autouse=True)
def recordings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of recordings, empty."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    monkeypatch.setattr(recorded, "RECORDINGS", folder)
    recorded.recordings.cache_clear()
    yield folder
    recorded.recordings.cache_clear()


def rendered(root: Path) -> str:
    project = load_project(root)
    found = SECTION.metrics(project)
    with report_style():
        pictures = {name: Picture(to_png(figure)) for name, figure in SECTION.draw(project, found)}
    return str(SECTION.render(project, found, pictures, ()))


@pytest.fixture
def debating(fake_project: Path, tmp_path: Path) -> Path:
    """The made-up project with a part of the debate, and a question of nobody's position."""
    root = shutil.copytree(fake_project, tmp_path / "lab")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["science"] = {"leak": {"study": "leakage"}, "margin": {"study": "lab.questions:MARGIN"}}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    (root / "metrics" / "science").mkdir()
    plain = {key: ABOUT[key] for key in ("title", "says", "found")}
    (root / "metrics" / "science" / "leak.json").write_text(json.dumps({"share": 0.25, "question": ABOUT}))
    (root / "metrics" / "science" / "margin.json").write_text(json.dumps({"question": plain}))
    return root


def test_a_side_stands_with_its_source_its_verdict_and_its_figure(debating: Path) -> None:
    html = rendered(debating)
    assert '<a href="https://example.org/goh">It leaks.</a>' in html
    assert "Goh &lt;2019&gt; reported: 23.5% &amp; 6.8%." in html
    assert '<h3 id="part-leak">Leakage &amp; more</h3>' in html
    assert 'href="#part-leak">It teaches more</a>' in html
    assert "50%." in html
    assert "What it &lt;shows&gt;." in html
    assert html.count('<img src="data:image/png') == 1
    assert "Of this run, on digits." in html
    assert "Recorded" not in html
    assert "0.25" in html  # without a template every number is shown


def test_the_questions_of_ones_own_stay_in_their_section(debating: Path) -> None:
    project = load_project(debating)
    assert list(SECTION.metrics(project)) == ["leak"]
    assert list(QUESTIONS.metrics(project)) == ["margin"]


def test_a_template_beside_the_module_says_what_the_numbers_mean(debating: Path) -> None:
    facts: dict[str, Any] = {"num_robust": 7, "num_features": 61, "norm": "l2", "eps": 0.2, "datasets": {}}
    facts["question"] = {**ABOUT, "page": "notbugs.science.debate.leakage"}
    (debating / "metrics" / "science" / "leak.json").write_text(json.dumps(facts))
    html = rendered(debating)
    assert "7 of D's first 61 principal components keep their usefulness at L2 eps 0.2" in html
    assert "What was measured; shares" not in html


def test_recorded_parts_stand_in_for_those_that_are_not_there(fake_project: Path, recordings: Path) -> None:
    debate = {"leakage": {"share": 0.5, "question": ABOUT}}
    (recordings / "digits_debate.json").write_text(json.dumps({**RECORDING, "debate": debate}))
    html = rendered(fake_project)
    assert "Recorded, not of this run: scikit-learn&#39;s digits, 1221 training images" in html
    assert "notbugs 9.9" in html
    assert "Of this run" not in html


def test_an_own_part_stands_before_a_recorded_one_of_the_same_title(debating: Path, recordings: Path) -> None:
    others = {"leakage": {"question": ABOUT}, "bugs": {"question": {**ABOUT, "title": "Bugs"}}}
    (recordings / "digits_debate.json").write_text(json.dumps({**RECORDING, "debate": others}))
    shown = parts(SECTION.metrics(load_project(debating)), "digits")
    assert [(part.name, part.recorded is not None) for part in shown] == [("leak", False), ("bugs", True)]


def test_of_a_part_that_was_recorded_twice_that_on_data_of_the_same_kind_is_shown(recordings: Path) -> None:
    debate = {"leakage": {"question": ABOUT}}
    for name, source in (("a_natural", "folder:pictures"), ("digits_debate", "digits")):
        (recordings / f"{name}.json").write_text(json.dumps({**RECORDING, "source": source, "debate": debate}))
    for source, expected in (("digits", "digits"), ("folder:pictures", "folder:pictures"), ("svhn", "folder:pictures")):
        (part,) = parts({}, source)
        assert part.recorded is not None
        assert part.recorded["source"] == expected
        recorded.recordings.cache_clear()


def test_without_any_part_there_is_no_section(fake_project: Path) -> None:
    project = load_project(fake_project)
    assert not SECTION.is_in(project)
    assert SECTION.render(project, {}, {}, ()) == ""


def test_no_sentence_of_the_page_is_without_a_number_or_a_source(debating: Path) -> None:
    table = rendered(debating).partition("</table>")[0].partition("<tbody>")[2]
    for cell in re.findall(r"<td[^>]*>(.*?)</td>", table, re.DOTALL):
        for sentence in re.split(r"(?<=[.;])\s+", re.sub(r"<(?!a )[^>]*>", " ", cell).strip()):
            assert re.search(r"\d|href=", sentence), sentence


def test_an_own_part_that_reads_no_data_says_so(debating: Path) -> None:
    (debating / "metrics" / "science" / "leak.json").write_text(json.dumps(toy_without_charts()))
    html = rendered(debating)
    assert "Of this run; none of its data takes part." in html
    assert "Of this run, on digits" not in html


def test_a_recorded_part_that_reads_no_data_says_so(fake_project: Path, recordings: Path) -> None:
    debate = {"superposition": toy_without_charts()}
    (recordings / "digits_debate.json").write_text(json.dumps({**RECORDING, "debate": debate}))
    html = rendered(fake_project)
    assert "Recorded, not of this run: no data of a run takes part, notbugs 9.9;" in html
    assert "1221 training images" not in html


def toy_without_charts() -> dict[str, Any]:
    """Metrics of `superposition` as the package holds them, without charts."""
    file = Path(recorded.__file__).parent / "recordings" / "digits_debate.json"
    facts = json.loads(file.read_text(encoding="utf-8"))["debate"]["superposition"]
    return {**facts, "question": {**facts["question"], "charts": []}}


@pytest.mark.parametrize(("name", "question"), questions().items())
def test_what_a_template_says_of_the_data_is_what_its_question_reads(name: str, question: Question) -> None:
    part = Part(name, {"question": {"page": f"notbugs.science.debate.{name}"}})
    assert part.reads_data == bool(question.inputs)


def test_the_head_counts_this_projects_own_parts_alone(debating: Path, recordings: Path) -> None:
    others = {"bugs": {"question": {**ABOUT, "title": "Bugs"}}}
    (recordings / "digits_debate.json").write_text(json.dumps({**RECORDING, "debate": others}))
    project = load_project(debating)
    html = str(render_head(project, {}, {"debate": SECTION.metrics(project)}, None, {}))
    counted = "were put to the data by rules fixed before the numbers were seen: 0 reproduced, 1 not, 0 inconclusive."
    assert f"1 statements, the claims above and those of all sections below, {counted}" in html
