"""A finished run, recorded: what Git is to hold of a project whose data and models are too large for it.

A recording is a folder with the run's params.yaml and dvc.lock (the hashes of all that it made), its metrics, the
report with its figures, what each stage took on which machine, and a page that tells it.
"""

import json
import platform
import re
import shutil
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from notbugs.evaluation.results import AccuracyRow, accuracy_table, attack_label, load_results, read_json
from notbugs.report.absent import metrics_file, of_table, sentences
from notbugs.report.documents import block_of, results_of
from notbugs.report.honesty import honesty_of
from notbugs.report.project import headline_eps
from notbugs.runtime.config import dataset_name, read_params
from notbugs.runtime.dvc_lock import read_lock
from notbugs.runtime.errors import UserError
from notbugs.runtime.files import whole_folder, write_json, write_text
from notbugs.runtime.machine import processor_name, usable_processors
from notbugs.runtime.outdated import is_as_locked, is_asked_for, outdated

FIGURE = "plots/figures/figure_2.png"
WHOLE = ("params.yaml", "dvc.lock", "metrics", "reports", FIGURE, "sweeps")
"""What is copied, where it is there."""
LEFT_OUT = (".git*", "minimum_norms.parquet", "optuna.db*")
FACTS, SUMMARY = "record.json", "summary.json"
"""What a run was made on and took; what other projects' reports show of it."""
_HEADING = re.compile(r"  (?P<address>\S+):\n")
"""The line of dvc.lock that a stage begins with."""
LIBRARIES = ("notbugs", "torch", "torchvision", "numpy", "scikit-learn", "mlflow", "dvc", "optuna")


class RecordingError(UserError):
    """A run cannot be recorded."""


def require_recordable(root: Path, out: Path) -> None:
    """Raises: RecordingError if a project's run is not finished or is of other settings, or the folder is not free."""
    for needed in ("params.yaml", "dvc.lock", "metrics/results.csv", "reports/report.html"):
        if not (root / needed).exists():
            raise RecordingError(f"{root / needed}: not found; `dvc repro` finishes the run that is to be recorded")
    old = outdated(root, read_params(root / "params.yaml"))
    if of_table(old):
        raise RecordingError(f"dvc.lock: {next(sentences(of_table(old)))} before it can be recorded")
    if "report" in old:
        raise RecordingError(f"{root / 'reports/report.html'}: of other settings or data; `notbugs report` writes it")
    inside = [name for name in WHOLE if out.absolute().is_relative_to((root / name).absolute())]
    if inside:
        raise RecordingError(f"{out}: lies in {inside[0]}, which is recorded; must be outside, such as results/NAME")
    if out.exists() and not (out / FACTS).exists() and (out.is_file() or any(out.iterdir())):
        raise RecordingError(f"{out}: holds something else; must be a new or empty folder, or an earlier recording")


def write_recording(root: Path, out: Path, costs: Sequence[Mapping[str, Any]], *, title: str | None = None) -> None:
    """Write the recording of a project's run into a folder, in place of an earlier one.

    Stages whose outputs are of other settings or data, as those that a clone came with, are left out.

    Args:
        costs: of each stage its `command`, how many `runs` it took, and their `seconds`.
        title: what D is called; None takes the name of its source.
    Raises: see `require_recordable`.
    """
    require_recordable(root, out)
    params, source = read_params(root / "params.yaml"), str(load_results(root).iloc[0]["source"])
    facts = {"title": title or source, "source": source, **_machine(), "stages": _in_order(costs, root / "dvc.lock")}
    with whole_folder(out) as unfinished:
        for name in WHOLE:
            _copy(root / name, unfinished / name)
        _leave_out(unfinished, params, outdated(root, params))
        write_json(unfinished / FACTS, facts)
        write_json(unfinished / SUMMARY, summary(unfinished, facts))
        write_text(unfinished / "README.md", _page(unfinished, facts))


def _in_order(costs: Sequence[Mapping[str, Any]], lock: Path) -> list[Mapping[str, Any]]:
    """Stages as dvc.lock has them, which is the order in which they need each other; others behind them."""
    order = {entry.command: place for place, entry in enumerate(read_lock(lock))}
    return sorted(costs, key=lambda cost: order.get(cost["command"], len(order)))


