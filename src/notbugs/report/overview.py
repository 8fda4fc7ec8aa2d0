"""The sections about the main results: what each of their templates is given."""

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pandas as pd
import yaml

from notbugs.data.store import source_folders
from notbugs.evaluation.comparison import Estimate, shares_of_variance
from notbugs.evaluation.results import (
    STILL_Y,
    WORST,
    AccuracyRow,
    attack_label,
    attack_steps,
    fitted_model,
    in_order,
    model_label,
    set_title,
    strength,
)
from notbugs.report import claims, figures, grids
from notbugs.report.claims import CIFAR10, FIGURE_EPS, SETTING
from notbugs.report.evidence import Evidence, NotMeasuredError
from notbugs.report.live import Drawing
from notbugs.report.project import Project
from notbugs.report.recorded import of_others
from notbugs.report.sections import Draw, Facts, Section
from notbugs.runtime.files import sha256

MODEL = ["dataset", "estimator", "source_seed", "seed"]
"""Columns that tell two models apart."""
SAMPLES = "datasets"
"""File name of the figure that the head of the page shows."""
CHANGE_NOTHING = ("experiment", "jobs")
"""Keys of params.yaml that no result depends on."""


def drawn(draw: Callable[[Project], Drawing | None]) -> Draw:
    """A figure that needs no metrics of a stage, as the registry has them."""
    return lambda project, _: draw(project)


def claims_numbers(project: Project, _: Facts) -> dict[str, Any]:
    """What stands around the verdicts."""
    return {
        "settings_note": project.report.settings_note,
        "checks": checks(project),
        "without_a_claim": claims.without_a_claim(project),
        "own": project.source,
        "recordings": of_others(project),
        "components": [_component(title, found) for title, found in _headline_estimates(project)],
    }


def _component(title: str, found: Estimate) -> dict[str, Any]:
    """How much source models, fits and test images bring to the uncertainty of a number."""
    basis = found.basis
    assert basis is not None  # the evidence gives one
    errors = {"source models": basis.source_error, "fits": basis.fit_error, "test images": basis.image_error}
    shares = shares_of_variance(basis)
    levels = [(error, shares[level]) for level, error in errors.items()]
    return {"title": title, "basis": basis, "value": found.points if "minus" in title else found, "levels": levels}


def _headline_estimates(evidence: Evidence) -> Iterator[tuple[str, Estimate]]:
    """Accuracies that the paper is about and the differences that decide, as far as they were measured."""
    eps = evidence.headline_eps
    for model in CIFAR10:
        label = model_label(*model)
        for radius, what in ((0.0, "clean"), (eps, f"eps {eps:g}")):
            with suppress(NotMeasuredError):
                yield f"{label}, {what}", evidence.accuracy(*model, eps=radius)
    with suppress(NotMeasuredError):
        base = evidence.fitted_as("robust")
        gap = evidence.difference(("D_R", "standard"), base, eps=eps)
        yield f"D_R minus {model_label(*base)}, eps {eps:g}", gap
    with suppress(NotMeasuredError):
        gap = evidence.difference(("D_R", "standard"), ("D_NR", "standard"), eps=eps)
        yield f"D_R minus D_NR, eps {eps:g}", gap
    with suppress(NotMeasuredError):
        gap = evidence.difference(("D_det", "standard"), ("D_det", "standard"), labels=("true", "shifted"))
        yield "D_det, y minus y + 1", gap


def several(project: Project) -> bool:
    """Whether any accuracy is a mean over seeds."""
    models = project.results[MODEL].drop_duplicates()
    return bool(models.groupby(["dataset", "estimator"]).size().max() > 1)


def seeds(project: Project, _: Facts) -> dict[str, Any]:
    """What the caption of a figure says of them."""
    return {"several": several(project)}


def figure_2(project: Project, _: Facts) -> dict[str, Any]:
    """By what the adversarial bars are measured, such as "all attacks together"; and whose the marks are."""
    table = project.accuracies
    names = {row.attack_at(project.headline_eps) for row in table} - {""}
    attacks = " or ".join(attack_label(name) for name in sorted(names)) or "not measured"
    base = next((row.label for row in table if (row.dataset, row.estimator) == ("D", "as_D_R")), None)
    marks = {"setting": SETTING, "figure_eps": FIGURE_EPS}
    return {"eps": project.headline_eps, "attacks": attacks, "base": base, "several": several(project), **marks}


