"""What the report ruled, by the models that its claims are about: for tables that stand outside the report."""

import json
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from notbugs.runtime.config import dataset_name

ABOUT = {
    "robust_training": ("D", "robust"),
    "robust_features": ("D_R", "standard"),
    "nonrobust_features": ("D_NR", "standard"),
    "rand": ("D_rand", "standard"),
    "det": ("D_det", "standard"),
    "control_rand": ("D_rand_from_robust", "standard"),
    "control_det": ("D_det_from_robust", "standard"),
}
"""Claim of the paper -> the model that it is about; a claim about two models (`same_but_for_g`) has none."""


def read_verdicts(root: Path, old: Collection[str]) -> list[dict[str, str]]:
    """The claims and verdicts of reports/verdicts.json; none without it, and none of a report that is outdated.

    Args:
        old: addresses of the stages that are (`outdated`).
    """
    file = root / "reports" / "verdicts.json"
    if "report" in old or not file.exists():
        return []
    found: list[dict[str, str]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def of_models(verdicts: Iterable[Mapping[str, str]]) -> dict[tuple[str, str], str]:
    """(dataset, estimator) -> reproduced, not reproduced or inconclusive.

    The claim of a recipe about a set of another name ("rand:mine") is about the fit on that set.

    Args:
        verdicts: as `read_verdicts` gives them.
    """
    found = {}
    for one in verdicts:
        claim, _, key = one["key"].partition(":")
        if claim in ABOUT:
            found[(dataset_name(key), "standard") if key else ABOUT[claim]] = one["verdict"]
    return found
