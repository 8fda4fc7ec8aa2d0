"""Section "Diversity": whether D_R's images are prototypes, class by class and in three spaces."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from notbugs.report.blocks import Block, Cell, Section, Table, Text, name, number
from notbugs.report.claims import Seen, verdict
from notbugs.report.drawing import GREY, look, new_figure
from notbugs.report.findings import metrics_of
from notbugs.report.project import Project
from notbugs.report.verdicts import Verdict, estimate, listed, rests_on, verdict_table

if TYPE_CHECKING:
    from notbugs.report.overview import Content

KEYS = ("sizes", "source_seeds", "num_neighbours", "spaces", "nearest_own_mean", "classes")
SPACES = {"pixels": "pixels", "robust": "robust g", "standard": "standard g"}
MEASURES = {
    "effective_rank": "effective rank",
    "vendi_score": "Vendi score",
    "spread": "spread",
    "coverage": "coverage of D",
}
DIVERSE = ("effective_rank", "vendi_score", "spread")
"""Measures of diversity within a dataset; coverage also falls where images lie off D."""


def diversity_figure(project: Project) -> Figure | None:
    """Each measure of D_R and D_NR as a share of D's, in pixels and both representations."""
    found = metrics_of(project, "diversity", KEYS)
    if found is None:
        return None
    figure, axes = new_figure(3.3, 1, len(MEASURES))
    for panel, (measure, title) in zip(axes, MEASURES.items(), strict=True):
        panel.axhline(1, color=GREY, lw=1, ls="--")
        for offset, dataset in ((-0.12, "D_R"), (0.12, "D_NR")):
            style = look(dataset)
            for place, space in enumerate(SPACES):
                entry = found["spaces"][space][dataset][measure]
                if entry["ratio"] is None:
                    continue
                reach = [[entry["ratio"] - entry["low"]], [entry["high"] - entry["ratio"]]]
                panel.errorbar(
                    place + offset, entry["ratio"], yerr=reach, fmt=style.marker, color=style.colour, ms=6, capsize=3
                )
        panel.set_xticks(range(len(SPACES)), list(SPACES.values()), fontsize=8)
        panel.set_xlim(-0.5, len(SPACES) - 0.5)
        panel.set_ylim(bottom=0)
        panel.set_title(title)
    axes[0].set_ylabel("share of D's")
    handles = [
        Line2D([], [], ls="", marker=look(dataset).marker, color=look(dataset).colour, label=dataset, ms=6)
        for dataset in ("D_R", "D_NR")
    ]
    handles.append(Line2D([], [], ls="--", color=GREY, lw=1, label="D"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3)
    return figure


def diversity_section(content: "Content") -> Section | None:
    """Measures, figure, verdict and the table by class."""
    found = metrics_of(content.project, "diversity", KEYS)
    if found is None:
        return None
    sizes = sorted(found["sizes"].values())
    how = (
        f"Of each class {_range(sizes)} images are compared, the same rows in D, D_R and D_NR; every measure is taken "
        "within a class and averaged over classes. Effective rank: the number of directions the images use "
        "(exponential of the entropy of their covariance's eigenvalues). Vendi score: the effective number of "
        "different images, under a Gaussian kernel as wide as the median distance in D. Spread: root mean square "
        "distance from the mean. Coverage: the share of one half of D's images that have an image made from the other "
        f"half within the distance of their own neighbour number {found['num_neighbours']}; for D, an image of the "
        f"other half itself. Intervals: bootstrap over images.{_left_out(found)}"
    )
    caption = "Whiskers: 95% bootstrap intervals. Prototypes would lie below the dashed line in the first three panels."
    pictures = content.picture("diversity", "Diversity of D_R and D_NR as a share of D's", caption)
    basis = rests_on(found["source_seeds"], "no fits", f"{sum(sizes)} training images")
    table = verdict_table(verdicts(found), basis)
    blocks: list[Block] = [Text(how), *pictures, table, overview(found), by_class(found)]
    return Section("diversity", "Diversity: are D_R's images prototypes?", blocks)


def _left_out(found: Mapping[str, Any]) -> str:
    """A sentence on classes with too few images, where there are any."""
    few = found.get("left_out")
    if not few:
        return ""
    return f" Left out, with too few images: {listed([f'{label} ({count})' for label, count in few.items()])}."


def _range(sizes: list[int]) -> str:
    return str(sizes[0]) if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"


def overview(found: Mapping[str, Any]) -> Table:
    """Every measure in every space, with its share of D's."""
    rows = []
    for space, text in SPACES.items():
        for dataset, measures in found["spaces"][space].items():
            rows.append([name(dataset, text), *(_cell(measures[measure], dataset) for measure in MEASURES)])
    return Table(
        "Diversity, mean over classes; below it the share of D's with its 95% interval",
        [name("dataset"), *map(number, MEASURES.values())],
        rows,
    )


def _cell(entry: Mapping[str, float | None], dataset: str) -> Cell:
    shown = f"{entry['value']:#.3g}"
    if dataset == "D" or entry["ratio"] is None:
        return number(shown)
    return number(shown, f"× {entry['ratio']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]")


def by_class(found: Mapping[str, Any]) -> Table:
    """Effective rank, spread and coverage in pixels for each class."""
    datasets = ("D", "D_R", "D_NR")
    rows = []
    for class_name, spaces in found["classes"].items():
        cells = [number(f"{spaces['pixels'][dataset][measure]:#.3g}") for measure in MEASURES for dataset in datasets]
        rows.append([name(class_name, f"{found['sizes'][class_name]} images"), *cells])
    return Table(
        "The same for each class, in pixels",
        [name("class"), *map(number, datasets * len(MEASURES))],
        rows,
        [("", 1), *((text, len(datasets)) for text in MEASURES.values())],
    )


def verdicts(found: Mapping[str, Any]) -> list[Verdict]:
    """Whether D_R's images are prototypes; whether they cover D."""
    return [_prototypes(found), _covers(found)]


def _prototypes(found: Mapping[str, Any]) -> Verdict:
    """Seen if in pixels all three measures lie below D's; not seen if none does; open otherwise."""
    entries = {measure: found["spaces"]["pixels"]["D_R"][measure] for measure in DIVERSE}
    known = [entry for entry in entries.values() if entry["ratio"] is not None]
    below = [entry["high"] < 1 for entry in known]
    near = {dataset: estimate(share) for dataset, share in found["nearest_own_mean"].items()}
    seen: Seen = "cannot be judged" if not known or any(below) != all(below) else "seen" if all(below) else "not seen"
    shares = listed([f"{MEASURES[key]} {_ratio(entry)}" for key, entry in entries.items()])
    return Verdict(
        "D_R's images are prototypes: less diverse than D's",
        seen,
        f"In pixels, as a share of D's: {shares} (asked for “seen”: every interval below 1; for “not seen”: none). "
        f"Nearest to their own class's mean image in D: {near['D_R']} of D_R's images, {near['D']} of D's, "
        f"{near['D_NR']} of D_NR's. A caution: x_r starts at a random x', and what the inversion leaves of x' counts "
        "as diversity though no class feature carries it.",
    )


def _covers(found: Mapping[str, Any]) -> Verdict:
    """Seen if coverage in pixels is below D's own for D_R, beyond the interval."""
    robust, other = (found["spaces"]["pixels"][dataset]["coverage"] for dataset in ("D_R", "D_NR"))
    in_g = found["spaces"]["robust"]["D_R"]["coverage"]
    lower = robust["high"] is not None and robust["high"] < 1
    return Verdict(
        "D_R leaves part of D uncovered",
        verdict(lower),
        f"Coverage as a share of what D's own other half covers, in pixels: D_R {_ratio(robust)}, "
        f"D_NR {_ratio(other)}; in the robust representation, which D_R was made to match: {_ratio(in_g)}. Asked: "
        "the interval below 1.",
    )


def _ratio(entry: Mapping[str, Any]) -> str:
    if entry["ratio"] is None:
        return "undefined"
    return f"{entry['ratio']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]"
