"""Tables and figure of the attack suite: every attack, the smallest perturbations, the checks, the certificates."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from notbugs.evaluation.results import MODELS, STILL_Y, WORST, model_label, percent
from notbugs.report.blocks import Cell, Table, name, number
from notbugs.report.drawing import GREY, look, new_figure, percent_axis
from notbugs.report.project import Project

CHECKS = {
    "logits_finite": "logits are numbers",
    "headline_close_to_worst": "PGD close to worst case",
    "iterative_beats_one_step": "iterative beats one step",
    "white_box_beats_transfer": "white-box beats transfer",
    "white_box_beats_noise": "white-box beats noise",
    "more_steps_change_nothing": "more steps change nothing",
    "more_restarts_change_nothing": "more restarts change nothing",
    "large_eps_always_succeeds": "large eps always succeeds",
    "half_precision_misses_nothing": "half precision no weaker",
    "gradients_not_random": "gradients not random",
    "gradients_not_zero": "gradients not zero",
    "outputs_are_logits": "outputs are logits",
    "square_does_not_beat_gradients": "Square no better",
}
"""Check -> heading of its column."""
MODEL = ["dataset", "estimator", "source_seed", "seed"]
"""Columns that tell two models apart."""
CURVE_STEPS = 200
"""Points of a curve of the smallest perturbations."""


def suite_table(project: Project) -> Table | None:
    """What every attack of the suite left standing, mean over the models of each kind that it was run on."""
    summary = project.summary[project.summary["labels"] == "true"]
    rows, attacks = [], []
    for dataset, estimator in MODELS:
        own = summary[(summary["dataset"] == dataset) & (summary["estimator"] == estimator)]
        own = own[own["eps"].astype(float).isin([0.0, project.headline_eps])]
        left = {row["attack"]: row for row in own.to_dict(orient="records")}
        if WORST not in left:
            continue
        attacks = list(left)
        worst = left[WORST]
        interval = f"{percent(worst['low'])}–{percent(worst['high'])}"
        cells = [number(percent(row["mean"]), interval if attack == WORST else "") for attack, row in left.items()]
        models = worst["num_models"]
        rows.append([name(model_label(dataset, estimator), f"{models} model{'s' * (models > 1)}"), *cells])
    if not rows:
        return None
    return Table(
        f"Accuracy on y at eps {project.headline_eps:g} in %, mean over models. PGD is run on all images; from the "
        "third attack on, each works on what those before it left standing, and its column says what stands after it. "
        "Worst: no attack at all fooled the model; below it the 95% interval of the mean.",
        [name("fitted on"), *map(number, attacks)],
        rows,
    )


def gap_sentence(project: Project) -> str:
    """How far PGD at the headline radius lies above the worst case of all attacks; empty without the suite."""
    results = project.results[project.results["eps"].astype(float) == project.headline_eps]
    steps = (project.params.get("evaluate") or {}).get("headline_num_steps", 100)
    pgd = results[results["attack"] == f"pgd{steps}"].set_index(MODEL)["accuracy"]
    worst = results[results["attack"] == WORST].set_index(MODEL)["accuracy"]
    gaps = (pgd.reindex(worst.index) - worst).dropna().astype(float)
    if not len(gaps):
        return ""
    place: Any = gaps.index[int(gaps.to_numpy().argmax())]  # (dataset, estimator, source_seed, seed)
    return (
        f"At eps {project.headline_eps:g} all attacks together leave up to {percent(float(gaps.max()))} points less "
        f"than PGD with {steps} steps ({model_label(place[0], place[1])}): where a model's robustness itself is the "
        "claim, quote the worst case."
    )


def checks_table(project: Project) -> Table | None:
    """Every check of every model: pass or FAIL, its value and its threshold."""
    models: dict[str, dict[str, dict[str, Any]]] = {}
    for row in project.checks:
        models.setdefault(row["model"], {})[row["check"]] = row
    if not models:
        return None
    shown = [key for key in CHECKS if any(key in checks for checks in models.values())]
    rows = [[_model_cell(model), *(_check_cell(checks.get(key)) for key in shown)] for model, checks in models.items()]
    return Table(
        "Signs of masked gradients: each check passes if its value (first number) does not exceed its threshold.",
        [name("fitted on"), *(Cell(CHECKS[key]) for key in shown)],
        rows,
    )


def checks_sentence(project: Project) -> str:
    """What the checks say together; empty if there are none."""
    failed = [row for row in project.checks if not row["passed"]]
    if not project.checks:
        return ""
    if not failed:
        return f"All {len(project.checks)} checks for masked gradients passed."
    named = "; ".join(f"{_label(row['model'])}: {CHECKS.get(row['check'], row['check'])}" for row in failed)
    return (
        f"{len(failed)} of {len(project.checks)} checks for masked gradients failed ({named}). The accuracies of these "
        "models under attack may be too high: do not rely on them before the cause is known."
    )


def certificates_table(project: Project) -> Table | None:
    """Certified accuracy of the smoothed classifiers."""
    table = project.certificates
    if not len(table):
        return None
    radii = sorted(table["eps"].unique())
    rows = [
        [
            name(model_label(str(dataset), str(estimator)), _seeds(source, seed)),
            number(percent(float(group["abstained"].iloc[0]))),
            *(number(percent(float(value))) for value in group.sort_values("eps")["accuracy"]),
        ]
        for (dataset, estimator, source, seed), group in table.groupby(MODEL, sort=False, dropna=False)
    ]
    first = table.iloc[0]
    return Table(
        f"Randomised smoothing with sigma {first['sigma']:g}, {first['n']:.0f} images: share in % that the smoothed "
        "classifier calls y, and provably everywhere within eps (L2). It is another classifier than the one above.",
        [name("fitted on"), number("abstains"), *(number(f"eps {eps:g}") for eps in radii)],
        rows,
    )


def minimum_norm(project: Project) -> Figure | None:
    """Accuracy against eps from the smallest perturbations, with PGD at fixed eps as marks; first seed of the suite."""
    norms = project.minimum_norms
    if not len(norms):
        return None
    figure, (axes,) = new_figure(4.2)
    top = 1.25 * max(project.headline_eps, float(project.results["eps"].astype(float).max()))
    radii = [top * step / CURVE_STEPS for step in range(CURVE_STEPS + 1)]
    for dataset, estimator in MODELS:
        own = norms[(norms["dataset"] == dataset) & (norms["estimator"] == estimator)]
        if dataset.endswith(STILL_Y) or not len(own):
            continue
        own = _same_model(own, own.iloc[0])
        smallest = own.groupby("example")["distance"].min().to_numpy(dtype=float)
        style = look(dataset, estimator)
        axes.plot(
            radii,
            [float((smallest > eps).mean()) for eps in radii],
            style.line,
            color=style.colour,
            label=model_label(dataset, estimator),
        )
        marks = _pgd_points(project, own.iloc[0])
        axes.plot(*zip(*marks, strict=True), style.marker, color=style.colour, mec="white", mew=0.6, ms=6)
    axes.set_xlim(0, top)
    axes.set_xlabel("eps: length of the perturbation, pixel units")
    percent_axis(axes, "test accuracy on y")
    handles, labels = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], ls="", marker="o", color=GREY, label="marks: PGD at that eps"))
    figure.legend(handles, [*labels, "marks: PGD at that eps"], loc="outside right upper", title="fitted on")
    return figure


def _same_model(table: Any, row: Any) -> Any:
    """Rows of a table that speak of the model that `row` speaks of."""
    import pandas as pd

    same = (table["dataset"] == row["dataset"]) & (table["estimator"] == row["estimator"])
    same &= table["seed"] == row["seed"]
    if pd.isna(row["source_seed"]):
        return table[same & table["source_seed"].isna()]
    return table[same & (table["source_seed"] == row["source_seed"]).fillna(False)]


def _pgd_points(project: Project, model: Any) -> list[tuple[float, float]]:
    """(eps, accuracy) of the untouched images and of PGD with the steps of the curve, of one model."""
    steps = (project.params.get("evaluate") or {}).get("num_steps", 20)
    own = _same_model(project.results, model)
    own = own[(own["labels"] == "true") & own["attack"].isin(["clean", f"pgd{steps}"])]
    return list(zip(own["eps"].astype(float), own["accuracy"].astype(float), strict=True))


def _seeds(source: Any, seed: Any) -> str:
    """ "seed 0", or "source 1, seed 0" of a fit."""
    import pandas as pd

    return f"seed {int(seed)}" if pd.isna(source) else f"source {int(source)}, seed {int(seed)}"


def _label(model: str) -> str:
    """Name in print of a model in metrics/checks.json: "D_R/standard/source-1/seed-0" is D_R, source 1, seed 0."""
    dataset, estimator, *seeds = model.split("/")
    return ", ".join([model_label(dataset, estimator), *(seed.replace("-", " ") for seed in seeds)])


def _model_cell(model: str) -> Cell:
    dataset, estimator, *seeds = model.split("/")
    return name(model_label(dataset, estimator), ", ".join(seed.replace("-", " ") for seed in seeds))


def _check_cell(row: dict[str, Any] | None) -> Cell:
    if row is None:
        return Cell("–")
    value = "no number" if row["value"] is None else f"{row['value']:.3g}"
    sign = "≤" if row["passed"] else "not ≤"
    verdict = ("pass", "seen") if row["passed"] else ("FAIL", "not-seen")
    return Cell(verdict[0], f"{value} {sign} {row['threshold']:.3g}", verdict[1])
