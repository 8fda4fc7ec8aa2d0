"""Figures of a study: heatmaps, lines, cost, front, importance."""

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter

from notbugs.report.drawing import GREY, look, new_figure, percent_axis
from notbugs.runtime.config import DATASET_NAMES

if TYPE_CHECKING:
    import pandas as pd

    from notbugs.report.studies import Study

QUANTITIES = (
    ("accuracy", "test accuracy on y"),
    ("accuracy_shifted", "test accuracy on y + 1"),
    ("adversarial_accuracy", "test accuracy under attack"),
    ("attack_success", "attack success"),
    ("mean_delta_norm", "mean ‖δ‖₂"),
    ("still_y", "still y, robust model"),
)
"""What the heatmaps show: column of trials.csv, title."""
IMPORTANT = ("accuracy", "accuracy_shifted", "attack_success", "still_y")
COLOURS = "viridis"


def heatmaps(points: "pd.DataFrame", kind: str, about: dict[str, Any]) -> Figure:
    """Each measured quantity over eps (of the source model, for inversions) and steps."""
    vertical = "source_eps" if points["eps"].isna().all() else "eps"
    figure, all_axes = new_figure(5.6, 2, 3)
    gridded = about["sweep"]["sampler"] == "grid"
    for axes, (column, title) in zip(all_axes, QUANTITIES, strict=True):
        low, high = (0.0, 1.0) if column != "mean_delta_norm" else (0.0, max(float(points[column].max()), 1e-9))
        if gridded:
            _grid(axes, points, vertical, column, low, high)
        else:
            _scatter(axes, points, vertical, column, low, high)
        axes.set_title(title)
        axes.grid(False)
    for axes in all_axes[3:]:
        axes.set_xlabel("steps")
    for axes in all_axes[::3]:
        axes.set_ylabel("eps" if vertical == "eps" else "eps of the source model")
    source = points["source_eps"].dropna().unique()
    of = f", source model of eps {source[0]:g}" if vertical == "eps" and len(source) == 1 else ""
    figure.suptitle(f"{DATASET_NAMES[kind]}{of}", x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _grid(axes: Axes, points: "pd.DataFrame", vertical: str, column: str, low: float, high: float) -> None:
    points = points.assign(**{vertical: points[vertical].fillna(-1.0)})
    table = points.pivot_table(index=vertical, columns="num_steps", values=column, aggfunc="mean")
    honest = points.pivot_table(index=vertical, columns="num_steps", values="honest", aggfunc="min")
    values = table.to_numpy(dtype=float)  # (rows, columns)
    axes.imshow(values, origin="lower", aspect="auto", cmap=COLOURS, vmin=low, vmax=high)
    for row, column_number in np.ndindex(values.shape):
        value = values[row, column_number]
        if np.isnan(value):
            continue
        text = f"{value:.2f}" if column == "mean_delta_norm" else f"{100 * value:.0f}"
        dark = (value - low) / (high - low) < 0.6
        axes.text(column_number, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
        if not bool(honest.to_numpy()[row, column_number]):
            corner = (column_number - 0.5, row - 0.5)
            colour = "#ffffff80" if dark else "#00000060"
            axes.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="///", edgecolor=colour, lw=0))
    axes.set_xticks(range(values.shape[1]), [f"{steps:g}" for steps in table.columns])
    axes.set_yticks(range(values.shape[0]), ["–" if eps < 0 else f"{eps:g}" for eps in table.index])


def _scatter(axes: Axes, points: "pd.DataFrame", vertical: str, column: str, low: float, high: float) -> None:
    """Where a sampler chose the points: hollow where the images no longer show y."""
    heights = points[vertical].fillna(0.0).to_numpy(dtype=float)
    colours = colormaps[COLOURS]((points[column].to_numpy(dtype=float) - low) / (high - low))
    honest = points["honest"].to_numpy(dtype=bool)
    steps = points["num_steps"].to_numpy(dtype=float)
    axes.scatter(steps[honest], heights[honest], c=colours[honest], s=34)
    axes.scatter(steps[~honest], heights[~honest], facecolors="none", edgecolors=colours[~honest], s=34, linewidths=1.6)
    axes.set_xscale("log")


def lines(study: "Study") -> Figure | None:
    """Accuracy on y and on y + 1 against eps, a line for each number of steps; for datasets with a ball."""
    kinds = [kind for kind in study.kinds if study.of(kind)["eps"].nunique() > 1]
    if not kinds or study.about["sweep"]["sampler"] != "grid":
        return None
    figure, all_axes = new_figure(2.6 * len(kinds) + 0.6, len(kinds), 2)
    steps = sorted(study.points["num_steps"].unique())
    shades = colormaps[COLOURS](np.linspace(0.0, 0.9, len(steps)))
    for row, kind in enumerate(kinds):
        for place, (column, title) in enumerate(QUANTITIES[:2]):
            axes = all_axes[2 * row + place]
            for shade, count in zip(shades, steps, strict=True):
                own = study.of(kind)
                _line(axes, own[own["num_steps"] == count], column, shade, f"{count:g} step{'' if count == 1 else 's'}")
            percent_axis(axes, "")
            axes.set_title(f"{DATASET_NAMES[kind]}: {title}")
    for axes in all_axes[-2:]:
        axes.set_xlabel("eps")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 8))
    return figure


