"""Section "Inverted images": the panel of x, x' and x_r, what x_r resembles, other objectives, train/test gaps."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from notbugs.evaluation.comparison import Estimate
from notbugs.evaluation.results import percent
from notbugs.report.blocks import Block, Section, Table, Text, name, number
from notbugs.report.claims import verdict
from notbugs.report.drawing import GREY, look, new_figure, percent_axis
from notbugs.report.findings import metrics_of
from notbugs.report.grids import Strip, draw, images_at
from notbugs.report.project import Project
from notbugs.report.verdicts import Verdict, estimate, rests_on, share_cell, verdict_table

if TYPE_CHECKING:
    from notbugs.report.overview import Content

KEYS = ("num_examples", "source_seeds", "resemblance", "fits", "eps")
MODELS = ("robust", "standard")
SPACES = {"pixels": "in pixels", "robust": "in the robust g", "standard": "in the standard g"}
MEASURES = {
    "nearer_target": "nearer to x\nthan to x'",
    "neighbour_target": "neighbour:\nx's class",
    "neighbour_start": "neighbour:\nclass of x'",
}
MADE = {"robust": "D_R", "standard": "D_NR"}
GAP = 0.05
"""A fall in accuracy from images learnt to unseen ones made the same way that counts as overfitting: 5 points."""


def inversion_panel(project: Project) -> Figure | None:
    """x, x', and x_r by the robust and by the standard model, one example a class."""
    if metrics_of(project, "inversion", KEYS) is None:
        return None
    panel, train = project.dataset("inversion"), project.dataset("train")
    facts, names = panel.examples, panel.manifest.class_names
    everything = images_at(panel, list(range(len(panel))))
    first = facts[(facts["model"] == MODELS[0]) & (facts["objective"] == "representation")]
    sources, starts = first["source_index"].tolist(), first["start_index"].tolist()
    strips = [
        Strip("target x", images_at(train, sources), [f"y: {names[label]}" for label in first["true_label"]]),
        Strip("start x'", images_at(train, starts), [str(names[label]) for label in first["start_label"]]),
    ]
    for model in MODELS:
        for objective in facts["objective"].unique():
            rows = facts[(facts["model"] == model) & (facts["objective"] == objective)]
            reached = rows[f"{model}_to_target"] / rows[f"{model}_start_to_target"]
            captions = [
                f"x {x:.1f}  x' {start:.1f}\ng {100 * left:.0f}%"
                for x, start, left in zip(rows["pixels_to_target"], rows["pixels_to_start"], reached, strict=True)
            ]
            strips.append(Strip(f"x_r, {model} g\n{objective}", everything[rows.index.tolist()], captions))
    return draw(strips)


