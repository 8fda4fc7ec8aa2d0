"""Section "Transfer": Figure 3 of the paper, accuracy from D_rand and D_det beside transfer success."""

from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import PercentFormatter

from notbugs.evaluation.results import percent
from notbugs.report.blocks import Block, Section, Table, Text, name, number
from notbugs.report.claims import verdict
from notbugs.report.drawing import GREY, new_figure
from notbugs.report.evidence import NotMeasuredError, evidence_of
from notbugs.report.findings import metrics_of
from notbugs.report.honesty import CALLED_BEFORE, STILL_Y_SHARE
from notbugs.report.project import Project
from notbugs.report.verdicts import Verdict, estimate, listed, rests_on, share_cell, verdict_table

if TYPE_CHECKING:
    from notbugs.report.overview import Content

KEYS = ("attack", "source", "source_seeds", "architectures", "correlation")
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31")
GOALS = {"targeted": "targeted (t = y + 1)", "untargeted": "untargeted"}
RISE = 0.5
"""Rank correlation from which "rise together" is said, if chance seldom gives it and no single architecture does."""
CHANCE = 0.05
"""Share of random pairings that may give as large a rank correlation."""


def transfer_figure(project: Project) -> Figure | None:
    """Accuracy of each architecture from D_det and from D_rand against transfer success, with intervals."""
    found = metrics_of(project, "transfer", KEYS)
    if found is None:
        return None
    figure, axes = new_figure(4.3, 1, 2)
    for panel, dataset in zip(axes, ("D_det", "D_rand"), strict=True):
        for colour, facts in zip(_colours(), found["architectures"].values(), strict=False):
            for goal, face in (("targeted", colour), ("untargeted", "white")):
                _point(panel, facts["accuracy"][dataset], facts["transfer"][goal]["conditional"], colour, face)
        panel.set_title(f"X fitted on {dataset}", pad=8)
        panel.set_xlabel("accuracy of X on y, untouched test images")
        panel.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        panel.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
        panel.set_ylim(0, 1.02)
        panel.grid(axis="both")
    axes[0].set_ylabel("transfer success from the source to X")
    names = list(found["architectures"])
    handles = [
        Line2D([], [], ls="", marker="o", color=colour, label=text)
        for colour, text in zip(_colours(), names, strict=False)
    ]
    handles += [
        Line2D([], [], ls="", marker="o", color=GREY, mfc=face, label=GOALS[goal])
        for goal, face in (("targeted", GREY), ("untargeted", "white"))
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 8))
    return figure


def _colours() -> list[str]:
    return [*COLOURS, *([GREY] * 20)]


def _point(axes: Axes, x: dict[str, Any], y: dict[str, Any] | None, colour: str, face: str) -> None:
    if y is None:
        return
    axes.errorbar(
        x["mean"],
        y["mean"],
        xerr=[[x["mean"] - x["low"]], [x["high"] - x["mean"]]],
        yerr=[[y["mean"] - y["low"]], [y["high"] - y["mean"]]],
        fmt="o",
        color=colour,
        mfc=face,
        ms=6.5,
        elinewidth=0.9,
        capsize=2,
        alpha=0.9,
    )


def transfer_section(content: "Content") -> Section | None:
    """Definition, figure, table and verdicts."""
    found = metrics_of(content.project, "transfer", KEYS)
    if found is None:
        return None
    attack, source = found["attack"], found["source"]
    seeds = next(iter(found["architectures"].values()))["accuracy"]["D"]["num_seeds"]
    how = (
        f"The source model ({source['architecture']}, width {source['width']}) is attacked on the test images at eps "
        f"{attack['eps']:g} ({attack['num_steps']} steps), and the last iterates are shown to each architecture X, "
        f"trained on D independently ({_seeds(seeds)}). Transfer success: of the test images that source and X both "
        "classify rightly and whose adversarial example fools the source, the share that X gets wrong (untargeted) or "
        "calls t = y + 1 (targeted). The unconditional rate is over all test images. Noise: a random perturbation of "
        "the same length in place of the adversarial one."
    )
    images = next(iter(found["architectures"].values()))["accuracy"]["D"]["n"]
    basis = rests_on(found["source_seeds"], f"{_seeds(seeds)} of each architecture", f"{images} test images")
    caption = (
        "Each point is an architecture; whiskers: 95% intervals over images and seeds. The paper's Figure 3 shows five "
        "architectures on CIFAR-10, from VGG-16 (accuracy from D_det 28%, transfer 66%) to the source's own ResNet-50 "
        "(45%, 100%), read off a plot."
    )
    pictures = content.picture("transfer", "Accuracy from D_det and D_rand against transfer success", caption)
    blocks: list[Block] = [Text(how), *pictures, verdict_table(verdicts(content.project, found), basis), table(found)]
    return Section("transfer", "Transfer: Figure 3 of the paper", blocks)


def _seeds(count: int) -> str:
    return f"{count} seed{'s' * (count != 1)}"


