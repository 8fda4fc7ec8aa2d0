"""The answer to Reviewer 3 (how sensitive are D_rand and D_det to eps?), written from a study's numbers by rules."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from notbugs.evaluation.comparison import Estimate, Run, difference, nested_mean, t_half_width
from notbugs.evaluation.intervals import Z_95
from notbugs.evaluation.results import percent
from notbugs.report.honesty import CALLED_BEFORE, STILL_Y_SHARE, Pipeline, judged
from notbugs.runtime.config import DATASET_NAMES

if TYPE_CHECKING:
    import pandas as pd

    from notbugs.report.studies import Study

SAME = 0.05
"""Accuracies closer than this count as the same: about the half width of an interval at 360 test images."""


def answer(
    study: "Study", num_classes: int, num_images: int, pipeline: Mapping[str, Pipeline] | None = None
) -> list[str]:
    """One paragraph for each dataset whose eps and steps form a grid; else none.

    Args:
        study: with its points.
        num_classes: for the accuracy of chance.
        num_images: test images, for the intervals.
        pipeline: kind -> the pipeline's own dataset. At its eps the 85% rule is decided by it, here as everywhere.
    """
    paragraphs = []
    source_eps: Any
    for kind in study.kinds:
        points = study.of(kind)
        if study.about["sweep"]["sampler"] != "grid" or points["eps"].nunique() < 2:
            continue
        for source_eps, group in points.groupby("source_eps", dropna=False):
            name = DATASET_NAMES[kind]
            if source_eps == source_eps:  # not NaN: the source model was varied too
                name += f" (source model of eps {source_eps:g})"
            own = pipeline or {}
            points = judged(group, own)
            paragraphs.append(_paragraph(study, name, points, 1 / num_classes, num_images, own.get(kind)))
    return paragraphs


def _paragraph(
    study: "Study", name: str, points: "pd.DataFrame", chance: float, num_images: int, own: Pipeline | None
) -> str:
    kind = str(points["kind"].iloc[0])
    sentences = [
        _eps(name, points, chance),
        _honesty(points),
        _edge(points, own),
        _steps(points),
        _labels(points, num_images) if kind.startswith("det") else "",
        _importance(study, kind),
        _verdict(name, points, num_images),
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _surface(points: "pd.DataFrame", column: str) -> "pd.DataFrame":
    """Rows eps, columns steps."""
    return points.pivot_table(index="eps", columns="num_steps", values=column, aggfunc="mean")


def _eps(name: str, points: "pd.DataFrame", chance: float) -> str:
    column = _surface(points, "accuracy").iloc[:, -1].dropna()
    low, high = column.index[0], column.index[-1]
    spread = float(points["accuracy_std"].mean())
    seeds = f", seeds ±{percent(spread)}" if points["num_seeds"].max() > 1 else ", one fit"
    return (
        f"{name}: with {column.name:g} steps the accuracy on y goes from {percent(column.iloc[0])}% at eps {low:g} to "
        f"{percent(column.iloc[-1])}% at eps {high:g} (chance {percent(chance)}%{seeds})"
        + (f", highest at eps {column.idxmax():g} with {percent(column.max())}%." if column.idxmax() != high else ".")
    )


def honest_eps(points: "pd.DataFrame") -> list[float]:
    """The eps at which both judges still call enough images y, whatever the number of steps."""
    honest = points.groupby("eps")["honest"].min()
    return [float(eps) for eps, fine in honest.items() if fine]  # type: ignore[arg-type]


def _honesty(points: "pd.DataFrame") -> str:
    honest, limit = honest_eps(points), f"{100 * STILL_Y_SHARE:g}%"
    everything = sorted(points["eps"].unique())
    if not honest:
        return (
            f"At none of these eps does each judge, at every number of steps, still call y {limit} of the images that "
            f"it {CALLED_BEFORE}: the perturbations partly show the target itself."
        )
    if len(honest) == len(everything):
        return f"At all of them each judge still calls y at least {limit} of the images that it {CALLED_BEFORE}."
    beyond = [eps for eps in everything if eps not in honest]
    worst = points[points["eps"] == max(beyond)]["still_y"].min()
    return (
        f"Each judge still calls y at least {limit} of the images that it {CALLED_BEFORE} at eps {_listed(honest)}, "
        f"not at {_listed(beyond)} (the robust model {percent(worst)}% at {max(beyond):g}): what is gained there may "
        "be visible content, and says nothing about non-robust features."
    )


def _edge(points: "pd.DataFrame", own: Pipeline | None) -> str:
    """Where the 85% rule hangs on chance, and where the pipeline's own dataset decided it."""
    eps = sorted(points.loc[points["on_edge"], "eps"].unique())
    sentences = []
    if eps:
        sentences.append(
            f"On the edge at eps {_listed(eps)}: there a standard error more or less of what is still called y would "
            "change this."
        )
    if own is not None and own[0] in set(points["eps"]):
        verdict = "meets" if own[1].holds else "does not meet"
        sentences.append(
            f"At eps {own[0]:g} the pipeline's own dataset decides ({percent(own[1].least)}% still called y by the "
            f"stricter judge): it {verdict} the rule."
        )
    return " ".join(sentences)


