"""The user's own modules that a stage's settings name: part of what its work is made with, and watched by DVC."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.stage import Stage
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.imports import reached
from notbugs.runtime.registry import own_modules


def part_of(params: Mapping[str, Any], key: str) -> Any:
    """What params.yaml holds under a dotted key; None where there is nothing."""
    found: Any = params
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def modules_named(project: Context, *keys: str) -> list[str]:
    """The user's own modules that some parts of params.yaml name."""
    return sorted(own_modules([part_of(project.params, key) for key in keys]))


def require_watched(project: Context, stage: Stage, name: str | None) -> None:
    """Refuse to run what DVC would not run again after a change.

    Raises: ConfigError naming a file of the user's own code that the stage loads and dvc.yaml does not name.
    """
    keys = [key.replace("{name}", name or "") for key in stage.params]
    modules = modules_named(project, *keys)
    file = project.root / "dvc.yaml"
    if not modules or not file.exists():
        return
    stages = yaml.safe_load(file.read_text(encoding="utf-8")).get("stages", {})
    entry = stages.get(stage.name, {})
    watched = [(project.root / dep).resolve() for dep in entry.get("do", entry).get("deps", [])]
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


def _is_among(file: Path, watched: list[Path]) -> bool:
    return any(file == place or place in file.parents for place in watched)
