"""What a study leaves behind: sweeps/<study>/trials.csv, importance.csv and study.json.

The same study gives the same bytes, in whatever order and by whomever its points were tried.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from notbugs.evaluation.trials import COLUMNS, IMPORTANCE_COLUMNS, MEASURED, POINT
from notbugs.runtime.files import sha256, write_json, write_text
from notbugs.sweeps.axes import Axis, cell, place_of, value_of
from notbugs.sweeps.points import Point, resolve
from notbugs.sweeps.recorded import recorded_study
from notbugs.sweeps.runs import ROWS
from notbugs.sweeps.settings import SweepSettings, dimensions
from notbugs.sweeps.study import SharedStudy, distribution

if TYPE_CHECKING:
    import pandas as pd


def output_files(root: Path, name: str) -> tuple[Path, ...]:
    """trials.csv, importance.csv, study.json."""
    folder = root / "sweeps" / name
    return folder / "trials.csv", folder / "importance.csv", folder / "study.json"


def write_outputs(root: Path, shared: SharedStudy) -> dict[str, Any]:
    """Write the three files, and note in the database what was written.

    Returns: the counts of study.json.
    """
    trials, importance, about = output_files(root, shared.plan.name)
    table = trial_table(shared)
    states = Counter(table.drop_duplicates([*POINT, *shared.plan.settings.axes])["state"])
    counts = {"points": shared.plan.total, "states": dict(sorted(states.items()))}
    write_text(trials, table.to_csv(index=False, lineterminator="\n"))
    write_text(importance, importances(table, shared.plan.settings).to_csv(index=False, lineterminator="\n"))
    made_from = {"data": sha256(root / "data" / "train" / "manifest.json"), "inputs": shared.plan.hashes}
    repeats = _repeats(shared)
    again = {"repeats": repeats} if repeats else {}
    write_json(about, {"name": shared.plan.name, **counts, **again, **made_from, **shared.plan.record})
    shared.note_recorded(recorded_study(root, shared.plan.name).digest)
    return counts


def trial_table(shared: SharedStudy) -> "pd.DataFrame":
    """One row a point and seed with COLUMNS, sorted; points tried twice by a sampler stand there once."""
    import pandas as pd

    rows, seeds, axes = [], shared.plan.settings.seeds, shared.plan.settings.axes
    for point, trial in _settled(shared):
        measured = {row["seed"]: row for row in trial.user_attrs.get(ROWS, [])}
        for seed in seeds:
            empty = dict.fromkeys(("source_seed", *MEASURED, "work"))
            counts = {"seed": seed, "fits": len(seeds), "state": trial.state.name}
            chosen = {leaf: cell(value) for leaf, value in point.axes.items()}
            row = {**point.facts, **chosen, **empty, **measured.get(seed, {}), **counts}
            rows.append(((*_order(point, axes), seed, trial.state.name), row))
    rows.sort(key=lambda keyed: keyed[0])
    columns = [*POINT, *axes, *(name for name in COLUMNS if name not in POINT)]
    table = pd.DataFrame([row for _, row in rows], columns=columns)
    whole = {"num_steps": "Int64", "work": "Int64", "source_seed": "Int64"}
    return table.astype(whole).drop_duplicates([*POINT, *axes, "seed"], ignore_index=True)


def _settled(shared: SharedStudy) -> Iterator[tuple[Point, FrozenTrial]]:
    """Each settled point with the trial that settled it; without trials that failed before they had a point."""
    for slot in shared.slots():
        trial = slot.result
        if not trial or "kind" not in trial.params:
            continue
        params = shared.plan.lab.project.params
        if set(dimensions(params, shared.plan.settings, trial.params["kind"])) <= trial.params.keys():
            yield resolve(params, trial.params), trial


def _order(point: Point, axes: Mapping[str, Axis]) -> tuple[Any, ...]:
    """By rising numbers; what an axis lists, as it lists it."""
    short = tuple(-1.0 if getattr(point, name) is None else getattr(point, name) for name in POINT)
    return *short, *(place_of(axis, point.axes[leaf]) if leaf in point.axes else -1.0 for leaf, axis in axes.items())


def _repeats(shared: SharedStudy) -> dict[str, dict[str, int]]:
    """Points that a sampler tried more than once: number in trials.csv, from 0 on -> state -> how often."""
    tried: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for point, trial in _settled(shared):
        tried[_order(point, shared.plan.settings.axes)][trial.state.name] += 1
    counts = {str(number): states for number, (_, states) in enumerate(sorted(tried.items()))}
    return {number: dict(sorted(states.items())) for number, states in counts.items() if states.total() > 1}


def importances(table: "pd.DataFrame", settings: SweepSettings) -> "pd.DataFrame":
    """How much of the variance over the points each parameter explains: functional ANOVA on a random forest.

    It is Optuna's default evaluator, over the study's own space, for each kind by itself. Optuna's dashboard has
    another one (PED-ANOVA: which parameter decides whether a trial is among the best tenth), over all kinds together.

    Returns: IMPORTANCE_COLUMNS; shares add up to 1 for each kind and measured quantity. Left out is what does
        not vary, and kinds with fewer than two varied parameters or four points.
    Source: Hutter, Hoos, Leyton-Brown 2014, as in Optuna.
    """
    import pandas as pd

    found = []
    complete = table[table["state"] == TrialState.COMPLETE.name]
    for kind, points in complete.groupby("kind"):
        means = points.groupby([*POINT[1:], *settings.axes], dropna=False)[list(MEASURED)].mean().reset_index()
        short = [name for name in ("eps", "num_steps", "source_eps") if settings.spaces[name] not in (None, ())]
        varied = [name for name in (*short, *settings.axes) if means[name].nunique() > 1]
        if len(varied) < 2 or len(means) < 4:
            continue
        for name in MEASURED:
            if means[name].nunique() > 1:
                shares = _importance(means[[*varied, name]], varied, name, settings)
                found += [(kind, name, parameter, round(share, 6)) for parameter, share in shares.items()]
    return pd.DataFrame(found, columns=list(IMPORTANCE_COLUMNS))


def _importance(points: "pd.DataFrame", varied: list[str], name: str, settings: SweepSettings) -> dict[str, float]:
    study = optuna.create_study()
    spaces: dict[str, BaseDistribution] = {parameter: distribution(settings, parameter) for parameter in varied}
    for row in points.to_dict(orient="records"):
        params = {parameter: _number(row[parameter], parameter, settings) for parameter in varied}
        study.add_trial(optuna.create_trial(params=params, distributions=spaces, value=row[name]))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: value if math.isfinite(value) else 0.0 for key, value in sorted(shares.items())}


def _number(given: Any, parameter: str, settings: SweepSettings) -> Any:
    """A parameter's value in a table, as its distribution has it."""
    if parameter in settings.axes:
        return value_of(settings.axes[parameter], given)
    return int(given) if parameter == "num_steps" else float(given)
