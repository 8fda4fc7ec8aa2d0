"""Axes of a study: leaves of params.yaml that its points set, in whatever section they are."""

import copy
import math
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator

from notbugs.evaluation.levels import SuiteSettings
from notbugs.models import ModelSettings
from notbugs.pipeline.construct import read_recipe
from notbugs.runtime.config import Settings, settings, suggestion
from notbugs.runtime.errors import ConfigError
from notbugs.training.settings import FitSettings, TrainSettings

Scalar = bool | int | float | str | None
READ: dict[str, Any] = {
    "model": ModelSettings,
    "train": TrainSettings,
    "construct": read_recipe,
    "fit": FitSettings,
    "evaluate": SuiteSettings,
}
"""Sections that a trial reads -> their settings, or what reads them."""
UNREAD: dict[str, Any] = {
    "train": ("seeds",),
    "construct": ("source_seeds", "shard_size", "title", "colour"),
    "fit": ("seeds", "still_y", "baseline"),
    "evaluate": ("eps", "num_steps", "level", "suite_seeds", "check_seeds", "certificate", "batch_size"),
}
"""What no trial looks at in them; a trial attacks at the headline alone."""
_ALLOWED = (
    "a list of at least one number, name, true, false or null, each once; or {low, high} with low <= high, and "
    "log: true (low > 0) or a step > 0"
)


class Span(Settings):
    """All values of a leaf between two bounds, both included; whole numbers where the leaf takes no others."""

    low: int | float
    """Lower bound."""
    high: int | float
    """Upper bound."""
    log: bool = False
    """Search on a logarithmic scale."""
    step: int | float | None = None
    """Take only low, low + step, ...; null takes all."""


def _axis(value: Any) -> Any:
    """What params.yaml or study.json gives of an axis.

    Raises: ValueError saying what is allowed.
    """
    if isinstance(value, Span):
        return value
    if isinstance(value, Mapping):
        found = Span.model_construct(**{"low": None, "high": None, **value})
        numbers = [found.low, found.high, *([] if found.step is None else [found.step])]
        known = set(value) <= set(Span.model_fields) and isinstance(found.log, bool)
        if known and all(map(_is_number, numbers)) and found.low <= found.high and _is_one_scale(found):
            return found
        raise ValueError(_ALLOWED)
    given = value if isinstance(value, list | tuple) else ()
    scalars = [item for item in given if item is None or isinstance(item, bool | str) or _is_number(item)]
    scalars = [item for item in scalars if item != ""]  # which trials.csv has where there is no value
    if given and len(scalars) == len({cell(item) for item in scalars}) == len(given):
        return tuple(given)
    raise ValueError(_ALLOWED)


def _is_number(item: Any) -> bool:
    return isinstance(item, int | float) and not isinstance(item, bool) and math.isfinite(item)


def _is_one_scale(span: Span) -> bool:
    if span.step is not None:
        return span.step > 0 and not span.log
    return span.low > 0 or not span.log


Axis = Annotated[Span | tuple[Scalar, ...], BeforeValidator(_axis)]
"""The values that a leaf takes: a list, or a range."""