def accuracy(project: Project, _: Facts) -> dict[str, Any]:
    """Accuracy of every model with intervals, and the paper's figures beside them."""
    rows = project.accuracies
    # At an eps that several attacks measured, one column each.
    attacks = sorted({key for row in rows for key in _in_all_seeds(row)}, key=lambda key: (key[0], len(key[1]), key[1]))
    # The verdicts take the strongest.
    at_headline = [key for key in attacks if key[0] == project.headline_eps]
    return {
        "rows": rows,
        "attacks": attacks,
        "headline": max(at_headline, key=lambda key: strength(key[1], 1), default=None),
        "not_learnt": {(name, "standard"): stuck for name, stuck in project.not_learnt.items()},
        "several": several(project),
        "reported": CIFAR10,
        "paper_eps": claims.EPS,
        "setting": SETTING,
    }


def _in_all_seeds(row: AccuracyRow) -> list[tuple[float, str]]:
    """PGD and the worst case of all attacks, as far as all models went through them; the suite has its own table."""
    models = row.clean.num_models if row.clean else 1
    return [
        key
        for key, cell in row.adversarial.items()
        if cell.num_models == models and (attack_steps(key[1]) or key[1] == WORST)
    ]


def attacks(project: Project, _: Facts) -> dict[str, Any]:
    """The attack suite, the checks and the certificates."""
    radii, certificates = _certificates(project)
    return {
        "eps": project.headline_eps,
        "checks": checks(project),
        "gap": gap(project),
        "suite": _suite(project),
        "radii": radii,
        "certificates": certificates,
    }


def _suite(project: Project) -> list[dict[str, Any]]:
    """What every attack of the suite left standing, mean over the models of each kind that it was run on."""
    summary = project.summary[project.summary["labels"] == "true"]
    rows = []
    for dataset, estimator in in_order(zip(summary["dataset"], summary["estimator"], strict=True)):
        own = summary[(summary["dataset"] == dataset) & (summary["estimator"] == estimator)]
        own = own[own["eps"].astype(float).isin([0.0, project.headline_eps])]
        left = {row["attack"]: row for row in own.to_dict(orient="records")}
        if WORST in left:
            rows.append({"label": model_label(dataset, estimator), "left": left, "worst": left[WORST]})
    return rows


def gap(project: Project) -> dict[str, Any] | None:
    """How far PGD at the headline radius lies above all attacks together, where most; None without the suite."""
    results = project.results[project.results["eps"].astype(float) == project.headline_eps]
    steps = (project.params.get("evaluate") or {}).get("headline_num_steps", 100)
    pgd = results[results["attack"] == f"pgd{steps}"].set_index(MODEL)["accuracy"]
    worst = results[results["attack"] == WORST].set_index(MODEL)["accuracy"]
    gaps = (pgd.reindex(worst.index) - worst).dropna().astype(float)
    if not len(gaps):
        return None
    place: Any = gaps.index[int(gaps.to_numpy().argmax())]  # (dataset, estimator, source_seed, seed)
    return {"most": float(gaps.max()), "steps": steps, "label": model_label(place[0], place[1])}


def checks(project: Project) -> dict[str, Any]:
    """Every check for masked gradients: how many, those that failed, and all of them by model."""
    models: dict[str, dict[str, Any]] = {}
    failed = []
    for row in project.checks:
        dataset, estimator, *seeds = row["model"].split("/")  # such as D_R/standard/source-1/seed-0
        told = {"label": model_label(dataset, estimator), "seeds": ", ".join(seeds).replace("-", " ")}
        model = models.setdefault(row["model"], {**told, "by_name": {}})
        model["by_name"][row["check"]] = row
        if not row["passed"]:
            failed.append({**told, "check": row["check"]})
    return {"num": len(project.checks), "failed": failed, "models": list(models.values())}


def _certificates(project: Project) -> tuple[list[float], list[dict[str, Any]]]:
    """The radii, and the certified accuracy of each smoothed classifier at each of them."""
    table, rows = project.certificates, []
    groups: Any = table.groupby(MODEL, sort=False, dropna=False)  # of tuples, as the four columns say
    for (dataset, estimator, source, seed), group in groups:
        seeds = f"seed {int(seed)}" if source != source else f"source {int(source)}, seed {int(seed)}"  # NaN: no source
        accuracies = [float(value) for value in group.sort_values("eps")["accuracy"]]
        rows.append(
            {"label": model_label(dataset, estimator), "seeds": seeds, "first": group.iloc[0], "accuracies": accuracies}
        )
    return sorted(table["eps"].unique()), rows


