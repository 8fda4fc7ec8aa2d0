"""Finished studies under sweeps/: what they measured, and their heatmaps, lines, cost, front and importance."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pandas.api.types import is_numeric_dtype

from notbugs.evaluation.results import ResultsError, read_table, set_title, titled
from notbugs.evaluation.trials import COLUMNS, IMPORTANCE_COLUMNS, MEASURED
from notbugs.report.drawing import (
    COLOURS,
    GREY,
    drawn_as,
    heatmap,
    legend,
    look,
    new_figure,
    percent_axis,
    percent_ticks,
    report_style,
)
from notbugs.report.honesty import judged
from notbugs.report.live import Drawing, LiveChart, to_png
from notbugs.report.sets import sets_of
from notbugs.report.study_curves import against_eps, against_steps, eps_of, first_shown
from notbugs.runtime.config import dataset_name, read_params
from notbugs.runtime.files import sha256, whole_folder

_MAY_BE_EMPTY = ("eps", "num_steps", "step_size", "source_eps", "source_seed")
FITS = ("source_seed", "seed", "accuracy", "accuracy_shifted")
"""What a point keeps of each of its fits."""
QUANTITIES = (
    ("accuracy", "test accuracy on y"),
    ("accuracy_shifted", "test accuracy on y + 1"),
    ("adversarial_accuracy", "test accuracy under attack"),
    ("attack_success", "attack success"),
    ("mean_delta_norm", "mean ‖δ‖₂"),
    ("still_y", "still y, robust model"),
)
"""What the heatmaps show: column of trials.csv, title."""
LABELS = {"eps": "eps", "num_steps": "steps", "step_size": "step size", "source_eps": "eps of the source model"}
"""What the short form varies, in words; an axis is called by its key."""
_SHADES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
LEAST_WITHSTOOD = 0.005
"""Adversarial accuracy that some point of a dataset must reach for the front to show it."""
IMPORTANT = ("accuracy", "accuracy_shifted", "attack_success", "still_y")


@dataclass(frozen=True)
class StudyResults:
    """A finished study.

    Attributes:
        name: of its folder under sweeps/.
        about: study.json: settings, counts, hashes of the inputs.
        points: the complete points as means over their seeds, with `accuracy_std`, `honest`, `num_seeds`.
        importance: share of the variance that each parameter explains.
    """

    name: str
    about: dict[str, Any]
    points: pd.DataFrame
    importance: pd.DataFrame

    @property
    def kinds(self) -> list[str]:
        """The datasets that were made, in the order of the settings."""
        made = set(self.points["kind"])
        return [kind for kind in self.about["sweep"]["kinds"] if kind in made]

    @property
    def axes(self) -> dict[str, Any]:
        """Dotted key of params.yaml -> its values: what was varied besides the short form."""
        found: dict[str, Any] = self.about["sweep"].get("axes", {})
        return found

    def of(self, kind: str) -> pd.DataFrame:
        """The points of one dataset."""
        return self.points[self.points["kind"] == kind]


def load_studies(root: Path) -> list[StudyResults]:
    """Every study with results, by name, except those of other data than the project has now."""
    return [study for study in all_studies(root) if is_of_present_data(root, study)]


def all_studies(root: Path) -> list[StudyResults]:
    """Every study with results, by name."""
    return [load_study(root, file.parent.name) for file in sorted((root / "sweeps").glob("*/trials.csv"))]


def is_of_present_data(root: Path, study: StudyResults) -> bool:
    """Whether it was made from the data that the project has now, as far as it says."""
    manifest = root / "data" / "train" / "manifest.json"
    return "data" not in study.about or not manifest.exists() or study.about["data"] == sha256(manifest)


def load_study(root: Path, study: str) -> StudyResults:
    """One study.

    Raises: ResultsError naming the file that is missing or wrong, and the command that makes it.
    """
    folder = root / "sweeps" / study
    stage, empty = f"sweep@{study}", (*_MAY_BE_EMPTY, *MEASURED, "work")
    trials = read_table(folder / "trials.csv", COLUMNS, stage, empty)
    try:
        about = json.loads((folder / "study.json").read_text(encoding="utf-8"))
        importance = pd.read_csv(folder / "importance.csv", dtype=IMPORTANCE_COLUMNS)
    except (OSError, ValueError) as error:
        raise ResultsError(f"{folder}: cannot be read: {error}; `notbugs sweep {study}` writes it again") from None
    axes = dict.fromkeys(about["sweep"].get("axes", {}), "string")
    if axes:
        trials = read_table(folder / "trials.csv", {**COLUMNS, **axes}, stage, (*empty, *axes))
    return StudyResults(study, about, mean_points(trials[trials["state"] == "COMPLETE"]), importance)


def mean_points(trials: pd.DataFrame) -> pd.DataFrame:
    """Points as means over their seeds.

    Returns: one row a point with the measurements, `accuracy_std` and `accuracy_shifted_std` (over seeds; 0 for
        one), `num_seeds`, `runs`: the FITS of each, `honest`: whether both judges still call STILL_Y_SHARE of the
        images y, and `on_edge`: whether one image, or one standard error, more or less would change that.
    """
    point = ["kind", "source_eps", "eps", "num_steps", "step_size", *(name for name in trials if "." in str(name))]
    floats = trials.astype(dict.fromkeys(("eps", "source_eps", "step_size", *MEASURED), "float64"))
    groups = floats.groupby(point, dropna=False, sort=True)
    means = groups[[*MEASURED, "work"]].mean()
    for measured in ("accuracy", "accuracy_shifted"):
        means[f"{measured}_std"] = groups[measured].std().fillna(0.0)
    means["num_seeds"] = groups.size()
    means = means.reset_index()
    runs = [fits[list(FITS)].to_dict(orient="records") for _, fits in groups]
    means["runs"] = pd.Series(runs, index=means.index, dtype=object)
    return judged(means, {})


def draw(study: StudyResults) -> Iterator[tuple[str, Drawing]]:
    """Every figure of a study, with its file name without suffix."""
    for kind in study.kinds:
        if study.axes:
            yield from _of_axes(study, kind)
            continue
        for suffix, points in _by_source(study, kind):
            yield f"sweep_{study.name}_{kind}{suffix}_heatmaps", heatmaps(points, kind, study.about)
    built: tuple[tuple[str, Callable[[StudyResults], Drawing | None]], ...]
    built = (("lines", lines), ("steps", steps), ("budget", budget), ("front", front), ("importance", importance))
    for title, build in built[3:] if study.axes else built:
        figure = build(study)
        if figure is not None:
            yield f"sweep_{study.name}_{title}", figure


def _by_source(study: StudyResults, kind: str) -> Iterator[tuple[str, pd.DataFrame]]:
    """Points of a kind, apart for each source model where the other axis is eps."""
    points = study.of(kind)
    if points["eps"].isna().all() or points["source_eps"].nunique(dropna=False) == 1:
        yield "", points
        return
    for source_eps, group in points.groupby("source_eps"):
        yield f"_source_{source_eps:g}", group


def _of_axes(study: StudyResults, kind: str) -> Iterator[tuple[str, Figure]]:
    """Slices along everything that was varied for a kind, and a surface over its first two numbers."""
    points, names = varied(study, kind)
    numeric = [name for name in names if is_numeric_dtype(points[name])]
    if len(numeric) > 1:
        figure = heatmaps(points, kind, study.about, numeric[0], numeric[1])
        yield f"sweep_{study.name}_{kind}_surface", figure
    if names:
        yield f"sweep_{study.name}_{kind}_slices", slices(points, names, kind)


def varied(study: StudyResults, kind: str) -> tuple[pd.DataFrame, list[str]]:
    """The points of a kind, and what was varied among them; a column of numbers where all are numbers."""
    points = study.of(kind).copy()
    short = [name for name in ("eps", "num_steps", "step_size", "source_eps") if study.about["sweep"].get(name)]
    for leaf in study.axes:
        values = pd.to_numeric(points[leaf], errors="coerce")
        if values.notna().all():
            points[leaf] = values
    return points, [name for name in (*short, *study.axes) if points[name].nunique() > 1]


def slices(points: pd.DataFrame, names: list[str], kind: str) -> Figure:
    """Accuracy on y of every point against each parameter by itself; hollow where the images no longer show y."""
    figure, all_axes = new_figure(3.2 * math.ceil(len(names) / 3), math.ceil(len(names) / 3), min(3, len(names)))
    honest = points["honest"].to_numpy(dtype=bool)
    heights = points["accuracy"].to_numpy(dtype=float)
    for place, axes in enumerate(all_axes):
        if place >= len(names):
            axes.set_visible(False)
            continue
        given = points[names[place]]
        if is_numeric_dtype(given):
            across = given.to_numpy(dtype=float)
        else:
            levels = sorted(set(given))
            across = given.map(levels.index).to_numpy(dtype=float)
            axes.set_xticks(range(len(levels)), levels)
        axes.plot(across[honest], heights[honest], "o", color=look(dataset_name(kind)).colour)
        axes.plot(across[~honest], heights[~honest], "o", color=look(dataset_name(kind)).colour, mfc="white")
        axes.set_xlabel(LABELS.get(names[place], names[place]))
        percent_axis(axes, "test accuracy on y" if place % 3 == 0 else "")
    figure.suptitle(set_title(kind), x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def write_figures(root: Path, study: str) -> list[Path]:
    """Draw one study into sweeps/<study>/figures.

    Raises: ResultsError if it has no results.
    """
    found = load_study(root, study)
    folder = root / "sweeps" / study / "figures"
    params = read_params(root / "params.yaml")
    with whole_folder(folder) as unfinished, report_style(), titled(params), drawn_as(sets_of(params).values()):
        for title, figure in draw(found):
            (unfinished / f"{title}.png").write_bytes(to_png(figure))
    return sorted(folder.glob("*.png"))


def heatmaps(
    points: pd.DataFrame, kind: str, about: dict[str, Any], vertical: str = "", horizontal: str = "num_steps"
) -> Figure:
    """Each measured quantity over two columns: eps (of the source model, for inversions) and steps by default."""
    vertical = vertical or ("source_eps" if points["eps"].isna().all() else "eps")
    figure, all_axes = new_figure(5.6, 2, 3)
    gridded = about["sweep"]["sampler"] == "grid"
    for axes, (column, title) in zip(all_axes, QUANTITIES, strict=True):
        low, high = (0.0, 1.0) if column != "mean_delta_norm" else (0.0, max(float(points[column].max()), 1e-9))
        if gridded:
            _grid(axes, points, vertical, horizontal, column, low, high)
        else:
            _scatter(axes, points, vertical, horizontal, column, low, high)
        axes.set_title(title)
        axes.grid(False)
    for axes in all_axes[3:]:
        axes.set_xlabel(LABELS.get(horizontal, horizontal))
    for axes in all_axes[::3]:
        axes.set_ylabel(LABELS.get(vertical, vertical))
    source = points["source_eps"].dropna().unique()
    of = f", source model of eps {source[0]:g}" if vertical == "eps" and len(source) == 1 else ""
    figure.suptitle(f"{set_title(kind)}{of}", x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure


def _grid(
    axes: Axes, points: pd.DataFrame, vertical: str, horizontal: str, column: str, low: float, high: float
) -> None:
    points = points.assign(**{vertical: points[vertical].fillna(-1.0)})
    table = points.pivot_table(index=vertical, columns=horizontal, values=column, aggfunc="mean")
    honest = points.pivot_table(index=vertical, columns=horizontal, values="honest", aggfunc="min")
    values = table.to_numpy(dtype=float)  # (rows, columns)
    in_cells: Any = "{:.2f}".format if column == "mean_delta_norm" else lambda share: f"{100 * share:.0f}"
    heatmap(axes, values, in_cells, honest.to_numpy() == 0, low, high)
    axes.set_xticks(range(values.shape[1]), [f"{steps:g}" for steps in table.columns])
    axes.set_yticks(range(values.shape[0]), ["–" if eps < 0 else f"{eps:g}" for eps in table.index])


def _scatter(
    axes: Axes, points: pd.DataFrame, vertical: str, horizontal: str, column: str, low: float, high: float
) -> None:
    """Where a sampler chose the points: hollow where the images no longer show y."""
    heights = points[vertical].fillna(0.0).to_numpy(dtype=float)
    colours = colormaps[COLOURS]((points[column].to_numpy(dtype=float) - low) / (high - low))
    honest = points["honest"].to_numpy(dtype=bool)
    steps = points[horizontal].to_numpy(dtype=float)
    axes.scatter(steps[honest], heights[honest], c=colours[honest], s=34)
    axes.scatter(steps[~honest], heights[~honest], facecolors="none", edgecolors=colours[~honest], s=34, linewidths=1.6)
    if (steps > 0).all():
        axes.set_xscale("log")


def _gridded(study: StudyResults) -> dict[str, pd.DataFrame]:
    """Kind -> its points, of a grid of eps and steps; of another study none."""
    return {kind: study.of(kind) for kind in study.kinds} if study.about["sweep"]["sampler"] == "grid" else {}


def lines(study: StudyResults) -> LiveChart | None:
    """Accuracy on y and on y + 1 against eps, a line for each number of steps; for datasets with a ball."""
    return against_eps(_gridded(study))


def first_of(study: StudyResults) -> float | None:
    """The eps that the picture of `steps` shows; None without one."""
    eps = eps_of(_gridded(study))
    return first_shown(eps) if eps else None


def steps(study: StudyResults) -> LiveChart | None:
    """Accuracies against the number of steps, at an eps that a slider chooses; for datasets with a ball."""
    return against_steps(_gridded(study))


def budget(study: StudyResults) -> Figure | None:
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
        axes.set_title(set_title(kind) + (" (lighter: larger eps)" if many else ""))
    legend(figure, all_axes[0].get_legend_handles_labels()[0])
    return figure


def front(study: StudyResults) -> Figure | None:
    """Clean against adversarial accuracy; the points that none beats in both, by validation, are joined.

    A dataset that withstands nothing is left out, and None where none does: a front along zero says nothing.
    """
    standing = [kind for kind in study.kinds if float(study.of(kind)["adversarial_accuracy"].max()) >= LEAST_WITHSTOOD]
    if not standing:
        return None
    figure, (axes,) = new_figure(3.6)
    for kind in standing:
        points, style = study.of(kind), look(dataset_name(kind))
        clean, attacked = points["accuracy"], points["adversarial_accuracy"]
        axes.plot(clean, attacked, style.marker, color=style.colour, alpha=0.6, label=set_title(kind), ls="")
    shown = study.points[study.points["kind"].isin(standing)]
    best = shown[pareto(shown)].sort_values("accuracy")
    axes.plot(best["accuracy"], best["adversarial_accuracy"], "-", color=GREY, lw=1.2, zorder=1, label="front")
    percent_ticks(axes.xaxis)
    percent_ticks(axes.yaxis)
    axes.set_ylim(-0.01, max(0.1, 1.2 * float(shown["adversarial_accuracy"].max())))
    axes.set(ylabel="test accuracy under attack", xlabel="test accuracy on y", xlim=(-0.02, 1.02))
    axes.legend(loc="upper left")
    return figure


def pareto(points: pd.DataFrame) -> Any:
    """Which points no other one equals in both validation accuracies and beats in one: bool array (N,)."""
    values: Any = points[["validation_accuracy", "validation_adversarial_accuracy"]].to_numpy(dtype=float)  # (N, 2)
    at_least = (values[None] >= values[:, None]).all(axis=2)  # (N, N): the second is nowhere worse than the first
    better = (values[None] > values[:, None]).any(axis=2)
    return ~(at_least & better).any(axis=1)


def importance(study: StudyResults) -> Figure | None:
    """Share of the variance of each quantity that each parameter explains."""
    shares = study.importance[study.importance["measured"].isin(IMPORTANT)]
    kinds = [kind for kind in study.kinds if (shares["kind"] == kind).any()]
    if not kinds:
        return None
    figure, all_axes = new_figure(0.5 + 1.1 * len(kinds), len(kinds), 1)
    titles = dict(QUANTITIES)
    parameters = sorted(shares["parameter"].unique())
    shades = dict(zip(parameters, cycle(_SHADES), strict=False))
    for axes, kind in zip(all_axes, kinds, strict=True):
        table = shares[shares["kind"] == kind].pivot_table(index="measured", columns="parameter", values="importance")
        table = table.reindex([name for name in reversed(IMPORTANT) if name in table.index])
        left = np.zeros(len(table))
        for parameter in table.columns:
            width = table[parameter].fillna(0.0).to_numpy(dtype=float)
            axes.barh(
                range(len(table)),
                width,
                left=left,
                color=shades[parameter],
                label=LABELS.get(parameter, parameter),
                height=0.7,
            )
            left = left + width
        axes.set_yticks(range(len(table)), [titles[name] for name in table.index])
        axes.set(xlim=(0, 1), title=set_title(kind))
        axes.grid(False)
    legend(figure, all_axes[0].get_legend_handles_labels()[0], place="outside lower center")
    return figure
