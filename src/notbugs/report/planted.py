"""The report's section on the planted world, where the features are known."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from notbugs.data.store import load_dataset
from notbugs.evaluation.comparison import Estimate
from notbugs.report.blocks import Section, Table, Text, name, number
from notbugs.report.claims import det_words, verdict
from notbugs.report.drawing import GREY, WIDTH, percent_axis
from notbugs.report.findings import (
    Finding,
    findings_table,
    metrics_of,
    number_with_interval,
    share_with_interval,
)
from notbugs.report.project import Project

if TYPE_CHECKING:
    from notbugs.report.overview import Content

NAME = "planted"
PICTURES_FOLDER = "plots/planted"
KEYS = ("num_test", "filters", "models", "datasets", "fits")
COLOURS = {"smooth": "#009E73", "fine": "#CC79A7"}
PICTURES = {"smooth": "smooth pattern", "fine": "fine pattern"}
TARGETED = ("D_rand", "D_det")
CARRIED = 0.85
"""Share of a construction's images in which a filter must say the class that it is expected to say."""
FAR_ABOVE_CHANCE = 0.50
"""What the interval of the accuracy on y must lie above: twice chance, of four classes."""


def figure(project: Project) -> Figure | None:
    """Patterns and examples; planted against measured usefulness; what filters and models say."""
    found = metrics_of(project, NAME, KEYS)
    if found is None:
        return None
    drawn = Figure(figsize=(WIDTH, 8.4), layout="constrained")
    top, bottom = drawn.subfigures(2, 1, height_ratios=[1.12, 1], squeeze=False).flat
    _examples(top, project)
    panels = bottom.subplots(1, 3, width_ratios=[1, 1.1, 1.1])
    _truth(panels[0], found["filters"])
    _says(panels[1], found["datasets"])
    _follows(panels[2], found)
    handles = [Patch(facecolor=colour, label=f"{pattern} pattern") for pattern, colour in COLOURS.items()]
    handles += [
        Patch(facecolor=GREY, label="says y"),
        Patch(facecolor="white", edgecolor=GREY, hatch="////", label="says the given label t"),
    ]
    bottom.legend(handles=handles, loc="outside upper center", ncols=4)
    return drawn


