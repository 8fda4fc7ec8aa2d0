"""A preset made small: every stage from end to end in three minutes, to see that it runs. Its numbers mean nothing."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

MOST = {
    "processes": 1,
    "epochs": 1,
    "measure_every": 1,
    "batch_size": 64,
    "num_steps": 2,
    "headline_num_steps": 3,
    "width": 8,
    "max_train": 300,
    "max_test": 60,
    "num_train": 80,
    "num_test": 60,
    "num_examples": 40,
    "max_examples": 50,
    "max_features": 3,
    "max_linear": 3,
    "max_per_class": 20,
    "num_neighbours": 3,
    "num_bootstrap": 10,
    "panel_classes": 3,
    "grid_examples": 3,
    "num_points": 100,
    "num_samples": 1000,
    "dimension": 3,
    "num_minimax": 20,
    "num_covariances": 3,
    "suite_seeds": 1,
    "check_seeds": 0,
}
"""Key, wherever it stands -> its largest value; null, which stands for all, is more than that."""
_SOURCE_SEEDS = re.compile(r"train\.[^.]+\.seeds")


def smaller(params: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value of all that is changed in params.yaml."""
    changed = dict(_smaller(params, ""))
    if any("from" in made for made in params["construct"].values()):  # an ensemble names seeds of source models
        changed = {key: value for key, value in changed.items() if not _SOURCE_SEEDS.fullmatch(key)}
    return changed


def _smaller(params: Mapping[str, Any], place: str) -> Iterator[tuple[str, Any]]:
    """Those of a section. place: its dotted key; empty for the whole file."""
    for key, value in params.items():
        where = f"{place}.{key}".lstrip(".")
        if where == "sweep":
            yield where, {}
        elif isinstance(value, Mapping):
            yield from _smaller(value, where)
        elif key == "seeds" and len(value) > 1:
            yield where, value[:1]
        elif where == "evaluate.eps":
            yield where, [params["headline_eps"]]
        elif where == "experiment":
            yield where, f"{value}_smoke"
        elif key in MOST and (value is None or value > MOST[key]):
            yield where, MOST[key]
