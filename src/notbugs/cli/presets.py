"""Presets: complete params.yaml files, and writing one of them, changed at single keys if asked."""

import itertools
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notbugs.cli.shipped import shipped
from notbugs.cli.smoke import smaller
from notbugs.runtime.config import parse_params, read_params, suggestion
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import write_text
from notbugs.runtime.params_text import assignment, with_keys


@dataclass(frozen=True)
class Preset:
    """One file of presets/.

    Attributes:
        name: what `notbugs preset` takes.
        path: the file.
        summary: what it runs and what it costs: the comment lines at its top.
    """

    name: str
    path: Path
    summary: tuple[str, ...]


def presets(root: Path) -> list[Preset]:
    """The presets of the project, or else those of the package."""
    folder = root / "presets"
    if not folder.is_dir():
        folder = shipped("presets")
    return [Preset(path.stem, path, _summary(path)) for path in sorted(folder.glob("*.yaml"))]


def write_preset(
    root: Path, name: str, changes: Sequence[str] = (), *, pictures: str | None = None, smoke: bool = False
) -> Path | None:
    """Write params.yaml from a preset.

    Args:
        root: project folder.
        name: of the preset.
        changes: "key=value" with dotted keys, such as "construct.rand.eps=0.5"; comments are kept.
        pictures: folder or archive that D is read from in place of the preset's source.
        smoke: make it small, before the changes.
    Returns: where the old params.yaml was kept, if it was nobody's preset; else None.
    Raises: ConfigError for an unknown preset or key, or an impossible value.
    """
    text = preset_text(root, name)
    if pictures is not None:
        text = _of_pictures(text, pictures, f"preset {name}")
    if smoke:
        text = with_keys(text, smaller(parse_params(text, f"preset {name}")))
    text = change(text, changes, f"preset {name}")
    params, backup = root / "params.yaml", None
    known = [text, *(preset.path.read_text(encoding="utf-8") for preset in presets(root))]
    if params.exists() and params.read_bytes() not in [preset.encode() for preset in known]:
        backup = _backup(params)
    write_text(params, text)
    return backup


def _of_pictures(text: str, path: str, place: str) -> str:
    """The text with D read from a folder or archive, in the size that the preset's data has (32 pixels if unsaid)."""
    data = parse_params(text, place)["data"]
    kept = {key: data[key] for key in ("dtype", "max_train", "max_test", "validation_fraction") if key in data}
    size = data.get("image_size", 32)
    read = {"source": "folder", "path": path, "image_size": size, "channels": "rgb"}
    return with_keys(text, {"data": {**read, **kept}, "experiment": Path(path).name.partition(".")[0] or "pictures"})


def add_missing(root: Path, name: str) -> list[str]:
    """Append to params.yaml the sections that it lacks, as the preset has them, with their comments.

    Returns: the sections added.
    Raises: ConfigError for an unknown preset, or a params.yaml that cannot be read.
    """
    path = root / "params.yaml"
    own, text = read_params(path), preset_text(root, name)
    missing = [section for section in parse_params(text, f"preset {name}") if section not in own]
    blocks = {match[1]: match[0].rstrip() for match in re.finditer(r"^(\w+):.*\n(?:(?![\w#]).*\n?)*", text, re.M)}
    if missing:
        mine = path.read_text(encoding="utf-8").rstrip()
        write_text(path, "\n\n".join([mine, *(blocks[section] for section in missing)]) + "\n")
    return missing


def change(text: str, changes: Sequence[str], place: str) -> str:
    """Set dotted keys in YAML text, keeping comments and order.

    Raises: ConfigError if a change has no "=", names a key that is not there, or gives what is not allowed.
    """
    if not changes:
        return text
    from notbugs.cli.check import check

    for item in changes:
        key, value = assignment(item, f" {place}")
        _require(parse_params(text, place), key, place)
        text = with_keys(text, {key: value})
    check(parse_params(text, place))
    return text


def _require(params: Mapping[str, Any], key: str, place: str) -> None:
    """Raises: ConfigError unless there is such a dotted key."""
    section: Any = params
    parts = key.split(".")
    for index, part in enumerate(parts):
        if not isinstance(section, Mapping):
            raise ConfigError(f"{place}: {key}: {'.'.join(parts[:index])} is a value, no section")
        if part not in section:
            there = ".".join(parts[: index + 1])
            raise ConfigError(f"{place}: {there}: unknown key{suggestion(part, list(map(str, section)))}")
        section = section[part]


def preset_text(root: Path, name: str) -> str:
    """A preset as it is written.

    Raises: ConfigError for an unknown one.
    """
    known = {preset.name: preset for preset in presets(root)}
    if name not in known:
        raise ConfigError(f"preset {name!r}: unknown{suggestion(name, list(known))}")
    return known[name].path.read_text(encoding="utf-8")


def _backup(params: Path) -> Path:
    """Copy params.yaml to params.yaml.old, or params.yaml.old2 and so on if that holds something else."""
    content, number = params.read_bytes(), 1
    while True:
        backup = params.with_name(f"params.yaml.old{number if number > 1 else ''}")
        if not backup.exists():
            shutil.copyfile(params, backup)
        if backup.read_bytes() == content:
            return backup
        number += 1


def _summary(path: Path) -> tuple[str, ...]:
    head = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return tuple(line.lstrip("# ") for line in head)
