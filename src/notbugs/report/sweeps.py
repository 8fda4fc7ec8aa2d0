"""Section on sweeps: the answer to Reviewer 3 (how sensitive are D_rand and D_det to eps?), from numbers by rules."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from notbugs.evaluation.comparison import Estimate, Run, difference, nested_mean, t_half_width
from notbugs.evaluation.intervals import Z_95
from notbugs.evaluation.results import set_title
from notbugs.report.honesty import Pipeline, honesty_of, judged
from notbugs.report.live import Drawing
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Section, words
from notbugs.report.studies import StudyResults, all_studies, draw, first_of, is_of_present_data, load_studies

SAME = 0.05
"""Accuracies closer than this count as the same: about the half width of an interval at 360 test images."""


def figures(project: Project) -> Iterator[tuple[str, Drawing]]:
    """Every figure of every study."""
    for study in load_studies(project.root):
        yield from draw(study)


def numbers(project: Project, _: Facts) -> dict[str, Any]:
    """Every study; where the pipeline's own dataset has the eps of a point, what its judges said decides."""
    own: dict[str, Pipeline] = {}
    for key, facts in project.constructions.items():
        eps, found = (project.params["construct"][key] or {}).get("eps"), honesty_of(facts)
        if eps is not None and found is not None:
            own[key] = (float(eps), found)
    return numbers_of_studies(project.root, project.num_classes, int(project.results["n"].iloc[0]), own)


def numbers_of_studies(
    root: Path, num_classes: int, num_images: int, own: Mapping[str, Pipeline] | None = None
) -> dict[str, Any]:
    """What the section says of every study.

    Args:
        num_images: test images.
        own: kind -> the eps of the pipeline's own dataset and what its judges said.
    """
    every = all_studies(root)
    studies = [study for study in every if is_of_present_data(root, study)]
    names = [study.name for study in studies]
    told = []
    for study in studies:
        known = {} if study.axes else own  # another fit or network may have the pipeline's eps, too
        longer = [f"sweep_{name}_" for name in names if name.startswith(f"{study.name}_")]
        told.append(
            {
                "name": study.name,
                "about": study.about,
                "paragraphs": answer(study, num_classes, num_images, known),
                "best": [row for kind in study.kinds for row in _best(study, kind, known or {})],
                "first_shown": first_of(study),
                "prefix": f"sweep_{study.name}_",
                "longer": tuple(longer),  # of studies whose names start the same
            }
        )
    return {"studies": told, "left_out": [study.name for study in every if study not in studies]}


def _best(study: StudyResults, kind: str, own: Mapping[str, Pipeline]) -> Iterator[dict[str, Any]]:
    """The best honest point of a dataset by validation, and the best of all; None where there is none."""
    points = judged(study.of(kind), own)
    for honest, some in ((True, points[points["honest"]]), (False, points)):
        best = None
        if len(some):
            best = some.iloc[int(some["validation_accuracy"].to_numpy(dtype=float).argmax())].to_dict()
            best["axes"] = ", ".join(f"{leaf} {best[leaf]}" for leaf in study.axes if best[leaf])
        yield {"dataset": set_title(kind), "honest": honest, "point": best}


def answer(
    study: StudyResults, num_classes: int, num_images: int, own: Mapping[str, Pipeline] | None = None
) -> list[str]:
    """One paragraph for each dataset whose eps and steps form a grid and are all that varies; else none.

    Args:
        study: with its points.
        num_classes: for the accuracy of chance.
        num_images: test images, for the intervals.
        own: kind -> the pipeline's own dataset. At its eps the 85% rule is decided by it, here as everywhere.
    """
    paragraphs = []
    source_eps: Any
    for kind in study.kinds:
        points = study.of(kind)
        if study.axes or study.about["sweep"]["sampler"] != "grid" or points["eps"].nunique() < 2:
            continue
        for source_eps, group in points.groupby("source_eps", dropna=False):
            name = set_title(kind)
            if source_eps == source_eps:  # not NaN: the source model was varied too
                name += f" (source model of eps {source_eps:g})"
            known = own or {}
            facts = _facts(study, kind, judged(group, known), num_images, known.get(kind))
            paragraphs.append(words("sweeps", "answer", name=name, chance=1 / num_classes, **facts))
    return paragraphs


def _facts(
    study: StudyResults, kind: str, points: pd.DataFrame, num_images: int, own: Pipeline | None
) -> dict[str, Any]:
    """What an answer is made of; None for what cannot be said."""
    honest = honest_eps(points)
    decided = own is not None and own[0] in set(points["eps"])
    return {
        "one_fit": points["num_seeds"].max() == 1,
        "eps": _by_eps(points),
        "honest": honest,
        "beyond": _beyond(points, honest),
        "edge": sorted(points.loc[points["on_edge"], "eps"].unique()),
        "own": own if decided else None,
        "steps": _by_steps(points, honest),
        "labels": _labels(points, num_images, honest) if kind.startswith("det") else None,
        "importance": _importance(study, kind),
        "change": _change(points, num_images, honest),
    }


def _surface(points: pd.DataFrame, column: str) -> pd.DataFrame:
    """Rows eps, columns steps."""
    return points.pivot_table(index="eps", columns="num_steps", values=column, aggfunc="mean")


