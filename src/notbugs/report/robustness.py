"""Tables and figure of the attack suite: every attack, the smallest perturbations, the checks, the certificates."""

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from notbugs.report.blocks import Cell, Table, name, number
from notbugs.report.project import Project
from notbugs.report.style import GREY, look, new_figure, percent_axis
from notbugs.results import MODELS, STILL_Y, WORST, model_label, percent

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
CURVE_STEPS = 200
"""Points of a curve of the smallest perturbations."""


def suite_table(project: Project) -> Table | None:
    """What every attack of the suite left standing, for each model that it was run on."""
    results = project.results
    models = results[(results["attack"] == WORST) & (results["eps"].astype(float) == project.headline_eps)]
    if not len(models):
        return None
    rows, attacks = [], []
    for row in _ordered(models.to_dict(orient="records")):
        own = results[(results["dataset"] == row["dataset"]) & (results["estimator"] == row["estimator"])]
        own = own[(own["seed"] == row["seed"]) & (own["labels"] == "true")]
        own = own[own["eps"].astype(float).isin([0.0, project.headline_eps])]
        left = dict(zip(own["attack"], own["accuracy"].astype(float), strict=True))
        attacks = list(left)
        interval = f"{percent(row['low'])}–{percent(row['high'])}"
        cells = [number(percent(value), interval if attack == WORST else "") for attack, value in left.items()]
        rows.append([name(model_label(row["dataset"], row["estimator"]), f"seed {row['seed']}"), *cells])
    return Table(
        f"Accuracy on y at eps {project.headline_eps:g} in %. PGD is run on all images; from the third attack on, "
        "each works on what those before it left standing, and its column says what stands after it. Worst: no "
        "attack at all fooled the model; below it the Wilson 95% interval.",
        [name("fitted on"), *map(number, attacks)],
        rows,
    )


def gap_sentence(project: Project) -> str:
    """How far PGD at the headline radius lies above the worst case of all attacks; empty without the suite."""
    results = project.results[project.results["eps"].astype(float) == project.headline_eps]
    steps = (project.params.get("evaluate") or {}).get("headline_num_steps", 100)
    pgd = results[results["attack"] == f"pgd{steps}"].set_index(["dataset", "estimator", "seed"])["accuracy"]
    worst = results[results["attack"] == WORST].set_index(["dataset", "estimator", "seed"])["accuracy"]
    gaps = (pgd.reindex(worst.index) - worst).dropna().astype(float)
    if not len(gaps):
        return ""
    place: Any = gaps.idxmax()  # (dataset, estimator, seed)
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
            name(model_label(str(dataset), str(estimator)), f"seed {seed}"),
            number(percent(float(group["abstained"].iloc[0]))),
            *(number(percent(float(value))) for value in group.sort_values("eps")["accuracy"]),
        ]
        for (dataset, estimator, seed), group in table.groupby(["dataset", "estimator", "seed"], sort=False)
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
        seed = int(own["seed"].iloc[0])
        smallest = own[own["seed"] == seed].groupby("example")["distance"].min().to_numpy(dtype=float)
        style = look(dataset, estimator)
        axes.plot(
            radii,
            [float((smallest > eps).mean()) for eps in radii],
            style.line,
            color=style.colour,
            label=model_label(dataset, estimator),
        )
        marks = _pgd_points(project, dataset, estimator, seed)
        axes.plot(*zip(*marks, strict=True), style.marker, color=style.colour, mec="white", mew=0.6, ms=6)
    axes.set_xlim(0, top)
    axes.set_xlabel("eps: length of the perturbation, pixel units")
    percent_axis(axes, "test accuracy on y")
    handles, labels = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], ls="", marker="o", color=GREY, label="marks: PGD at that eps"))
    figure.legend(handles, [*labels, "marks: PGD at that eps"], loc="outside right upper", title="fitted on")
    return figure


def _pgd_points(project: Project, dataset: str, estimator: str, seed: int) -> list[tuple[float, float]]:
    """(eps, accuracy) of the untouched images and of PGD with the steps of the curve, one seed."""
    steps = (project.params.get("evaluate") or {}).get("num_steps", 20)
    table = project.results
    own = table[(table["dataset"] == dataset) & (table["estimator"] == estimator) & (table["seed"] == seed)]
    own = own[(own["labels"] == "true") & own["attack"].isin(["clean", f"pgd{steps}"])]
    return list(zip(own["eps"].astype(float), own["accuracy"].astype(float), strict=True))


def _ordered(rows: list[dict[Any, Any]]) -> list[dict[Any, Any]]:
    """In the order of MODELS; what is not in it comes last."""
    places = {model: place for place, model in enumerate(MODELS)}
    return sorted(rows, key=lambda row: places.get((row["dataset"], row["estimator"]), len(places)))


def _label(model: str) -> str:
    """Name in print of a model in metrics/checks.json: "D_R/standard/seed-0" is D_R, seed 0."""
    dataset, estimator, seed = model.split("/")
    return f"{model_label(dataset, estimator)}, {seed.replace('-', ' ')}"


def _model_cell(model: str) -> Cell:
    label, seed = _label(model).rsplit(", ", 1)
    return name(label, seed)


def _check_cell(row: dict[str, Any] | None) -> Cell:
    if row is None:
        return Cell("–")
    value = "no number" if row["value"] is None else f"{row['value']:.3g}"
    sign = "≤" if row["passed"] else "not ≤"
    verdict = ("pass", "seen") if row["passed"] else ("FAIL", "not-seen")
    return Cell(verdict[0], f"{value} {sign} {row['threshold']:.3g}", verdict[1])
