"""docs/python.md: its snippets run, one after the other, and it shows every function that the package promises."""

import re
from pathlib import Path

import notbugs

PAGE = (Path(__file__).parents[1] / "docs" / "python.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_its_snippets_run_from_top_to_bottom(tmp_path: Path) -> None:
    names = {"mkdtemp": None}
    for number, snippet in enumerate(SNIPPETS):
        exec(compile(snippet.replace("mkdtemp()", repr(str(tmp_path))), f"snippet {number}", "exec"), names)
    assert {"model", "x_adv", "measurements", "found", "det"} <= set(names)


def test_it_shows_what_is_promised() -> None:
    for name in ("construct", "train", "evaluate", "pgd", "audit", "load_dataset", "load_model"):
        assert name in notbugs.__all__
        assert any(re.search(rf"\b{name}\(", snippet) for snippet in SNIPPETS), name