def _leave_out(folder: Path, params: Mapping[str, Any], old: Collection[str]) -> None:
    """Remove what outdated stages wrote, and those that params.yaml has not, and what dvc.lock says of them.

    What it says of files that were written since goes, too.
    """
    lock = folder / "dvc.lock"
    entries = read_lock(lock)
    foreign = {entry.address for entry in entries if entry.address in old or not is_asked_for(entry, params)}
    for path in (path for entry in entries if entry.address in foreign for path in entry.outs):
        if (folder / path).is_dir():
            shutil.rmtree(folder / path)
        else:
            (folder / path).unlink(missing_ok=True)
    dropped = foreign | {entry.address for entry in entries if not is_as_locked(folder, entry)}
    kept, address = [], ""
    for line in lock.read_text(encoding="utf-8").splitlines(keepends=True):
        found = _HEADING.fullmatch(line)
        address = found["address"] if found else address
        if address not in dropped:
            kept.append(line)
    write_text(lock, "".join(kept))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _machine() -> dict[str, Any]:
    """On what a run was made."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    return {"processor": processor_name(), "processors": usable_processors(), "versions": versions}


def _page(folder: Path, facts: Mapping[str, Any]) -> str:
    """README.md of a recording: its table, and what it took."""
    results = results_of(folder, picture=FIGURE, began="What was measured")
    total = sum(cost["seconds"] for cost in facts["stages"])
    return block_of("recording", results=results, total=total, **facts) + "\n"


def summary(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What other projects' reports show of a recording: table, D_rand and D_det, verdicts, the debate, what it took."""
    params = read_params(folder / "params.yaml")
    eps, sizes = headline_eps(params), read_json(folder / "metrics/prepare.json", "prepare", ("train", "test"))
    model, rows = params["model"], accuracy_table(load_results(folder))
    return {
        "title": facts["title"],
        "source": facts["source"],
        "network": f"{model['architecture']}, width {model['width']}" if model.get("width") else model["architecture"],
        "train": sizes["train"],
        "test": sizes["test"],
        "eps": eps,
        "models": max((row.clean.num_models for row in rows if row.clean), default=0),
        "rows": [_row(row, eps) for row in rows],
        "sets": [found for name in ("rand", "det") if (found := _set(folder, params, name))],
        "verdicts": [
            {key: claim[key] for key in ("key", "title", "verdict")}
            for claim in json.loads((folder / "reports/verdicts.json").read_text(encoding="utf-8"))
        ],
        "minutes": round(sum(cost["seconds"] for cost in facts["stages"]) / 60),
        "machine": f"{facts['processors']} processors ({facts['processor']})",
        "version": facts["versions"]["notbugs"],
        "debate": _debate(folder, params),
    }


def _debate(folder: Path, params: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of `science` that put somebody's position to the data: name -> metrics file."""
    files = {name: metrics_file(folder, f"science@{name}") for name in params.get("science") or {}}
    found = {name: read_json(file, f"science@{name}", ("question",)) for name, file in files.items() if file.exists()}
    return {name: facts for name, facts in found.items() if "position" in facts["question"]}


def _row(row: AccuracyRow, eps: float) -> dict[str, Any]:
    """A line of the table: shares on y, on y + 1, and under the strongest attack at the headline radius."""
    attack = row.attack_at(eps)
    cells = {"y": row.clean, "shifted": row.shifted, "attacked": row.under_attack(eps)}
    shares = {name: None if cell is None else round(cell.value, 4) for name, cell in cells.items()}
    return {"label": row.label, **shares, "attack": attack_label(attack) if attack else None}


def _set(folder: Path, params: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """How D_rand or D_det was made, and whether its images still show y; None where there is none."""
    file, told = metrics_file(folder, f"construct@{name}"), (params.get("construct") or {}).get(name)
    if told is None or not file.exists():
        return None
    found = read_json(file, f"construct@{name}", ("success_rate",))
    judged = honesty_of(found)
    return {
        "title": dataset_name(name),
        **{key: told[key] for key in ("norm", "eps", "num_steps") if key in told},
        "success": found["success_rate"],
        "still_y": None if judged is None else judged.least,
    }