def _examples(area: Any, project: Project) -> None:
    """A row a class: both patterns, and the first image of D, D_R, D_rand and D_det."""
    stored = load_dataset(project.root / PICTURES_FOLDER, verify=False)
    data, kinds = stored.data(), stored.examples["kind"].tolist()
    columns = list(dict.fromkeys(kinds))
    grid = area.subplots(len(data.class_names), len(columns))
    for row, class_name in enumerate(data.class_names):
        for column, kind in enumerate(columns):
            axes = grid[row, column]
            axes.imshow(data.images[kinds.index(kind) + row].permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.grid(False)
            for spine in axes.spines.values():
                spine.set_visible(False)
            if row == 0:
                axes.set_title(PICTURES.get(kind, kind), loc="center", fontsize=9)
        grid[row, 0].set_ylabel(class_name, rotation=0, ha="right", va="center")


def _truth(axes: Axes, filters: list[dict[str, Any]]) -> None:
    """Measured against planted ρ and γ; asinh scale, since the fine pattern's γ is far below 0."""
    for pattern, colour in COLOURS.items():
        for row in (row for row in filters if row["pattern"] == pattern):
            reach = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
            marker = "o" if row["eps"] == 0 else "v"
            face = colour if row["inside"] else "white"
            axes.errorbar(row["planted"], row["value"], reach, fmt=marker, color=colour, mfc=face, ms=5, elinewidth=1)
    low = min(row["planted"] for row in filters) * 1.3
    axes.plot([low, 1.2], [low, 1.2], color=GREY, lw=1, ls=":")
    for setter in (axes.set_xscale, axes.set_yscale):
        setter("asinh", linear_width=0.5)
    axes.set_xlabel("planted")
    axes.set_ylabel("measured")
    axes.set_title("ρ (●) and γ (▼) of the filters")
    ticks = [tick for tick in (-10, -3, -1, 0, 1) if tick >= low]
    axes.set_xticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axes.set_yticks(ticks, [f"{tick:g}".replace("-", "−") for tick in ticks])
    axes.minorticks_off()


def _says(axes: Axes, datasets: Mapping[str, Any]) -> None:
    """Share of each dataset's images in which the filters say y, and say t."""
    for place, (key, patterns) in enumerate(datasets.items()):
        labels = ("y", "t") if key in TARGETED else ("y",)  # elsewhere t is y
        width = 0.76 / (2 * len(labels))
        bars = [(pattern, label) for pattern in COLOURS for label in labels]
        for turn, (pattern, label) in enumerate(bars):
            x = place + (turn - (len(bars) - 1) / 2) * width
            _bar(axes, x, 0.9 * width, patterns[pattern][label], pattern, label == "t")
    axes.set_xticks(range(len(datasets)), list(datasets))
    percent_axis(axes, "share of the images")
    axes.axhline(0.25, color=GREY, lw=1, ls="--")
    axes.set_title("what the filters say")


def _follows(axes: Axes, found: Mapping[str, Any]) -> None:
    """What classifiers follow where the two patterns are set against each other."""
    rows = {key: value["follows"] for key, value in found["models"].items()}
    rows |= {f"fit on\n{key}": value["follows"] for key, value in found["fits"].items()}
    for place, followed in enumerate(rows.values()):
        for side, pattern in ((-0.5, "smooth"), (0.5, "fine")):
            _bar(axes, place + 0.38 * side, 0.34, followed[pattern], pattern, False)
    axes.set_xticks(range(len(rows)), list(rows), fontsize=8)
    percent_axis(axes, "share of the test images")
    axes.set_title("what models follow in conflict")


def _bar(axes: Axes, x: float, width: float, cell: Mapping[str, float], pattern: str, hatched: bool) -> None:
    colour = COLOURS[pattern]
    hatch = "////" if hatched else None
    axes.bar(x, cell["value"], width, facecolor="white" if hatched else colour, edgecolor=colour, hatch=hatch, lw=1)
    reach = np.array([[cell["value"] - cell["low"]], [cell["high"] - cell["value"]]]).clip(min=0)
    axes.errorbar(x, cell["value"], yerr=reach, fmt="none", ecolor=GREY, elinewidth=1, capsize=1.5)


def section(content: "Content") -> Section | None:
    """The world, the findings, the figure, the numbers."""
    found = metrics_of(content.project, NAME, KEYS)
    if found is None:
        return None
    settings = content.project.params[NAME] or {}
    world = load_dataset(content.project.root / PICTURES_FOLDER, verify=False).manifest.settings
    how = (
        f"A world made for this check, {found['num_train']} training and {found['num_test']} test images of 32 pixels: "
        f"a smooth glow of L2 length {world['smooth_amplitude']:g}, which is the one of the class y in "
        f"{100 * world['smooth_agreement']:g}% of the images, and a fine pattern of length "
        f"{world['fine_amplitude']:g}, always the one of y; noise keeps every value inside [0, 1]. The usefulness of "
        "the patterns' matched filters is known exactly. "
        f"D_rand and D_det stay within eps {settings['rand']['eps']:g} and {settings['det']['eps']:g} "
        f"({settings['det'].get('norm', 'l2')}); the world's sizes are its own, whatever D is."
    )
    picture = content.picture(
        NAME,
        "Planted patterns with examples; planted against measured usefulness; what filters and models say",
        "Above: the patterns, stretched to full contrast, and the same images of D in each dataset. Below: usefulness "
        "planted and measured (simultaneous 95% intervals; hollow: outside); which class the filters find in each "
        "dataset (dashed: chance); which pattern classifiers follow on test images whose smooth pattern says y and "
        "whose fine pattern says another class.",
    )
    fits = len(found["fits"]["D_det"]["seeds"])
    basis = (
        f"Rest on one world and one source model of each kind, {fits} fit{'s' * (fits != 1)} on each dataset, "
        f"{found['num_test']} test images."
    )
    table = findings_table(f"What was planted, and what was found. {basis}", findings(found))
    return Section(NAME, "A world with known features", [Text(how), table, *picture, _table(found)])


def findings(found: Mapping[str, Any]) -> list[Finding]:
    """The six statements that the planted world is made for."""
    return [
        _measured(found["filters"]),
        _standard(found["models"]["standard"]),
        _robust(found["models"]["robust"]),
        _robust_dataset(found["datasets"]["D_R"]),
        _targeted(found["datasets"]),
        _fits(found["fits"]["D_det"]),
    ]


def _measured(filters: list[dict[str, Any]]) -> Finding:
    inside = sum(row["inside"] for row in filters)
    furthest = max(filters, key=lambda row: abs(row["value"] - row["planted"]) / (row["high"] - row["low"]))
    return Finding(
        "The measured usefulness is the planted one",
        "ρ and γ of every matched filter, measured as for any other feature, have the exact value in their interval.",
        verdict(inside == len(filters)),
        f"{inside} of {len(filters)} simultaneous 95% intervals hold the planted value; furthest off: the "
        f"{furthest['pattern']} filter of {furthest['class_name']} at eps {furthest['eps']:g}, planted "
        f"{furthest['planted']:.3f}, measured "
        f"{number_with_interval(furthest)}.".replace("planted -", "planted −"),
    )


def _standard(model: Mapping[str, Any]) -> Finding:
    follows = model["follows"]
    return Finding(
        "Standard training uses the tiny pattern",
        "Where the patterns conflict, the standard model follows the fine one more often than the smooth one.",
        verdict(follows["fine"]["low"] > follows["smooth"]["high"]),
        f"It follows the fine pattern in {share_with_interval(follows['fine'])} and the smooth one in "
        f"{share_with_interval(follows['smooth'])} of the conflicts; {share_with_interval(model['clean'])} clean, "
        f"{share_with_interval(model['adversarial'])} at eps {model['adversarial']['eps']:g}.",
    )


def _robust(model: Mapping[str, Any]) -> Finding:
    follows = model["follows"]
    return Finding(
        "Robust training does not",
        f"The robust model follows the smooth pattern in at least {CARRIED:.0%} of the conflicts.",
        verdict(follows["smooth"]["low"] > CARRIED),
        f"It follows the smooth pattern in {share_with_interval(follows['smooth'])} and the fine one in "
        f"{share_with_interval(follows['fine'])}; {share_with_interval(model['clean'])} clean, "
        f"{share_with_interval(model['adversarial'])} at eps {model['adversarial']['eps']:g}.",
    )


def _robust_dataset(patterns: Mapping[str, Any]) -> Finding:
    smooth, fine = patterns["smooth"], patterns["fine"]
    return Finding(
        "D_R keeps the first and loses the second",
        "More than half of the smooth filters' usefulness is kept, less than a quarter of the fine ones'.",
        verdict(smooth["kept"]["low"] > 0.5 and fine["kept"]["high"] < 0.25),
        f"Kept: smooth {number_with_interval(smooth['kept'], 2)}, fine {number_with_interval(fine['kept'], 2)}. The "
        f"smooth filters say y in {share_with_interval(smooth['y'])} of D_R's images, the fine ones in "
        f"{share_with_interval(fine['y'])} (chance 25%).",
    )


def _targeted(datasets: Mapping[str, Any]) -> Finding:
    cells = {key: (datasets[key]["smooth"]["y"], datasets[key]["fine"]["t"]) for key in TARGETED}
    return Finding(
        "D_rand and D_det carry t in the second while the first still says y",
        f"The smooth filters say y, and the fine ones t, in more than {CARRIED:.0%} of the images.",
        verdict(all(cell["low"] > CARRIED for pair in cells.values() for cell in pair)),
        "; ".join(
            f"{key}: smooth says y in {share_with_interval(smooth)}, fine says t in {share_with_interval(fine)}"
            for key, (smooth, fine) in cells.items()
        )
        + ".",
    )


def _fits(fit: Mapping[str, Any]) -> Finding:
    seeds = ", ".join(f"{100 * value:.1f}" for value in fit["seeds"])
    clean, shifted, gap = (_estimate(fit[key]) for key in ("y", "shifted", "y_minus_shifted"))
    return Finding(
        "Classifiers fitted on D_det generalise to y",
        "Non-robust features suffice: more test images are called y than y + 1, and y far above chance.",
        verdict(gap.low > 0 and clean.low > FAR_ABOVE_CHANCE),
        f"On y {clean} (fits: {seeds}), on the shifted label {shifted}: {gap.points} (asked: above 0; lower end on y "
        f"above {FAR_ABOVE_CHANCE:.0%}). {det_words(clean, shifted, gap, FAR_ABOVE_CHANCE)} Rests on one world and one "
        f"source model, {len(fit['seeds'])} fits: the intervals speak of test images and fits.",
    )


def _estimate(found: Mapping[str, float]) -> Estimate:
    return Estimate(found["value"], found["low"], found["high"])


def _table(found: Mapping[str, Any]) -> Table:
    """Accuracy of every model of the world."""
    rows = [
        [
            name(f"D, {key}"),
            number(share_with_interval(model["clean"])),
            number("–"),
            number(f"{share_with_interval(model['adversarial'])}", f"eps {model['adversarial']['eps']:g}"),
        ]
        for key, model in found["models"].items()
    ]
    rows += [
        [
            name(key, f"{len(fit['seeds'])} fits"),
            number(share_with_interval(fit["y"])),
            number(share_with_interval(fit["shifted"])),
            number("–"),
        ]
        for key, fit in found["fits"].items()
    ]
    head = [name("fitted on"), number("on y"), number("on y + 1"), number("under attack, on y")]
    return Table(
        "Accuracy on the planted world's test images with 95% intervals, those of the fits over images and fits.",
        head,
        rows,
    )
