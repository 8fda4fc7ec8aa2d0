"""The live curves of a study: accuracies against eps, and against the number of steps at an eps that one chooses."""

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from itertools import cycle, pairwise
from math import gcd
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import to_hex

from notbugs.evaluation.results import set_title
from notbugs.report import layers
from notbugs.report.charts import MARKERS
from notbugs.report.drawing import COLOURS, Look
from notbugs.report.keys import Key
from notbugs.report.layers import Frame
from notbugs.report.live import LiveChart

SPREAD = "± one standard deviation"
HEIGHT = 150
MEASURED = {
    "accuracy": Key("test accuracy on y", Look("#000000", "o", "-")),
    "accuracy_shifted": Key("test accuracy on y + 1", Look("#D55E00", "^", "--")),
    "still_y": Key("still y, robust model", Look("#0072B2", "s", ":")),
}
"""Column of trials.csv -> its curve at a chosen eps."""
FINEST = 1e-6
"""Difference of two eps that counts."""
MOST_STOPS = 100
"""Of a slider."""


def against_eps(points: Mapping[str, pd.DataFrame]) -> LiveChart | None:
    """Accuracy on y and on y + 1 against eps, a line for each number of steps; None without two eps.

    Args:
        points: kind -> its points, means over seeds.
    """
    own = {kind: table for kind, table in points.items() if table["eps"].nunique() > 1}
    if not own:
        return None
    steps = sorted({count for table in own.values() for count in table["num_steps"]})
    shades = colormaps[COLOURS](np.linspace(0.0, 0.9, len(steps)))
    named = {}
    for count, shade, marker in zip(steps, shades, cycle(MARKERS), strict=False):
        named[count] = Key(f"{count:g} step{'' if count == 1 else 's'}", Look(to_hex(shade), marker, "-"))
    rows: list[dict[str, Any]] = []
    for kind, table in own.items():
        for column, labels in (("accuracy", "y"), ("accuracy_shifted", "y + 1")):
            panel = f"{set_title(kind)}, on {labels}"
            for (count, eps), point in _means(table, ["num_steps", "eps"], column):
                rows.append({"panel": panel, "series": named[count].label, "x": eps, **point})
    keys = list(named.values())
    frame = Frame.of_shares("eps", "test accuracy", [row["y"] for row in rows])
    return layers.in_panels(
        rows,
        _drawn(frame, keys, "honest"),
        frame,
        keys,
        about="Accuracy on y and on y + 1 against eps, a line for each number of steps",
        height=HEIGHT,
        columns=2,
    )


def against_steps(points: Mapping[str, pd.DataFrame]) -> LiveChart | None:
    """Accuracies and what still looks like y against the number of steps, at an eps that a slider chooses.

    None without two eps and two numbers of steps.
    """
    own = {kind: table for kind, table in points.items() if table["num_steps"].nunique() > 1}
    eps = eps_of(own)
    if len(eps) < 2:
        return None
    rows: list[dict[str, Any]] = []
    for kind, table in own.items():
        for column, key in MEASURED.items():
            for (radius, count), point in _means(table[table["eps"].notna()], ["eps", "num_steps"], column):
                named = {"panel": set_title(kind), "eps": radius, "series": key.label, "x": f"{count:g}"}
                rows.append({**named, **point})
    steps = sorted({row["x"] for row in rows}, key=float)
    frame = Frame.of_shares("steps", "share of images", [row["y"] for row in rows], steps)
    slider = {"input": "range", "min": eps[0], "max": eps[-1], "step": stop(eps), "name": "eps"}
    nearest: list[dict[str, Any]] = [
        {"calculate": "abs(datum.eps - eps)", "as": "gap"},
        {"joinaggregate": [{"op": "min", "field": "gap", "as": "least"}], "groupby": ["panel"]},
        {"filter": "datum.gap === datum.least"},
    ]
    keys = list(MEASURED.values())
    return layers.in_panels(
        rows,
        [*_drawn(frame, keys, ""), layers.said_above("'eps ' + format(datum.eps, '~g')", "eps")],
        frame,
        keys,
        about="Accuracy on y, on y + 1, and share still y, against the number of steps, at one eps",
        height=HEIGHT,
        columns=2,
        params=[{"name": "eps", "value": first_shown(eps), "bind": slider}],
        chosen=nearest,
    )


def eps_of(points: Mapping[str, pd.DataFrame]) -> list[float]:
    """Every eps of a study, rising."""
    return sorted({float(eps) for table in points.values() for eps in table["eps"].dropna()})


def first_shown(eps: Sequence[float]) -> float:
    """The eps in the middle: what a picture without a slider shows."""
    return eps[len(eps) // 2]


def stop(eps: Sequence[float]) -> float:
    """How far a slider moves at once: the largest step that meets every eps, but at most so many stops."""
    gaps = [round((after - before) / FINEST) for before, after in pairwise(eps)]
    found, whole = reduce(gcd, gaps), sum(gaps)
    return round(max(found, whole / MOST_STOPS) * FINEST, 6)


def _means(points: pd.DataFrame, by: list[str], column: str) -> Iterator[tuple[tuple[float, float], dict[str, Any]]]:
    """(both numbers, the point as a chart's table has it), where several points are the same in both: their mean."""
    spread = f"{column}_std" if f"{column}_std" in points else None
    place: Any  # a tuple of both
    for place, same in points.groupby(by):
        y = float(same[column].mean())
        half = float(same[spread].mean()) if spread else None
        ends = {"low": None, "high": None} if half is None else {"low": y - half, "high": y + half}
        yield (float(place[0]), float(place[1])), {"y": y, **ends, "honest": int(bool(same["honest"].min()))}


def _drawn(frame: Frame, keys: Sequence[Key], hollow_unless: str) -> list[layers.Layer]:
    told = layers.told(frame, "series", SPREAD)
    return [
        layers.whiskers(frame, keys),
        layers.lines(frame, keys),
        layers.points(frame, keys, told, hollow_unless=hollow_unless),
    ]
