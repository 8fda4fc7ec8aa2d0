"""The figures of the main results, drawn from the results, the learning curves and the per-example tables.

Each function returns a matplotlib Figure or a live chart, or None where this pipeline holds nothing to draw.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from notbugs.attacks.norms import norm_title
from notbugs.evaluation.results import (
    HEADLINES,
    STILL_Y,
    STILL_Y_SHARE,
    AccuracyRow,
    attack_steps,
    in_order,
    model_label,
    set_title,
)
from notbugs.report import layers
from notbugs.report.claims import CIFAR10, FIGURE_EPS, SETTING
from notbugs.report.drawing import (
    GREY,
    Look,
    bar,
    chance_line,
    filled,
    legend,
    look,
    mark,
    new_figure,
    panels,
    percent_axis,
    stroke,
)
from notbugs.report.honesty import CALLED_BEFORE
from notbugs.report.keys import Key
from notbugs.report.layers import Frame
from notbugs.report.live import LiveChart
from notbugs.report.project import Project
from notbugs.runtime.config import dataset_name

FIGURE_2 = tuple(HEADLINES)
"""Bars of the paper's Figure 2, the models of the headlines; beside them D fitted by the recipe of D_R."""
BAR = 0.38
"""From the middle of a bar to that of the other one."""
MOST_LEVEL = 8
"""So many bars' names stand beside each other without touching."""
CURVE_STEPS = 60
"""Points of a curve of the smallest perturbations."""
CHANCE = Key("chance", Look(GREY, "", "--"))
OWN_COLOUR = "black"
"""In the legend of curves: in each panel it is the colour of the panel's model."""
_CURVES = {
    "train_accuracy": Key("training, on the given labels", Look("#b5b5b5", "", "-")),
    "validation_accuracy": Key("validation, on y", Look(OWN_COLOUR, "", "-")),
    "validation_accuracy_shifted": Key("validation, on y + 1", Look(OWN_COLOUR, "", ":")),
    "validation_adversarial_accuracy": Key("validation, under attack", Look(OWN_COLOUR, "", "--")),
}
"""Column of a learning curve -> how it is drawn."""
_PAPER: dict[str, Any] = {"mec": GREY, "mew": 1.3}
"""How the paper's values are drawn."""
_JUDGE: dict[str, Any] = {"mec": "black", "mew": 1.1, "ms": 5.5}
"""How the judges' shares are drawn."""


def figure_2(project: Project) -> Figure | None:
    """Standard and adversarial accuracy at the headline eps, with the paper's values as marks."""
    table = {(row.dataset, row.estimator): row for row in project.accuracies}
    rows = [table[model] for model in FIGURE_2 if model in table]
    if not rows:
        return None
    figure, (axes,) = new_figure(4.0)
    for place, row in enumerate(rows):
        colour = look(row.dataset, row.estimator).colour
        reported = CIFAR10.get((row.dataset, row.estimator))
        marks = () if reported is None else (reported.clean, reported.adversarial[FIGURE_EPS])
        attacked = row.under_attack(project.headline_eps)
        clean_mark, attacked_mark = marks or (None, None)
        bar(axes, place - BAR / 2, row.clean, colour, decimals=1, beside=clean_mark)
        bar(axes, place + BAR / 2, attacked, colour, hatched=True, decimals=1, beside=attacked_mark)
        if marks:
            # At the bars' right side, clear of whisker and value.
            places = (place - BAR * 0.17, place + BAR * 0.83)
            axes.plot(places, marks, "D", color="white", ms=5.5, zorder=6, clip_on=False, **_PAPER)
    chance_line(axes, project.num_classes)
    axes.set_xticks(range(len(rows)), [row.label.replace("fitted as", "fitted\nas") for row in rows])
    percent_axis(axes, "test accuracy on y")
    handles = [
        filled(GREY, "clean"),
        filled(GREY, f"adversarial, {norm_title(project.norm)} eps {project.headline_eps:g}", hatched=True),
        mark("white", f"the paper: {SETTING}, L2 eps {FIGURE_EPS:g}", "D", **_PAPER),
        stroke(GREY, "chance", "--", lw=1),
    ]
    legend(figure, handles)
    return figure


