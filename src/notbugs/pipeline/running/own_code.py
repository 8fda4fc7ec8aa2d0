"""The user's own modules and files that a stage's settings name: part of what its work is made with, watched by DVC."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from notbugs.pipeline.running.stage import Stage
from notbugs.runtime.config import value_at
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import sha256
from notbugs.runtime.imports import reached
from notbugs.runtime.registry import own_modules
from notbugs.runtime.yaml_loader import SafeLoader

if TYPE_CHECKING:
    from notbugs.pipeline.running.context import Context

CODE_FILE = "code.json"
"""What `notbugs code` writes in a project that has the package installed: what code each stage runs, the user's too."""


def modules_named(params: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """The user's own modules that some parts of params.yaml name.

    Args:
        keys: dotted places of these parts.
    """
    return sorted(own_modules([value_at(params, key) for key in keys]))


def require_watched(root: Path, params: Mapping[str, Any], stage: Stage, name: str | None) -> None:
    """Refuse to run what DVC would not run again after a change.

    Args:
        root: of the project.
    Raises: ConfigError naming a file of the user's own code that the stage loads and dvc.yaml does not name.
    """
    # A question is loaded where it is answered; the report reads what it came to.
    keys = [key for key in stage.keys(name) if key != "science"]
    modules = modules_named(params, keys)
    watched = _Watched.by(root, stage) if modules else None
    if watched is None or watched.code_file:
        return
    for module, source in reached(*modules)[0].items():
        if module.partition(".")[0] == __name__.partition(".")[0]:
            continue
        try:
            place = source.resolve().relative_to(root.resolve()).as_posix()
        except ValueError:
            if source.resolve() in watched:
                continue
            raise ConfigError(
                f"params.yaml names {module}: {source} lies outside the project, where DVC does not see it change: "
                "move it into src, or install it as a package"
            ) from None
        watched.require(source, f"params.yaml names {module}: {place}")


def require_files_watched(project: "Context", stage: Stage, files: Iterable[str]) -> None:
    """Refuse to read a file that DVC would not see change.

    Args:
        files: as params.yaml names them.
    Raises: ConfigError naming the first that is missing, or that the stage's deps in dvc.yaml do not hold.
    """
    watched = _Watched.by(project.root, stage)
    for name in files:
        file = project.root / name
        if not file.is_file():
            raise ConfigError(f"params.yaml names {name}: must be a file; there is none at {file}")
        if watched is not None:
            watched.require(file, f"params.yaml names {name}:")


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


@dataclass(frozen=True)
class _Watched:
    """What DVC sees change of what a stage reads.

    Attributes:
        stage: its name.
        places: its deps in dvc.yaml. code_file: whether it reads CODE_FILE, too, which says what code it runs.
    """

    stage: str
    places: tuple[Path, ...]
    code_file: bool

    @classmethod
    def by(cls, root: Path, stage: Stage) -> "_Watched | None":
        """By dvc.yaml; None where there is none, and so no DVC that would have to see anything."""
        try:
            text = (root / "dvc.yaml").read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        entry = (yaml.load(text, Loader=SafeLoader) or {}).get("stages", {}).get(stage.name, {})
        entry = entry.get("do", entry)
        code_file = any(isinstance(params, Mapping) and CODE_FILE in params for params in entry.get("params", []))
        return cls(stage.name, tuple((root / dep).resolve() for dep in entry.get("deps", [])), code_file)

    def __contains__(self, file: Path) -> bool:
        """Whether a resolved path is a dep, or lies in one."""
        return any(file == place or place in file.parents for place in self.places)

    def require(self, file: Path, named: str) -> None:
        """Raises: ConfigError, beginning with how the file is named, for one that is not watched."""
        if file.resolve() not in self:
            raise ConfigError(
                f"{named} must be among the deps of stage {self.stage} in dvc.yaml, so that DVC sees it change"
            )
