"""The report's figures, drawn from the results, the learning curves and the per-example tables.

Each function returns a matplotlib Figure, or None where this pipeline holds nothing to draw.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from notbugs.evaluation.results import STILL_Y, Accuracy, AccuracyRow, accuracy_table, attack_steps, model_label
from notbugs.report import gaussian, planted, science_features_figures
from notbugs.report.diversity import diversity_figure
from notbugs.report.drawing import GREY, look, new_figure, percent_axis
from notbugs.report.estimator import estimator_figure
from notbugs.report.honesty import CALLED_BEFORE, STILL_Y_SHARE
from notbugs.report.inversion import inversion_figure, inversion_panel
from notbugs.report.paper import CIFAR10, FIGURE_EPS, SETTING
from notbugs.report.project import Project, dataset_name
from notbugs.report.robustness import minimum_norm
from notbugs.report.transfer import transfer_figure

if TYPE_CHECKING:
    import pandas as pd

FIGURE_2 = (
    ("D", "standard"),
    ("D", "robust"),
    ("D_R", "standard"),
    ("D_NR", "standard"),
    ("D_rand", "standard"),
    ("D_det", "standard"),
)
"""Bars of the paper's Figure 2, and D_rand and D_det beside them."""
BAR = 0.38
HATCH = "////"
_JUDGE: dict[str, Any] = {"color": "white", "mec": "black", "mew": 1.1, "ms": 5.5}
NORM_NAMES = {"l2": "L2", "linf": "L∞"}


def figure_2(project: Project) -> Figure | None:
    """Standard and adversarial accuracy at the headline eps, with the paper's values as marks."""
    table = {(row.dataset, row.estimator): row for row in accuracy_table(project.results)}
    rows = [table[model] for model in FIGURE_2 if model in table]
    if not rows:
        return None
    figure, (axes,) = new_figure(4.0)
    for place, row in enumerate(rows):
        colour = look(row.dataset, row.estimator).colour
        _bar(axes, place - BAR / 2, row.clean, colour)
        _bar(axes, place + BAR / 2, row.under_attack(project.headline_eps), colour, hatched=True)
        reported = CIFAR10[row.dataset, row.estimator]
        marks = (reported.clean, reported.adversarial[FIGURE_EPS])
        # At the bars' right side, clear of whisker and value.
        places = (place - BAR * 0.17, place + BAR * 0.83)
        axes.plot(places, marks, "D", color="white", mec=GREY, mew=1.3, ms=5.5, zorder=6, clip_on=False)
    _chance(axes, project.num_classes)
    axes.set_xticks(range(len(rows)), [row.label for row in rows])
    percent_axis(axes, "test accuracy on y")
    norm = NORM_NAMES[project.norm]
    legend = [
        Patch(facecolor=GREY, label="clean"),
        Patch(
            facecolor="white",
            edgecolor=GREY,
            hatch=HATCH,
            label=f"adversarial, {norm} eps {project.headline_eps:g}",
        ),
        Line2D(
            [],
            [],
            ls="",
            marker="D",
            color="white",
            mec=GREY,
            mew=1.3,
            label=f"the paper: {SETTING}, L2 eps {FIGURE_EPS:g}",
        ),
        Line2D([], [], ls="--", lw=1, color=GREY, label="chance"),
    ]
    figure.legend(handles=legend, loc="outside upper center", ncols=4)
    return figure


def _bar(axes: Axes, x: float, cell: Accuracy | None, colour: str, *, hatched: bool = False) -> None:
    """One bar with its Wilson interval and its value; nothing where nothing was measured."""
    if cell is None:
        return
    face = "white" if hatched else colour
    axes.bar(x, cell.mean, BAR * 0.94, facecolor=face, edgecolor=colour, hatch=HATCH if hatched else None, lw=1.2)
    reach = [[max(0.0, cell.mean - cell.low)], [max(0.0, cell.high - cell.mean)]]
    axes.errorbar(x, cell.mean, yerr=reach, fmt="none", ecolor=GREY, elinewidth=1.1, capsize=2.5, zorder=3)
    text = axes.annotate(f"{100 * cell.mean:.1f}", (x, cell.high), xytext=(0, 2), textcoords="offset points")
    text.set(ha="center", va="bottom", fontsize=8, zorder=5)
    text.set_bbox({"facecolor": "white", "edgecolor": "none", "pad": 0.6, "alpha": 0.75})


