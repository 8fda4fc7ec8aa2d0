"""What MLflow shows of a run: which params and numbers, under which names, with which words.

Live runs, runs made from files and trials of sweeps all go by this and by one table (`tables`), so they can be set side
by side. A metrics file holds more, and is an artifact of its run.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from notbugs.runtime.nested import flatten, numbers
from notbugs.tracking.learning import SUBSETS, curve_says, rounded, together
from notbugs.tracking.tables import TABLES, TEST, Shown, Table

MOST = 60
"""Metrics that a run has at most, besides MLflow's own of the machine (`system/...`)."""
SHARED = ("seed", "num_threads", "device", "precision", "engine", "processes")
"""Keys of params.yaml that stages share; they are params of their runs under these names."""
NO_RESULT_DEPENDS_ON = ("batch_size", "shard_size")
"""Settings of a construction that are no params `dataset.*`."""
_NOT_OF_THE_RECIPE = ("name", "source", "source_seed", "source_seeds", *NO_RESULT_DEPENDS_ON)
_COLOURS = {
    "D_R": "#56B4E9",
    "D_NR": "#E69F00",
    "D_rand": "#009E73",
    "D_det": "#CC79A7",
    "D_rand_from_robust": "#005C43",
    "D_det_from_robust": "#8A3F6A",
}
"""Those of the report; its controls, which it tells apart by their markers, are darker here."""
_STATISTICS = ("mean", "value", "median")
"""How a share with an interval is given in a metrics file: {mean, low, high, ...}."""


def table(stage: str) -> Table:
    """What is shown of a stage; of one without an entry the first numbers of its metrics file."""
    return TABLES.get(stage, Table())