def _steps(points: "pd.DataFrame") -> str:
    """How many steps are enough, at the largest honest eps (else the largest)."""
    surface = _surface(points, "accuracy")
    honest = honest_eps(points)
    eps = max(honest) if honest else float(surface.index[-1])
    row: Any = surface.loc[eps].dropna()
    if len(row) < 2:
        return ""
    enough = next(steps for steps in row.index if (row.loc[steps:] - row.iloc[-1]).abs().max() <= SAME)
    few, many = row.index[0], row.index[-1]
    return (
        f"At eps {eps:g}, {few:g} step{' gives' if few == 1 else 's give'} {percent(row.iloc[0])}% and {many:g} steps "
        f"{percent(row.iloc[-1])}%; from {enough:g} on it changes by at most {100 * SAME:g} points."
    )


def _at_most_steps(points: "pd.DataFrame", column: str) -> dict[float, list[Run]]:
    """eps -> the fits of the point with the most steps, with their accuracies in `column`."""
    most = points[points["num_steps"] == points["num_steps"].max()]
    return {
        float(eps): [_run(fit, column) for fits in group["runs"] for fit in fits] for eps, group in most.groupby("eps")
    }


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


def _labels(points: "pd.DataFrame", num_images: int) -> str:
    """Where D_det's fit turns from y + 1 to y, and where the interval of the difference leaves that open."""
    on_y, shifted = (_at_most_steps(points, column) for column in ("accuracy", "accuracy_shifted"))
    gaps = {eps: y_against_shifted(on_y[eps], shifted[eps], num_images) for eps in on_y}
    turned = [eps for eps, gap in gaps.items() if gap.low > 0]
    open_at = [eps for eps, gap in gaps.items() if gap.low <= 0 <= gap.high]
    undecided = f" Undecided at eps {_listed(open_at)}: the interval of the difference holds 0." if open_at else ""
    if not turned:
        where = f"eps {_listed([eps for eps in gaps if eps not in open_at])}" if open_at else "every eps"
        if len(open_at) == len(gaps):
            return f"Whether the fit calls more test images y or y + 1 is undecided at every eps{_fits(points)}."
        more = f"The fit calls more test images y + 1 than y at {where}{_fits(points)}"
        return f"{more}: it learns what is visible.{undecided}"
    fine = [eps for eps in turned if eps in honest_eps(points)]
    where = f"The fit calls more test images y than y + 1 at eps {_listed(turned)}{_fits(points)}"
    if fine:
        return f"{where}; at {_listed(fine)} the images still show y: there the perturbations taught it.{undecided}"
    return (
        f"{where}, but at none of these do the images still show y enough to tell perturbation from content.{undecided}"
    )


def _importance(study: "Study", kind: str) -> str:
    table = study.importance
    shares = table[(table["kind"] == kind) & (table["measured"] == "accuracy")].set_index("parameter")["importance"]
    if not {"eps", "num_steps"} <= set(shares.index):
        return ""
    return f"Of the variance over the grid, eps explains {shares['eps']:.0%} and the steps {shares['num_steps']:.0%}."


def _verdict(name: str, points: "pd.DataFrame", num_images: int) -> str:
    """The answer in a sentence, over the honest eps: from the interval of the best minus the worst of them."""
    honest = honest_eps(points)
    if len(honest) < 2:
        return f"So this study cannot say how sensitive {name} is at eps where its images still show y."
    fits = {eps: runs for eps, runs in _at_most_steps(points, "accuracy").items() if eps in honest}
    best, worst = (choose(fits.values(), key=nested_mean) for choose in (max, min))
    change = difference(best, worst, num_images)
    factor = max(honest) / min(honest)
    words = [_sensitive(change.low), _sensitive(change.high)]
    found = (
        f"a factor of {factor:.2g} in eps changes the accuracy by {change.points.removeprefix('+')} from the worst to "
        f"the best of them{_fits(points)}"
    )
    if words[0] == words[1]:
        return f"So where it can be judged, {name} is {words[0]} to eps: {found}."
    return f"How sensitive {name} is to eps stays undecided, from {words[0]} to {words[1]}: {found}."


def _sensitive(change: float) -> str:
    """The word for a change of the accuracy, a fraction."""
    return "insensitive" if change <= SAME else "moderately sensitive" if change <= 4 * SAME else "very sensitive"


def _fits(points: "pd.DataFrame") -> str:
    """How many fits a conclusion rests on, where it is one."""
    return " (one fit a point)" if points["num_seeds"].max() == 1 else ""


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
