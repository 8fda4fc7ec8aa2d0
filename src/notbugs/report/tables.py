"""The report's tables."""

import math
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from notbugs.data.store import source_folders
from notbugs.evaluation.comparison import Estimate, shares_of_variance
from notbugs.evaluation.results import (
    MODELS,
    STILL_Y,
    WORST,
    Accuracy,
    AccuracyRow,
    accuracy_table,
    all_eps,
    attack_steps,
    fitted_model,
    model_label,
    percent,
    strength,
)
from notbugs.report.blocks import Cell, Table, name, number
from notbugs.report.claims import Claim
from notbugs.report.evidence import Evidence, NotMeasuredError
from notbugs.report.paper import CIFAR10, EPS, SETTING
from notbugs.report.project import Project, dataset_name
from notbugs.runtime.files import sha256

NOTHING = "–"
HEADLINES = (
    ("D", "standard"),
    ("D", "robust"),
    ("D_R", "standard"),
    ("D_NR", "standard"),
    ("D_rand", "standard"),
    ("D_det", "standard"),
)
"""Models whose accuracies the paper's Figure 2 is about."""
VERDICT_MARKS = {"seen": "seen", "not seen": "not-seen", "cannot be judged": "open"}


def claims_table(claims: list[Claim]) -> Table:
    """Each claim of the paper, the verdict, and the numbers behind it."""
    rows = [
        [
            name(claim.title, claim.statement_of_paper),
            Cell(claim.verdict, mark=VERDICT_MARKS[claim.seen]),
            Cell(claim.sentence, claim.notes),
        ]
        for claim in claims
    ]
    return Table("The paper's claims and what was measured here", [Cell("claim"), Cell("here"), Cell("measured")], rows)


def components(evidence: Evidence) -> Table | None:
    """How much source models, fits and test images bring to the uncertainty of the headline numbers."""
    rows = []
    for title, found in _headline_estimates(evidence):
        basis = found.basis
        assert basis is not None  # the evidence gives one
        shares = shares_of_variance(basis)
        errors = {"source models": basis.source_error, "fits": basis.fit_error, "test images": basis.image_error}
        cells = [number(percent(errors[level]), f"{shares[level]:.0%} of the variance") for level in errors]
        rows.append([name(title, str(basis)), number(found.points if "minus" in title else str(found)), *cells])
    if not rows:
        return None
    return Table(
        "Where the uncertainty comes from: standard errors in points that the choice of source models, of fits and of "
        "test images bring to each number. A level that is not repeated shows 0 and is unknown.",
        [name("number"), number("value"), number("source models"), number("fits"), number("test images")],
        rows,
    )


def _headline_estimates(evidence: Evidence) -> Iterator[tuple[str, Estimate]]:
    """Accuracies that the paper is about and the differences that decide, as far as they were measured."""
    eps = evidence.headline_eps
    for model in HEADLINES:
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


def accuracy(project: Project) -> Table:
    """Accuracy of every model with intervals, and the paper's figures beside them."""
    rows = accuracy_table(project.results)
    radii = all_eps(rows)
    # At an eps that several attacks measured, one column each.
    attacks = sorted({key for row in rows for key in _in_all_seeds(row)}, key=lambda key: (key[0], len(key[1]), key[1]))
    # The verdicts take the strongest.
    at_headline = [key for key in attacks if key[0] == project.headline_eps]
    headline = max(at_headline, key=lambda key: strength(key[1], 1), default=None)
    several = any(row.clean is not None and row.clean.num_seeds > 1 for row in rows)
    spread = (
        "mean over fits and source models; below it the 95% interval over images and trainings, and ± one standard "
        "deviation over trainings"
    )
    columns = [number("on y"), number("on y + 1")]
    columns += [
        number(f"eps {eps:g}", attack + ("\nheadline" if (eps, attack) == headline else "")) for eps, attack in attacks
    ]
    paper = [Cell("on y", mark="number paper"), *(Cell(f"eps {eps:g}", mark="number paper") for eps in EPS)]
    body = [_accuracy_row(row, attacks) + _paper_cells(row) for row in rows]
    groups = [("", 1), ("clean", 2)]
    groups += [("under attack, on y", len(attacks))] if radii else []
    return Table(
        f"Test accuracy in %: {spread if several else 'one fit seed; below it the Wilson 95% interval'}. "
        "On the right the paper's own figures for another dataset and network.",
        [name("fitted on"), *columns, *paper],
        body,
        [*groups, (f"the paper: {SETTING}", 1 + len(EPS))],
    )


def _in_all_seeds(row: AccuracyRow) -> list[tuple[float, str]]:
    """PGD and the worst case of all attacks, as far as all models went through them; the suite has its own table."""
    models = row.clean.num_models if row.clean else 1
    return [
        key
        for key, cell in row.adversarial.items()
        if cell.num_models == models and (attack_steps(key[1]) or key[1] == WORST)
    ]


def _accuracy_row(row: AccuracyRow, attacks: list[tuple[float, str]]) -> list[Cell]:
    seeds = row.clean.num_seeds if row.clean else 0
    cells = [row.clean, row.shifted, *(row.adversarial.get(key) for key in attacks)]
    return [name(row.label, f"{seeds} seed{'s' * (seeds != 1)}"), *map(_accuracy_cell, cells)]


def _accuracy_cell(cell: Accuracy | None) -> Cell:
    if cell is None:
        return number(NOTHING)
    spread = f"\n±{percent(cell.std)}" if cell.num_seeds > 1 else ""
    return number(percent(cell.mean), f"{percent(cell.low)}–{percent(cell.high)}{spread}")