def _by_eps(points: pd.DataFrame) -> dict[str, Any]:
    """(eps, accuracy) at the smallest, at the largest and at the best eps, with the most steps."""
    column = _surface(points, "accuracy").iloc[:, -1].dropna()
    first, last = (column.index[0], column.iloc[0]), (column.index[-1], column.iloc[-1])
    spread = float(points["accuracy_std"].mean())
    best = (column.idxmax(), column.max())
    return {"steps": column.name, "first": first, "last": last, "best": best, "spread": spread}


def honest_eps(points: pd.DataFrame) -> list[float]:
    """The eps at which both judges still call enough images y, whatever the number of steps."""
    honest = points.groupby("eps")["honest"].min()
    return [float(eps) for eps, fine in honest.items() if fine]  # type: ignore[arg-type]


def _beyond(points: pd.DataFrame, honest: list[float]) -> dict[str, Any]:
    """The other eps, and what the robust model still calls y at the largest of them."""
    eps = [one for one in sorted(points["eps"].unique()) if one not in honest]
    return {"eps": eps, "still_y": points[points["eps"] == max(eps)]["still_y"].min() if eps else None}


def _by_steps(points: pd.DataFrame, honest: list[float]) -> dict[str, Any] | None:
    """How many steps are enough, at the largest honest eps (else the largest): (steps, accuracy) of few and many."""
    surface = _surface(points, "accuracy")
    eps = max(honest) if honest else float(surface.index[-1])
    row: Any = surface.loc[eps].dropna()
    if len(row) < 2:
        return None
    enough = next(steps for steps in row.index if (row.loc[steps:] - row.iloc[-1]).abs().max() <= SAME)
    few, many = (row.index[0], row.iloc[0]), (row.index[-1], row.iloc[-1])
    return {"eps": eps, "few": few, "many": many, "enough": enough, "same": SAME}


def _at_most_steps(points: pd.DataFrame, column: str) -> dict[float, list[Run]]:
    """eps -> the fits of the point with the most steps, with their accuracies in `column`."""
    most, found = points[points["num_steps"] == points["num_steps"].max()], {}
    for eps, group in most.groupby("eps"):
        found[float(eps)] = [_run(fit, column) for fit in chain(*group["runs"])]
    return found


def _run(fit: Mapping[str, Any], column: str) -> Run:
    source = fit["source_seed"]
    return Run(0 if source != source else int(source), int(fit["seed"]), float(fit[column]))


def y_against_shifted(on_y: Sequence[Run], shifted: Sequence[Run], num_images: int) -> Estimate:
    """Accuracy on y minus that on y + 1, with its 95% interval over test images and trainings.

    No image is called both, so of one image's difference the variance is a + b − (a − b)², a and b the accuracies.
    """
    gap = difference(on_y, shifted, num_images)
    assert gap.basis is not None  # difference() gives it
    variance = nested_mean(on_y) + nested_mean(shifted) - gap.value**2
    image = Z_95 * math.sqrt(max(variance, 0.0) / num_images)
    half = math.hypot(image, t_half_width(gap.basis.unit_std, gap.basis.num_units))
    return Estimate(gap.value, gap.value - half, gap.value + half, gap.basis)


def _labels(points: pd.DataFrame, num_images: int, honest: list[float]) -> dict[str, list[float]]:
    """Where D_det's fit calls more images y than y + 1, where it calls fewer, and where the interval leaves it open."""
    on_y, shifted = (_at_most_steps(points, column) for column in ("accuracy", "accuracy_shifted"))
    gaps = {eps: y_against_shifted(on_y[eps], shifted[eps], num_images) for eps in on_y}
    turned = [eps for eps, gap in gaps.items() if gap.low > 0]
    return {
        "turned": turned,
        "open": [eps for eps, gap in gaps.items() if gap.low <= 0 <= gap.high],
        "not": [eps for eps, gap in gaps.items() if gap.high < 0],
        "honest": [eps for eps in turned if eps in honest],
    }


def _importance(study: StudyResults, kind: str) -> dict[str, float] | None:
    """Share of the variance over the grid that eps and the steps explain."""
    table = study.importance
    shares = table[(table["kind"] == kind) & (table["measured"] == "accuracy")].set_index("parameter")["importance"]
    return {"eps": shares["eps"], "steps": shares["num_steps"]} if {"eps", "num_steps"} <= set(shares.index) else None


def _change(points: pd.DataFrame, num_images: int, honest: list[float]) -> dict[str, Any] | None:
    """The best minus the worst of the honest eps, and a word for either end of its interval."""
    if len(honest) < 2:
        return None
    fits = [runs for eps, runs in _at_most_steps(points, "accuracy").items() if eps in honest]
    gap = difference(max(fits, key=nested_mean), min(fits, key=nested_mean), num_images)
    least, most = _sensitive(gap.low), _sensitive(gap.high)
    return {"gap": gap, "factor": max(honest) / min(honest), "least": least, "most": most}


def _sensitive(change: float) -> str:
    """The word for a change of the accuracy, a fraction."""
    return "insensitive" if change <= SAME else "moderately sensitive" if change <= 4 * SAME else "very sensitive"


SECTION = Section("sweeps", more_figures=figures, numbers=numbers)
