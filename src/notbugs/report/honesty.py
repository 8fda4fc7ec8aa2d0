"""The 85% rule: whether a construction's images still show y. Every section of the report asks here."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from notbugs.results import percent

STILL_Y_SHARE = 0.85
"""Share of a construction's images that both judges must still call y; below it t is partly simply right."""


@dataclass(frozen=True)
class Honesty:
    """What both judges say of a construction's images.

    Attributes:
        robust, neighbour: shares that the robust model and the 1-NN still call y, among those that they called y
            before the perturbation.
        num_images: that the shares were counted on; None if unknown.
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

    @property
    def edge_sentence(self) -> str:
        """Says that the rule hangs on chance; empty where it does not."""
        if not self.on_edge:
            return ""
        return (
            f"On the edge: {percent(self.least)}% lies within a standard error ({percent(self.error)} points) of the "
            f"{100 * STILL_Y_SHARE:g}% asked for, so another draw could turn this."
        )


def honesty_of(facts: Mapping[str, Any]) -> Honesty | None:
    """From metrics/construct/<key>.json; None if the images were not judged."""
    robust, neighbour = ((facts.get(judge) or {}).get("still_y") for judge in ("robust_model", "nearest_neighbour"))
    if robust is None or neighbour is None:
        return None
    count = facts.get("num_examples")
    deciding = "robust_model" if robust <= neighbour else "nearest_neighbour"
    sources = [source[deciding]["still_y"] for source in (facts.get("sources") or {}).values()]
    spread = statistics.stdev(sources) / math.sqrt(len(sources)) if len(sources) > 1 else 0.0
    return Honesty(float(robust), float(neighbour), None if count is None else int(count), spread)
