"""What the package brings along besides its code: presets, dvc.yaml, and the files of a new project."""

from pathlib import Path

import notbugs

FOLDER = Path(notbugs.__file__).parent / "shipped"
"""Where a wheel has it."""
CHECKOUT = Path(notbugs.__file__).parents[2]
"""Where the files that a wheel is built from lie, of an editable installation."""


def shipped(name: str) -> Path:
    """A file or folder that a wheel holds under notbugs/shipped: the first part of it that comes from one place."""
    return next(path for inside, path in _places() if inside == name)


def project_files() -> dict[str, Path]:
    """The files of a new project that are the same in each: path in the project -> where it lies."""
    found: dict[str, Path] = {}
    for inside, path in _places():
        if inside.partition("/")[0] != "project":
            continue
        place = Path(inside).relative_to("project")
        files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
        for file in files:
            if "__pycache__" not in file.parts:
                found[(place / file.relative_to(path)).as_posix()] = file
    return found


def _places() -> list[tuple[str, Path]]:
    """(name below notbugs/shipped, where it lies); of a checkout as pyproject.toml tells the builder of the wheel."""
    if FOLDER.is_dir():
        return [(path.name, path) for path in FOLDER.iterdir()]
    import tomllib

    facts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))
    table = facts["tool"]["hatch"]["build"]["targets"]["wheel"]["force-include"]
    return [(inside.removeprefix("notbugs/shipped/"), CHECKOUT / path) for path, inside in table.items()]
