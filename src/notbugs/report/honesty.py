"""The 85% rule: whether a construction's images still show y. Every section of the report asks here."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from notbugs.evaluation.results import STILL_Y_SHARE

CALLED_BEFORE = "called y before the perturbation"
"""Which images the shares still called y are of: "of the images that it called y before the perturbation"."""


@dataclass(frozen=True)
class Honesty:
    """What both judges say of a construction's images.

    Attributes:
        robust, neighbour: shares that the robust model and the 1-NN still call y, among those that they called y
            before the perturbation.
        num_images: that the deciding share was counted on; None if unknown.
        spread: standard error that the choice of source models brings to the deciding share; 0 for one.
    """

    robust: float
    neighbour: float
    num_images: int | None = None
    spread: float = 0.0

    @property
    def least(self) -> float:
        """The share that decides."""
        return min(self.robust, self.neighbour)

    @property
    def holds(self) -> bool:
        """Whether both judges still call at least STILL_Y_SHARE of the images y."""
        return self.least >= STILL_Y_SHARE - 1e-9  # a share of 0.85 must not fail by rounding

    @property
    def error(self) -> float:
        """Standard error of the deciding share, over images and source models; 0 if neither is known."""
        images = math.sqrt(self.least * (1 - self.least) / self.num_images) if self.num_images else 0.0
        return math.hypot(images, self.spread)

    @property
    def on_edge(self) -> bool:
        """Whether one image, or one standard error, more or less would change `holds`."""
        image = 1 / self.num_images if self.num_images else 0.0
        return abs(self.least - STILL_Y_SHARE) < max(image, self.error)


def honesty_of(facts: Mapping[str, Any]) -> Honesty | None:
    """From metrics/construct/<key>.json; None if the images were not judged."""
    robust, neighbour = ((facts.get(judge) or {}).get("still_y") for judge in ("robust_model", "nearest_neighbour"))
    if robust is None or neighbour is None:
        return None
    deciding = "robust_model" if robust <= neighbour else "nearest_neighbour"
    count = facts.get("num_examples")
    known = None if count is None else round(count * facts[deciding].get("before", 1.0))
    sources = [source[deciding]["still_y"] for source in (facts.get("sources") or {}).values()]
    spread = statistics.stdev(sources) / math.sqrt(len(sources)) if len(sources) > 1 else 0.0
    return Honesty(float(robust), float(neighbour), known, spread)


Pipeline = tuple[float, Honesty]
"""The eps of the pipeline's own dataset, and what the judges said of it."""


def judged(points: pd.DataFrame, own: Mapping[str, Pipeline]) -> pd.DataFrame:
    """A study's points with `honest` and `on_edge`: what `Honesty.holds` and `Honesty.on_edge` say of each.

    Args:
        points: means over the fits, one row a point.
        own: kind -> the pipeline's own dataset. At its eps the rule is decided by it, here as everywhere.
    """
    found = [_honesty_of_point(point, own) for point in points.to_dict(orient="records")]
    return points.assign(honest=[one.holds for one in found], on_edge=[one.on_edge for one in found])


def _honesty_of_point(point: Mapping[Any, Any], own: Mapping[str, Pipeline]) -> Honesty:
    if point["kind"] in own and own[point["kind"]][0] == point["eps"]:
        return own[point["kind"]][1]
    robust, neighbour = float(point["still_y"]), float(point["still_y_neighbour"])
    before = point["before"] if robust <= neighbour else point["before_neighbour"]
    known = before * point["work"] / (1 if pd.isna(point["num_steps"]) else point["num_steps"])  # images times steps
    return Honesty(robust, neighbour, round(known) if known == known else None)
