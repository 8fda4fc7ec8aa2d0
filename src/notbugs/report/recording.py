"""A finished run, recorded: what Git is to hold of a project whose data and models are too large for it.

A recording is a folder with the run's params.yaml and dvc.lock (the hashes of all that it made), its metrics, the
report with its figures, what each stage took on which machine, and a page that tells it.
"""

import platform
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from notbugs.evaluation.results import load_results
from notbugs.report.documents import block_of, results_of
from notbugs.runtime.errors import UserError
from notbugs.runtime.files import whole_folder, write_json, write_text
from notbugs.runtime.machine import usable_processors

FIGURE = "plots/figures/figure_2.png"
WHOLE = ("params.yaml", "dvc.lock", "metrics", "reports", FIGURE, "sweeps")
"""What is copied, where it is there."""
LEFT_OUT = (".gitignore", "minimum_norms.parquet", "optuna.db*")
FACTS = "record.json"
LIBRARIES = ("notbugs", "torch", "torchvision", "numpy", "scikit-learn", "mlflow", "dvc", "optuna")


class RecordingError(UserError):
    """A run cannot be recorded."""


def require_recordable(root: Path, out: Path) -> None:
    """Raises: RecordingError if the run of a project is not finished, or the folder holds something else."""
    for needed in ("params.yaml", "dvc.lock", "metrics/results.csv", "reports/report.html"):
        if not (root / needed).exists():
            raise RecordingError(f"{root / needed}: not found; `dvc repro` finishes the run that is to be recorded")
    if out.exists() and not (out / FACTS).exists() and (out.is_file() or any(out.iterdir())):
        raise RecordingError(f"{out}: holds something else; must be a new or empty folder, or an earlier recording")


def write_recording(root: Path, out: Path, costs: Sequence[Mapping[str, Any]]) -> None:
    """Write the recording of a project's run into a folder, in place of an earlier one.

    Args:
        costs: of each stage its `command`, how many `runs` it took, and their `seconds`.
    Raises: see `require_recordable`.
    """
    require_recordable(root, out)
    facts = {"source": str(load_results(root).iloc[0]["source"]), **_machine(), "stages": list(costs)}
    with whole_folder(out) as unfinished:
        for name in WHOLE:
            _copy(root / name, unfinished / name)
        write_json(unfinished / FACTS, facts)
        write_text(unfinished / "README.md", _page(unfinished, facts))


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    elif source.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _machine() -> dict[str, Any]:
    """On what a run was made."""
    versions = {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}
    return {"processor": _processor(), "processors": usable_processors(), "versions": versions}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # macOS has none
        lines = []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _page(folder: Path, facts: Mapping[str, Any]) -> str:
    """README.md of a recording: its table, and what it took."""
    results = results_of(folder, picture=FIGURE, began="What was measured")
    total = sum(cost["seconds"] for cost in facts["stages"])
    return block_of("recording", results=results, total=total, **facts) + "\n"
