"""What the report ruled, by the models that its claims are about: for tables that stand outside the report."""

import json
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


def verdicts_of_models(root: Path) -> dict[tuple[str, str], str]:
    """(dataset, estimator) -> reproduced, not reproduced or inconclusive, by reports/verdicts.json; {} without it.

    The claim of a recipe about a set of another name ("rand:mine") is about the fit on that set.
    """
    try:
        ruled = json.loads((root / "reports" / "verdicts.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    found = {}
    for one in ruled:
        claim, _, key = one["key"].partition(":")
        if claim in ABOUT:
            found[(dataset_name(key), "standard") if key else ABOUT[claim]] = str(one["verdict"])
    return found
