"""Section on usefulness: what was found, the ρ-γ plane, every feature on every dataset, circles."""

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from notbugs.evaluation.results import in_order, model_label, read_table
from notbugs.evaluation.statements import reproduced_if
from notbugs.report.drawing import GREY, legend, new_figure, panels, reach, stroke
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Ruling, Section, estimate

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
MODELS = ("standard", "robust")
JUDGED = ("standard", "linear")
"""Sources whose non-robust features are put to the test by a linear classifier."""
SUFFICE = 0.5
"""Accuracy above which features are said to classify, by the lower end of its interval."""


def _rows(project: Project) -> pd.DataFrame:
    return read_table(project.root / "metrics/features.csv", COLUMNS, "features")


def plane_figure(project: Project, found: Facts) -> Figure:
    """ρ against γ at the headline eps, a panel a kind of source; the circles in the last."""
    rows, eps = _rows(project), float(found["headline_eps"])
    figure, axes = new_figure(6.4, 2, 2)
    for panel, sources in zip(axes, PANELS, strict=False):
        present = [source for source in sources if source in found["sources"]]
        for source in present:
            _plane(panel, rows[rows["source"] == source], source, eps, labelled=len(present) > 1)
        panel.set(title=LOOKS[sources[0]][2], xlabel="ρ, usefulness", ylabel=f"γ, robust usefulness at eps {eps:g}")
        if "linear" in sources:  # the γ of directions along which D hardly varies is far below 0
            panel.set_yscale("asinh", linear_width=0.2)
            panel.set_yticks([-100, -10, -1, 0, 0.3], ["−100", "−10", "−1", "0", "0.3"])
            panel.minorticks_off()
    _circles(axes[3], found["circles"])
    return figure


def _plane(axes: Axes, rows: pd.DataFrame, source: str, eps: float, *, labelled: bool) -> None:
    colour, marker, _ = LOOKS[source]
    test = rows[rows["dataset"] == "D_test"]
    rho, gamma = (test[test["eps"] == radius].sort_values("feature") for radius in (0.0, eps))
    x, y = (part["value"].to_numpy(dtype=float) for part in (rho, gamma))
    reaches = [
        np.abs(part[["low", "high"]].to_numpy(dtype=float).T - part["value"].to_numpy(dtype=float))
        for part in (rho, gamma)
    ]
    axes.errorbar(x, y, reaches[1], reaches[0], fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.35)
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


def _circles(axes: Axes, found: Facts) -> None:
    """Usefulness of each feature of the circles, with intervals."""
    for place, value in enumerate(map(estimate, found.values())):
        axes.barh(place, value.value, color="#56B4E9", height=0.6)
        axes.errorbar(value.value, place, xerr=reach(value), fmt="none", ecolor="black", elinewidth=1.1, capsize=3)
        beside = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
        axes.annotate(f"{value.value:.3f}", (value.high, place), **beside)  # type: ignore[arg-type]
    axes.set_yticks(range(len(found)), list(found))
    axes.invert_yaxis()
    axes.set_xlim(-0.05, 1.1)
    axes.grid(False)
    axes.set(xlabel="ρ, usefulness", title="concentric circles")


def datasets_figure(project: Project, found: Facts) -> Figure | None:
    """Usefulness of each feature on each construction against its usefulness on D."""
    rows = _rows(project)
    on_d = rows[rows["dataset"] == "D"].set_index(["source", "feature"])["value"].astype(float)
    made = {name for source in found["sources"].values() for name in source.get("kept", ())}
    datasets = [dataset for dataset, _ in in_order((name, "standard") for name in rows["dataset"] if name in made)]
    if not datasets:
        return None
    figure, axes = panels(len(datasets), 2.6, 0.5)
    sources = [source for source in LOOKS if source in found["sources"] and source not in ("posterior", "linear")]
    for panel, dataset in zip(axes, datasets, strict=True):
        for source in sources:
            here = rows[(rows["dataset"] == dataset) & (rows["source"] == source)]
            before = [on_d[source, feature] for feature in here["feature"]]
            colour, marker, _ = LOOKS[source]
            values = here[["value", "low", "high"]].astype(float)
            ends = [values["value"] - values["low"], values["high"] - values["value"]]
            panel.errorbar(before, values["value"], ends, fmt=marker, color=colour, ms=4, elinewidth=0.8, alpha=0.8)
            kept = found["sources"][source]["kept"][dataset]["value"]
            panel.axline((0, 0), slope=kept, color=colour, lw=1, alpha=0.6)
        panel.axline((0, 0), slope=1, color=GREY, lw=0.9, ls=":")
        panel.axhline(0, color=GREY, lw=0.9)
        panel.set(title=model_label(dataset, "standard"), xlim=(0, 1.08 * float(on_d[sources].max())))
        panel.set(xlabel="usefulness on D", ylabel="usefulness there")
    handles = [stroke(LOOKS[key][0], LOOKS[key][2], marker=LOOKS[key][1], lw=1) for key in sources]
    legend(figure, [*handles, stroke(GREY, "as on D", ":", lw=0.9)], columns=3)
    return figure


