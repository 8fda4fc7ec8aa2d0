"""A laboratory for robust and non-robust features.

In a notebook: `from notbugs import pgd, load_dataset, load_model`. Names are imported when first used.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "ImageData": "notbugs.data.images",
    "allow": "notbugs.runtime.registry",
    "load_dataset": "notbugs.data.store",
    "save_dataset": "notbugs.data.store",
    "export_dataset": "notbugs.exchange.exporting",
    "import_dataset": "notbugs.exchange.importing",
    "load_model": "notbugs.models",
    "create_model": "notbugs.models",
    "pgd": "notbugs.attacks",
    "train": "notbugs.training.loop",
    "construct": "notbugs.construction.building",
    "evaluate": "notbugs.evaluation.accuracy",
    "adversarially_correct": "notbugs.evaluation.accuracy",
    "audit": "notbugs.evaluation.suite",
    "wilson_interval": "notbugs.evaluation.intervals",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'notbugs' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
