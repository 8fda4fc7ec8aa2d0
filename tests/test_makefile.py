"""Every program of a recipe is named with its place: the make of macOS (3.81) finds it nowhere else."""

import re
from pathlib import Path

MAKEFILE = (Path(__file__).parents[1] / "Makefile").read_text()
OF_THE_VENV = "notbugs|dvc|ruff|mypy|pytest|uv|pip"


def recipe(target: str) -> list[str]:
    """The lines of a target."""
    found = re.search(rf"^{target}: \$\(READY\).*\n((?:\t.*\n)+)", MAKEFILE, re.MULTILINE)
    assert found is not None
    return found[1].splitlines()


def test_programs_are_named_with_their_place() -> None:
    lines = [line.split(" #")[0] for line in MAKEFILE.splitlines() if line.startswith("\t")]
    bare = [line for line in lines if re.search(rf"(?:^\t@?|&& |\|\| |\{{ |; )(?:{OF_THE_VENV}) ", f"{line} ")]
    assert bare == []
    assert sum("$(BIN)/notbugs" in line for line in lines) > 5


def test_d_is_checked_once_it_is_prepared() -> None:
    for target in ("repro", "repro-all"):
        (line,) = (line for line in recipe(target) if "prepare" in line)
        assert line.index("dvc repro prepare") < line.index("notbugs check")
