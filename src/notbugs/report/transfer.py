"""Section "Transfer": Figure 3 of the paper, accuracy from D_rand and D_det beside transfer success."""

from contextlib import suppress
from operator import itemgetter
from typing import Any

from matplotlib.figure import Figure

from notbugs.evaluation.statements import Finding, reproduced_if
from notbugs.report.drawing import GREY, legend, mark, new_figure, percent_ticks, point
from notbugs.report.evidence import NotMeasuredError
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Ruling, Section, estimate

COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", *([GREY] * 20))
MARKERS = ("o", "s", "^", "D", "P", "v", "X", "p", *(["*"] * 20))
"""Of the architectures, in the order of COLOURS: told apart without colour, too."""
GOALS = {"targeted": "targeted (t = y + 1)", "untargeted": "untargeted"}
RISE = 0.5
"""Rank correlation from which "rise together" is said, if chance seldom gives it and no single architecture does."""
CHANCE = 0.05
"""Share of random pairings that may give as large a rank correlation."""


def figure(project: Project, found: Facts) -> Figure:
    """Accuracy of each architecture from D_det and from D_rand against transfer success, with intervals."""
    drawn, axes = new_figure(4.3, 1, 2)
    for panel, dataset in zip(axes, ("D_det", "D_rand"), strict=True):
        for colour, marker, facts in zip(COLOURS, MARKERS, found["architectures"].values(), strict=False):
            accuracy = estimate(facts["accuracy"][dataset])
            for goal, face in (("targeted", colour), ("untargeted", "white")):
                success = facts["transfer"][goal]["conditional"]
                if success is not None:
                    point(panel, accuracy, estimate(success), colour, marker, mfc=face, ms=6.5, capsize=2, alpha=0.9)
        panel.set_title(f"X fitted on {dataset}", pad=8)
        panel.set_xlabel("accuracy of X on y, untouched test images")
        percent_ticks(panel.xaxis)
        percent_ticks(panel.yaxis)
        panel.set_ylim(0, 1.02)
        panel.grid(axis="both")
    axes[0].set_ylabel("transfer success from the source to X")
    looks = zip(COLOURS, MARKERS, found["architectures"], strict=False)
    handles = [mark(colour, text, marker) for colour, marker, text in looks]
    handles += [mark(GREY, GOALS[goal], mfc=face) for goal, face in (("targeted", GREY), ("untargeted", "white"))]
    legend(drawn, handles)
    return drawn


def _fools(project: Project, found: Facts) -> Ruling:
    """Reproduced if, for every X, the success's lower end lies above the upper end of the noise control."""
    beaten, ranges = [], []
    for goal in GOALS:
        known = []
        for key, facts in found["architectures"].items():
            rate, noise = facts["transfer"][goal]["conditional"], facts["transfer"][goal]["noise"]
            beaten.append(rate is not None and rate["low"] > noise["high"])
            if rate is not None:
                known.append((rate["mean"], key, estimate(rate)))
        if known:
            (_, of, least), (_, most_of, most) = min(known, key=itemgetter(0)), max(known, key=itemgetter(0))
            ranges.append({"goal": goal, "least": least, "of": of, "most": most, "most_of": most_of})
    noise = max(facts["transfer"]["untargeted"]["noise"]["mean"] for facts in found["architectures"].values())
    return Ruling(reproduced_if(all(beaten)), {"ranges": ranges, "noise": noise})


def _rise_together(project: Project, found: Facts) -> Ruling:
    """Reproduced if the rank correlation is large, not owed to one architecture, and seldom given by chance."""
    facts = found["correlation"]["D_det"]["targeted"]
    told: dict[str, Any] = {"facts": facts, "num_architectures": len(found["architectures"])}
    told |= {"rise": RISE, "chance": CHANCE, "other": found["correlation"]["D_rand"]["targeted"], "judged": None}
    if facts is None:
        return Ruling("inconclusive", {**told, "without_one": None})
    low, high = facts["rho_without_one"] or (facts["spearman"], facts["spearman"])
    told["without_one"] = (low, high)
    with suppress(NotMeasuredError):
        told["judged"] = project.honesty("det")
    by_chance = facts.get("p_value")
    finding: Finding = "inconclusive"
    if by_chance is not None and facts["spearman"] >= RISE and low > 0 and by_chance < CHANCE:
        finding = "reproduced"
    elif by_chance is not None and facts["spearman"] <= 0:
        finding = "not reproduced"
    return Ruling(finding, told)


SECTION = Section(
    "transfer",
    needs=("attack", "source", "source_seeds", "architectures", "correlation"),
    figures={"transfer": figure},
    rules={"fools": _fools, "rise_together": _rise_together},
    constants={"GOALS": GOALS},
)
