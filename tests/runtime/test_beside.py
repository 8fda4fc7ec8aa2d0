"""Templates beside modules: found without importing, and only of modules that somebody named."""

from pathlib import Path

import pytest

from notbugs.runtime import registry
from notbugs.runtime.beside import has_page, page_of


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module that cannot be imported, with a template beside it, and one without."""
    folder = tmp_path / "lab_of_pages"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "margins.py").write_text("raise RuntimeError\n")
    (folder / "margins.html.j2").write_text("page")
    (folder / "bare.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_allowed", {"lab_of_pages.margins:MARGIN", "lab_of_pages.bare:BARE"})
    return folder


def test_a_template_is_found_without_importing_its_module(lab: Path) -> None:
    assert page_of("lab_of_pages.margins") == lab / "margins.html.j2"
    assert has_page("lab_of_pages.margins")
    assert not has_page("lab_of_pages.bare")


def test_what_nobody_named_is_not_looked_for(lab: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_allowed", set())
    assert page_of("lab_of_pages.margins") is None


def test_no_module_has_no_template() -> None:
    for module in (None, "", "__main__", "notbugs.nowhere", "notbugs.nowhere.deeper"):
        assert not has_page(module)


def test_parts_of_the_debate_need_not_be_named() -> None:
    assert page_of("notbugs.science.debate.leakage") is not None
