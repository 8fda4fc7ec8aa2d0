"""Presets: complete params.yaml files, and writing one of them, changed at single keys if asked."""

import io
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notbugs.config import ConfigError
from notbugs.files import write_text


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
    """The presets of the project, or else those that the package was installed with."""
    folder = root / "presets"
    if not folder.is_dir():
        folder = Path(__file__).parents[2] / "presets"
    return [Preset(path.stem, path, _summary(path)) for path in sorted(folder.glob("*.yaml"))]


def write_preset(root: Path, name: str, changes: Sequence[str] = ()) -> Path | None:
    """Write params.yaml from a preset.

    Args:
        root: project folder.
        name: of the preset.
        changes: "key=value" with dotted keys, such as "construct.rand.eps=0.5"; comments are kept.
    Returns: where the old params.yaml was kept, if it was nobody's preset; else None.
    Raises: ConfigError for an unknown preset or key.
    """
    known = {preset.name: preset for preset in presets(root)}
    if name not in known:
        raise ConfigError(f"preset {name!r}: unknown; allowed: {', '.join(known)}")
    text = known[name].path.read_text(encoding="utf-8")
    params, backup = root / "params.yaml", None
    text = change(text, changes, f"preset {name}")
    if params.exists() and params.read_text(encoding="utf-8") not in (text, *_texts(known.values())):
        backup = root / "params.yaml.old"
        shutil.copyfile(params, backup)
    write_text(params, text)
    return backup


def change(text: str, changes: Sequence[str], place: str) -> str:
    """Set dotted keys in YAML text, keeping comments and order.

    Raises: ConfigError if a change has no "=" or names a key that is not there.
    """
    if not changes:
        return text
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 10_000
    document = yaml.load(text)
    for item in changes:
        key, equals, value = item.partition("=")
        *parents, last = key.split(".")
        section: Any = document
        for part in parents:
            section = section.get(part) if isinstance(section, dict) else None
        if not equals or not isinstance(section, dict) or last not in section:
            has = ", ".join(map(str, section)) if isinstance(section, dict) else "nothing of that name"
            raise ConfigError(f"{item!r}: expected KEY=VALUE with a key of {place}; there: {has}")
        section[last] = yaml.load(value) if value else None
    out = io.StringIO()
    yaml.dump(document, out)
    return out.getvalue()


def _summary(path: Path) -> tuple[str, ...]:
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return tuple(lines)


def _texts(all_presets: Iterable[Preset]) -> list[str]:
    return [preset.path.read_text(encoding="utf-8") for preset in all_presets]
