"""How long each stage took, as MLflow knows it."""

from dataclasses import dataclass
from pathlib import Path

from notbugs.tracking import location
from notbugs.tracking.rebuilding import REBUILT
from notbugs.tracking.reconcile import experiment_name
from notbugs.tracking.store import open_store


@dataclass(frozen=True)
class StageCost:
    """What a stage took.

    Attributes:
        command: that ran it, such as "notbugs train robust".
        runs: how often it was begun, killed ones included.
        seconds: of wall time, all of its runs together.
    """

    command: str
    runs: int
    seconds: float


def stage_costs(root: Path) -> list[StageCost]:
    """What the stages of a project took, in the order in which they were first begun.

    Runs that were made from dvc.lock alone, and runs that have not ended, are left out.

    Raises: TrackingError if MLflow cannot be used.
    """
    project = location.anchor(root)
    costs: dict[str, StageCost] = {}
    with open_store(location.tracking_uri(project), experiment_name(root), project) as store:
        for tags, started, ended in store.times():
            command = tags.get("mlflow.source.name", "")
            if REBUILT in tags or not command.startswith("notbugs "):
                continue
            before = costs.get(command, StageCost(command, 0, 0.0))
            costs[command] = StageCost(command, before.runs + 1, before.seconds + (ended - started) / 1000)
    return list(costs.values())