def _paper_cells(row: AccuracyRow) -> list[Cell]:
    reported = CIFAR10.get((row.dataset, row.estimator))
    if reported is None:
        return [Cell("", mark="number paper")] * (1 + len(EPS))
    attacked = ["~0" if reported.near_zero else f"{100 * reported.adversarial[eps]:g}" for eps in EPS]
    return [Cell(text, mark="number paper") for text in (f"{100 * reported.clean:g}", *attacked)]


def constructions(project: Project) -> Table | None:
    """What is known of the constructed images: success, distances, and what the two judges say."""
    if not project.constructions:
        return None
    rows = [
        [name(model_label(dataset_name(key), "standard"), f"{facts['num_examples']} images"), *_facts(facts)]
        for key, facts in project.constructions.items()
    ]
    heads = ["success", "x: ‖δ‖₂", "start x'", "reached", "at x'", *["still y", "calls it t"] * 2, "still y"]
    return Table(
        "Constructed images. Distances: median, below it the 5% and 95% quantiles; the representation "
        "distance is ‖g(new image) − g(x)‖₂. Success: the source model calls the new image by its given "
        "label t (for D_R and D_NR: y).",
        [name("dataset"), *map(number, heads)],
        rows,
        [
            ("", 2),
            ("L2 distance to", 2),
            ("representation distance", 2),
            ("robust model", 2),
            ("1-NN on D", 2),
            ("both", 1),
        ],
    )


def _facts(facts: dict[str, Any]) -> list[Cell]:
    distances = (
        "delta_norm",
        "pixel_distance_start",
        "representation_distance",
        "representation_distance_start",
    )
    judges = [
        (facts.get(judge) or {}).get(share)
        for judge in ("robust_model", "nearest_neighbour")
        for share in ("still_y", "target")
    ]
    both = number(_share(facts.get("still_y_both")), f"{facts['num_still_y']} images" if "num_still_y" in facts else "")
    return [
        number(_share(facts.get("success_rate"))),
        *(_quantiles(facts.get(key)) for key in distances),
        *(number(_share(share)) for share in judges),
        both,
    ]


def _share(share: float | None) -> str:
    return NOTHING if share is None else f"{percent(share)}%"


def _quantiles(found: dict[str, float] | None) -> Cell:
    return number(f"{found['median']:#.3g}", f"{found['q05']:#.3g}–{found['q95']:#.3g}") if found else number(NOTHING)


def per_class(project: Project) -> Table:
    """Accuracy on y of each class, mean over seeds; fits on still-y images are left out."""
    means = project.per_class.groupby(["dataset", "estimator", "class_name"], sort=False)["accuracy"].mean()
    models = [model for model in MODELS if not model[0].endswith(STILL_Y) and model in means.droplevel(2).index]
    sizes = project.per_class.drop_duplicates("class_name").set_index("class_name")["n"]
    rows = [
        [
            name(str(label), f"{size} images"),
            *(number(_class_cell(means, (*model, label))) for model in models),
        ]
        for label, size in sizes.items()
    ]
    head = [name("class"), *(number(model_label(*model)) for model in models)]
    return Table("Accuracy on y for each class in %, mean over seeds (columns: what was fitted on)", head, rows)


def _class_cell(means: Any, key: tuple[Any, ...]) -> str:
    return percent(float(means[key])) if key in means.index else NOTHING


def final_epochs(project: Project) -> Table | None:
    """Where each training ended, by the last epoch in which validation was measured."""
    rows = []
    for curve, table in project.curves.items():
        stage, key = curve.split("-", 1)
        for subset, group in table.groupby("subset", sort=False):
            model = ("D", key) if stage == "train" else fitted_model(key, str(subset))
            measured = group.dropna(subset=["validation_accuracy"])
            last = measured[measured["epoch"] == measured["epoch"].max()]
            columns = ("train_loss", "train_accuracy", "validation_accuracy", "validation_accuracy_shifted")
            means = [float(last[column].astype(float).mean()) for column in columns]
            cells = [
                "" if math.isnan(value) else f"{value:.3f}" if index == 0 else percent(value)
                for index, value in enumerate(means)
            ]
            rows.append([name(model_label(*model)), number(str(group["epoch"].max())), *map(number, cells)])
    if not rows:
        return None
    head = ["epochs", "training loss", "training accuracy", "validation, on y", "validation, on y + 1"]
    return Table(
        "The end of each training, mean over seeds (accuracies in %; training accuracy on the labels given)",
        [name("fitted on"), *map(number, head)],
        rows,
    )


def hashes(project: Project) -> Table:
    """SHA-256 of the data manifests (which hold their shards' checksums) and of the models used."""
    data = project.root / "data"
    datasets = [data / split for split in ("train", "validation", "test")]
    for key in project.constructions:
        datasets += source_folders(data / key).values()
    files = [folder / "manifest.json" for folder in datasets]
    folders = [
        project.root / "models" / stage / key for stage in ("train", "fit") for key in project.params.get(stage) or {}
    ]
    files += [file for folder in folders for file in sorted(folder.rglob("*.safetensors"))]
    rows = [[name(_relative(file, project.root)), Cell(sha256(file), mark="hash")] for file in files if file.exists()]
    return Table("What this report was made from", [name("file"), Cell("SHA-256")], rows)


def _relative(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


class _Dumper(yaml.SafeDumper):
    """YAML with every value written out, no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        """Never write an alias."""
        return True


def settings_text(project: Project) -> str:
    """The settings as YAML; without comments and the experiment's name, which change no number."""
    shown = {key: value for key, value in project.params.items() if key != "experiment"}
    return str(
        yaml.dump(shown, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100, allow_unicode=True)
    )
