"""What the documentation names is there."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from pkgutil import resolve_name

import pytest

from notbugs.report.documents import BLOCKS, written_page

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not missing


def test_every_fault_names_a_test_that_exists() -> None:
    rows = [line for line in (ROOT / "docs" / "reliability.md").read_text().splitlines() if line.startswith("| ")]
    faults = [row for row in rows if not row.startswith(("| fault |", "|---"))]
    assert len(faults) > 25
    for row in faults:
        last = row.rstrip("| ").rpartition(" | ")[2]
        named = re.findall(r"(\*\*slow\*\* )?`([^`]+)`", last)
        assert named, row
        file = ""
        for slow, name in named:
            path, _, test = name.partition("::")
            file = path or file
            function = test.partition("[")[0].rstrip("…")
            found = {is_slow for other, is_slow in named_tests(ROOT / "tests" / file) if other.startswith(function)}
            assert found == {bool(slow)}, name


def named_tests(file: Path) -> list[tuple[str, bool]]:
    """Each test of a module, and whether only `make test-all` runs it."""
    tree = ast.parse(file.read_text())
    marks = [ast.unparse(node.value) for node in tree.body if isinstance(node, ast.Assign)]
    all_slow = any("mark.slow" in mark for mark in marks)
    return [
        (node.name, all_slow or any("mark.slow" in ast.unparse(mark) for mark in node.decorator_list))
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


@pytest.mark.parametrize("page", BLOCKS)
def test_the_pages_say_what_the_metrics_say(page: str) -> None:
    """`make docs` writes them anew."""
    assert (ROOT / page).read_text(encoding="utf-8") == written_page(ROOT, page)


def test_no_page_quotes_adversarial_accuracies_outside_its_blocks() -> None:
    """Tables of "fitted on ..." are results: a command writes them."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        name = page.relative_to(ROOT).as_posix()
        for block in BLOCKS.get(name, {}):
            before, _, rest = text.partition(f"<!-- {block}:start -->")
            text = before + rest.partition(f"<!-- {block}:end -->")[2]
        assert "| fitted on |" not in text, name


def test_the_walkthrough_names_what_is_there() -> None:
    names = re.findall(r"`(notbugs(?:\.\w+)+)`", (ROOT / "docs" / "walkthrough.md").read_text())
    assert len(names) >= 25
    for name in names:
        assert resolve_name(name) is not None


def test_the_site_builds_and_has_every_page(tmp_path: Path) -> None:
    """`make docs`: links inside, the reference from the docstrings, and nothing that is loaded from elsewhere."""
    mkdocs = Path(sys.executable).with_name("mkdocs")
    done = subprocess.run(
        [mkdocs, "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    pages = {page.parent.name for page in (tmp_path / "site").glob("*/index.html")}
    assert pages == {page.stem for page in (ROOT / "docs").glob("*.md")} - {"index"}
    text = (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")
    assert 'id="notbugs.attacks.pgd.pgd"' in text
    start = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:link|script|img)[^>]+(?:href|src)=\"https?:[^\"]+\.(?:css|js|png|woff2?)", start)


def test_the_site_leads_to_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert re.search(rf"\b{page.name}\b", text), page.name


def test_the_readme_is_short_and_begins_with_what_one_needs() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert "make repro" in "\n".join(lines[:12])
    assert "from notbugs import" in "\n".join(lines[:20])
    assert lines.index("<!-- natural:start -->") < lines.index("<!-- results:start -->")