def cell(value: Scalar) -> str:
    """A value as trials.csv has it; as YAML writes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def value_of(axis: Span | tuple[Scalar, ...], text: str) -> Scalar:
    """The value of an axis that a cell of trials.csv stands for.

    Raises: ValueError if it stands for none.
    """
    if isinstance(axis, Span):
        return int(text) if isinstance(axis.low, int) else float(text)
    return next(value for value in axis if cell(value) == text)


def place_of(axis: Span | tuple[Scalar, ...], value: Any) -> float:
    """Where a value stands among those of its axis, in rising order."""
    return float(value) if isinstance(axis, Span) else float([cell(item) for item in axis].index(cell(value)))


def first(axis: Span | tuple[Scalar, ...]) -> Scalar:
    """The value that stands for an axis where one is as good as the other."""
    return axis.low if isinstance(axis, Span) else axis[0]


def ends(axis: Span | tuple[Scalar, ...]) -> tuple[Scalar, ...]:
    """The values that are looked at before a study begins: all of a list, the two ends of a range."""
    return (axis.low, axis.high) if isinstance(axis, Span) else axis


def read_axis(params: Mapping[str, Any], key: str, axis: Span | tuple[Scalar, ...], place: str) -> Any:
    """An axis with each value as the settings of its section have it: 1 of a leaf that takes fractions is 1.0.

    Args:
        key: dotted, of the leaf. place: dotted, of the study, for the error.
    Raises: ConfigError naming the key, the value and what is allowed.
    """
    _check_key(params, key, f"params.yaml: {place}.axes.{key}")
    if isinstance(axis, tuple):
        values = tuple(_read(params, key, value, place) for value in axis)
        if len({(type(value), value) for value in values}) < len(values):
            raise ConfigError(f"params.yaml: {place}.axes.{key} = {list(axis)}: must hold each value once")
        return values
    low, high = (_read(params, key, end, place) for end in (axis.low, axis.high))
    whole = isinstance(low, int) and isinstance(high, int)
    if whole and axis.step is not None and axis.step != int(axis.step):
        raise ConfigError(
            f"params.yaml: {place}.axes.{key}.step = {axis.step}: must be a whole number, as its ends are"
        )
    numbers: dict[str, Any] = {"low": low, "high": high, **({} if axis.step is None else {"step": axis.step})}
    return axis.model_copy(update={name: (int if whole else float)(number) for name, number in numbers.items()})


def _check_key(params: Mapping[str, Any], key: str, where: str) -> None:
    """Refuse a leaf that no trial reads, or one of a section that is not there."""
    head, *rest = key.split(".")
    if head not in READ:
        raise ConfigError(f"{where}: no trial reads it{suggestion(head, list(READ))}")
    trained = params.get("train") or {}
    retrained = {"train": rest[:1], "model": list(trained)}.get(head, [])
    given = [name for name in retrained if isinstance(trained.get(name), Mapping) and "from" in trained[name]]
    if given:
        raise ConfigError(f"{where}: no point can train train.{given[0]} anew: its weights come from a file")
    section: Any = params
    parents = key.split(".")[:-1]
    for depth, part in enumerate(parents, 1):
        there = section
        section = section.get(part) if isinstance(section, Mapping) else None
        if not isinstance(section, Mapping):
            among = suggestion(part, list(map(str, there)))
            raise ConfigError(f"{where}: params.yaml has no section {'.'.join(parents[:depth])}{among}")
    depth = 0 if head in ("model", "evaluate") else 1
    if len(rest) <= depth:
        raise ConfigError(f"{where}: is a section; an axis is one setting in it, such as {key}.NAME")
    if rest[depth] in UNREAD.get(head, ()):
        raise ConfigError(
            f"{where}: no trial reads it; what a trial does not read of {head}: {', '.join(UNREAD[head])}"
        )


def _read(params: Mapping[str, Any], key: str, value: Scalar, place: str) -> Scalar:
    """One value of a leaf, as the settings of its section have it."""
    head, *rest = key.split(".")
    place = f"params.yaml: {place}.axes.{key}"
    section, reader = head, READ[head]
    if head not in ("model", "evaluate"):
        section, rest = f"{head}.{rest[0]}", rest[1:]
    changed = changed_params(params, {key: value})
    try:
        found: Any = settings(changed, section, reader) if isinstance(reader, type) else reader(changed, section)
    except ConfigError as error:
        text = str(error).removeprefix("params.yaml: ")
        own = text.removeprefix(f"{key} = ").partition(": ")[2] if text.startswith(f"{key} = ") else text
        own = own.removeprefix(f"{key}: ")
        raise ConfigError(f"{place} = {cell(value)}: {own}") from None
    for part in rest:
        found = getattr(found, part) if isinstance(found, BaseModel) else found[part]
    if isinstance(value, int | float) and isinstance(found, int | float):
        return found
    return value


def changed_params(params: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of params with dotted keys set."""
    new: dict[str, Any] = copy.deepcopy(dict(params))
    for key, value in changed.items():
        *parents, last = key.split(".")
        section = new
        for part in parents:
            section = section[part]
        section[last] = value
    return new