def accuracy_against_eps(project: Project) -> LiveChart | None:
    """Accuracy on y against the attack's eps: nested means, bands of 95% intervals over images and trainings."""
    rows = [row for row in project.accuracies if not row.dataset.endswith(STILL_Y)]
    attack = curve_attack(rows)
    if attack is None:
        return None
    table: list[dict[str, Any]] = []
    for row in rows:
        measured = {0.0: row.clean, **{eps: cell for (eps, name), cell in row.adversarial.items() if name == attack}}
        for eps, cell in measured.items():
            if cell is not None:
                ends = {"low": cell.low, "high": cell.high}
                table.append({"series": row.label, "x": eps, "y": cell.value, **ends})
    keys = [Key(row.label, look(row.dataset, row.estimator)) for row in rows]
    across = f"eps: {norm_title(project.norm)} radius of the attack ({attack}), pixel units"
    frame = Frame.of_shares(across, "test accuracy on y", [row["y"] for row in table])
    marks = [(project.headline_eps, "headline eps")]
    if project.robust_eps is not None:
        marks.append((project.robust_eps, "eps of robust training"))
    right = max(row["x"] for row in table)
    drawn = [
        layers.bands(frame, keys),
        *layers.uprights(frame, marks, right),
        layers.levels(frame, [CHANCE], {CHANCE.label: 1 / project.num_classes}),
        layers.lines(frame, keys),
        layers.points(frame, keys, layers.told(frame, "fitted on")),
        layers.in_legend([*keys, CHANCE], "fitted on"),
    ]
    return layers.layered(table, drawn, frame, about="Accuracy on y of each model against the radius of the attack")


def curve_attack(rows: Sequence[AccuracyRow]) -> str | None:
    """The attack measured at the most eps (the cheapest of them); None if there is none."""
    counts: dict[str, set[float]] = {}
    for row in rows:
        for eps, attack in row.adversarial:
            counts.setdefault(attack, set()).add(eps)
    return min(counts, key=lambda name: (-len(counts[name]), attack_steps(name), name)) if counts else None


def minimum_norm(project: Project) -> LiveChart | None:
    """Accuracy against eps from the smallest perturbations, with PGD at fixed eps as marks; first seed of the suite."""
    norms = project.minimum_norms
    if not len(norms):
        return None
    top = 1.25 * max(project.headline_eps, float(project.results["eps"].astype(float).max()))
    radii = [top * step / CURVE_STEPS for step in range(CURVE_STEPS + 1)]
    table, marks, keys = [], [], []
    for dataset, estimator in in_order(zip(norms["dataset"], norms["estimator"], strict=True)):
        own = norms[(norms["dataset"] == dataset) & (norms["estimator"] == estimator)]
        if dataset.endswith(STILL_Y) or not len(own):
            continue
        own = _same_model(own, own.iloc[0])
        smallest = own.groupby("example")["distance"].min().to_numpy(dtype=float)
        label = model_label(dataset, estimator)
        keys.append(Key(label, look(dataset, estimator)))
        table += [{"series": label, "x": eps, "y": float((smallest > eps).mean())} for eps in radii]
        marks += [{"series": label, "x": eps, "y": share} for eps, share in _pgd_points(project, own.iloc[0])]
    frame = Frame.of_shares("eps: length of the perturbation, pixel units", "test accuracy on y", [1.0])
    told = layers.told(frame, "fitted on", spread="")
    drawn = [
        layers.lines(frame, keys),
        layers.under_the_mouse(frame, told),
        layers.points(frame, keys, told, rows=marks),
        layers.in_legend(keys, "fitted on"),
    ]
    about = "Accuracy on y of each model against the length of the smallest perturbation that fools it"
    return layers.layered(table, drawn, frame, about=about)


def _same_model(table: Any, row: Any) -> Any:
    """Rows of a table that speak of the model that `row` speaks of."""
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


