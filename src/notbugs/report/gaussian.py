"""The report's section on two Gaussians: section 4 of the paper, remade and checked."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Ellipse

from notbugs.evaluation.results import percent
from notbugs.report.blocks import Picture, Section, Table, Text, name, number
from notbugs.report.claims import verdict
from notbugs.report.drawing import GREY, WIDTH
from notbugs.report.findings import Finding, findings_table, metrics_of
from notbugs.report.project import Project

if TYPE_CHECKING:
    from notbugs.report.overview import Content

NAME = "gaussian"
TRUE, ROBUST, OTHER = "#000000", "#0072B2", "#E69F00"
CLOUDS = {1: "#e8a3a3", -1: "#a9c4e4"}
AGREE = 1e-3
"""Largest relative difference of direct optimisation from the closed form."""
FOUR = 4.0
"""Standard errors that a sampled mean may lie off."""


def figure(project: Project) -> Figure | None:
    """Clouds and covariances for each budget; below them excess loss and alignment of both cases."""
    found = metrics_of(project, NAME, ("plane", "random"))
    if found is None:
        return None
    plane, random = found["plane"], found["random"]
    panels = [None, *plane["budgets"]]
    drawn = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    top, bottom = drawn.subfigures(2, 1, squeeze=False).flat
    clouds = top.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, budget in zip(clouds, panels, strict=True):
        _clouds(axes, plane, budget)
    top.legend(handles=_cloud_legend(), loc="outside upper center", ncols=4)
    left, right = bottom.subplots(1, 2)
    _excess(left, plane, random)
    _alignment(right, plane, random)
    return drawn


def _clouds(axes: Axes, plane: dict[str, Any], budget: dict[str, Any] | None) -> None:
    """Examples of both classes, true and learnt covariances, the unit ball, and the learnt boundary."""
    points, mu = np.array(plane["points"]), np.array(plane["mu"])
    for label, colour in CLOUDS.items():
        cloud = points[points[:, 2] == label]
        axes.plot(cloud[:, 0], cloud[:, 1], ".", color=colour, ms=3, zorder=1)
    learnt = np.array(plane["sigma"] if budget is None else budget["sigma_r"])
    for side in (1, -1):
        axes.add_patch(_ellipse(side * mu, np.array(plane["sigma"]), TRUE, "--"))
        axes.add_patch(_ellipse(side * mu, learnt, ROBUST, "-"))
        axes.add_patch(Circle(tuple(side * mu), 1.0, fill=False, ec=OTHER, lw=1.4, zorder=4))
    w = np.linalg.solve(learnt, mu)
    along = np.array([-w[1], w[0]]) / np.linalg.norm(w) * 30
    axes.plot([-along[0], along[0]], [-along[1], along[1]], color=GREY, lw=1, ls=":", zorder=2)
    reach = 1.2 * float(np.abs(points[:, :2]).max())
    axes.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axes.grid(False)
    axes.set_title("maximum likelihood" if budget is None else f"robust, eps {budget['eps']:g}")


def _ellipse(centre: Any, Sigma: Any, colour: str, style: str) -> Ellipse:
    """Where the Mahalanobis distance to the mean is 1."""
    values, vectors = np.linalg.eigh(Sigma)
    angle = math.degrees(math.atan2(vectors[1, 1], vectors[0, 1]))
    width, height = 2 * math.sqrt(values[1]), 2 * math.sqrt(values[0])
    return Ellipse(tuple(centre), width, height, angle=angle, fill=False, ec=colour, ls=style, lw=1.5, zorder=3)


def _cloud_legend() -> list[Line2D]:
    return [
        Line2D([], [], color=TRUE, ls="--", label="true covariance"),
        Line2D([], [], color=ROBUST, label="learnt covariance"),
        Line2D([], [], color=OTHER, label="L2 ball of radius 1"),
        Line2D([], [], color=GREY, ls=":", lw=1, label="decision boundary"),
    ]


def _excess(axes: Axes, plane: dict[str, Any], random: dict[str, Any]) -> None:
    for case, colour, marker in ((plane, TRUE, "o"), (random, ROBUST, "s")):
        stretch = case["stretch"]
        least = stretch["excess"][0]
        values = [value / least for value in stretch["excess"]]
        axes.plot(stretch["t"], values, marker, ls="-", color=colour, ms=3, label=f"{case['dimension']} dimensions")
    axes.axhline(1, color=GREY, lw=1, ls=":")
    axes.set_xlabel("from the multiple of I (0) to Σ* (1), trace fixed")
    axes.set_ylabel("excess loss, multiple of I = 1")
    axes.set_title("What misalignment costs")
    axes.legend(loc="upper left")


def _alignment(axes: Axes, plane: dict[str, Any], random: dict[str, Any]) -> None:
    for case, colour in ((plane, TRUE), (random, ROBUST)):
        curve = case["alignment"]
        for key, style, what in (("of_mu", "-", "μ*"), ("worst", "--", "worst μ")):
            label = f"{case['dimension']} dimensions, {what}"
            axes.plot(curve["eps"][1:], curve[key][1:], style, color=colour, label=label)
            axes.axhline(curve[key][0], color=colour, lw=0.8, ls=style, alpha=0.35)
    axes.set_xscale("log")
    axes.set_ylim(0, 1.25)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    axes.set_xlabel("budget eps (faint: maximum likelihood)")
    axes.set_ylabel("cosine of gradient and μ")
    axes.set_title("Do gradients point from class to class?")
    axes.legend(loc="upper left", fontsize=8, ncols=2)


def section(content: "Content") -> Section | None:
    """What the theory says, whether the checks agree, the figure and the table."""
    found = metrics_of(content.project, NAME, ("plane", "random"))
    if found is None:
        return None
    pictures: list[Picture] = content.picture(
        NAME,
        "Two Gaussian clouds with true and learnt covariance ellipses; excess loss; gradient alignment",
        "Above: examples of both classes, true and learnt covariance (Mahalanobis distance 1) and the L2 ball. The "
        "larger the budget, the rounder the learnt covariance, until it matches the adversary's ball. Below: the "
        "excess adversarial loss of maximum likelihood as the covariance is stretched at fixed trace, and the "
        "alignment of the classifier's gradient with the direction between the classes.",
    )
    how = (
        "x ~ N(y·μ*, Σ*) with y = ±1. Maximum likelihood finds (μ*, Σ*); against an adversary who may spend E‖δ‖² <= "
        "eps² on average, learning finds the same mean and Σ_r = ½Σ* + I/λ + √(Σ*/λ + ¼Σ*²), with λ from eps. "
        "Nothing here depends on the images: it is the theory by which the paper explains them."
    )
    cases = list(found.values())
    return Section(
        NAME,
        "Two Gaussians",
        [Text(how), findings_table("The theory, checked", findings(cases)), *pictures, _table(cases)],
    )


def findings(cases: list[dict[str, Any]]) -> list[Finding]:
    """The three statements of section 4, and the checks of the closed forms behind them."""
    return [_closed_forms(cases), _mismatch(cases), _blend(cases), _alignment_rises(cases)]


def _closed_forms(cases: list[dict[str, Any]]) -> Finding:
    budgets = [budget for case in cases for budget in case["budgets"]]
    worst = max(max(budget["minimax"].values()) for budget in budgets)
    spent = max(budget["budget_error"] for budget in budgets)
    z = max(case["largest_z"] for case in cases)
    num_checks = sum(len(case["monte_carlo"]) for case in cases)
    return Finding(
        "The closed forms are right",
        "Direct minimax optimisation with the same averaged budget, and sampling, find what the formulas say.",
        verdict(worst <= AGREE and z <= FOUR),
        f"Direct optimisation ends within {worst:.1e} of the closed form in mean, covariance and loss (asked: "
        f"{AGREE:g}); λ spends the budget to within {spent:.1e}; of {num_checks} sampled means the furthest lies "
        f"{z:.1f} standard errors off (asked: {FOUR:g}).",
    )


def _mismatch(cases: list[dict[str, Any]]) -> Finding:
    stretches = [case["stretch"] for case in cases]
    least = all(
        stretch["excess"] == sorted(stretch["excess"]) and stretch["least_of_random"] > stretch["excess"][0]
        for stretch in stretches
    )
    return Finding(
        "Vulnerability is a mismatch of metrics",
        "At fixed trace the adversary gains least from maximum likelihood where Σ* is a multiple of I.",
        verdict(least),
        "; ".join(
            f"{case['dimension']} dimensions: excess loss {stretch['excess'][0]:.3g} at the multiple of I, "
            f"{stretch['excess'][-1]:.3g} at Σ*, at least {stretch['least_of_random']:.3g} for "
            f"{stretch['num_random']} random covariances of that trace"
            for case, stretch in zip(cases, stretches, strict=True)
        )
        + ".",
    )


def _blend(cases: list[dict[str, Any]]) -> Finding:
    rounder = all(
        series == sorted(series, reverse=True)
        for case in cases
        for series in [[case["condition"], *(budget["condition"] for budget in case["budgets"])]]
    )
    return Finding(
        "Robust learning blends the metric towards the adversary's",
        "The mean stays, the covariance becomes rounder as the budget grows.",
        verdict(rounder),
        "; ".join(
            f"{case['dimension']} dimensions: condition number {case['condition']:.3g} of Σ*, then "
            + ", ".join(f"{budget['condition']:.3g} (eps {budget['eps']:g})" for budget in case["budgets"])
            for case in cases
        )
        + ".",
    )


def _alignment_rises(cases: list[dict[str, Any]]) -> Finding:
    aligned = all(case["alignment"]["worst"] == sorted(case["alignment"]["worst"]) for case in cases)
    return Finding(
        "Robust gradients are better aligned",
        "In the worst case over μ, the gradient of the robust classifier points more from class to class.",
        verdict(aligned),
        "; ".join(
            f"{case['dimension']} dimensions: worst cosine {case['alignment']['worst'][0]:.2f} by maximum "
            f"likelihood, {case['alignment']['worst'][-1]:.2f} at eps {case['alignment']['eps'][-1]:g}; of μ* "
            f"itself {case['alignment']['of_mu'][0]:.2f} and {case['alignment']['of_mu'][-1]:.2f}"
            for case in cases
        )
        + ".",
    )


def _table(cases: list[dict[str, Any]]) -> Table:
    rows = []
    for case in cases:
        ml = [number(text) for text in ("–", "–", "–", *_accuracies(case))]
        rows.append([name(f"{case['dimension']} dimensions", "maximum likelihood"), *ml])
        for budget in case["budgets"]:
            loss = budget["adversarial_loss"]
            cells = [
                f"{budget['lam']:.4g}",
                f"{loss['maximum_likelihood']:.3f}",
                f"{loss['robust']:.3f}",
                *_accuracies(budget),
            ]
            rows.append(
                [name(f"{case['dimension']} dimensions", f"robust, eps {budget['eps']:g}"), *map(number, cells)]
            )
    head = ["λ", "maximum likelihood", "robust", "clean", "ball of radius 1"]
    return Table(
        "Closed forms: the budget's price, the adversarial loss of both learners under that averaged budget, and the "
        "accuracy of sign(xᵀΣ⁻¹μ) in %, clean and when every example may move by 1 (a stronger adversary than the "
        "averaged one that the robust parameters are made for).",
        [name("case"), *map(number, head)],
        rows,
        [("", 2), ("adversarial loss", 2), ("accuracy", 2)],
    )


def _accuracies(found: dict[str, Any]) -> list[str]:
    return [percent(found["clean_accuracy"]), percent(found["ball_accuracy"])]
