"""Whether fits have begun to learn: their training loss has left ln C, what a guess among C classes costs.

A fit on D_rand stands at ln C for epochs before it falls: nothing visible helps it to begin. Its accuracy is that of a
guess then, and says nothing about the dataset.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from notbugs.evaluation.results import read_json
from notbugs.runtime.config import dataset_name

LEFT = 0.98
"""Share of ln C below which a training loss has left it."""


class NotLearnt(NamedTuple):
    """Fits on a dataset whose training loss stands at ln C: how many of how many."""

    stuck: int
    of: int

    def __str__(self) -> str:
        return f"not learnt yet: {self.stuck} of {self.of} fits" if self.of > 1 else "not learnt yet"


def chance_loss(num_classes: int) -> float:
    """ln C: the cross-entropy of a guess."""
    return math.log(num_classes)


def has_learnt(train_loss: float, num_classes: int) -> bool:
    """Whether a mean training loss over an epoch has left ln C."""
    return train_loss < LEFT * chance_loss(num_classes)


def not_learnt(root: Path, names: Iterable[str]) -> dict[str, NotLearnt]:
    """Datasets on which some fits have not learnt yet, by their names in the results.

    Args:
        root: project folder.
        names: entries of `fit`; those that have not been fitted are left out.
    Raises: ResultsError for a metrics file that is incomplete.
    """
    files = {name: root / "metrics" / "fit" / f"{name}.json" for name in names}
    made = {name: file for name, file in files.items() if file.exists()}
    if not made:
        return {}
    num_classes = int(read_json(root / "metrics/prepare.json", "prepare", ("classes",))["classes"])
    found = {}
    for name, file in made.items():
        of_sources = read_json(file, f"fit@{name}", ("full",))["full"]["seeds"].values()
        learnt = [has_learnt(fit["train_loss"], num_classes) for fits in of_sources for fit in fits.values()]
        if not all(learnt):
            found[dataset_name(name)] = NotLearnt(learnt.count(False), len(learnt))
    return found
