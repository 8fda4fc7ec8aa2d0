"""The user's own modules and files that a stage's settings name: part of what its work is made with, watched by DVC."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from notbugs.pipeline.running.stage import Stage
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import sha256
from notbugs.runtime.imports import reached
from notbugs.runtime.registry import own_modules

if TYPE_CHECKING:
    from notbugs.pipeline.running.context import Context

CODE_FILE = "code.json"
"""What `notbugs code` writes in a project that has the package installed: what code each stage runs, the user's too."""


def part_of(params: Mapping[str, Any], key: str) -> Any:
    """What params.yaml holds under a dotted key; None where there is nothing."""
    found: Any = params
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def modules_named(project: "Context", *keys: str) -> list[str]:
    """The user's own modules that some parts of params.yaml name."""
    return sorted(own_modules([part_of(project.params, key) for key in keys]))


def require_watched(project: "Context", stage: Stage, name: str | None) -> None:
    """Refuse to run what DVC would not run again after a change.

    Raises: ConfigError naming a file of the user's own code that the stage loads and dvc.yaml does not name.
    """
    modules = modules_named(project, *stage.keys(name))
    if not modules or not (project.root / "dvc.yaml").exists() or _reads_code_file(project, stage):
        return
    watched = _watched(project, stage)
    for module, source in reached(*modules)[0].items():
        if module.partition(".")[0] == __name__.partition(".")[0] or _is_among(source.resolve(), watched):
            continue
        try:
            place = source.resolve().relative_to(project.root.resolve()).as_posix()
        except ValueError:
            raise ConfigError(
                f"params.yaml names {module}: {source} lies outside the project, where DVC does not see it change: "
                "move it into src, or install it as a package"
            ) from None
        raise ConfigError(
            f"params.yaml names {module}: {place} must be among the deps of stage {stage.name} in dvc.yaml, so that "
            "DVC sees it change"
        )


def require_files_watched(project: "Context", stage: Stage, files: Iterable[str]) -> None:
    """Refuse to read a file that DVC would not see change.

    Args:
        files: as params.yaml names them.
    Raises: ConfigError naming the first that is missing, or that the stage's deps in dvc.yaml do not hold.
    """
    for name in files:
        file = project.root / name
        if not file.is_file():
            raise ConfigError(f"params.yaml names {name}: must be a file; there is none at {file}")
        if (project.root / "dvc.yaml").exists() and not _is_among(file.resolve(), _watched(project, stage)):
            raise ConfigError(
                f"params.yaml names {name}: must be among the deps of stage {stage.name} in dvc.yaml, so that DVC sees "
                "it change"
            )


def file_hashes(project: "Context", files: Iterable[str]) -> dict[str, dict[str, str]]:
    """{"files": {name: SHA-256}} of what a work reads besides its inputs; nothing where it reads nothing more.

    Raises: ConfigError for one that is not there.
    """
    found = {}
    for name in sorted(set(files)):
        try:
            found[name] = sha256(project.root / name)
        except OSError as error:
            raise ConfigError(f"params.yaml names {name}: cannot be read: {error.strerror}") from None
    return {"files": found} if found else {}


def _entry(project: "Context", stage: Stage) -> dict[str, Any]:
    """What dvc.yaml says of a stage."""
    stages = yaml.safe_load((project.root / "dvc.yaml").read_text(encoding="utf-8")).get("stages", {})
    entry = stages.get(stage.name, {})
    found: dict[str, Any] = entry.get("do", entry)
    return found


def _watched(project: "Context", stage: Stage) -> list[Path]:
    """Where the deps of a stage in dvc.yaml are."""
    return [(project.root / dep).resolve() for dep in _entry(project, stage).get("deps", [])]


def _reads_code_file(project: "Context", stage: Stage) -> bool:
    """Whether DVC sees in CODE_FILE what code the stage runs."""
    return any(
        isinstance(params, Mapping) and CODE_FILE in params for params in _entry(project, stage).get("params", [])
    )


def _is_among(file: Path, watched: list[Path]) -> bool:
    return any(file == place or place in file.parents for place in watched)