def _shares(_: Project, found: Facts) -> Ruling:
    """The share of the useful features that is not robust, standard against robust model, at every eps."""
    sources = [found["sources"][key] for key in MODELS]
    standard, robust = (source["share_nonrobust"] for source in sources)
    if not standard or not robust:
        return Ruling("inconclusive", {"pairs": {}, "num_useful": []})
    pairs = {eps: (estimate(standard[eps]), estimate(robust[eps])) for eps in standard}
    apart = any(ours.low > theirs.value and ours.value > theirs.high for ours, theirs in pairs.values())
    never_less = all(ours.value >= theirs.value for ours, theirs in pairs.values())
    num_useful = [source["num_useful"] for source in sources]
    return Ruling(reproduced_if(apart and never_less), {"pairs": pairs, "num_useful": num_useful})


def _keeps(dataset: str, _: Project, found: Facts, *, most: str, least: str) -> Ruling | None:
    """On a construction the features of one model stay more useful than those of the other."""
    if dataset not in found["sources"]["standard"]["kept"]:
        return None
    kept = {key: found["sources"][key]["kept"][dataset] for key in MODELS}
    return Ruling(reproduced_if(kept[most]["low"] > kept[least]["high"]), {"dataset": dataset, "kept": kept})


def _suffice(_: Project, found: Facts) -> Ruling:
    """Linear classifiers on only the non-robust features, beside those on only the robust ones."""
    fitted = {key: found["sources"][key]["linear_classifier"] for key in JUDGED}
    told = {"eps": found["headline_eps"], "fitted": fitted}
    others = [groups["nonrobust"] for groups in fitted.values()]
    if not all(others) or not all(one["num_surely"] for one in others):
        return Ruling("inconclusive", told)
    return Ruling(reproduced_if(all(_classify_by_nothing_robust(one) for one in others)), told)


def _classify_by_nothing_robust(fitted: Facts) -> bool:
    """Accurate on untouched images and not under attack, by features most of which are surely not robust."""
    return bool(
        fitted["clean"]["low"] > SUFFICE > fitted["adversarial"]["high"]
        and 2 * fitted["num_surely"] > fitted["num_features"]
    )


def _most_useful(_: Project, found: Facts) -> Ruling:
    mean = found["sources"]["posterior"]["mean_rho"]
    largest = {key: found["sources"][key]["largest_rho"] for key in MODELS}
    return Ruling(
        reproduced_if(all(mean > one["value"] for one in largest.values())), {"mean": mean, "largest": largest}
    )


def _rings(_: Project, found: Facts) -> Ruling:
    circles = found["circles"]
    raw = [circles[key] for key in circles if "coordinate" in key]
    best, radius = circles["p(y|x)"], circles["radius"]
    useless = all(value["low"] <= 0 for value in raw)
    is_best = all(best["value"] >= value["value"] for value in circles.values())
    return Ruling(reproduced_if(useless and radius["low"] > 0.5 and is_best), {"circles": circles})


SECTION = Section(
    "features",
    needs=("headline_eps", "num_examples", "source_seeds", "sources", "circles"),
    figures={"features": plane_figure, "features_datasets": datasets_figure},
    rules={
        "shares": _shares,
        "keeps_D_R": partial(_keeps, "D_R", most="robust", least="standard"),
        "keeps_D_NR": partial(_keeps, "D_NR", most="standard", least="robust"),
        "keeps_D_rand": partial(_keeps, "D_rand", most="standard", least="robust"),
        "suffice": _suffice,
        "most_useful": _most_useful,
        "rings": _rings,
    },
    constants={"LOOKS": LOOKS, "SUFFICE": SUFFICE},
)
