"""What MLflow is told of a study's trials: it follows from Optuna's database."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from sweep_tools import PARAMS, set_params

from notbugs.pipeline.running.context import open_project
from notbugs.runtime.process import identity
from notbugs.sweeps.recorded import recorded_study
from notbugs.sweeps.runs import trial_run, trial_runs
from notbugs.sweeps.session import run
from notbugs.sweeps.trial import Trial
from notbugs.tracking import live
from notbugs.tracking.reconcile import track
from notbugs.tracking.store import mlflow_environment

POINT = {"kind": "rand", "eps": 0.5, "num_steps": 2, "step_size": 0.1, "source_eps": None}
DEAD = json.dumps({**json.loads(identity()), "boot": "another"})


def test_a_session_s_trials_are_told(project: Path, scripted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """All that a trial was, with nothing written but Optuna's database and the journal of the study's own run."""
    measure = Trial.measure

    def failing(self: Trial, seed: int, on_epoch: Any = None) -> dict[str, Any]:
        found = measure(self, seed, on_epoch)
        if self.point.eps == 1.0 and self.point.num_steps == 3:
            raise RuntimeError("no")
        return found

    monkeypatch.setattr(Trial, "measure", failing)
    monkeypatch.setattr(live, "_start_sender", lambda *arguments: None)  # as if it had been killed at once
    monkeypatch.delenv("NOTBUGS_TRACKING")
    (project / ".dvc").mkdir()
    set_params(project, sweep={"small": {**PARAMS["sweep"]["small"], "kinds": ["rand"], "retries": 0}})
    run(open_project(project), "small", jobs=1)
    assert track(project).sent == 1
    assert track(project).changed is False
    uri = f"sqlite:///{project}/mlruns/mlflow.db"
    with mlflow_environment(uri):
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(PARAMS.get("experiment", "notbugs"))
        found = list(client.search_runs([experiment.experiment_id]))
        (parent,) = [one for one in found if "mlflow.parentRunId" not in one.data.tags]
        children = {one.info.run_name: one for one in found if one is not parent}
        name = "validation_accuracy/seed-1"
        curves = {
            child: [point.step for point in client.get_metric_history(one.info.run_id, name)]
            for child, one in children.items()
        }
    assert sorted(children) == [f"small, trial {number}" for number in range(4)]
    assert {one.data.tags["mlflow.parentRunId"] for one in children.values()} == {parent.info.run_id}
    assert {one.data.tags["stage"] for one in found} == {"sweep"}
    assert parent.info.status == "FINISHED"
    assert sorted(one.info.status for one in children.values()) == ["FAILED", "FINISHED", "FINISHED", "FINISHED"]
    table = pd.read_csv(project / "sweeps/small/trials.csv")
    for child, one in children.items():
        eps, num_steps = float(one.data.params["sweep.eps"]), int(one.data.params["sweep.num_steps"])
        rows = table[(table["eps"] == eps) & (table["num_steps"] == num_steps)]
        if one.info.status == "FAILED":
            assert one.data.tags["notbugs.error"] == "RuntimeError: no"
            assert curves[child] == []  # it failed in its first fit
            assert "validation_accuracy/seed-0" in one.data.metrics
            continue
        assert one.data.metrics["seed.1.accuracy"] == pytest.approx(rows[rows["seed"] == 1]["accuracy"].item())
        assert one.data.metrics["seconds.0.fit"] == 0.1
        assert curves[child] == [1, 2, 3]
    key = recorded_study(project, "small").key
    assert len(trial_runs(project, "small", key)) == 4
    assert trial_runs(project, "small", "of other settings") == []
    (project / "sweeps" / "optuna.db").write_text("no database")
    assert trial_runs(project, "small", key) == []


@pytest.mark.parametrize(
    ("state", "facts", "status", "error"),
    [
        (TrialState.RUNNING, {"worker": identity()}, "RUNNING", None),
        (TrialState.RUNNING, {"worker": DEAD}, "KILLED", "the process was killed"),
        (TrialState.PRUNED, {}, "FINISHED", None),
        (TrialState.FAIL, {"ended": "error", "error": "RuntimeError: no"}, "FAILED", "RuntimeError: no"),
        (TrialState.FAIL, {"ended": "interrupted", "error": ""}, "KILLED", "the process was killed"),
        (TrialState.FAIL, {}, "KILLED", "the process was killed"),
    ],
)
def test_how_a_trial_ended(state: TrialState, facts: dict[str, Any], status: str, error: str | None) -> None:
    """A killed trial keeps the curves that it had."""
    curves = [[1000, 1, {"loss": 0.5}]]
    trial = optuna.create_trial(state=state, user_attrs={"point": POINT, "curves": curves, **facts})
    trial.datetime_start = datetime.fromtimestamp(5)
    told = trial_run("small", 7, trial)
    assert (told.title, told.status, told.started) == ("small, trial 7", status, 5000)
    assert told.tags.get("notbugs.error") == error
    assert told.curves == ((1000, 1, {"loss": 0.5}),)
    assert told.metrics == ({"pruned": 1} if state == TrialState.PRUNED else {})
