"""Figures of the report's section on usefulness: the ρ-γ plane with the circles, and every feature on every dataset."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from notbugs.evaluation.results import model_label, read_table
from notbugs.report.drawing import GREY, new_figure
from notbugs.report.findings import metrics_of
from notbugs.report.project import Project
from notbugs.runtime.config import DATASET_NAMES

if TYPE_CHECKING:
    import pandas as pd

NAME = "features"
KEYS = ("headline_eps", "num_examples", "source_seeds", "sources", "circles")
COLUMNS = {
    "source": "string",
    "feature": "Int64",
    "class_name": "string",
    "sign": "Int64",
    "dataset": "string",
    "eps": "Float64",
    "value": "Float64",
    "low": "Float64",
    "high": "Float64",
    "n": "Int64",
}
LOOKS = {
    "standard": ("#000000", "o", "the standard model's representation"),
    "robust": ("#0072B2", "s", "the robust model's representation"),
    "posterior": ("#D55E00", "X", "the standard model's p(y|x)"),
    "linear": ("#E69F00", "v", "linear: principal components of D"),
    "smooth": ("#009E73", "D", "planted: the smooth patterns' filters"),
    "fine": ("#CC79A7", "P", "planted: the fine patterns' filters"),
}
"""Colour, marker and title of every source."""
SHORT = {
    "standard": "representation",
    "posterior": "p(y|x)",
    "linear": "principal components",
    "smooth": "smooth patterns",
    "fine": "fine patterns",
}
"""Of the sources that share a panel."""
PANELS = (("standard", "posterior"), ("robust",), ("linear", "smooth", "fine"))


def _rows(project: Project) -> "pd.DataFrame":
    return read_table(project.root / "metrics/features.csv", COLUMNS, NAME)


def plane_figure(project: Project) -> Figure | None:
    """ρ against γ at the headline eps, a panel a kind of source; the circles in the last."""
    found = metrics_of(project, NAME, KEYS)
    if found is None:
        return None
    rows, eps = _rows(project), float(found["headline_eps"])
    figure, axes = new_figure(6.4, 2, 2)
    for panel, sources in zip(axes, PANELS, strict=False):
        present = [source for source in sources if source in found["sources"]]
        for source in present:
            _plane(panel, rows[rows["source"] == source], source, eps, labelled=len(present) > 1)
        panel.set_title(LOOKS[sources[0]][2])
        panel.set_xlabel("ρ, usefulness")
        panel.set_ylabel(f"γ, robust usefulness at eps {eps:g}")
        if "linear" in sources:  # the γ of directions along which D hardly varies is far below 0
            panel.set_yscale("asinh", linear_width=0.2)
            panel.set_yticks([-100, -10, -1, 0, 0.3], ["−100", "−10", "−1", "0", "0.3"])
            panel.minorticks_off()
    _circles(axes[3], found["circles"])
    return figure


def _plane(axes: Axes, rows: "pd.DataFrame", source: str, eps: float, *, labelled: bool) -> None:
    colour, marker, _ = LOOKS[source]
    test = rows[rows["dataset"] == "D_test"]
    rho, gamma = (test[test["eps"] == radius].sort_values("feature") for radius in (0.0, eps))
    x, y = (part["value"].to_numpy(dtype=float) for part in (rho, gamma))
    reach = [
        np.abs(part[["low", "high"]].to_numpy(dtype=float).T - part["value"].to_numpy(dtype=float))
        for part in (rho, gamma)
    ]
    axes.errorbar(x, y, reach[1], reach[0], fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.35)
    robust = y > 0
    for mask, face in ((robust, colour), (~robust, "white")):
        axes.plot(x[mask], y[mask], marker, mfc=face, mec=colour, mew=1.2, ms=5.5, ls="")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0, float(x.min()) - 0.02), max(high, float(x.max()) * 1.08))
    axes.axhline(0, color=GREY, lw=1)
    reached = np.linspace(*axes.get_xlim(), 50)
    axes.plot(reached, reached, color=GREY, lw=0.9, ls=":")
    note = f"{int(robust.sum())} of {len(y)} robust (filled)"
    if labelled:
        axes.plot([], [], marker, mfc=colour, mec=colour, ls="", label=f"{SHORT[source]}: {note}")
        axes.legend(loc="upper left", fontsize=7.5)
    else:
        axes.annotate(note, (0.98, 0.03), xycoords="axes fraction", ha="right", fontsize=8.5, color=GREY)


def _circles(axes: Axes, found: Mapping[str, Any]) -> None:
    """Usefulness of each feature of the circles, with intervals."""
    for place, (_, value) in enumerate(found.items()):
        axes.barh(place, value["value"], color="#56B4E9", height=0.6)
        reach = [[value["value"] - value["low"]], [value["high"] - value["value"]]]
        axes.errorbar(value["value"], place, xerr=reach, fmt="none", ecolor="black", elinewidth=1.1, capsize=3)
        axes.annotate(
            f"{value['value']:.3f}", (value["high"], place), xytext=(5, 0), textcoords="offset points", va="center"
        )
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlim(-0.05, 1.1)
    axes.grid(False)
    axes.set_xlabel("ρ, usefulness")
    axes.set_title("concentric circles")


def datasets_figure(project: Project) -> Figure | None:
    """Usefulness of each feature on each construction against its usefulness on D."""
    found = metrics_of(project, NAME, KEYS)
    if found is None:
        return None
    rows = _rows(project)
    on_d = rows[rows["dataset"] == "D"].set_index(["source", "feature"])["value"].astype(float)
    datasets = [dataset for dataset in DATASET_NAMES.values() if (rows["dataset"] == dataset).any()]
    if not datasets:
        return None
    columns = min(3, len(datasets))
    lines = -(-len(datasets) // columns)
    figure, axes = new_figure(2.6 * lines + 0.5, lines, columns)
    sources = [source for source in LOOKS if source in found["sources"] and source not in ("posterior", "linear")]
    for panel, dataset in zip(axes, datasets, strict=False):
        for source in sources:
            here = rows[(rows["dataset"] == dataset) & (rows["source"] == source)]
            before = [on_d[source, feature] for feature in here["feature"]]
            colour, marker, _ = LOOKS[source]
            values = here[["value", "low", "high"]].astype(float)
            reach = [values["value"] - values["low"], values["high"] - values["value"]]
            panel.errorbar(before, values["value"], reach, fmt=marker, color=colour, ms=4, elinewidth=0.8, alpha=0.8)
            kept = found["sources"][source]["kept"][dataset]["value"]
            panel.axline((0, 0), slope=kept, color=colour, lw=1, alpha=0.6)
        panel.axline((0, 0), slope=1, color=GREY, lw=0.9, ls=":")
        panel.axhline(0, color=GREY, lw=0.9)
        panel.set_title(model_label(dataset, "standard"))
        panel.set_xlim(0, 1.08 * float(on_d[sources].max()))
        panel.set_xlabel("usefulness on D")
        panel.set_ylabel("usefulness there")
    for panel in axes[len(datasets) :]:
        panel.set_axis_off()
    legend = [
        Line2D([], [], color=LOOKS[source][0], marker=LOOKS[source][1], lw=1, label=LOOKS[source][2])
        for source in sources
    ]
    legend.append(Line2D([], [], color=GREY, ls=":", lw=0.9, label="as on D"))
    figure.legend(handles=legend, loc="outside upper center", ncols=min(len(legend), 3))
    return figure