def _line(axes: Axes, points: "pd.DataFrame", column: str, shade: Any, label: str) -> None:
    means = points.groupby("eps")[[column, f"{column}_std", "honest"]].agg("mean").reset_index()
    eps, values, spread = (means[key].to_numpy(dtype=float) for key in ("eps", column, f"{column}_std"))
    axes.errorbar(eps, values, yerr=spread, color=shade, capsize=2, lw=1.5, label=label)
    honest = means["honest"].to_numpy(dtype=float) == 1.0
    axes.plot(eps[honest], values[honest], "o", color=shade)
    axes.plot(eps[~honest], values[~honest], "o", color=shade, mfc="white")


def budget(study: "Study") -> Figure | None:
    """Accuracy on y against images times steps, a line for each eps."""
    kinds = [kind for kind in study.kinds if study.of(kind)["num_steps"].nunique() > 1]
    if not kinds:
        return None
    figure, all_axes = new_figure(3.4, 1, len(kinds))
    for axes, kind in zip(all_axes, kinds, strict=True):
        points = study.of(kind)
        points = points.assign(eps=points["eps"].fillna(points["source_eps"]).fillna(0.0))
        many = study.about["sweep"]["sampler"] != "grid"
        shades = colormaps[COLOURS](np.linspace(0.0, 0.9, points["eps"].nunique()))
        for shade, (eps, own) in zip(shades, points.groupby("eps"), strict=True):
            means = own.groupby("work")["accuracy"].mean()
            label = None if many else f"eps {eps:g}"
            axes.plot(means.index.to_numpy(), means.to_numpy(), "o" if many else "o-", color=shade, label=label)
        axes.set_xscale("log")
        axes.set_xlabel("images × steps")
        percent_axis(axes, "test accuracy on y" if axes is all_axes[0] else "")
        axes.set_title(DATASET_NAMES[kind] + (" (lighter: larger eps)" if many else ""))
    handles, labels = all_axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 8))
    return figure


def front(study: "Study") -> Figure | None:
    """Clean against adversarial accuracy; the points that none beats in both, by validation, are joined."""
    if not len(study.points):
        return None
    figure, (axes,) = new_figure(3.6)
    for kind in study.kinds:
        points, style = study.of(kind), look(DATASET_NAMES[kind])
        clean, attacked = points["accuracy"], points["adversarial_accuracy"]
        axes.plot(clean, attacked, style.marker, color=style.colour, alpha=0.6, label=DATASET_NAMES[kind], ls="")
    best = study.points[pareto(study.points)].sort_values("accuracy")
    axes.plot(best["accuracy"], best["adversarial_accuracy"], "-", color=GREY, lw=1.2, zorder=1, label="front")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_ylim(-0.01, max(0.1, 1.2 * float(study.points["adversarial_accuracy"].max())))
    axes.set_ylabel("test accuracy under attack")
    axes.set_xlabel("test accuracy on y")
    axes.set_xlim(-0.02, 1.02)
    axes.legend(loc="upper left")
    return figure


def pareto(points: "pd.DataFrame") -> Any:
    """Which points no other one equals in both validation accuracies and beats in one: bool array (N,)."""
    values: Any = points[["validation_accuracy", "validation_adversarial_accuracy"]].to_numpy(dtype=float)  # (N, 2)
    at_least = (values[None] >= values[:, None]).all(axis=2)  # (N, N): the second is nowhere worse than the first
    better = (values[None] > values[:, None]).any(axis=2)
    return ~(at_least & better).any(axis=1)


def importance(study: "Study") -> Figure | None:
    """Share of the variance of each quantity that each parameter explains."""
    shares = study.importance[study.importance["measured"].isin(IMPORTANT)]
    kinds = [kind for kind in study.kinds if (shares["kind"] == kind).any()]
    if not kinds:
        return None
    figure, all_axes = new_figure(0.5 + 1.1 * len(kinds), len(kinds), 1)
    titles = dict(QUANTITIES)
    words = {"eps": "eps", "num_steps": "steps", "source_eps": "eps of the source model"}
    parameters = sorted(shares["parameter"].unique())
    shades = dict(zip(parameters, ("#0072B2", "#E69F00", "#009E73"), strict=False))
    for axes, kind in zip(all_axes, kinds, strict=True):
        table = shares[shares["kind"] == kind].pivot_table(index="measured", columns="parameter", values="importance")
        table = table.reindex([name for name in reversed(IMPORTANT) if name in table.index])
        left = np.zeros(len(table))
        for parameter in table.columns:
            width = table[parameter].fillna(0.0).to_numpy(dtype=float)
            axes.barh(range(len(table)), width, left=left, color=shades[parameter], label=words[parameter], height=0.7)
            left = left + width
        axes.set_yticks(range(len(table)), [titles[name] for name in table.index])
        axes.set_xlim(0, 1)
        axes.set_title(DATASET_NAMES[kind])
        axes.grid(False)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return figure
