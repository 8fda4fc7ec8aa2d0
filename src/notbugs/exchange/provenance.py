"""What a project knows of a dataset of its own: the hashes of what it was made from, and the numbers measured of it.

Only what dvc.lock ties to the very bytes at hand is told: a dataset that changed since has no lineage.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from notbugs.data.store import StoredDataset
from notbugs.evaluation.results import AccuracyRow, ResultsError, accuracy_table, load_results
from notbugs.runtime.config import SOURCE
from notbugs.runtime.dvc_lock import BACKGROUND_HASH_LIMIT, LockEntry, LockError, content, read_lock
from notbugs.runtime.files import sha256
from notbugs.runtime.nested import numbers


@dataclass(frozen=True)
class Provenance:
    """Attributes:
    lineage: (what, hash) of everything that it was made from.
    summary: (key, number) of the metrics of its stage.
    accuracies: of the fits on it.
    gap: why lineage and numbers are missing, "" if they are not.
    """

    lineage: tuple[tuple[str, str], ...] = ()
    summary: tuple[tuple[str, float], ...] = ()
    accuracies: tuple[AccuracyRow, ...] = ()
    gap: str = ""


def provenance(data: StoredDataset) -> Provenance:
    """Look for the dataset in the dvc.lock of the project that it lies in."""
    folder = data.path.resolve()
    path = folder.parent if folder.name.startswith(SOURCE) else folder  # DVC's output holds all sources' datasets
    root, out = path.parents[1], f"data/{path.name}"
    if path.parent.name != "data" or not (root / "dvc.lock").is_file():
        return Provenance(gap="The dataset lies in no project with a dvc.lock.")
    try:
        entries = {entry.address: entry for entry in read_lock(root / "dvc.lock")}
    except LockError:
        return Provenance(gap="The project's dvc.lock cannot be read.")
    made = next((entry for entry in entries.values() if out in entry.outs), None)
    if made is None or not _is_current(root, out, made):
        return Provenance(gap="The project's dvc.lock does not describe these files.")
    return Provenance(
        _lineage(root, made, data), _summary(root, made, data), _accuracies(root, entries, out, made, data)
    )


def _is_current(root: Path, path: str, entry: LockEntry) -> bool:
    """Whether what lies at a path has the hash that dvc.lock notes, as an output or input of a stage."""
    found = content(root / path, BACKGROUND_HASH_LIMIT)
    noted = entry.outs.get(path) or entry.deps.get(path)
    return found is not None and noted is not None and found.fits(noted)


def _lineage(root: Path, made: LockEntry, data: StoredDataset) -> tuple[tuple[str, str], ...]:
    inputs = {path: found for path, found in made.deps.items() if not path.startswith("src/")}
    lines = [(f"`{path}` (MD5, as in dvc.lock)", found.label) for path, found in inputs.items()]
    settings = data.manifest.settings
    folder = f"models/train/{settings.get('model')}"
    model = root / folder / f"seed-{settings.get('source_seed')}.safetensors"
    if folder in inputs and model.is_file() and _is_current(root, folder, made):
        lines.append((f"source model `{folder}/{model.name}` (SHA-256)", sha256(model)))
    base = root / "data" / "train" / "manifest.json"
    if "data/train" in inputs and base.is_file() and _is_current(root, "data/train", made):
        lines.append(("D, `data/train/manifest.json` (SHA-256, which names those of its files)", sha256(base)))
    lines.append(("stage, with command, params and inputs (SHA-256, `pipeline.key` in MLflow)", made.key))
    return tuple(lines)


def _summary(root: Path, made: LockEntry, data: StoredDataset) -> tuple[tuple[str, float], ...]:
    """The numbers of the stage's metrics; of a construction those of this source model's dataset."""
    seed = str(data.manifest.settings.get("source_seed"))
    files = [path for path, noted in made.outs.items() if path.startswith("metrics/") and path.endswith(".json")]
    found: dict[str, float] = {}
    for path in files:
        if _is_current(root, path, made):
            told = json.loads((root / path).read_text(encoding="utf-8"))
            found |= numbers(told.get("sources", {}).get(seed, told))
    return tuple(found.items())


def _accuracies(
    root: Path, entries: dict[str, LockEntry], out: str, made: LockEntry, data: StoredDataset
) -> tuple[AccuracyRow, ...]:
    """Mean accuracy over seeds of the fits on this dataset, if `fit` and `evaluate` saw these very files."""
    fit, evaluate = entries.get(f"fit@{made.name}"), entries.get("evaluate")
    if fit is None or evaluate is None or out not in fit.deps or fit.deps[out].md5 != made.outs[out].md5:
        return ()
    needed = ((f"metrics/fit/{made.name}.json", fit), ("metrics/fit", evaluate), ("metrics/results.csv", evaluate))
    if not all(_is_current(root, path, entry) for path, entry in needed):
        return ()
    try:
        table = load_results(root)
        own = table[table["source_seed"].isna() | (table["source_seed"] == data.manifest.settings.get("source_seed"))]
        return tuple(row for row in accuracy_table(own) if row.dataset == data.manifest.name)
    except ResultsError:
        return ()
