"""What lies in metrics/ and was not made from what params.yaml and data/ hold now: DVC knows, whoever shows it must.

A clone comes with the metrics of its default run, and a preset may be run up to `evaluate` alone. What the other
stages once measured is then still there, of other data.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from notbugs.runtime.config import SECTIONS, value_at
from notbugs.runtime.dvc_lock import LockEntry, LockError, content, read_lock

PARAMS = "params.yaml"


def outdated(root: Path, params: Mapping[str, Any]) -> dict[str, str]:
    """Stages whose metrics are of other settings or other data than the project has now, by dvc.lock.

    A stage is one of these if its files are as dvc.lock says, and a setting that it reads has changed since, or what
    it reads was made anew since, or is itself outdated. Changed code does not count, and neither do files that were
    written by a command of the stage alone: dvc.lock does not know what those are of.

    Returns: address, such as "evaluate" or "construct@rand" -> why.
    """
    try:
        entries = [entry for entry in read_lock(root / "dvc.lock") if is_asked_for(entry, params)]
    except LockError:  # DVC says so itself
        return {}
    makers = {path: entry for entry in entries for path in entry.outs}
    here = {path for path in makers if (root / path).exists()}
    found: dict[str, str] = {}
    while True:  # what an outdated stage made makes others outdated
        more = {
            entry.address: why
            for entry in entries
            if entry.address not in found
            and (why := _why(entry, params, makers, here, found)) is not None
            and is_as_locked(root, entry)
        }
        if not more:
            return found
        found |= more


def is_asked_for(entry: LockEntry, params: Mapping[str, Any]) -> bool:
    """Whether params.yaml still has the foreach entry; of a stage that is not the package's, every one is asked for."""
    return entry.name is None or entry.stage not in SECTIONS or entry.name in (params.get(entry.stage) or {})


def _why(
    entry: LockEntry,
    params: Mapping[str, Any],
    makers: Mapping[str, LockEntry],
    here: Collection[str],
    found: Mapping[str, str],
) -> str | None:
    """Why a stage is outdated; None if it is not, as far as is known yet.

    Args:
        makers: output -> stage.
        here: outputs that are there; of a folder that a stage reads, what is not there was not read.
        found: what is known to be outdated.
    """
    for key, value in entry.params.get(PARAMS, {}).items():
        if not _same(value, value_at(params, key)):
            return f"{key} has changed since"
    for path, was in entry.deps.items():
        for out, maker in makers.items():
            if out == path and not was.fits(maker.outs[out]):
                return f"{path} has changed since"
            if maker.address in found and (out == path or (out in here and _touch(out, path))):
                return f"{maker.address} is outdated"
    return None


def _same(one: Any, other: Any) -> bool:
    """Whether two settings are equal; a number may stand as text, since YAML 1.1 reads 1e-3 so."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return set(one) == set(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, bool) or isinstance(other, bool) or one is None or other is None:
        return one is other
    try:
        return float(one) == float(other)
    except (TypeError, ValueError):
        return bool(one == other)


def _touch(one: str, other: str) -> bool:
    """Whether a path is another, lies in it, or holds it."""
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def is_as_locked(root: Path, entry: LockEntry) -> bool:
    """Whether the single files of a stage that are there are those of dvc.lock; its folders are not read."""
    files = {path: was for path, was in entry.outs.items() if (root / path).is_file()}
    return all(was.fits(content(root / path) or was) for path, was in files.items())
