"""Nested mappings, as settings and metrics are, on one level with dotted keys."""

import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one level with dotted keys; lists stay values."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers in a nested mapping, with dotted keys; everything else is left out."""
    found: dict[str, float] = {}
    for key, value in flatten(values).items():
        with suppress(TypeError, ValueError, OverflowError):  # no number, such as a list
            if not isinstance(value, str | bytes) and math.isfinite(float(value)):
                found[key] = float(value)
    return found