def shown_params(stage: str, name: str | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under the names that a run has them by.

    Those of the stage's own section lose their prefix (`fit.det.lr` is `lr`), those of a construction are `dataset.*`,
    as in the fits on it. `model.*` and what all stages share keep their names, and other sections are left out.

    Args:
        settings: nested, or with dotted keys, as dvc.lock has them.
    """
    section = table(stage).section or stage
    found: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key, value in flatten(settings).items():
        if key.startswith(f"{section}.{name}." if name else f"{section}."):
            own[key.removeprefix(f"{section}.").removeprefix(f"{name}." if name else "")] = value
        elif key in SHARED or key.startswith("model."):
            found[key] = value
    return found | (dataset_params(str(name), own) if stage == "construct" else own)


def colour_tags(params: Mapping[str, Any]) -> dict[str, str]:
    """The colour of a run in MLflow's charts, by the dataset that it is about: the report's, where it has one."""
    colour = _COLOURS.get(str(params.get("dataset.name")))
    return {"mlflow.runColor": colour} if colour else {}


def dataset_params(key: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Params `dataset.*` of who makes a construction, and of who learns it.

    Args:
        key: of the construction in params.yaml.
        settings: of its recipe, or what a manifest or metrics/fit/<key>.json says of it.
    """
    from notbugs.runtime.config import dataset_name

    kept = {name: value for name, value in settings.items() if name not in _NOT_OF_THE_RECIPE}
    return {"dataset.name": dataset_name(key), **{f"dataset.{name}": value for name, value in kept.items()}}


def shown_metrics(stage: str, metrics: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a metrics file that a run shows, at most MOST, under their names.

    Args:
        params: of the run.
    """
    numbers_shown = table(stage).numbers
    if numbers_shown is None:
        found = numbers(_without_intervals(metrics))
    else:
        found = {name: value for one in numbers_shown for name, value in _found(one, metrics, params)}
    return {name: rounded(value) for name, value in list(found.items())[:MOST]}


def note(title: str, stage: str, metrics: Iterable[str], file: str = "") -> str:
    """What a run's page says above everything: what it is, and a table of its metrics. MLflow has no field for that.

    Args:
        title: of the run.
        metrics: that it has; MLflow's own of the machine are left out.
        file: name of the metrics file among its artifacts.
    """
    own = table(stage)
    there = sorted({name for name in metrics if not name.startswith("system/")}, key=partial(_place, own))
    subsets = [subset for subset in SUBSETS if any(name.startswith(f"{subset}_") for name in there)]
    added = {name: says for name, says in own.later if not _subset(name) or _subset(name) in subsets}
    curves = {together(name): curve_says(name) for name in there if curve_says(name)}
    words = {name: _words(own, name) for name in there if not curve_says(name)} | added | curves
    lines = [f"**{title}** {own.says}".rstrip(), ""]
    if words:
        lines += ["| metric | what it is |", "|---|---|"]
        lines += [f"| `{name}` | {says} |" for name, says in words.items()]
    if file:
        lines += ["", f"Everything else that was measured is in `{file}`, under Artifacts."]
    return "\n".join(lines)


def _subset(metric: str) -> str:
    """Which subset's a metric is by its name; empty for that of all images."""
    return next((subset for subset in SUBSETS if metric.startswith(f"{subset}_")), "")


def _place(own: Table, metric: str) -> tuple[int, str]:
    """Where a metric stands in the table; the same place for several of a kind."""
    found = _entry(own, metric)
    return (MOST if found is None else found[0]), metric


def _words(own: Table, metric: str) -> str:
    """What a metric is."""
    found = _entry(own, metric)
    if found is None and metric in TEST:
        return f"{TEST[metric]}; of the models that this run logged itself, on the Models tab"
    if found is None:
        return "stands under this key in the metrics file, or is drawn while the stage runs"
    _, one, parts = found
    return _filled(one.says, dict(zip(re.findall(r"\{\d\}", one.name), parts, strict=True)))


def _entry(own: Table, metric: str) -> tuple[int, Shown, tuple[str, ...]] | None:
    """The entry that a metric is of, with its place and what its stars stood for: the one that leaves least to them."""
    matches = [
        (place, one, match.groups())
        for place, one in enumerate(own.numbers or ())
        if (match := re.fullmatch(re.sub(r"\\\{\d\\\}", "(.+)", re.escape(one.name)), metric))
    ]
    return min(matches, key=lambda match: sum(map(len, match[2])), default=None)


def _filled(text: str, parts: Mapping[str, str]) -> str:
    """A text with {0}, {1} replaced."""
    for place, part in parts.items():
        text = text.replace(place, part)
    return text


def _found(one: Shown, metrics: Mapping[str, Any], params: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of what stands at a place."""
    try:
        place = one.place.format_map({name: _in_keys(value) for name, value in params.items()})
    except KeyError:  # a run without that setting
        return
    for stars, value in _at(metrics, place.split("/"), ()):
        if not isinstance(value, Mapping):
            yield from ((one.name.format(*stars), number) for number in numbers({"": value}).values())


def _at(value: Any, place: list[str], stars: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """What stands at a place, with what the stars stood for."""
    if not place:
        yield stars, _share(value)
        return
    if isinstance(value, Mapping) and not _is_share(value):
        for key, inner in value.items():
            if fnmatchcase(str(key), place[0]):
                yield from _at(inner, place[1:], (*stars, str(key)) if "*" in place[0] else stars)


def _in_keys(value: Any) -> str:
    """A setting as it stands in the keys of a metrics file: 1.0 is 1."""
    try:
        return f"{float(value):g}"
    except (TypeError, ValueError):
        return str(value)


def _is_share(value: Any) -> bool:
    """Whether it is a number with its interval."""
    return isinstance(value, Mapping) and {"low", "high"} <= value.keys() and any(one in value for one in _STATISTICS)


def _share(value: Any) -> Any:
    """The number without its interval."""
    return next(value[one] for one in _STATISTICS if one in value) if _is_share(value) else value


def _without_intervals(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_intervals(value) if isinstance(value, Mapping) and not _is_share(value) else _share(value)
        for key, value in metrics.items()
    }
