"""What was computed once and is not computed again: results by the hash of all that they depend on."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import notbugs
from notbugs.files import write_json
from notbugs.tracking.journal import held

COMPUTING_CODE = (
    "attacks",
    "checkpoints.py",
    "config.py",
    "construction.py",
    "distribution.py",
    "evaluation.py",
    "feeding.py",
    "halving.py",
    "images.py",
    "intervals.py",
    "models",
    "stages/compiling.py",
    "stages/learning.py",
    "store.py",
    "sweeps/points.py",
    "sweeps/trial.py",
    "training.py",
)
"""Modules whose change makes kept results stale."""
PATIENCE_SECONDS = 24 * 3600.0
"""How long a worker waits for another one that computes the same."""


def work_folder(root: Path) -> Path:
    """Where sweeps keep results, source models and datasets; ignored by Git and DVC."""
    return root / ".notbugs" / "sweeps"


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def code_digest() -> str:
    """SHA-256 of the code that computes a trial."""
    package, found = Path(notbugs.__file__).parent, hashlib.sha256()
    for part in COMPUTING_CODE:
        files = sorted((package / part).rglob("*.py")) if (package / part).is_dir() else [package / part]
        for file in files:
            found.update(file.read_bytes())
    return found.hexdigest()


def once(folder: Path, made_from: Mapping[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The kept result of `made_from`, computed if there is none; two workers at once compute it once.

    Args:
        folder: where such results are kept, as <digest>.json.
        made_from: all that the result depends on.
        compute: makes it, as a JSON object; what it raises is kept nowhere.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{digest(made_from)}.json"
    if found := _read(file):
        return found
    with held(file.with_suffix(".lock"), PATIENCE_SECONDS):
        if found := _read(file):
            return found
        result = compute()
        write_json(file, result)
    return result


def _read(file: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