def _chance(axes: Axes, num_classes: int) -> None:
    axes.axhline(1 / num_classes, color=GREY, lw=1, ls="--", zorder=2.5)


def accuracy_against_eps(project: Project) -> Figure | None:
    """Accuracy on y against the attack's eps: nested means, bands of 95% intervals over images and trainings."""
    rows = [row for row in accuracy_table(project.results) if not row.dataset.endswith(STILL_Y)]
    attack = curve_attack(rows)
    if attack is None:
        return None
    figure, (axes,) = new_figure(4.2)
    for row in rows:
        points = [
            (0.0, row.clean),
            *((eps, cell) for (eps, name), cell in row.adversarial.items() if name == attack),
        ]
        measured = [(eps, cell) for eps, cell in points if cell is not None]
        style = look(row.dataset, row.estimator)
        eps = [point[0] for point in measured]
        mean = np.array([cell.mean for _, cell in measured])
        low, high = ([getattr(cell, end) for _, cell in measured] for end in ("low", "high"))
        axes.plot(eps, mean, style.line, color=style.colour, marker=style.marker, label=row.label)
        axes.fill_between(eps, low, high, color=style.colour, alpha=0.15, lw=0)
    marks = [(project.headline_eps, "headline eps")]
    if project.robust_eps is not None:
        marks.append((project.robust_eps, "eps of robust training"))
    for line, (radius, text) in enumerate(marks):
        _mark(axes, radius, text, line)
    _chance(axes, project.num_classes)
    axes.set_xlim(left=-0.02 * axes.get_xlim()[1])  # room for the markers at eps 0
    axes.set_xlabel(f"eps: {NORM_NAMES[project.norm]} radius of the attack ({attack}), pixel units")
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


def label_accuracies(project: Project) -> Figure | None:
    """D_rand, D_det and their controls: accuracy on y, on the shifted label, and the shares still y."""
    table = {row.dataset: row for row in accuracy_table(project.results) if row.estimator == "standard"}
    keys = [key for key in ("rand", "rand_from_robust", "det", "det_from_robust") if key in project.constructions]
    names = [
        (key, dataset_name(key) + suffix)
        for key in keys
        for suffix in ("", STILL_Y)
        if dataset_name(key) + suffix in table
    ]
    if not names:
        return None
    figure, (axes,) = new_figure(4.0)
    for place, (key, name) in enumerate(names):
        colour = look(name).colour
        _bar(axes, place - BAR / 2, table[name].clean, colour)
        _bar(axes, place + BAR / 2, table[name].shifted, colour, hatched=True)
        if name.endswith(STILL_Y):
            continue
        for judge, marker, aside in (("robust_model", "^", -0.045), ("nearest_neighbour", "v", 0.045)):
            share = project.constructions[key].get(judge, {}).get("still_y")
            if share is not None:
                axes.plot(place + aside, share, marker, zorder=6, clip_on=False, **_JUDGE)
    _chance(axes, project.num_classes)
    labels = [
        model_label(name, "standard").replace(" from", "\nfrom").replace(", still", "\nstill") for _, name in names
    ]
    axes.set_xticks(range(len(names)), labels)
    percent_axis(axes, "test accuracy; share of images")
    axes.axhline(STILL_Y_SHARE, color="black", lw=1, ls=":", zorder=2.5)
    legend: list[Any] = [
        Patch(facecolor=GREY, label="accuracy on y"),
        Patch(facecolor="white", edgecolor=GREY, hatch=HATCH, label="accuracy on the shifted label y + 1"),
        Line2D([], [], ls="", marker="^", label=f"still y for the robust model, of what it {CALLED_BEFORE}", **_JUDGE),
        Line2D([], [], ls="", marker="v", label=f"still y for the 1-NN, of what it {CALLED_BEFORE}", **_JUDGE),
        Line2D([], [], ls=":", lw=1, color="black", label=f"{STILL_Y_SHARE:.0%}, asked of both"),
        Line2D([], [], ls="--", lw=1, color=GREY, label="chance"),
    ]
    figure.legend(handles=legend, loc="outside upper center", ncols=3)
    return figure