def table(found: dict[str, Any]) -> Table:
    """Everything measured of each architecture."""
    rows = []
    for key, facts in found["architectures"].items():
        accuracy, shifted, rates = facts["accuracy"], facts["accuracy_shifted"], facts["transfer"]
        cells = [accuracy["D"], accuracy["D_rand"], accuracy["D_det"], shifted["D_det"]]
        cells += [rates[goal][rate] for goal in GOALS for rate in ("conditional", "unconditional", "noise")]
        what = f"{facts['architecture']}, width {facts['width']}\n{facts['num_parameters']:,} parameters"
        rows.append([name(key, what), *map(share_cell, cells)])
    head = ["D", "D_rand", "D_det", "D_det: y + 1", *["success", "of all", "noise"] * 2]
    return Table(
        "Test accuracy of X in %, by what it was trained on, and how often the source's adversarial examples reach "
        "their goal on X (trained on D); below: 95% intervals.",
        [name("X"), *map(number, head)],
        rows,
        [("", 1), ("accuracy from", 4), (GOALS["targeted"], 3), (GOALS["untargeted"], 3)],
    )


def verdicts(project: Project, found: dict[str, Any]) -> list[Verdict]:
    """Whether examples transfer, and whether accuracy from D_det and transfer rise together."""
    return [_transfers(found), _rise_together(project, found)]


def _transfers(found: dict[str, Any]) -> Verdict:
    """Seen if, for every X, the success's lower end lies above the upper end of the noise control."""
    beaten, texts = [], []
    for goal in GOALS:
        pairs = [
            (key, facts["transfer"][goal]["conditional"], facts["transfer"][goal]["noise"])
            for key, facts in found["architectures"].items()
        ]
        beaten += [rate is not None and rate["low"] > noise["high"] for _, rate, noise in pairs]
        known = [(rate["mean"], key, rate) for key, rate, _ in pairs if rate is not None]
        if known:
            (_, worst, low), (_, best, high) = min(known, key=lambda one: one[0]), max(known, key=lambda one: one[0])
            texts.append(f"{goal} from {estimate(low)} ({worst}) to {estimate(high)} ({best})")
    most = max(facts["transfer"]["untargeted"]["noise"]["mean"] for facts in found["architectures"].values())
    return Verdict(
        "The source's adversarial examples fool other architectures",
        verdict(all(beaten)),
        f"Transfer success: {listed(texts)}. Random noise of the same length misleads at most {percent(most)}%. Asked: "
        "for every architecture and both goals the lower end above the upper end of the noise control.",
    )


def _rise_together(project: Project, found: dict[str, Any]) -> Verdict:
    title = "Architectures that learn more from D_det are fooled more often"
    facts = found["correlation"]["D_det"]["targeted"]
    count = len(found["architectures"])
    if facts is None:
        return Verdict(
            title, "cannot be judged", f"{count} architectures with a defined rate are too few, or all alike."
        )
    low, high = facts["rho_without_one"] or (facts["spearman"], facts["spearman"])
    by_chance = facts.get("p_value")
    if by_chance is None:
        return Verdict(
            title, "cannot be judged", "metrics/transfer.json holds no p_value; `dvc repro transfer` adds it."
        )
    rises = facts["spearman"] >= RISE and low > 0 and by_chance < CHANCE
    falls = facts["spearman"] <= 0
    other = found["correlation"]["D_rand"]["targeted"]
    beside = f" From D_rand: {other['spearman']:.2f}." if other else ""
    return Verdict(
        title,
        "seen" if rises else "not seen" if falls else "cannot be judged",
        f"Rank correlation of accuracy from D_det and targeted transfer success over {facts['num_points']} "
        f"architectures: {facts['spearman']:.2f} (Pearson {facts['pearson']:.2f}; leaving any one out: {low:.2f} to "
        f"{high:.2f}).{beside} Of all ways to pair the architectures' two columns {100 * by_chance:.1f}% give as much. "
        f"Asked: at least {RISE:g}, above 0 without any one of them, by chance in less than {CHANCE:.0%}. The "
        f"architectures are {facts['num_points']} that were chosen, not drawn: it speaks of them.{_honesty(project)}",
    )


def _honesty(project: Project) -> str:
    """What the judges say of D_det's images, where too few are still y."""
    try:
        evidence = evidence_of(project)
        found = evidence.honesty("det")
        if found.holds:
            return f" {found.edge_sentence}" if found.on_edge else ""
        shares = f"{percent(found.robust)}% and {percent(found.neighbour)}%"
    except NotMeasuredError:
        return ""
    return (
        f" Of D_det's images that they {CALLED_BEFORE}, the robust model and the 1-NN here still call {shares} y, "
        f"less than {100 * STILL_Y_SHARE:g}%: some of its accuracy is not owed to non-robust features."
        + (f" {found.edge_sentence}" if found.on_edge else "")
    )