def inversion_figure(project: Project) -> Figure | None:
    """Shares of x_r that resemble x and x', in pixels and in both representations."""
    found = metrics_of(project, "inversion", KEYS)
    if found is None:
        return None
    figure, axes = new_figure(3.6, 1, len(SPACES))
    for panel, (space, text) in zip(axes, SPACES.items(), strict=True):
        for offset, model in zip((-0.2, 0.2), MODELS, strict=True):
            entry = found["resemblance"][model]["representation"][space]
            for place, measure in enumerate(MEASURES):
                _bar(panel, place + offset, entry[measure], look(MADE[model]).colour)
        panel.set_xticks(range(len(MEASURES)), list(MEASURES.values()), fontsize=8)
        panel.set_title(text, pad=12)
        percent_axis(panel, "share of x_r" if space == "pixels" else "")
    handles = [
        Patch(facecolor=look(MADE[model]).colour, label=f"x_r of the {model} model ({MADE[model]})") for model in MODELS
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _bar(axes: Axes, x: float, share: Mapping[str, Any], colour: str) -> None:
    axes.bar(x, share["mean"], 0.38, color=colour)
    reach = [[share["mean"] - share["low"]], [share["high"] - share["mean"]]]
    axes.errorbar(x, share["mean"], yerr=reach, fmt="none", ecolor=GREY, elinewidth=1.1, capsize=2.5)
    axes.annotate(
        f"{100 * share['mean']:.0f}",
        (x, share["high"]),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        fontsize=7.5,
    )


def inversion_section(content: "Content") -> Section | None:
    """Panel, figure, verdicts and tables."""
    found = metrics_of(content.project, "inversion", KEYS)
    if found is None:
        return None
    how = (
        f"{found['num_examples']} training images x, drawn by class, are inverted by the robust and by the standard "
        "model from the same start x', a random other training image. x is the target, whose label the result x_r is "
        "given. Shares are over the pairs whose classes differ, so that resembling x and resembling x' are different "
        "things; nearest other image: of all of D, with x and x' left out."
    )
    pictures = [
        *content.picture(
            "inversion_panel",
            "Targets x, starts x' and the inverted images of both models under three objectives",
            "Of each class the first x drawn whose x' is of another class. Below each x_r: its L2 distances to x and "
            "to x' in pixels, and the distance left to x in the inverting model's own representation, in percent of "
            "that of x'.",
        ),
        *content.picture(
            "inversion",
            "Bars: shares of inverted images that resemble x and x'",
            "Whom x_r resembles, by the paper's objective; whiskers: 95% intervals.",
        ),
    ]
    fits = found["fits"]["D_R"]["test"]["clean"]
    basis = rests_on(
        found["source_seeds"],
        f"{found['num_examples']} inverted images",
        f"{fits['num_seeds']} fits on each dataset",
        f"{fits['n']} test images",
    )
    blocks: list[Block] = [
        Text(how),
        *pictures,
        verdict_table(verdicts(found), basis),
        objectives_table(found),
        fits_table(found),
    ]
    return Section("inversion", "Inverted images: source or target?", blocks)


def objectives_table(found: Mapping[str, Any]) -> Table:
    """Distances and resemblance by model and objective."""
    rows = []
    for model, objectives in found["resemblance"].items():
        for objective, entry in objectives.items():
            other = next(one for one in MODELS if one != model)
            cells = [
                _median(entry["pixels"]["to_target"]),
                _median(entry["pixels"]["to_start"]),
                _median(entry[model]["reached"], percents=True),
                _median(entry[other]["reached"], percents=True),
                share_cell(entry["pixels"]["nearer_target"]),
                share_cell(entry["pixels"]["neighbour_target"]),
                share_cell(entry["called_y"][other]),
            ]
            rows.append([name(f"{model} model", objective), *cells])
    head = ["to x", "to x'", "own g", "other g", "nearer to x", "neighbour: y", "other model: y"]
    return Table(
        "The objective of the inversion varied: L2 or cosine distance of the representations, L2 distance of the "
        "logits. Medians and shares in %, with 95% intervals. Distance left: ‖g(x_r) − g(x)‖ in percent of "
        "‖g(x') − g(x)‖, in the inverting model's own g and in the other model's.",
        [name("inverted by"), *map(number, head)],
        rows,
        [("", 1), ("pixel distance", 2), ("distance left", 2), ("resembles x", 3)],
    )


def _median(entry: Mapping[str, float], *, percents: bool = False) -> Any:
    scale, form = (100, ".1f") if percents else (1, ".2f")
    value, low, high = (scale * entry[key] for key in ("median", "low", "high"))
    return number(f"{value:{form}}", f"{low:{form}}–{high:{form}}")


def fits_table(found: Mapping[str, Any]) -> Table:
    """Accuracy on what was learnt, on unseen images made the same way, on D's test images."""
    splits = ("train", "inverted_test", "test")
    rows = [
        [
            name(key),
            *(share_cell((splits_of.get(split) or {}).get(kind)) for kind in ("clean", "attacked") for split in splits),
        ]
        for key, splits_of in found["fits"].items()
    ]
    heads = ["learnt", "unseen, inverted", "test of D"]
    return Table(
        "Do the fits overfit to the features? Accuracy in % on the labels given: on images that were learnt, on test "
        "images inverted by the same model, and on D's test images; subsets drawn by class, intervals over images and "
        "seeds.",
        [name("fitted on"), *map(number, heads * 2)],
        rows,
        [("", 1), ("clean", 3), (f"under attack at eps {found['eps']:g}", 3)],
    )


def verdicts(found: Mapping[str, Any]) -> list[Verdict]:
    """Source or target; whether the objective decides it; whether the fits overfit."""
    return [_resembles(found), _objective(found), _overfits(found)]


def _nearer(found: Mapping[str, Any], model: str, objective: str = "representation") -> Estimate:
    return estimate(found["resemblance"][model][objective]["pixels"]["nearer_target"])


def _resembles(found: Mapping[str, Any]) -> Verdict:
    robust, standard = (_nearer(found, model) for model in MODELS)
    neighbours = [
        estimate(found["resemblance"][model]["representation"]["pixels"]["neighbour_target"]) for model in MODELS
    ]
    return Verdict(
        "The robust model's x_r look like the target x, the standard model's like the start x'",
        verdict(robust.low > 0.5 > standard.high),
        f"Nearer to x than to x' in pixels: {robust} of the robust model's x_r, {standard} of the standard model's "
        "(asked: one interval above and one below 50%). The nearest other training image has x's class for "
        f"{neighbours[0]} and {neighbours[1]}.",
    )


def _objective(found: Mapping[str, Any]) -> Verdict:
    gaps = {
        objective: _nearer(found, "robust", objective).minus(_nearer(found, "standard", objective))
        for objective in found["resemblance"]["robust"]
    }
    return Verdict(
        "That holds whatever is matched: representation, its direction, or logits",
        verdict(all(gap.low > 0 for gap in gaps.values())),
        "Share nearer to x, robust less standard model: "
        + "; ".join(f"{objective} {gap.points}" for objective, gap in gaps.items())
        + " (asked: every interval above zero).",
    )


def _overfits(found: Mapping[str, Any]) -> Verdict:
    """Seen if the fall to unseen inverted images reaches GAP for D_R or D_NR, beyond its interval."""
    texts, overfits = [], []
    for dataset in ("D_R", "D_NR"):
        splits = found["fits"][dataset]
        gap = estimate(splits["train"]["clean"]).minus(estimate(splits["inverted_test"]["clean"]))
        attacked = estimate(splits["train"]["attacked"]).minus(estimate(splits["inverted_test"]["attacked"]))
        overfits.append(gap.reaches(GAP))
        texts.append(f"{dataset} {gap.points} clean, {attacked.points} under attack")
    own = estimate(found["fits"]["D, standard"]["train"]["clean"]).minus(
        estimate(found["fits"]["D, standard"]["test"]["clean"])
    )
    return Verdict(
        "Fits on inverted images overfit to their features",
        verdict(any(overfits)),
        f"Accuracy on images learnt less that on unseen images made the same way: {'; '.join(texts)}; standard "
        f"training on D itself: {own.points}. Asked: {percent(GAP)} points clean, beyond the interval.",
    )