def distances(project: Project) -> Figure | None:
    """Histograms of how far the constructed images lie from x and, for inversions, from their start x'."""
    keys = list(project.constructions)
    if not keys:
        return None
    columns = min(3, len(keys))
    rows = -(-len(keys) // columns)
    figure, axes = new_figure(2.3 * rows + 0.3, rows, columns)
    for panel, key in zip(axes, keys, strict=False):
        examples, style = project.dataset(key).examples, look(dataset_name(key))
        _histogram(panel, examples["delta_norm"], style.colour, "stepfilled")
        if bool(examples["pixel_distance_start"].notna().all()):
            _histogram(panel, examples["pixel_distance_start"], "black", "step")
        panel.set_title(model_label(dataset_name(key), "standard"))
        panel.set_xlim(left=0)
        panel.set_xlabel("L2 distance, pixel units")
        panel.set_ylabel("images")
    _blank(axes[len(keys) :])
    handles = [
        Patch(facecolor=GREY, label="to the source x: ‖δ‖₂"),
        Patch(facecolor="white", edgecolor="black", label="to the start x'"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _histogram(axes: Axes, values: "pd.Series[float]", colour: str, kind: Any) -> None:
    """Forty bins from 0 to the largest value, so that a spike at eps stays readable."""
    numbers = values.to_numpy(dtype=float)
    # 1.02 and 1e-6: the largest value stays inside its bin, and all-zero distances have a bin too.
    edges = np.linspace(0, max(float(numbers.max()) * 1.02, 1e-6), 41)
    axes.hist(numbers, bins=edges.tolist(), histtype=kind, color=colour, lw=1.4)


def _blank(axes: Sequence[Axes]) -> None:
    for panel in axes:
        panel.set_axis_off()


def learning_curves(project: Project) -> Figure | None:
    """Training and validation accuracy over the epochs, a panel a model; band: one standard deviation."""
    if not project.curves:
        return None
    columns = min(3, len(project.curves))
    rows = -(-len(project.curves) // columns)
    figure, axes = new_figure(2.3 * rows + 0.4, rows, columns)
    for panel, (name, curves) in zip(axes, project.curves.items(), strict=False):
        model = _model_of(name)
        full = curves[curves["subset"] == "full"]
        for column, style, colour in _curve_styles(look(*model).colour):
            _curve(panel, full, column, style, colour)
        panel.set_title(model_label(*model))
        panel.set_xlabel("epoch")
        percent_axis(panel, "accuracy")
    _blank(axes[len(project.curves) :])
    legend = [
        Line2D([], [], color=colour, ls=style, label=label)
        for (_, style, colour), label in zip(
            _curve_styles("black"),
            (
                "training, on the given labels",
                "validation, on y",
                "validation, on y + 1",
                "validation, under attack",
            ),
            strict=True,
        )
    ]
    figure.legend(handles=legend, loc="outside upper center", ncols=4)
    return figure


def _curve_styles(colour: str) -> tuple[tuple[str, str, str], ...]:
    return (
        ("train_accuracy", "-", "#b5b5b5"),
        ("validation_accuracy", "-", colour),
        ("validation_accuracy_shifted", ":", colour),
        ("validation_adversarial_accuracy", "--", colour),
    )


def _curve(axes: Axes, curves: "pd.DataFrame", column: str, style: str, colour: str) -> None:
    """Mean over seeds of one column, at the epochs where it was measured."""
    measured = curves[["epoch", column]].dropna().astype(float).groupby("epoch")[column]
    mean, spread = measured.mean(), measured.std(ddof=1).fillna(0.0)
    axes.plot(mean.index, mean, style, color=colour, marker="o" if len(mean) == 1 else None)
    axes.fill_between(mean.index, mean - spread, mean + spread, color=colour, alpha=0.15, lw=0)


def _model_of(curves: str) -> tuple[str, str]:
    """(dataset, estimator) of a name such as "train-robust" or "fit-rand"."""
    stage, name = curves.split("-", 1)
    return ("D", name) if stage == "train" else (dataset_name(name), "standard")


FIGURES: dict[str, Callable[[Project], Figure | None]] = {
    "figure_2": figure_2,
    "accuracy_vs_eps": accuracy_against_eps,
    "minimum_norm": minimum_norm,
    "label_accuracies": label_accuracies,
    "distances": distances,
    "learning_curves": learning_curves,
    "transfer": transfer_figure,
    "inversion": inversion_figure,
    "inversion_panel": inversion_panel,
    "diversity": diversity_figure,
    "estimator": estimator_figure,
    "features": science_features_figures.plane_figure,
    "features_datasets": science_features_figures.datasets_figure,
    "planted": planted.figure,
    "gaussian": gaussian.figure,
}
"""File name -> function."""