def construction(project: Project, _: Facts) -> dict[str, Any]:
    """What is known of the constructed images."""
    facts = {set_title(key): facts for key, facts in project.constructions.items()}
    return {"constructions": facts, "notes": {one.title: one.note for one in project.sets.values()}}


def per_class(project: Project, _: Facts) -> dict[str, Any]:
    """Accuracy on y of each class, mean over seeds; fits on still-y images are left out."""
    means = project.per_class.groupby(["dataset", "estimator", "class_name"], sort=False)["accuracy"].mean()
    models = [model for model in in_order(means.droplevel(2).index) if not model[0].endswith(STILL_Y)]
    sizes = project.per_class.drop_duplicates("class_name").set_index("class_name")["n"]
    known, rows = means.to_dict(), {}
    for label, size in sizes.items():
        rows[label] = (size, [known.get((*model, label)) for model in models])
    return {"models": [model_label(*model) for model in models], "rows": rows, "several": several(project)}


def learning(project: Project, _: Facts) -> dict[str, Any]:
    """Where each training ended, by the last epoch in which validation was measured; which are adversarial."""
    rows = []
    for curve, table in project.curves.items():
        stage, key = curve.split("-", 1)
        for subset, group in table.groupby("subset", sort=False):
            model = ("D", key) if stage == "train" else fitted_model(key, str(subset))
            rows.append({"label": model_label(*model), "epochs": group["epoch"].max(), **_end(group)})
    trained = (project.params.get("train") or {}).items()
    attacked = [model_label("D", key) for key, settings in trained if (settings or {}).get("attack")]
    return {"rows": rows, "attacked": attacked, "several": several(project)}


def _end(curves: pd.DataFrame) -> dict[str, float | None]:
    """Means over the seeds at the last epoch in which validation was measured; None for what was not measured."""
    measured = curves.dropna(subset=["validation_accuracy"])
    last = measured[measured["epoch"] == measured["epoch"].max()]
    columns = ("train_loss", "train_accuracy", "validation_accuracy", "validation_accuracy_shifted")
    means = {column: float(last[column].astype(float).mean()) for column in columns}
    return {column: None if math.isnan(mean) else mean for column, mean in means.items()}


class _Dumper(yaml.SafeDumper):
    """YAML with every value written out, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never write an alias."""
        return True


def provenance(project: Project, _: Facts) -> dict[str, Any]:
    """The settings, without what changes no number; hashes of data and models.

    The data manifests hold their shards' checksums.
    """
    shown = {key: value for key, value in project.params.items() if key not in CHANGE_NOTHING}
    text = yaml.dump(shown, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
    data, models = project.root / "data", project.root / "models"
    datasets = [data / split for split in ("train", "validation", "test")]
    for key in project.constructions:
        datasets += source_folders(data / key).values()
    files = [folder / "manifest.json" for folder in datasets]
    for stage in ("train", "fit"):
        for key in project.params.get(stage) or {}:
            files += sorted((models / stage / key).rglob("*.safetensors"))
    hashes = {file.relative_to(project.root).as_posix(): sha256(file) for file in files if file.exists()}
    return {"text": text, "hashes": hashes}


MAIN_SECTIONS = (
    Section("figure-2", folded=False, figures={"figure_2": drawn(figures.figure_2)}, numbers=figure_2),
    Section("claims", folded=False, rules=claims.RULES, more_rules=claims.further_rules, numbers=claims_numbers),
    Section("accuracy", folded=False, numbers=accuracy),
    Section("eps", figures={"accuracy_vs_eps": drawn(figures.accuracy_against_eps)}, numbers=seeds),
    Section("attacks", figures={"minimum_norm": drawn(figures.minimum_norm)}, numbers=attacks),
    Section("labels", figures={"label_accuracies": drawn(figures.label_accuracies)}, numbers=seeds),
    Section("construction", figures={"distances": drawn(figures.distances)}, numbers=construction),
    Section(
        "samples",
        figures={
            SAMPLES: drawn(grids.datasets_grid),
            "grid_inverted": drawn(grids.inverted_grid),
            "grid_rand": drawn(lambda project: grids.targeted_grid(project, "rand")),
            "grid_det": drawn(lambda project: grids.targeted_grid(project, "det")),
            "grid_further": drawn(grids.further_grid),
        },
    ),
)
"""What comes before the sections about the science."""
LAST_SECTIONS = (
    Section("learning", figures={"learning_curves": drawn(figures.learning_curves)}, numbers=learning),
    Section("classes", numbers=per_class),
    Section("settings", numbers=provenance),
    Section("words"),
    Section("cite"),
)
"""What comes after them."""
