"""The answer to Reviewer 3 (how sensitive are D_rand and D_det to eps?), written from a study's numbers by rules."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from notbugs.config import DATASET_NAMES
from notbugs.report.honesty import STILL_Y_SHARE, Honesty
from notbugs.results import percent

if TYPE_CHECKING:
    import pandas as pd

    from notbugs.report.sweeps import Study

SAME = 0.05
"""Accuracies closer than this count as the same: about the half width of an interval at 360 test images."""


Pipeline = tuple[float, Honesty]
"""The eps of the pipeline's own dataset, and what the judges said of it."""


def answer(study: "Study", num_classes: int, pipeline: Mapping[str, Pipeline] | None = None) -> list[str]:
    """One paragraph for each dataset whose eps and steps form a grid; else none.

    Args:
        study: with its points.
        num_classes: for the accuracy of chance.
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
            own = (pipeline or {}).get(kind)
            paragraphs.append(_paragraph(study, kind, name, _decided_by(group, own), 1 / num_classes, own))
    return paragraphs


def _decided_by(points: "pd.DataFrame", own: Pipeline | None) -> "pd.DataFrame":
    """The points, at the pipeline's own eps as honest as its own dataset is."""
    if own is None:
        return points
    eps, judged = own
    return points.assign(honest=points["honest"].where(points["eps"] != eps, judged.holds).astype(bool))


def _paragraph(
    study: "Study", kind: str, name: str, points: "pd.DataFrame", chance: float, own: Pipeline | None
) -> str:
    sentences = [
        _eps(name, points, chance),
        _honesty(points),
        _edge(points, own),
        _steps(points),
        _labels(points) if kind.startswith("det") else "",
        _importance(study, kind),
        _verdict(name, points),
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
            f"At none of these eps do both judges still call {limit} of the images y at every number of steps: "
            "the perturbations partly show the target itself."
        )
    if len(honest) == len(everything):
        return f"At all of them both judges still call at least {limit} of the images y."
    beyond = [eps for eps in everything if eps not in honest]
    worst = points[points["eps"] == max(beyond)]["still_y"].min()
    return (
        f"Both judges still call at least {limit} of the images y at eps {_listed(honest)}, not at "
        f"{_listed(beyond)} (the robust model {percent(worst)}% at {max(beyond):g}): what is gained there may be "
        "visible content, and says nothing about non-robust features."
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


def _labels(points: "pd.DataFrame") -> str:
    """Where D_det's fit turns from y + 1 to y."""
    gap = (_surface(points, "accuracy") - _surface(points, "accuracy_shifted")).iloc[:, -1].dropna()
    turned = [float(eps) for eps, value in gap.items() if value > 0]  # type: ignore[arg-type]
    if not turned:
        return f"The fit calls more test images y + 1 than y at every eps{_fits(points)}: it learns what is visible."
    fine = [eps for eps in turned if eps in honest_eps(points)]
    where = f"The fit calls more test images y than y + 1 at eps {_listed(turned)}{_fits(points)}"
    if fine:
        return f"{where}; at {_listed(fine)} the images still show y: there the perturbations taught it."
    return f"{where}, but at none of these do the images still show y enough to tell perturbation from content."


def _importance(study: "Study", kind: str) -> str:
    table = study.importance
    shares = table[(table["kind"] == kind) & (table["measured"] == "accuracy")].set_index("parameter")["importance"]
    if not {"eps", "num_steps"} <= set(shares.index):
        return ""
    return f"Of the variance over the grid, eps explains {shares['eps']:.0%} and the steps {shares['num_steps']:.0%}."


def _verdict(name: str, points: "pd.DataFrame") -> str:
    """The answer in a sentence, over the honest eps."""
    honest = honest_eps(points)
    if len(honest) < 2:
        return f"So this study cannot say how sensitive {name} is at eps where its images still show y."
    column = _surface(points, "accuracy").loc[honest].iloc[:, -1].dropna()
    change = float(column.max() - column.min())
    factor = max(honest) / min(honest)
    word = "insensitive" if change <= SAME else "moderately sensitive" if change <= 4 * SAME else "very sensitive"
    return (
        f"So where it can be judged, {name} is {word} to eps: a factor of {factor:.2g} in eps changes the accuracy by "
        f"{100 * change:.0f} points{_fits(points)}."
    )


def _fits(points: "pd.DataFrame") -> str:
    """How many fits a conclusion rests on, where it is one."""
    return " (one fit a point)" if points["num_seeds"].max() == 1 else ""


def _listed(values: list[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
