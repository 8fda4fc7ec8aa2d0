"""Section on the planted world, where the features are known."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from notbugs.evaluation.statements import reproduced_if
from notbugs.report.drawing import GREY, WIDTH, bar, filled, legend, percent_axis, point
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Ruling, Section, estimate

COLOURS = {"smooth": "#009E73", "fine": "#CC79A7"}
PICTURES = {"smooth": "smooth pattern", "fine": "fine pattern"}
TARGETED = ("D_rand", "D_det")
CARRIED = 0.85
"""Share of a construction's images in which a filter must say the class that it is expected to say."""
FAR_ABOVE_CHANCE = 0.50
"""What the interval of the accuracy on y must lie above: twice chance, of four classes."""


def figure(project: Project, found: Facts) -> Figure:
    """Patterns and examples; planted against measured usefulness; what filters and models say."""
    drawn = Figure(figsize=(WIDTH, 8.4), layout="constrained")
    top, bottom = drawn.subfigures(2, 1, height_ratios=[1.12, 1], squeeze=False).flat
    _examples(top, project)
    panels = bottom.subplots(1, 3, width_ratios=[1, 1.1, 1.1])
    _truth(panels[0], found["filters"])
    _says(panels[1], found["datasets"])
    _follows(panels[2], found)
    handles = [filled(colour, f"{pattern} pattern") for pattern, colour in COLOURS.items()]
    legend(bottom, [*handles, filled(GREY, "says y"), filled(GREY, "says the given label t", hatched=True)])
    return drawn


def _examples(area: Any, project: Project) -> None:
    """A row a class: both patterns, and the first image of D, D_R, D_rand and D_det."""
    stored = project.pictures("planted")
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
    for row in filters:
        colour, marker = COLOURS[row["pattern"]], "o" if row["eps"] == 0 else "v"
        face = colour if row["inside"] else "white"
        point(axes, row["planted"], estimate(row), colour, marker, mfc=face, ms=5, elinewidth=1, capsize=0)
    low = min(row["planted"] for row in filters) * 1.3
    axes.plot([low, 1.2], [low, 1.2], color=GREY, lw=1, ls=":")
    ticks = [tick for tick in (-10, -3, -1, 0, 1) if tick >= low]
    names = [f"{tick:g}".replace("-", "−") for tick in ticks]
    axes.set_xscale("asinh", linear_width=0.5)
    axes.set_yscale("asinh", linear_width=0.5)
    axes.set_xticks(ticks, names)
    axes.set_yticks(ticks, names)
    axes.minorticks_off()
    axes.set(xlabel="planted", ylabel="measured", title="ρ (●) and γ (▼) of the filters")


def _says(axes: Axes, datasets: Facts) -> None:
    """Share of each dataset's images in which the filters say y, and say t."""
    for place, (key, patterns) in enumerate(datasets.items()):
        labels = ("y", "t") if key in TARGETED else ("y",)  # elsewhere t is y
        width = 0.76 / (2 * len(labels))
        bars = [(pattern, label) for pattern in COLOURS for label in labels]
        for turn, (pattern, label) in enumerate(bars):
            x = place + (turn - (len(bars) - 1) / 2) * width
            said = estimate(patterns[pattern][label])
            bar(axes, x, said, COLOURS[pattern], width=0.9 * width, hatched=label == "t")
    axes.set_xticks(range(len(datasets)), list(datasets))
    percent_axis(axes, "share of the images")
    axes.axhline(0.25, color=GREY, lw=1, ls="--")
    axes.set_title("what the filters say")


def _follows(axes: Axes, found: Facts) -> None:
    """What classifiers follow where the two patterns are set against each other."""
    rows = {key: value["follows"] for key, value in found["models"].items()}
    rows |= {f"fit on\n{key}": value["follows"] for key, value in found["fits"].items()}
    for place, followed in enumerate(rows.values()):
        for side, pattern in ((-0.19, "smooth"), (0.19, "fine")):
            bar(axes, place + side, estimate(followed[pattern]), COLOURS[pattern], width=0.34)
    axes.set_xticks(range(len(rows)), list(rows), fontsize=8)
    percent_axis(axes, "share of the test images")
    axes.set_title("what models follow in conflict")


def numbers(project: Project, found: Facts) -> dict[str, Any]:
    """The world's settings and its numbers."""
    world = project.pictures("planted").manifest.settings
    return {"found": found, "world": world, "settings": project.params["planted"] or {}}


def _measured(_: Project, found: Facts) -> Ruling:
    filters = found["filters"]
    inside = sum(row["inside"] for row in filters)
    furthest = max(filters, key=lambda row: abs(row["value"] - row["planted"]) / (row["high"] - row["low"]))
    return Ruling(reproduced_if(inside == len(filters)), {"inside": inside, "num": len(filters), "furthest": furthest})


def _standard(_: Project, found: Facts) -> Ruling:
    model = found["models"]["standard"]
    follows = model["follows"]
    return Ruling(reproduced_if(follows["fine"]["low"] > follows["smooth"]["high"]), {"model": model})


def _robust(_: Project, found: Facts) -> Ruling:
    model = found["models"]["robust"]
    return Ruling(reproduced_if(model["follows"]["smooth"]["low"] > CARRIED), {"model": model})


def _robust_dataset(_: Project, found: Facts) -> Ruling:
    smooth, fine = (found["datasets"]["D_R"][pattern] for pattern in COLOURS)
    kept = smooth["kept"]["low"] > 0.5 and fine["kept"]["high"] < 0.25
    return Ruling(reproduced_if(kept), {"smooth": smooth, "fine": fine})


def _targeted(_: Project, found: Facts) -> Ruling:
    cells = {key: (found["datasets"][key]["smooth"]["y"], found["datasets"][key]["fine"]["t"]) for key in TARGETED}
    carried = all(min(smooth["low"], fine["low"]) > CARRIED for smooth, fine in cells.values())
    return Ruling(reproduced_if(carried), {"cells": cells})


def _fits(_: Project, found: Facts) -> Ruling:
    fit = found["fits"]["D_det"]
    clean, shifted, gap = (estimate(fit[key]) for key in ("y", "shifted", "y_minus_shifted"))
    learnt = gap.low > 0 and clean.low > FAR_ABOVE_CHANCE
    told = {"clean": clean, "shifted": shifted, "gap": gap, "seeds": fit["seeds"], "bar": FAR_ABOVE_CHANCE}
    return Ruling(reproduced_if(learnt), told)


SECTION = Section(
    "planted",
    needs=("num_test", "filters", "models", "datasets", "fits"),
    figures={"planted": figure},
    rules={
        "measured": _measured,
        "standard": _standard,
        "robust": _robust,
        "robust_dataset": _robust_dataset,
        "targeted": _targeted,
        "fits": _fits,
    },
    numbers=numbers,
    constants={"CARRIED": CARRIED},
)
