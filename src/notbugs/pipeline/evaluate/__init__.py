"""Stage `evaluate`: every model on the test split; models that did not change are not measured again."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from notbugs.data.store import load_dataset
from notbugs.evaluation.accuracy import class_accuracies, measure
from notbugs.evaluation.comparison import Run, nested_mean
from notbugs.evaluation.levels import SuiteSettings
from notbugs.evaluation.minimum_norm import smallest
from notbugs.evaluation.results import COLUMNS, fitted_model, headlines, read_json
from notbugs.evaluation.suite import Audit
from notbugs.pipeline.evaluate import records
from notbugs.pipeline.evaluate.measuring import Subject, measure_all
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.job import Job
from notbugs.pipeline.running.models import source_seeds
from notbugs.runtime.config import SUBSETS
from notbugs.runtime.distribution import is_first
from notbugs.runtime.files import write_csv, write_json
from notbugs.training.settings import train_settings


def evaluate(job: Job) -> None:
    """Write metrics/results.csv and what lies beside it: see the stage's outputs.

    Command: `notbugs evaluate`. On digits about 3 s a model at level quick. Expected there: see the README's table.
    """
    project, config = job.project, job.settings
    outputs = {path.stem: path for path in job.outputs}
    inputs = [project.dataset("test"), project.root / "models" / "train", project.root / "models" / "fit"]
    with job.begin(inputs, project.params) as (run, _):
        data = load_dataset(project.dataset("test"))
        subjects = list(_subjects(project, data.manifest.source, config))
        found_of_each = measure_all(project, subjects, data, config)
        if not is_first():
            return
        audits = [(subject.facts, found) for subject, found in zip(subjects, found_of_each, strict=True)]
        rows, class_rows = [], []
        for facts, found in audits:
            rows += [{**facts, **asdict(measure(outcome))} for outcome in found.outcomes]
            identity = {key: facts[key] for key in records.IDENTITY}
            class_rows += [
                {**identity, "class_name": name, "accuracy": accuracy, "n": n}
                for name, (accuracy, n) in class_accuracies(found.outcomes[0].correct, data).items()
            ]
        write_csv(outputs["results"], tuple(COLUMNS), rows)
        write_csv(outputs["per_class"], tuple(class_rows[0]), class_rows)
        write_csv(outputs["accuracy_vs_eps"], *_curves(rows, config))
        records.write_per_example(outputs["per_example"], audits)
        records.write_minimum_norms(outputs["minimum_norms"], audits)
        records.write_minimum_norm_curves(outputs["accuracy_vs_minimum_norm"], audits, config)
        records.write_checks(outputs["checks"], audits)
        records.write_certificates(outputs["certificates"], audits, config, data.labels.tolist())
        write_json(job.metrics_file, _summary(rows, audits))
        write_json(outputs["headline"], headlines(rows, config.headline_eps, _training_eps(project, config)))
        for path in (path for path in job.outputs if path.suffix == ".csv" or path.stem == "checks"):
            run.artifact(path)
    failed = sum(not check.passed for _, found in audits for check in found.checks)
    checks = f"; {failed} checks failed: metrics/checks.json" if failed else ""
    job.say(f"{len(subjects)} models, {len(rows)} measurements on {len(data)} test images{checks}")


def _subjects(project: Context, source: str, config: SuiteSettings) -> Iterator[Subject]:
    """Every model that params.yaml asks for, in its order.

    D's standard and robust models are attacked by the whole level at the robust model's training eps, too, where
    robustness is claimed by it.
    """
    shared = {"architecture": project.model_settings().architecture, "source": source}
    also_at = _training_eps(project, config)
    for name in project.names("train"):
        for seed in source_seeds(project, name):
            facts = {"dataset": "D", "estimator": name, "source_seed": None, "seed": seed, **shared}
            yield Subject(project.source_model(name, seed), {**facts, "construction_eps": None}, also_at)
    for name in project.names("fit"):
        fitted = read_json(project.root / "metrics" / "fit" / f"{name}.json", f"fit@{name}", ("full", "dataset"))
        for subset in SUBSETS:
            dataset, estimator = fitted_model(name, subset)
            eps = None if subset == "baseline" else fitted["dataset"].get("eps")
            identity = {"dataset": dataset, "estimator": estimator, **shared, "construction_eps": eps}
            for source_seed, seeds in fitted.get(subset, {}).get("seeds", {}).items():
                for seed in seeds:
                    file = project.fitted_model(name, subset, int(source_seed), int(seed))
                    yield Subject(file, {**identity, "source_seed": int(source_seed), "seed": int(seed)})


def _training_eps(project: Context, config: SuiteSettings) -> float | None:
    """The radius of robust training, where that is another one than the headline's, in the same norm."""
    if "robust" not in project.names("train"):
        return None
    attack = train_settings(project.params, "train.robust").attack
    return attack.eps if attack and attack.norm == config.norm and attack.eps != config.headline_eps else None


def _run(facts: Mapping[str, Any], value: float) -> Run:
    """A number measured of one model, to be averaged by its source model and fit."""
    return Run(facts["source_seed"], facts["seed"], value)


def _summary(rows: list[dict[str, Any]], audits: list[tuple[dict[str, Any], Audit]]) -> dict[str, Any]:
    """Nested means over the models of a kind; values of the checks and how many failed; medians of the smallest ‖δ‖."""
    groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for row in rows:
        attack = "shifted" if row["labels"] == "shifted" else row["attack"]
        if row["eps"]:
            attack += f"_eps_{row['eps']:g}"
        groups[row["dataset"], row["estimator"], attack].append(_run(row, row["accuracy"]))
    failed: dict[tuple[str, str], int] = defaultdict(int)
    for facts, found in audits:
        kind = (facts["dataset"], facts["estimator"])
        for check in found.checks:
            groups[(*kind, f"check_{check.check}")].append(_run(facts, check.value))
            failed[kind] += not check.passed
        if found.norms:
            median = float(smallest(list(found.norms.values())).median())
            groups[(*kind, "median_minimum_norm")].append(_run(facts, median))
    nested: dict[str, Any] = {}
    for (dataset, estimator, attack), runs in groups.items():
        place = nested.setdefault(dataset, {}).setdefault(estimator, {})
        mean = nested_mean(runs)
        place[attack] = round(mean, 6) if math.isfinite(mean) else None
        if (dataset, estimator) in failed:
            place["checks_failed"] = failed[dataset, estimator]
    return nested


def _curves(rows: list[dict[str, Any]], config: SuiteSettings) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Columns and rows of accuracy against eps: one column a model, nested mean over its runs."""
    cells: dict[float, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    names: dict[str, None] = {}
    for row in rows:
        if row["labels"] == "true" and row["attack"] in ("clean", f"pgd{config.num_steps}"):
            name = records.column_name(row)
            names[name] = None
            cells[row["eps"]][name].append(_run(row, row["accuracy"]))
    table = [
        {"eps": eps, **{name: round(nested_mean(runs), 6) for name, runs in cells[eps].items()}}
        for eps in sorted(cells)
    ]
    return ("eps", *names), table
