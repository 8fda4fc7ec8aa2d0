"""What the documentation names is there."""

import re
from pathlib import Path

import pytest

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
        named = re.findall(r"`([^`]+)`", last)
        assert named, row
        file = ""
        for name in named:
            path, _, test = name.partition("::")
            file = path or file
            text = (ROOT / "tests" / file).read_text()
            function = test.partition("[")[0].rstrip("…")
            assert f"def {function}" in text, name
