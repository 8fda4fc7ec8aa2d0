"""The figures of the main results, drawn from the results, the learning curves and the per-example tables.

Each function returns a matplotlib Figure, or None where this pipeline holds nothing to draw.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

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
    accuracy_table,
    attack_steps,
    in_order,
    model_label,
    set_title,
)
from notbugs.report.claims import CIFAR10, FIGURE_EPS, SETTING
from notbugs.report.drawing import (
    GREY,
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
from notbugs.report.project import Project
from notbugs.runtime.config import dataset_name

FIGURE_2 = tuple(HEADLINES)
"""Bars of the paper's Figure 2, the models of the headlines; beside them D fitted by the recipe of D_R."""
BAR = 0.38
"""From the middle of a bar to that of the other one."""
MOST_LEVEL = 8
"""So many bars' names stand beside each other without touching."""
CURVE_STEPS = 200
"""Points of a curve of the smallest perturbations."""
_PAPER: dict[str, Any] = {"mec": GREY, "mew": 1.3}
"""How the paper's values are drawn."""
_JUDGE: dict[str, Any] = {"mec": "black", "mew": 1.1, "ms": 5.5}
"""How the judges' shares are drawn."""


def figure_2(project: Project) -> Figure | None:
    """Standard and adversarial accuracy at the headline eps, with the paper's values as marks."""
    table = {(row.dataset, row.estimator): row for row in accuracy_table(project.results)}
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


def accuracy_against_eps(project: Project) -> Figure | None:
    """Accuracy on y against the attack's eps: nested means, bands of 95% intervals over images and trainings."""
    rows = [row for row in accuracy_table(project.results) if not row.dataset.endswith(STILL_Y)]
    attack = curve_attack(rows)
    if attack is None:
        return None
    figure, (axes,) = new_figure(4.2)
    for row in rows:
        points = [(0.0, row.clean)]
        points += [(eps, cell) for (eps, name), cell in row.adversarial.items() if name == attack]
        eps = [radius for radius, cell in points if cell is not None]
        cells = [cell for _, cell in points if cell is not None]
        style = look(row.dataset, row.estimator)
        means = [cell.value for cell in cells]
        axes.plot(eps, means, style.line, color=style.colour, marker=style.marker, label=row.label)
        low, high = [cell.low for cell in cells], [cell.high for cell in cells]
        axes.fill_between(eps, low, high, color=style.colour, alpha=0.15, lw=0)
    marks = [(project.headline_eps, "headline eps")]
    if project.robust_eps is not None:
        marks.append((project.robust_eps, "eps of robust training"))
    for line, (radius, text) in enumerate(marks):
        _mark(axes, radius, text, line)
    chance_line(axes, project.num_classes)
    axes.set_xlim(left=-0.02 * axes.get_xlim()[1])  # room for the markers at eps 0
    axes.set_xlabel(f"eps: {norm_title(project.norm)} radius of the attack ({attack}), pixel units")
    percent_axis(axes, "test accuracy on y")
    figure.legend(loc="outside right upper", title="fitted on", handlelength=3.2)
    return figure


def curve_attack(rows: Sequence[AccuracyRow]) -> str | None:
    """The attack measured at the most eps (the cheapest of them); None if there is none."""
    counts: dict[str, set[float]] = {}
    for row in rows:
        for eps, attack in row.adversarial:
            counts.setdefault(attack, set()).add(eps)
    return min(counts, key=lambda name: (-len(counts[name]), attack_steps(name), name)) if counts else None


def _mark(axes: Axes, eps: float, text: str, line: int) -> None:
    """A vertical line at an eps, with its meaning above the axes; `line` keeps two texts apart."""
    axes.axvline(eps, color=GREY, lw=0.9, ls=":", zorder=1)
    place = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points", "xytext": (0, 2 + 11 * line)}
    axes.annotate(text, (eps, 1.0), ha="center", va="bottom", fontsize=8, color=GREY, **place)  # type: ignore[arg-type]


def minimum_norm(project: Project) -> Figure | None:
    """Accuracy against eps from the smallest perturbations, with PGD at fixed eps as marks; first seed of the suite."""
    norms = project.minimum_norms
    if not len(norms):
        return None
    figure, (axes,) = new_figure(4.2)
    top = 1.25 * max(project.headline_eps, float(project.results["eps"].astype(float).max()))
    radii = [top * step / CURVE_STEPS for step in range(CURVE_STEPS + 1)]
    for dataset, estimator in in_order(zip(norms["dataset"], norms["estimator"], strict=True)):
        own = norms[(norms["dataset"] == dataset) & (norms["estimator"] == estimator)]
        if dataset.endswith(STILL_Y) or not len(own):
            continue
        own = _same_model(own, own.iloc[0])
        smallest = own.groupby("example")["distance"].min().to_numpy(dtype=float)
        style, label = look(dataset, estimator), model_label(dataset, estimator)
        shares = [float((smallest > eps).mean()) for eps in radii]
        axes.plot(radii, shares, style.line, color=style.colour, label=label)
        marks = _pgd_points(project, own.iloc[0])
        axes.plot(*zip(*marks, strict=True), style.marker, color=style.colour, mec="white", mew=0.6, ms=6)
    axes.set(xlim=(0, top), xlabel="eps: length of the perturbation, pixel units")
    percent_axis(axes, "test accuracy on y")
    handles = [*axes.get_legend_handles_labels()[0], mark(GREY, "marks: PGD at that eps")]
    figure.legend(handles=handles, loc="outside right upper", title="fitted on")
    return figure


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
    table = {row.dataset: row for row in accuracy_table(project.results) if row.estimator == "standard"}
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


def learning_curves(project: Project) -> Figure | None:
    """Training and validation accuracy over the epochs, a panel a model; band: one standard deviation."""
    if not project.curves:
        return None
    figure, axes = panels(len(project.curves), 2.3, 0.4)
    for panel, (name, curves) in zip(axes, project.curves.items(), strict=True):
        stage, key = name.split("-", 1)
        model = ("D", key) if stage == "train" else (dataset_name(key), "standard")
        full = curves[curves["subset"] == "full"]
        for column, (style, colour, _) in _curve_styles(look(*model).colour).items():
            _curve(panel, full, column, style, colour)
        panel.set(title=model_label(*model), xlabel="epoch")
        percent_axis(panel, "accuracy")
    legend(figure, [stroke(colour, label, style) for style, colour, label in _curve_styles("black").values()])
    return figure


def _curve_styles(colour: str) -> dict[str, tuple[str, str, str]]:
    """Column -> line style, colour, label."""
    return {
        "train_accuracy": ("-", "#b5b5b5", "training, on the given labels"),
        "validation_accuracy": ("-", colour, "validation, on y"),
        "validation_accuracy_shifted": (":", colour, "validation, on y + 1"),
        "validation_adversarial_accuracy": ("--", colour, "validation, under attack"),
    }


def _curve(axes: Axes, curves: pd.DataFrame, column: str, style: str, colour: str) -> None:
    """Mean over seeds of one column, at the epochs where it was measured."""
    measured = curves[["epoch", column]].dropna().astype(float).groupby("epoch")[column]
    mean, spread = measured.mean(), measured.std(ddof=1).fillna(0.0)
    axes.plot(mean.index, mean, style, color=colour, marker="o" if len(mean) == 1 else None)
    axes.fill_between(mean.index, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)
