"""Section "Diversity": whether D_R's images are prototypes, class by class and in three spaces."""

from matplotlib.figure import Figure

from notbugs.evaluation.comparison import Estimate
from notbugs.evaluation.statements import Finding, reproduced_if
from notbugs.report.drawing import GREY, legend, look, mark, new_figure, point, stroke
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Ruling, Section, estimate

SPACES = {"pixels": "pixels", "robust": "robust g", "standard": "standard g"}
MEASURES = {
    "effective_rank": "effective rank",
    "vendi_score": "Vendi score",
    "spread": "spread",
    "coverage": "coverage of D",
}
DIVERSE = ("effective_rank", "vendi_score", "spread")
"""Measures of diversity within a dataset; coverage also falls where images lie off D."""


def figure(project: Project, found: Facts) -> Figure:
    """Each measure of D_R and D_NR as a share of D's, in pixels and both representations."""
    drawn, axes = new_figure(3.3, 1, len(MEASURES))
    for panel, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        panel.axhline(1, color=GREY, lw=1, ls="--")
        for offset, dataset in ((-0.12, "D_R"), (0.12, "D_NR")):
            style = look(dataset)
            for place, space in enumerate(SPACES):
                share = _share_of_d(found["spaces"][space][dataset][measure])
                point(panel, place + offset, share, style.colour, style.marker, ms=6, capsize=3)
        panel.set_xticks(range(len(SPACES)), list(SPACES.values()), fontsize=8)
        panel.set_xlim(-0.5, len(SPACES) - 0.5)
        panel.set_ylim(bottom=0)
        panel.set_title(title)
    axes[0].set_ylabel("share of D's")
    handles = [mark(look(dataset).colour, dataset, look(dataset).marker, ms=6) for dataset in ("D_R", "D_NR")]
    legend(drawn, [*handles, stroke(GREY, "D", "--", lw=1)])
    return drawn


def _share_of_d(entry: Facts) -> Estimate | None:
    """A measure as a share of D's; None where it is undefined."""
    return None if entry["ratio"] is None else Estimate(entry["ratio"], entry["low"], entry["high"])


def _prototypes(_: Project, found: Facts) -> Ruling:
    """Reproduced if in pixels all three measures lie below D's; not reproduced if none does; inconclusive otherwise."""
    shares = {measure: found["spaces"]["pixels"]["D_R"][measure] for measure in DIVERSE}
    below = [entry["high"] < 1 for entry in shares.values() if entry["ratio"] is not None]
    finding: Finding = "inconclusive"
    if below and any(below) == all(below):
        finding = reproduced_if(all(below))
    near = {dataset: estimate(share) for dataset, share in found["nearest_own_mean"].items()}
    return Ruling(finding, {"shares": shares, "near": near})


def _covers(_: Project, found: Facts) -> Ruling:
    """Reproduced if coverage in pixels is below D's own for D_R, beyond the interval."""
    robust, other = (found["spaces"]["pixels"][dataset]["coverage"] for dataset in ("D_R", "D_NR"))
    lower = robust["high"] is not None and robust["high"] < 1
    in_g = found["spaces"]["robust"]["D_R"]["coverage"]
    return Ruling(reproduced_if(lower), {"robust": robust, "other": other, "in_g": in_g})


SECTION = Section(
    "diversity",
    needs=("sizes", "source_seeds", "num_neighbours", "spaces", "nearest_own_mean", "classes"),
    figures={"diversity": figure},
    rules={"prototypes": _prototypes, "covers": _covers},
    constants={"SPACES": SPACES, "MEASURES": MEASURES},
)
