"""Section on two Gaussians: section 4 of the paper, remade and checked."""

import math
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse

from notbugs.evaluation.statements import reproduced_if
from notbugs.report.drawing import GREY, WIDTH, legend, stroke
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Ruling, Section

TRUE, ROBUST, OTHER = "#000000", "#0072B2", "#E69F00"
CLOUDS = {1: "#e8a3a3", -1: "#a9c4e4"}
AGREE = 1e-3
"""Largest relative difference of direct optimisation from the closed form."""
FOUR = 4.0
"""Standard errors that a sampled mean may lie off."""


def figure(project: Project, found: Facts) -> Figure:
    """Clouds and covariances for each budget; below them excess loss and alignment of both cases."""
    plane, random = found["plane"], found["random"]
    panels = [None, *plane["budgets"]]
    drawn = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    top, bottom = drawn.subfigures(2, 1, squeeze=False).flat
    clouds = top.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, budget in zip(clouds, panels, strict=True):
        _clouds(axes, plane, budget)
    handles = [
        stroke(TRUE, "true covariance", "--"),
        stroke(ROBUST, "learnt covariance"),
        stroke(OTHER, "L2 ball of radius 1"),
        stroke(GREY, "decision boundary", ":", lw=1),
    ]
    legend(top, handles)
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


def _excess(axes: Axes, plane: dict[str, Any], random: dict[str, Any]) -> None:
    for case, colour, marker in ((plane, TRUE, "o"), (random, ROBUST, "s")):
        stretch = case["stretch"]
        least = stretch["excess"][0]
        values = [value / least for value in stretch["excess"]]
        axes.plot(stretch["t"], values, marker, ls="-", color=colour, ms=3, label=f"{case['dimension']} dimensions")
    axes.axhline(1, color=GREY, lw=1, ls=":")
    axes.set(xlabel="from the multiple of I (0) to Σ* (1), trace fixed", ylabel="excess loss, multiple of I = 1")
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
    axes.set(xlabel="budget eps (faint: maximum likelihood)", ylabel="cosine of gradient and μ")
    axes.set_title("Do gradients point from class to class?")
    axes.legend(loc="upper left", fontsize=8, ncols=2)


def _closed_forms(_: Project, cases: Facts) -> Ruling:
    budgets = [budget for case in cases.values() for budget in case["budgets"]]
    worst = max(max(budget["minimax"].values()) for budget in budgets)
    spent = max(budget["budget_error"] for budget in budgets)
    z = max(case["largest_z"] for case in cases.values())
    num_checks = sum(len(case["monte_carlo"]) for case in cases.values())
    told = {"worst": worst, "spent": spent, "z": z, "num_checks": num_checks}
    return Ruling(reproduced_if(worst <= AGREE and z <= FOUR), {**told, "agree": AGREE, "four": FOUR})


def _mismatch(_: Project, cases: Facts) -> Ruling:
    stretches = [case["stretch"] for case in cases.values()]
    least = all(
        stretch["excess"] == sorted(stretch["excess"]) and stretch["least_of_random"] > stretch["excess"][0]
        for stretch in stretches
    )
    return Ruling(reproduced_if(least), {"cases": cases})


def _blend(_: Project, cases: Facts) -> Ruling:
    rounder = True
    for case in cases.values():
        series = [case["condition"], *(budget["condition"] for budget in case["budgets"])]
        rounder = rounder and series == sorted(series, reverse=True)
    return Ruling(reproduced_if(rounder), {"cases": cases})


def _alignment_rises(_: Project, cases: Facts) -> Ruling:
    aligned = all(case["alignment"]["worst"] == sorted(case["alignment"]["worst"]) for case in cases.values())
    return Ruling(reproduced_if(aligned), {"cases": cases})


SECTION = Section(
    "gaussian",
    needs=("plane", "random"),
    figures={"gaussian": figure},
    rules={
        "closed_forms": _closed_forms,
        "mismatch": _mismatch,
        "blend": _blend,
        "alignment_rises": _alignment_rises,
    },
)
