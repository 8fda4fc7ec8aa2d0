"""What a study leaves behind: sweeps/<study>/trials.csv, importance.csv and study.json.

The same study gives the same bytes, in whatever order and by whomever its points were tried.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from notbugs.evaluation.trials import COLUMNS, IMPORTANCE_COLUMNS, MEASURED, POINT
from notbugs.runtime.files import sha256, write_json, write_text
from notbugs.sweeps.recorded import recorded_study
from notbugs.sweeps.runs import ROWS
from notbugs.sweeps.settings import SweepSettings, resolve
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
    states = Counter(table.drop_duplicates(list(POINT))["state"])
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

    rows, seeds = [], shared.plan.settings.seeds
    for point, trial in _settled(shared):
        measured = {row["seed"]: row for row in trial.user_attrs.get(ROWS, [])}
        for seed in seeds:
            empty = dict.fromkeys(("source_seed", *MEASURED, "work"))
            counts = {"seed": seed, "fits": len(seeds), "state": trial.state.name}
            rows.append({**point, **empty, **measured.get(seed, {}), **counts})
    rows.sort(key=lambda row: (*_order(row), row["seed"], row["state"]))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    whole = {"work": "Int64", "source_seed": "Int64"}
    return table.astype(whole).drop_duplicates([*POINT, "seed"], ignore_index=True)


def _settled(shared: SharedStudy) -> Iterator[tuple[dict[str, Any], FrozenTrial]]:
    """Each settled point with the trial that settled it; without trials that failed before they had a point."""
    for slot in shared.slots():
        trial = slot.result
        if trial and {"kind", "num_steps"} <= trial.params.keys():
            yield asdict(resolve(shared.plan.lab.project.params, trial.params)), trial


def _order(point: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(-1.0 if point[key] is None else point[key] for key in POINT)


def _repeats(shared: SharedStudy) -> dict[str, dict[str, int]]:
    """Points that a sampler tried more than once: number in trials.csv, from 0 on -> state -> how often."""
    tried: dict[tuple[Any, ...], Counter[str]] = defaultdict(Counter)
    for point, trial in _settled(shared):
        tried[_order(point)][trial.state.name] += 1
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
        means = points.groupby(list(POINT[1:]), dropna=False)[list(MEASURED)].mean().reset_index()
        varied = [name for name in ("eps", "num_steps", "source_eps") if means[name].nunique() > 1]
        if len(varied) < 2 or len(means) < 4:
            continue
        for name in MEASURED:
            if means[name].nunique() > 1:
                shares = _importance(means[[*varied, name]].astype(float), varied, name, settings)
                found += [(kind, name, parameter, round(share, 6)) for parameter, share in shares.items()]
    return pd.DataFrame(found, columns=list(IMPORTANCE_COLUMNS))


def _importance(points: "pd.DataFrame", varied: list[str], name: str, settings: SweepSettings) -> dict[str, float]:
    study = optuna.create_study()
    spaces = {parameter: distribution(settings, parameter) for parameter in varied}
    for row in points.to_dict(orient="records"):
        params = {
            parameter: int(row[parameter]) if parameter == "num_steps" else row[parameter] for parameter in varied
        }
        study.add_trial(optuna.create_trial(params=params, distributions=spaces, value=row[name]))  # type: ignore[arg-type]
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: value if math.isfinite(value) else 0.0 for key, value in sorted(shares.items())}
