"""In which order stages begin: the one on which most of what follows waits comes first."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notbugs.pipeline.cluster.dvc_steps import Step
from notbugs.runtime.files import read_mapping, write_json

COSTS = Path(".notbugs") / "stage_costs.json"
"""What each stage cost when it last ran here; address -> `Cost`."""
TYPICAL = {
    "train": 60.0,
    "construct": 40.0,
    "fit": 40.0,
    "evaluate": 250.0,
    "transfer": 130.0,
    "inversion": 50.0,
    "estimator": 210.0,
    "features": 130.0,
    "planted": 120.0,
    "sweep": 110.0,
}
"""Seconds of stages that never ran here: what they took on digits, with two slots. Only their proportions count."""
UNKNOWN_SECONDS = 20.0
"""Of any other."""


@dataclass(frozen=True)
class Cost:
    """What a stage took.

    Attributes:
        own: seconds of its own process.
        tasks: seconds of the tasks that others can do for it; a list for each time that it had some.
    """

    own: float
    tasks: tuple[tuple[float, ...], ...] = ()

    @property
    def seconds(self) -> float:
        """All of it, as one process would take."""
        return self.own + sum(map(sum, self.tasks))

    def at_least(self, slots: int) -> float:
        """Seconds with so many slots to itself."""
        return self.own + sum(max(sum(group) / slots, max(group, default=0.0)) for group in self.tasks)


def read_costs(root: Path) -> dict[str, Cost]:
    """What is known of this project's stages; an entry that cannot be read is left out."""
    found = {}
    for address, cost in read_mapping(root / COSTS).items():
        try:
            found[address] = Cost(float(cost["own"]), tuple(tuple(map(float, group)) for group in cost["tasks"]))
        except (KeyError, TypeError, ValueError):
            continue
    return found


def write_costs(root: Path, costs: Mapping[str, Cost]) -> None:
    """Keep what stages took for the next time."""
    plain: dict[str, Any] = {address: {"own": cost.own, "tasks": cost.tasks} for address, cost in costs.items()}
    write_json(root / COSTS, json.loads(json.dumps(plain)))


def seconds_behind(steps: Iterable[Step], costs: Mapping[str, Cost], slots: int) -> dict[str, float]:
    """Address -> seconds from its beginning to the end of the longest chain of steps that begins with it."""
    steps = list(steps)
    longest: dict[str, float] = {}
    for step in reversed(steps):  # what depends on a step stands behind it
        after = [longest[other.address] for other in steps if step.address in other.waits_for]
        longest[step.address] = _seconds(step.address, costs, slots) + max(after, default=0.0)
    return longest


def _seconds(address: str, costs: Mapping[str, Cost], slots: int) -> float:
    if address in costs:
        return costs[address].at_least(slots)
    return TYPICAL.get(address.partition("@")[0], UNKNOWN_SECONDS)
