"""Changing params.yaml: a new study in it, or a study's best point; comments are kept."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notbugs.evaluation.results import STILL_Y_SHARE, read_json
from notbugs.evaluation.trials import POINT
from notbugs.report.honesty import Pipeline, honesty_of, judged
from notbugs.runtime.config import read_params, suggestion, validate
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import write_text
from notbugs.runtime.params_text import assignment, with_keys
from notbugs.sweeps.axes import cell, value_of
from notbugs.sweeps.plan import difference, plan_now
from notbugs.sweeps.points import Point, changes
from notbugs.sweeps.recorded import RecordedStudy, in_words, recorded_study
from notbugs.sweeps.settings import OBJECTIVES, SweepError, SweepSettings, sweep_settings

if TYPE_CHECKING:
    import pandas as pd


def add_study(root: Path, name: str, assignments: Sequence[str]) -> None:
    """Add the study `name` to params.yaml: the first one there, with some keys changed.

    Args:
        name: of a new study, or of one that has exactly these settings already.
        assignments: "key=value", such as "eps=[0.5, 1.0]".
    Raises: ConfigError for an unknown key, an impossible value, or a study of this name with other settings.
    """
    params = read_params(root / "params.yaml")
    studies = params.get("sweep") or {}
    keys = tuple(SweepSettings.model_fields)
    changed = dict(assignment(item, f": {', '.join(keys)}", keys) for item in assignments)
    base = {**(next(iter(studies.values())) if studies else {}), **changed}
    validate(base, f"sweep.{name}", SweepSettings)
    sweep_settings({**params, "sweep": {**studies, name: base}}, name)
    if name in studies:
        if dict(studies[name]) != base:
            raise ConfigError(f"sweep.{name}: is in params.yaml already, with other settings; edit it there")
        return
    _write(root, {f"sweep.{name}": base})


def apply(root: Path, name: str, wanted: Mapping[str, Any], any_point: bool = False) -> str:
    """Write the best point of a study into params.yaml.

    Best is the first objective's best mean over seeds, on validation, among points whose images still show y.

    Args:
        name: of the study; sweeps/<name>/ must be there.
        wanted: column of trials.csv, an axis among them -> value that the point must have.
        any_point: also points whose images no longer show y.
    Returns: what was written, in a line.
    Raises: SweepError if there is no such point or study, or params.yaml is not the study's.
    """
    params = read_params(root / "params.yaml")
    study = recorded_study(root, name)
    _check_same(root, study)
    about = study.about
    own = {} if study.settings.axes else _pipeline(root, params)  # another fit or network may have that eps, too
    best = choose(_trials(study), about["sweep"]["objectives"][0], wanted, any_point, name, own)
    point = _point(study, best)
    seeds = params["fit"][point.kind].get("seeds", [0])
    seeds = [*seeds, *(seed for seed in about["sweep"]["seeds"] if seed not in seeds)]
    changed = changes(params, point, seeds)
    _write(root, changed)
    written = ", ".join(f"{key} = {value}" for key, value in changed.items())
    note = ""
    if point.source_eps or any(leaf.startswith(("model.", "train.robust.")) for leaf in point.axes):
        note = "; the robust model changes too, and with it who judges still_y"
    return f"params.yaml: {written}; next: dvc repro{note}"


def best_points(root: Path, name: str) -> str:
    """The point of each dataset that `apply` would choose, a line each, and the command that takes it.

    Raises: SweepError if there is no such study.
    """
    study = recorded_study(root, name)
    objective = study.about["sweep"]["objectives"][0]
    own = {} if study.settings.axes else _pipeline(root, read_params(root / "params.yaml"))
    better = "least" if OBJECTIVES[objective][1] == "minimize" else "greatest"
    rule = f"{better} {objective} on validation among the points whose images still show y ({STILL_Y_SHARE:.0%})"
    lines = [f"sweep {name}: the best point of each dataset, by the {rule}:"]
    for kind in study.about["sweep"]["kinds"]:
        command = f"notbugs sweep apply {name} --kind {kind}"
        try:
            best = choose(_trials(study), objective, {"kind": kind}, False, name, own)
        except SweepError:
            lines.append(f"  {kind}: none; `{command} --any` takes one all the same")
            continue
        lines.append(f"  {_point(study, best).title()}: {in_words(best)}; to take it: {command}")
    return "\n".join(lines)


def _point(study: RecordedStudy, row: Mapping[str, Any]) -> Point:
    """The point of a row of means of trials.csv."""
    eps, steps, step_size, source_eps = (None if row[key] != row[key] else float(row[key]) for key in POINT[1:])
    axes = {leaf: value_of(axis, row[leaf]) for leaf, axis in study.settings.axes.items() if row[leaf]}
    return Point(row["kind"], eps, None if steps is None else int(steps), step_size, source_eps, axes)


def _is_same(there: str, value: Any) -> bool:
    """Whether a cell of an axis holds a value; numbers are the same however they are written."""
    if isinstance(value, bool | str) or value is None:
        return there == cell(value)
    try:
        return math.isclose(float(there), value)
    except ValueError:
        return False


def choose(
    table: "pd.DataFrame",
    objective: str,
    wanted: Mapping[str, Any],
    any_point: bool,
    name: str,
    own: Mapping[str, Pipeline],
) -> Mapping[str, Any]:
    """The best point of a table of trials, as means over its seeds.

    Args:
        own: the pipeline's own datasets, which decide at their eps whether the images still show y.
    Raises: SweepError if no point is left to choose from.
    """
    found = table[table["state"] == "COMPLETE"]
    for column, value in wanted.items():
        if column not in found:
            there = [str(name) for name in found if "." in str(name)]
            raise SweepError(f"sweep {name}: {column}: no axis of this study{suggestion(column, there)}")
        if "." in column:
            found = found[found[column].map(lambda there, value=value: _is_same(there, value))]
        elif isinstance(value, float):
            found = found[found[column].map(lambda there, value=value: math.isclose(there, value))]
        else:
            found = found[found[column] == value]
    asked = ", ".join(f"{key} = {value}" for key, value in wanted.items())
    if not len(found):
        raise SweepError(
            f"sweep {name}: no finished point{f' with {asked}' if asked else ''} in sweeps/{name}/trials.csv"
        )
    point = [*POINT, *(column for column in found.columns if "." in column)]
    means = judged(found.groupby(point, dropna=False, sort=True).mean(numeric_only=True).reset_index(), own)
    if not any_point:
        if not means["honest"].any():
            raise SweepError(
                f"sweep {name}: at no such point do {STILL_Y_SHARE:.0%} of the images still show y, so its accuracy "
                f"says nothing about non-robust features; --any chooses one all the same"
            )
        means = means[means["honest"]]
    column, direction = OBJECTIVES[objective]
    best = means.sort_values(column, ascending=direction == "minimize", kind="stable").iloc[0]
    return {str(key): value for key, value in best.items()}


def _pipeline(root: Path, params: Mapping[str, Any]) -> dict[str, Pipeline]:
    """Kind -> eps of the pipeline's own dataset, by its manifest, and what its judges said; without those not made."""
    found: dict[str, Pipeline] = {}
    for kind in params["construct"]:
        metrics = root / "metrics" / "construct" / f"{kind}.json"
        manifest = next(iter(sorted((root / "data" / kind).glob("source-*/manifest.json"))), None)
        if manifest is None or not metrics.exists():
            continue
        eps = read_json(manifest, f"construct@{kind}", ("settings",))["settings"].get("eps")
        honesty = honesty_of(read_json(metrics, f"construct@{kind}", ("num_examples",)))
        if eps is not None and honesty is not None:
            found[kind] = (float(eps), honesty)
    return found


def _trials(study: RecordedStudy) -> "pd.DataFrame":
    import pandas as pd

    # float() gives back the very number that was written; pandas' own parser may not
    exact: dict[str, Any] = dict.fromkeys(("eps", "step_size", "source_eps"), lambda text: float(text or "nan"))
    exact |= dict.fromkeys(study.settings.axes, str)
    try:
        return pd.read_csv(study.folder / "trials.csv", converters=exact)
    except (OSError, ValueError) as error:
        raise SweepError(f"{study.folder}: cannot be read: {' '.join(str(error).split())}") from None


def _check_same(root: Path, study: RecordedStudy) -> None:
    """Whether all that the trials depended on besides their points is still so.

    Raises: SweepError with the difference.
    """
    name = study.name
    found = difference(study.record, plan_now(root, name, study.about["sweep"]).record)
    if found:
        raise SweepError(
            f"sweep {name}: since it ran, other things have changed ({'; '.join(found[:4])}), so its result would not "
            f"come again; `notbugs sweep {name} --replace` runs it anew"
        )


def _write(root: Path, changed: Mapping[str, Any]) -> None:
    """Set dotted keys of params.yaml."""
    path = root / "params.yaml"
    write_text(path, with_keys(path.read_text(encoding="utf-8"), changed))
