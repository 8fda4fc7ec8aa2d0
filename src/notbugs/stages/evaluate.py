"""Stage `evaluate`: every model on the test split; models that did not change are not measured again."""

import hashlib
import json
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import notbugs
from notbugs.config import DATASET_NAMES, ConfigError, settings
from notbugs.evaluation import EvaluateSettings
from notbugs.evaluation import evaluate as measure_model
from notbugs.files import sha256, write_json, write_text
from notbugs.images import make_generator
from notbugs.models import ModelError, load_model
from notbugs.results import COLUMNS
from notbugs.stages.context import Context
from notbugs.store import StoredDataset, load_dataset
from notbugs.tracking import live_run
from notbugs.training import FitSettings, TrainSettings

MEASURING_CODE = ("attacks", "models", "config.py", "evaluation.py", "images.py", "intervals.py", "stages/evaluate.py")
"""Modules whose change makes kept measurements stale."""


@dataclass(frozen=True)
class Subject:
    """A model to be measured, and what its rows in the results say of it."""

    file: Path
    facts: dict[str, Any]

    @property
    def title(self) -> str:
        """Short name, such as "D_rand" or "D robust"."""
        robust = " robust" if self.facts["estimator"] == "robust" else ""
        return f"{self.facts['dataset']}{robust}"


def evaluate(project: Context) -> None:
    """Write metrics/results.csv, metrics/per_class.csv, metrics/evaluate.json and plots/accuracy_vs_eps.csv.

    Command: `notbugs evaluate`. On digits about 2 s a model. Expected there: see the README's table.
    """
    config = settings(project.params, "evaluate", EvaluateSettings)
    metrics = project.root / "metrics"
    outputs = [
        metrics / "results.csv",
        metrics / "per_class.csv",
        metrics / "evaluate.json",
        project.root / "plots" / "accuracy_vs_eps.csv",
    ]
    with live_run(
        "evaluate",
        None,
        root=project.root,
        experiment=project.runtime.experiment,
        params=project.params,
        seed=project.seed,
        inputs=[project.dataset("test"), project.root / "models" / "train", project.root / "models" / "fit"],
        outputs=outputs,
        metrics_file=metrics / "evaluate.json",
    ) as run:
        data = load_dataset(project.dataset("test"))
        subjects = list(_subjects(project, data.manifest.source))
        common = _common_key(project, config)
        rows, class_rows = [], []
        for subject in project.progress(subjects, "evaluate"):
            measured = _measured(project, subject, data, config, common)
            rows += [{**subject.facts, **row} for row in measured["rows"]]
            identity = {key: subject.facts[key] for key in ("dataset", "estimator", "seed")}
            class_rows += [
                {**identity, "class_name": name, "accuracy": accuracy, "n": n}
                for name, (accuracy, n) in measured["per_class"].items()
            ]
        _write_csv(outputs[0], tuple(COLUMNS), rows)
        _write_csv(outputs[1], tuple(class_rows[0]), class_rows)
        write_json(outputs[2], _headlines(rows))
        _write_csv(outputs[3], *_curves(rows, config))
        for file in (outputs[0], outputs[1], outputs[3]):
            run.artifact(file)
    project.say(f"evaluate: {len(subjects)} models, {len(rows)} measurements on {len(data)} test images")


def _subjects(project: Context, source: str) -> Iterator[Subject]:
    """Every model that params.yaml asks for, in its order."""
    model = project.model_settings()
    shared = {"architecture": model.architecture, "source": source}
    for name in project.names("train"):
        for seed in settings(project.params, f"train.{name}", TrainSettings).seeds:
            facts = {"dataset": "D", "estimator": name, "seed": seed, "source_seed": None, **shared}
            yield Subject(project.source_model(name, seed), {**facts, "construction_eps": None})
    for name in project.names("fit"):
        if name not in DATASET_NAMES:
            raise ConfigError(f"params.yaml: fit.{name}: unknown name; allowed: {', '.join(DATASET_NAMES)}")
        seeds = settings(project.params, f"fit.{name}", FitSettings).seeds
        fitted = json.loads((project.root / "metrics" / "fit" / f"{name}.json").read_text(encoding="utf-8"))
        construction = fitted["dataset"]
        for subset in ("full", "still_y"):
            if subset not in fitted:
                continue
            facts = {
                "dataset": DATASET_NAMES[name] + ("_still_y" if subset == "still_y" else ""),
                "estimator": "standard",
                "source_seed": construction["source_seed"],
                **shared,
                "construction_eps": construction.get("eps"),
            }
            for seed in seeds:
                yield Subject(project.fitted_model(name, subset, seed), {**facts, "seed": seed})


def _common_key(project: Context, config: EvaluateSettings) -> str:
    """What all measurements depend on besides the model's file."""
    code = hashlib.sha256()
    package = Path(notbugs.__file__).parent
    for part in MEASURING_CODE:
        files = sorted((package / part).rglob("*.py")) if (package / part).is_dir() else [package / part]
        for file in files:
            code.update(file.read_bytes())
    parts = (
        code.hexdigest(),
        sha256(project.dataset("test") / "manifest.json"),
        config.model_dump_json(exclude={"batch_size"}),
        project.runtime.num_threads,
        project.runtime.engine == "compiled",
        project.seed,
        project.device.type,
        torch.__version__,
    )
    return repr(parts)


def _measured(
    project: Context, subject: Subject, data: StoredDataset, config: EvaluateSettings, common: str
) -> dict[str, Any]:
    """The measurements of one model, from the work folder if it holds them."""
    if not subject.file.exists():
        raise ModelError(f"{subject.file}: no model there; `dvc repro` trains it")
    key = hashlib.sha256(repr((common, sha256(subject.file), subject.file.name)).encode()).hexdigest()
    kept = project.root / ".notbugs" / "evaluate" / f"{key}.json"
    try:
        measured: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        model = load_model(subject.file, device=project.device)
        rows, per_class = measure_model(
            model,
            data,
            config,
            generator=make_generator(project.seed, "evaluate", "random start"),
            compiled=project.runtime.engine == "compiled",
        )
        measured = {"rows": [asdict(row) for row in rows], "per_class": per_class}
        write_json(kept, measured)
    return measured


def _headlines(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, nested as `dvc metrics show` prints them."""
    groups: dict[tuple[str, str, str], list[float]] = defaultdict(list)
    for row in rows:
        attack = "shifted" if row["labels"] == "shifted" else row["attack"]
        if row["eps"]:
            attack += f"_eps_{row['eps']:g}"
        groups[row["dataset"], row["estimator"], attack].append(row["accuracy"])
    nested: dict[str, Any] = {}
    for (dataset, estimator, attack), values in groups.items():
        place = nested.setdefault(dataset, {}).setdefault(estimator, {})
        place[attack] = round(statistics.fmean(values), 6)
    return nested


def _curves(rows: list[dict[str, Any]], config: EvaluateSettings) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Columns and rows of accuracy against eps: one column a model, mean over seeds."""
    cells: dict[float, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    names: dict[str, None] = {}
    for row in rows:
        if row["labels"] == "true" and row["attack"] in ("clean", f"pgd{config.num_steps}"):
            name = "D_robust" if row["estimator"] == "robust" else row["dataset"]
            names[name] = None
            cells[row["eps"]][name].append(row["accuracy"])
    table = [
        {"eps": eps, **{name: round(statistics.fmean(values), 6) for name, values in cells[eps].items()}}
        for eps in sorted(cells)
    ]
    return ("eps", *names), table


def _write_csv(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    import csv
    import io

    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if value is None else value for key, value in row.items()})
    write_text(path, text.getvalue())
