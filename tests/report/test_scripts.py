"""The page's scripts: their functions of text alone, run by Node.js, and that the page holds what they look for."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from notbugs.report import page
from notbugs.report.sections import environment

TEMPLATES = Path(page.__file__).parent / "templates"
NODE = shutil.which("node")
by_node = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")
TABLE: dict[str, Any] = {
    "caption": "Accuracy of D_R & others, 95% <here>",
    "groups": [{"text": "", "span": 1}, {"text": "clean", "span": 2}],
    "head": ["fitted on", "on y", "on y + 1"],
    "rows": [["D, standard", "99.4 ±0.4", "−0.1"], ['a "quoted" | name', "~0", "‖δ‖₂ {x} \\ $1 #2 ~ ^"]],
    "numeric": [False, True, True],
}


def run(call: str, *arguments: Any) -> Any:
    """What a function of table_text.js gives."""
    assert NODE is not None
    source = (TEMPLATES / "table_text.js").read_text(encoding="utf-8")
    given = ", ".join(json.dumps(one) for one in arguments)
    script = f"{source}\nprocess.stdout.write(JSON.stringify({call}({given})));"
    done = subprocess.run([NODE, "-"], input=script, capture_output=True, text=True, encoding="utf-8", check=True)
    return json.loads(done.stdout)


@by_node
def test_a_cell_sorts_by_the_number_that_it_begins_with_else_by_its_name() -> None:
    texts = {
        "99.4 ±0.4": 99.4, "97.8%": 97.8, "~0": 0, "1,222": 1222, "1,222,333 images": 1222333, "−3.2 points": -3.2,
        "+8.6 points [+5.7, +11.4]": 8.6, "1e-05": 1e-05, "0.014–0.19": 0.014, "100% of it": 100, "± 2": 2, ".5": 0.5,
        "D_R": "D_R", "3d4e5f": "3d4e5f", "v1.2": "v1.2", "1.2.3": "1.2.3", "no number": "no number", " x ": "x",
    }  # fmt: skip
    assert run("((texts) => texts.map(sortKey))", list(texts)) == list(texts.values())


@by_node
@pytest.mark.parametrize(
    ("direction", "expected"),
    [(1, ["−2", "9.5", "10", "a2", "a10", "b", "–", ""]), (-1, ["b", "a10", "a2", "10", "9.5", "−2", "–", ""])],
)
def test_rows_sort_both_ways_with_what_is_missing_last(direction: int, expected: list[str]) -> None:
    texts = ["b", "10", "–", "9.5", "a10", "a2", "", "−2"]
    assert [texts[place] for place in run("sortedPlaces", texts, direction)] == expected


@by_node
def test_equal_rows_keep_their_order() -> None:
    assert run("sortedPlaces", ["1", "0", "1 b", "0 a"], 1) == [1, 3, 0, 2]
    assert run("sortedPlaces", ["1", "0", "1 b", "0 a"], -1) == [0, 2, 1, 3]


@by_node
def test_csv_has_one_line_of_headings_quotes_and_minus_signs_that_programs_read() -> None:
    assert run("csv", TABLE).splitlines() == [
        "fitted on,clean: on y,clean: on y + 1",
        '"D, standard",99.4 ±0.4,-0.1',
        '"a ""quoted"" | name",~0,‖δ‖₂ {x} \\ $1 #2 ~ ^',
    ]


@by_node
def test_markdown_escapes_what_would_end_a_cell() -> None:
    assert run("markdown", TABLE).splitlines() == [
        "Accuracy of D_R & others, 95% \\<here>",
        "",
        "| fitted on | clean: on y | clean: on y + 1 |",
        "| --- | ---: | ---: |",
        "| D, standard | 99.4 ±0.4 | −0.1 |",
        '| a "quoted" \\| name | ~0 | ‖δ‖₂ {x} \\\\ $1 #2 ~ ^ |',
    ]


@by_node
def test_latex_is_a_booktabs_table_with_special_characters_escaped() -> None:
    assert run("latex", TABLE).splitlines() == [
        r"\begin{table}",
        r"\centering",
        r"\caption{Accuracy of D\_R \& others, 95\% $<$here$>$}",
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r" & \multicolumn{2}{c}{clean} \\",
        r"\cmidrule(lr){2-3}",
        r"fitted on & on y & on y + 1 \\",
        r"\midrule",
        r"D, standard & 99.4 $\pm$0.4 & $-$0.1 \\",
        r'a "quoted" | name & \textasciitilde{}0 & $\Vert$$\delta$$\Vert$$_2$ \{x\} \textbackslash{} \$1 \#2 '
        r"\textasciitilde{} \textasciicircum{} \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    bare = {**TABLE, "groups": [], "rows": [["[a]*", "1", "2"]]}
    assert r"{[}a]{*} & 1 & 2 \\" in run("latex", bare)  # which would be an argument of the line's end before
    assert "cmidrule" not in run("latex", bare)


@by_node
@pytest.mark.parametrize("file", sorted(TEMPLATES.glob("*.js")), ids=lambda file: file.name)
def test_scripts_are_well_formed(file: Path) -> None:
    assert NODE is not None
    done = subprocess.run([NODE, "--check", str(file)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("file", sorted(TEMPLATES.glob("*.[jc]s*")), ids=lambda file: file.name)
def test_scripts_and_styles_come_onto_the_page_as_they_are(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert environment().get_template(file.name).render() == text  # nothing in them is a template's
    assert "</script" not in text
    assert f'{{% include "{file.name}" %}}' in (TEMPLATES / "report.html.j2").read_text(encoding="utf-8")


def table(**given: Any) -> str:
    text = (
        '{% from "parts.html.j2" import name, number, table %}'
        '{% call table("Caption", head, groups) %}<tr>{{ name("D") }}{{ number("1", "0–2") }}</tr>{% endcall %}'
    )
    return environment().from_string(text).render(head=["fitted on", ["on y", "pgd20", "number"]], **given)


def test_a_table_is_plain_and_holds_what_the_script_looks_for() -> None:
    html = table(groups=[["", 1], ["clean", 1]])
    assert "<button" not in html
    assert re.search(r'<p class="caption">Caption</p>\s*<div class="scroll"[^>]*>\s*<table>\s*<thead>', html)
    assert '<td colspan="1"></td><th colspan="1" scope="colgroup">clean</th>' in html  # no heading without a text
    assert html.count('scope="col"') == 2
    assert 'scope="row"' in html
    assert '<th scope="col" class="number">' in html
