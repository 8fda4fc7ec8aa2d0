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
from notbugs.sweeps.points import Point
from notbugs.sweeps.recorded import recorded_study
from notbugs.sweeps.runs import trial_run, trial_runs
from notbugs.sweeps.session import run
from notbugs.sweeps.storage import artifact_folder
from notbugs.sweeps.trial import Trial
from notbugs.tracking import live
from notbugs.tracking.reconcile import track
from notbugs.tracking.store import mlflow_environment

POINT = {"kind": "rand", "eps": 0.5, "num_steps": 2, "step_size": 0.1, "source_eps": None}
OWN = {
    "dataset.name": "D_rand",
    "dataset.recipe": "random_target",
    "dataset.model": "standard",
    "lr": "0.1",
    "seed": "0",
}
"""Params that trials have in common with the fits of the pipeline."""
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
        artifacts = {
            child: sorted(item.path for item in client.list_artifacts(one.info.run_id))
            for child, one in children.items()
        }
        name = "learning_by_seed/validation_accuracy.seed-1"
        curves = {
            child: [point.step for point in client.get_metric_history(one.info.run_id, name)]
            for child, one in children.items()
        }
    titles = [f"rand eps {eps} steps {steps}" for eps in ("0.5", "1") for steps in (1, 3)]
    assert sorted(children) == titles
    assert sorted(one.data.tags["sweep.trial"] for one in children.values()) == ["0", "1", "2", "3"]
    assert {one.data.tags["mlflow.parentRunId"] for one in children.values()} == {parent.info.run_id}
    assert {one.data.tags["stage"] for one in found} == {"sweep"}
    assert parent.info.status == "FINISHED"
    assert sorted(one.info.status for one in children.values()) == ["FAILED", "FINISHED", "FINISHED", "FINISHED"]
    table = pd.read_csv(project / "sweeps/small/trials.csv")
    for child, one in children.items():
        params = one.data.params
        eps, num_steps = float(params["dataset.eps"]), int(params["dataset.num_steps"])
        assert params.items() >= OWN.items()
        rows = table[(table["eps"] == eps) & (table["num_steps"] == num_steps)]
        if one.info.status == "FAILED":
            assert one.data.tags["notbugs.error"] == "RuntimeError: no"
            assert curves[child] == []  # it failed in its first fit
            assert "learning/validation_accuracy" in one.data.metrics
            assert artifacts[child] == []
            continue
        assert one.data.metrics["accuracy"] == pytest.approx(rows["accuracy"].mean())
        assert one.data.metrics["seconds"] == 0.2
        assert curves[child] == [1, 2, 3]
        assert artifacts[child] == ["fits.json"]
        assert one.data.tags["evaluate.attack"] == "PGD, 3 steps, l2, eps 0.5"
        assert "| `still_y` | share that it still calls y afterwards" in one.data.tags["mlflow.note.content"]
    key = recorded_study(project, "small").key
    told = trial_runs(project, "small", key)
    assert [one.identity for one in told] == ["0", "1", "2", "3"]
    assert [row["seed"] for row in json.loads(str(told[0].named["fits.json"]))] == [0, 1]
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
    curves = [[1000, 1, {"train_loss/seed-0": 0.5}]]
    trial = optuna.create_trial(state=state, user_attrs={"point": POINT, "curves": curves, **facts})
    trial.datetime_start = datetime.fromtimestamp(5)
    told = trial_run("small", 7, trial)
    assert (told.title, told.status, told.started) == ("rand eps 0.5 steps 2", status, 5000)
    assert told.tags.get("notbugs.error") == error
    assert told.curves == ((1000, 1, {"learning/train_loss": 0.5}),)
    assert told.metrics == ({"pruned": 1} if state == TrialState.PRUNED else {})


def test_the_images_of_a_trial_s_dataset_are_artifacts_of_its_run(tmp_path: Path) -> None:
    """As they lie in Optuna's store, under a name that MLflow's page can show; and in the note."""
    attributes = {"artifacts:11": "{}", "artifacts:22": "{}"}
    trial = optuna.create_trial(state=TrialState.PRUNED, user_attrs={"point": POINT}, system_attrs=attributes)
    assert trial_run("small", 0, trial, root=tmp_path).named == {}
    picture = artifact_folder(tmp_path) / "22"
    picture.parent.mkdir(parents=True)
    picture.write_bytes(b"png")
    told = trial_run("small", 0, trial, root=tmp_path)
    assert told.named == {"samples.png": picture}
    assert "![samples.png](get-artifact?path=samples.png&run_uuid=" in told.tags["mlflow.note.content"]


def test_what_a_study_varies_besides_stands_under_its_own_name() -> None:
    """An axis of the fit or of the construction is the setting that it sets; others keep their key."""
    axes = {"fit.rand.lr": 0.5, "construct.rand.looks": 2, "fit.det.lr": 0.7, "model.width": 8}
    trial = optuna.create_trial(state=TrialState.PRUNED, user_attrs={"point": {**POINT, "axes": axes}})
    record = {"fit": {"rand": {"lr": 0.1, "epochs": 3}}, "construct": {"rand": {"looks": 1, "batch_size": 10}}}
    told = trial_run("small", 0, trial, record)
    assert told.params == {
        "lr": 0.5, "epochs": 3, "dataset.name": "D_rand", "dataset.looks": 2, "dataset.eps": 0.5,
        "dataset.num_steps": 2, "dataset.step_size": 0.1, "fit.det.lr": 0.7, "model.width": 8,
    }  # fmt: skip
    assert told.title == "rand eps 0.5 steps 2 fit.rand.lr 0.5 construct.rand.looks 2 fit.det.lr 0.7 model.width 8"


def test_titles_of_points() -> None:
    assert Point("det", 1.1, 60, 0.05).title() == "det eps 1.1 steps 60"
    assert Point("det", 1.1, 60, 0.05).title(with_step_size=True) == "det eps 1.1 steps 60 of 0.05"
    assert Point("robust", None, 200, 0.05, 0.5).title() == "robust steps 200 source eps 0.5"
    assert Point("mine", None, None, None).title() == "mine"