def label_accuracies(project: Project) -> Figure | None:
    """D_rand, D_det and their controls: accuracy on y, on the shifted label, and the shares still y."""
    table = {row.dataset: row for row in project.accuracies if row.estimator == "standard"}
    asked = ["rand", "rand_from_robust", "det", "det_from_robust", *project.further]
    made = [key for key in asked if key in project.constructions]
    fitted = [(key, dataset_name(key) + suffix) for key, suffix in product(made, ("", STILL_Y))]
    names = [(key, name) for key, name in fitted if name in table]
    if not names:
        return None
    figure, (axes,) = new_figure(4.0)
    for place, (key, name) in enumerate(names):
        colour = look(name).colour
        bar(axes, place - BAR / 2, table[name].clean, colour, decimals=1)
        bar(axes, place + BAR / 2, table[name].shifted, colour, hatched=True, decimals=1)
        if name.endswith(STILL_Y):
            continue
        for judge, marker, aside in (("robust_model", "^", -0.045), ("nearest_neighbour", "v", 0.045)):
            share = project.constructions[key].get(judge, {}).get("still_y")
            if share is not None:
                axes.plot(place + aside, share, marker, color="white", zorder=6, clip_on=False, **_JUDGE)
    chance_line(axes, project.num_classes)
    labels = [model_label(name, "standard").replace(" from", "\nfrom") for _, name in names]
    many: dict[str, Any] = {"rotation": 30, "ha": "right"} if len(names) > MOST_LEVEL else {}
    axes.set_xticks(range(len(names)), [label.replace(", still", "\nstill") for label in labels], **many)
    percent_axis(axes, "test accuracy; share of images")
    axes.axhline(STILL_Y_SHARE, color="black", lw=1, ls=":", zorder=2.5)
    handles = [
        filled(GREY, "accuracy on y"),
        filled(GREY, "accuracy on the shifted label y + 1", hatched=True),
        mark("white", f"still y for the robust model, of what it {CALLED_BEFORE}", "^", **_JUDGE),
        mark("white", f"still y for the 1-NN, of what it {CALLED_BEFORE}", "v", **_JUDGE),
        stroke("black", f"{STILL_Y_SHARE:.0%}, the threshold of both", ":", lw=1),
        stroke(GREY, "chance", "--", lw=1),
    ]
    legend(figure, handles, columns=3)
    return figure


def distances(project: Project) -> Figure | None:
    """Histograms of how far the constructed images lie from x and, for inversions, from their start x'."""
    keys = list(project.constructions)
    if not keys:
        return None
    figure, axes = panels(len(keys), 2.3, 0.3)
    for panel, key in zip(axes, keys, strict=True):
        examples, style = project.dataset(key).examples, look(dataset_name(key))
        _histogram(panel, examples["delta_norm"], style.colour, "stepfilled")
        if bool(examples["pixel_distance_start"].notna().all()):
            _histogram(panel, examples["pixel_distance_start"], "black", "step")
        panel.set_title(set_title(key))
        panel.set_xlim(left=0)
        panel.set(xlabel="L2 distance, pixel units", ylabel="images")
    outline = filled("white", "to the start x'")
    outline.set_edgecolor("black")
    legend(figure, [filled(GREY, "to the source x: ‖δ‖₂"), outline])
    return figure


def _histogram(axes: Axes, values: "pd.Series[float]", colour: str, kind: Any) -> None:
    """Forty bins from 0 to the largest value, so that a spike at eps stays readable."""
    numbers = values.to_numpy(dtype=float)
    # 1.02 and 1e-6: the largest value stays inside its bin, and all-zero distances have a bin too.
    edges = np.linspace(0, max(float(numbers.max()) * 1.02, 1e-6), 41)
    axes.hist(numbers, bins=edges.tolist(), histtype=kind, color=colour, lw=1.4)


def learning_curves(project: Project) -> LiveChart | None:
    """Training and validation accuracy over the epochs, a panel a model; band: one standard deviation."""
    table: list[dict[str, Any]] = []
    for name, curves in project.curves.items():
        stage, key = name.split("-", 1)
        model = ("D", key) if stage == "train" else (dataset_name(key), "standard")
        full = curves[curves["subset"] == "full"]
        for column, curve in _CURVES.items():
            shade = look(*model).colour if curve.look.colour == OWN_COLOUR else curve.look.colour
            named = {"panel": model_label(*model), "series": curve.label, "colour": shade}
            table += [{**named, **point} for point in _curve(full, column)]
    if not table:
        return None
    keys = list(_CURVES.values())
    frame = Frame("epoch", "accuracy")
    paint = alt.Color("colour:N", scale=None)
    drawn = [
        layers.bands(frame, keys, paint),
        layers.lines(frame, keys, paint),
        layers.dots(frame, layers.told(frame, "accuracy", "± one standard deviation"), paint),
    ]
    about = "Training and validation accuracy over the epochs for each model"
    return layers.in_panels(table, drawn, frame, keys, about=about, height=130)


def _curve(curves: pd.DataFrame, column: str) -> list[dict[str, float]]:
    """Mean over seeds of one column, at the epochs where it was measured, and one standard deviation around it."""
    measured = curves[["epoch", column]].dropna().astype(float).groupby("epoch")[column]
    spread = measured.std(ddof=1).fillna(0.0).to_dict()
    points = []
    for epoch, mean in measured.mean().items():
        points.append({"x": epoch, "y": mean, "low": mean - spread[epoch], "high": mean + spread[epoch]})
    return points
