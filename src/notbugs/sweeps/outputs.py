"""What a study leaves behind: sweeps/<study>/trials.csv, importance.csv and study.json.

The same study gives the same bytes, in whatever order and by whomever its points were tried.
"""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from notbugs.files import sha256, write_json, write_text
from notbugs.sweeps.columns import COLUMNS, IMPORTANCE_COLUMNS, MEASURED, POINT
from notbugs.sweeps.points import resolve
from notbugs.sweeps.study import SharedStudy

if TYPE_CHECKING:
    import pandas as pd


def output_files(root: Path, name: str) -> tuple[Path, ...]:
    """trials.csv, importance.csv, study.json."""
    folder = root / "sweeps" / name
    return folder / "trials.csv", folder / "importance.csv", folder / "study.json"


def write_outputs(root: Path, shared: SharedStudy) -> dict[str, Any]:
    """Write the three files.

    Returns: the counts of study.json.
    """
    trials, importance, about = output_files(root, shared.plan.name)
    table = trial_table(shared)
    states = Counter(table.drop_duplicates(list(POINT))["state"])
    counts = {"points": shared.plan.total, "states": dict(sorted(states.items()))}
    write_text(trials, table.to_csv(index=False, lineterminator="\n"))
    write_text(importance, importances(table).to_csv(index=False, lineterminator="\n"))
    made_from = {"data": sha256(root / "data" / "train" / "manifest.json"), "inputs": shared.plan.hashes}
    record = {"name": shared.plan.name, **counts, **made_from, **shared.plan.record}
    write_json(about, record)
    return counts


def trial_table(shared: SharedStudy) -> "pd.DataFrame":
    """One row a point and seed with COLUMNS, sorted; points tried twice by a sampler stand there once."""
    import pandas as pd

    rows = [row for slot in shared.slots() if slot.result for row in _rows(shared, slot.result)]
    rows.sort(key=lambda row: (*(-1.0 if row[key] is None else row[key] for key in (*POINT, "seed")), row["state"]))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    return table.astype({"work": "Int64"}).drop_duplicates([*POINT, "seed"], ignore_index=True)


def _rows(shared: SharedStudy, trial: FrozenTrial) -> Iterator[dict[str, Any]]:
    if "kind" not in trial.params or "num_steps" not in trial.params:
        return  # it failed before it had a point
    point = resolve(shared.plan.params, trial.params).as_dict()
    measured = {row["seed"]: row for row in trial.user_attrs.get("rows", [])}
    for seed in shared.plan.settings.seeds:
        empty = dict.fromkeys((*MEASURED, "work"))
        yield {**point, **empty, **measured.get(seed, {}), "seed": seed, "state": trial.state.name}


def importances(table: "pd.DataFrame") -> "pd.DataFrame":
    """How much of the variance over the points each parameter explains: functional ANOVA on a random forest.

    Args:
        table: as `trial_table` gives it.
    Returns: IMPORTANCE_COLUMNS; shares add up to 1 for each kind and measured quantity. Left out is what does
        not vary, and kinds with fewer than two varied parameters or four points.
    Source: Hutter, Hoos, Leyton-Brown 2014, as in Optuna.
    """
    import pandas as pd

    found = []
    complete = table[table["state"] == TrialState.COMPLETE.name]
    for kind, points in complete.groupby("kind"):
        means = points.groupby(list(POINT[1:]), dropna=False)[list(MEASURED)].mean().reset_index()
        varied = [name for name in ("source_eps", "eps", "num_steps") if means[name].nunique() > 1]
        if len(varied) < 2 or len(means) < 4:
            continue
        for name in MEASURED:
            if means[name].nunique() > 1:
                shares = _importance(means[[*varied, name]].astype(float), varied, name)
                found += [(kind, name, parameter, round(share, 6)) for parameter, share in shares.items()]
    return pd.DataFrame(found, columns=list(IMPORTANCE_COLUMNS))


def _importance(points: "pd.DataFrame", varied: list[str], name: str) -> dict[str, float]:
    study = optuna.create_study()
    spaces = {
        parameter: optuna.distributions.FloatDistribution(
            float(points[parameter].min()), float(points[parameter].max())
        )
        for parameter in varied
    }
    for row in points.to_dict(orient="records"):
        params = {parameter: row[parameter] for parameter in varied}
        study.add_trial(optuna.create_trial(params=params, distributions=spaces, value=row[name]))  # type: ignore[arg-type]
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {key: value if math.isfinite(value) else 0.0 for key, value in sorted(shares.items())}
