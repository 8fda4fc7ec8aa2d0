"""Section "Inverted images": the panel of x, x' and x_r, what x_r resembles, other objectives, train/test gaps."""

import torch
from matplotlib.figure import Figure

from notbugs.evaluation.comparison import Estimate
from notbugs.evaluation.statements import reproduced_if
from notbugs.report.drawing import bar, filled, legend, look, new_figure, percent_axis
from notbugs.report.grids import Strip, draw
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Ruling, Section, estimate

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


def panel(project: Project, found: Facts) -> Figure:
    """x, x', and x_r by the robust and by the standard model, one example a class."""
    inverted, train = project.pictures("inversion"), project.dataset("train")
    facts, names = inverted.examples, inverted.manifest.class_names
    everything = inverted.data().images
    first = facts[(facts["model"] == MODELS[0]) & (facts["objective"] == "representation")]
    sources, starts = first["source_index"].tolist(), first["start_index"].tolist()
    strips = [
        Strip(
            "target x",
            train.select(torch.tensor(sources)).images,
            [f"y: {names[label]}" for label in first["true_label"]],
        ),
        Strip(
            "start x'", train.select(torch.tensor(starts)).images, [str(names[label]) for label in first["start_label"]]
        ),
    ]
    for model in MODELS:
        for objective in facts["objective"].unique():
            rows = facts[(facts["model"] == model) & (facts["objective"] == objective)]
            reached = rows[f"{model}_to_target"] / rows[f"{model}_start_to_target"]
            distances = zip(rows["pixels_to_target"], rows["pixels_to_start"], reached, strict=True)
            captions = [f"x {x:.1f}  x' {start:.1f}\ng {100 * left:.0f}%" for x, start, left in distances]
            strips.append(Strip(f"x_r, {model} g\n{objective}", everything[rows.index.tolist()], captions))
    return draw(strips)


def figure(project: Project, found: Facts) -> Figure:
    """Shares of x_r that resemble x and x', in pixels and in both representations."""
    drawn, axes = new_figure(3.6, 1, len(SPACES))
    for area, (space, text) in zip(axes, SPACES.items(), strict=True):
        for offset, model in ((-0.2, MODELS[0]), (0.2, MODELS[1])):
            entry, colour = found["resemblance"][model]["representation"][space], look(MADE[model]).colour
            for place, measure in enumerate(MEASURES):
                bar(area, place + offset, estimate(entry[measure]), colour, width=0.38, decimals=0)
        area.set_xticks(range(len(MEASURES)), list(MEASURES.values()), fontsize=8)
        area.set_title(text, pad=12)
        percent_axis(area, "share of x_r" if space == "pixels" else "")
    legend(drawn, [filled(look(MADE[model]).colour, f"x_r of the {model} model ({MADE[model]})") for model in MODELS])
    return drawn


def _nearer(found: Facts, model: str, objective: str = "representation") -> Estimate:
    return estimate(found["resemblance"][model][objective]["pixels"]["nearer_target"])


def _resembles(_: Project, found: Facts) -> Ruling:
    nearer = {model: _nearer(found, model) for model in MODELS}
    neighbours = {
        model: estimate(found["resemblance"][model]["representation"]["pixels"]["neighbour_target"]) for model in MODELS
    }
    holds = nearer["robust"].low > 0.5 > nearer["standard"].high
    return Ruling(reproduced_if(holds), {"nearer": nearer, "neighbours": neighbours})


def _objective(_: Project, found: Facts) -> Ruling:
    gaps = {
        objective: _nearer(found, "robust", objective).minus(_nearer(found, "standard", objective))
        for objective in found["resemblance"]["robust"]
    }
    return Ruling(reproduced_if(all(gap.low > 0 for gap in gaps.values())), {"gaps": gaps})


def _overfits(_: Project, found: Facts) -> Ruling:
    """Reproduced if the fall to unseen inverted images reaches GAP for D_R or D_NR, beyond its interval."""
    clean = {dataset: _fall(found, dataset, "inverted_test", "clean") for dataset in MADE.values()}
    attacked = {dataset: _fall(found, dataset, "inverted_test", "attacked") for dataset in MADE.values()}
    overfits = any(fall.reaches(GAP) for fall in clean.values())
    own = _fall(found, "D, standard", "test", "clean")
    return Ruling(reproduced_if(overfits), {"clean": clean, "attacked": attacked, "own": own, "threshold": GAP})


def _fall(found: Facts, fitted_on: str, unseen: str, kind: str) -> Estimate:
    """Accuracy on images that were learnt less that on others."""
    splits = found["fits"][fitted_on]
    return estimate(splits["train"][kind]).minus(estimate(splits[unseen][kind]))


SECTION = Section(
    "inversion",
    needs=("num_examples", "source_seeds", "resemblance", "fits", "eps"),
    figures={"inversion": figure, "inversion_panel": panel},
    rules={"resembles": _resembles, "objective": _objective, "overfits": _overfits},
)
