"""A run made from dvc.lock and the files it names, where no live one was kept."""

import csv
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from notbugs.runtime.config import SOURCE
from notbugs.runtime.dvc_lock import LockEntry, content
from notbugs.runtime.nested import flatten, numbers
from notbugs.tracking import location
from notbugs.tracking.facts import dataset, manifest, source_tags
from notbugs.tracking.journal import Journal, new_journal, now

_PICTURES = (".png", ".svg", ".jpg", ".html")
_PAGE_LIMIT = 100 * 2**20
"""Bytes above which a report or picture is not copied into MLflow."""

HEADLINE = "metrics/headline.json"
"""What DVC shows; its numbers are those of metrics/evaluate.json."""


def rebuild(
    root: Path, project: Path, entry: LockEntry, experiment: str, store_name: str, shared: str | None = None
) -> Journal | None:
    """Write the journal of a run from what dvc.lock and the workspace hold.

    Args:
        root: folder of dvc.lock.
        project: whose journals it joins.
        entry: the stage in dvc.lock.
        experiment, store_name: where it will be sent.
        shared: key of the family whose shared run it is, if it is one.
    Returns: the journal, to be sent; None if small outputs in the workspace are not those of dvc.lock.
    """
    metrics = {out: root / out for out in entry.outs if out.endswith((".json", ".csv")) and out != HEADLINE}
    if not all(_fits(root, entry, out) for out in metrics):
        return None
    time = now()
    header: dict[str, Any] = {
        "stage": entry.stage,
        "name": entry.name,
        "address": entry.address,
        "project": str(project),
        "root": str(root),
        "store": store_name,
        "experiment": experiment,
        "params": {key: _text(value) for key, value in _params(entry).items()},
        "tags": _tags(entry),
        "inputs": [],
        "started": time,
        **({"shared": shared} if shared else {}),
    }
    name = f"rebuilt-{entry.key[:16]}-{time}"
    journal = new_journal(location.work_folder(project), entry.address, header, name)
    journal.set_facts({"tags": {}, "datasets": _datasets(root, entry)})
    for path in metrics.values():
        with suppress(ValueError, csv.Error):  # another stage's file, of another kind
            for event in _numbers(path):
                journal.append("metrics", **event)
    for out in entry.outs:
        _attach(journal, root, entry, out)
    outputs = {out: there.to_json() for out, there in entry.outs.items()}
    journal.append("end", status="FINISHED", error=None, outputs=outputs)
    return journal


def _tags(entry: LockEntry) -> dict[str, str]:
    tags = {
        "stage": entry.stage,
        "pipeline.key": entry.key,
        "notbugs.rebuilt": "true",
        **source_tags(entry.stage, entry.name),
        **entry.hash_tags(),
    }
    if entry.name:
        tags["name"] = entry.name
    seed = _params(entry).get("seed")
    return tags if seed is None else tags | {"seed": str(seed)}


def _params(entry: LockEntry) -> dict[str, Any]:
    return {key: value for values in entry.params.values() for key, value in flatten(values).items()}


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list) else str(value)


def _datasets(root: Path, entry: LockEntry) -> list[dict[str, Any]]:
    found = []
    for path, there in entry.deps.items():
        for folder in _parts(root / path):
            about = manifest(folder)
            own = there if folder == root / path else content(folder)
            if about and own:
                found.append(dataset(folder, folder.relative_to(root).as_posix(), about, own))
    return found


def _parts(path: Path) -> list[Path]:
    """The datasets of a construction, one a source model; otherwise the path itself."""
    return sorted(path.glob(f"{SOURCE}*")) or [path]


def _fits(root: Path, entry: LockEntry, out: str) -> bool:
    there = content(root / out)
    return there is not None and there.fits(entry.outs[out])


def _numbers(path: Path) -> Iterator[dict[str, Any]]:
    """Metrics events of a JSON file of metrics, or of a CSV of learning curves; of another CSV none."""
    if path.suffix == ".json":
        values = json.loads(path.read_text(encoding="utf-8"))
        found = numbers(values) if isinstance(values, dict) else {}
        if found:
            yield {"step": 0, "values": found}
        return
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if not {"subset", "seed", "epoch"} <= set(reader.fieldnames or ()):
            return
        for row in reader:
            identity = ("subset", "source_seed", "seed", "epoch", "lr")
            values = {key: value for key, value in row.items() if key not in identity}
            whose = (row["subset"], row["seed"], row.get("source_seed") or "")
            named = {curve_name(key, *whose): value for key, value in values.items() if value}
            yield {"step": int(row["epoch"]), "values": _floats(named)}


def curve_name(column: str, subset: str, seed: str | int, source_seed: str | int = "") -> str:
    """Name of a learning curve: `train_loss/seed-0`; of a fit on a subset `still_y_train_loss/source-0-seed-1`."""
    source = "" if source_seed == "" else f"source-{source_seed}-"
    return f"{'' if subset == 'full' else f'{subset}_'}{column}/{source}seed-{seed}"


def _floats(row: dict[str, str]) -> dict[str, float]:
    values: dict[str, Any] = {}
    for key, text in row.items():
        try:
            values[key] = float(text)
        except ValueError:
            continue
    return numbers(values)


def _attach(journal: Journal, root: Path, entry: LockEntry, out: str) -> None:
    """Keep what a live stage would: metrics, pictures, pages and models; never datasets."""
    path, there = root / out, entry.outs[out]
    if any((part / "manifest.json").exists() for part in _parts(path)) or not path.exists():
        return
    if path.suffix == ".json":
        journal.append("artifact", path=journal.keep(path), folder=None)
        return
    models = path.suffix == ".safetensors" or (path.is_dir() and any(path.rglob("*.safetensors")))
    pictures = path.suffix in _PICTURES or (path.is_dir() and any(p.suffix in _PICTURES for p in path.iterdir()))
    if not (models or (pictures and there.size <= _PAGE_LIMIT)) or not _fits(root, entry, out):
        return
    kept = journal.keep(path)
    if models:
        if path.is_file() and path.with_suffix(".json").exists():
            (journal.folder / kept).with_suffix(".json").write_bytes(path.with_suffix(".json").read_bytes())
        journal.append("model", path=kept, name=path.stem)
    else:
        journal.append("artifact", path=kept, folder=None)
