"""A fresh clone has a study's files and no database: `notbugs track` puts trials and runs back, once."""

import json
import shutil
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner
from optuna.trial import FrozenTrial
from sweep_tools import PARAMS, set_params

from notbugs.cli import main
from notbugs.pipeline.running.context import open_project
from notbugs.sweeps import restoring
from notbugs.sweeps.recorded import is_stored, recorded_study
from notbugs.sweeps.restoring import finished_studies, restore
from notbugs.sweeps.session import run
from notbugs.sweeps.settings import SweepError
from notbugs.sweeps.storage import open_storage, storage_url
from notbugs.sweeps.trial import Trial
from notbugs.tracking.reconcile import track
from notbugs.tracking.store import mlflow_environment


def sweep(root: Path, **changed: Any) -> None:
    set_params(root, sweep={"small": {**PARAMS["sweep"]["small"], **changed}})
    run(open_project(root), "small", jobs=1)


def stored(root: Path) -> optuna.Study:
    """A copy of the stored study in memory, which leaves no connection open."""
    with open_storage(storage_url(root, None)) as storage:
        found = optuna.load_study(study_name="small", storage=storage)
        copy = optuna.create_study(directions=found.directions)
        copy.add_trials(found.get_trials())
        return copy


def clone(root: Path) -> Path:
    """What Git has of a project."""
    copy = root.with_name("clone")
    shutil.copytree(root / "sweeps" / "small", copy / "sweeps" / "small")
    shutil.copy(root / "params.yaml", copy)
    shutil.copy(root / "dvc.yaml", copy)
    return copy


def seen(trial: FrozenTrial) -> dict[str, Any]:
    """What a trial is, however it came into the database; not its number, times and how it was run."""
    attributes = {key: trial.user_attrs.get(key) for key in ("slot", "rows")}
    return {
        "params": trial.params,
        "distributions": trial.distributions,
        "values": trial.values,
        "state": trial.state,
        **attributes,
    }


def by_slot(study: optuna.Study) -> list[dict[str, Any]]:
    return sorted(map(seen, study.get_trials()), key=lambda trial: trial["slot"])


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"objectives": ["accuracy", "work"]},
        {"kinds": ["robust", "det"], "step_size": [0.1, 0.2]},
        {"seeds": [0]},
    ],
    ids=["plain", "two objectives", "inversions and step sizes", "one fit"],
)
def test_a_grid_is_put_back(project: Path, scripted: list[str], changed: dict[str, Any]) -> None:
    sweep(project, **changed)
    before, copy = stored(project), clone(project)
    assert not is_stored(copy / "sweeps" / "optuna.db", recorded_study(copy, "small"))
    assert restore(copy) == ["small"]
    after = stored(copy)
    assert by_slot(after) == by_slot(before)
    assert len(after.get_trials()) == 8 if not changed else len(after.get_trials()) == len(before.get_trials())
    assert [seen(trial) for trial in after.best_trials] == [seen(trial) for trial in before.best_trials]
    assert is_stored(copy / "sweeps" / "optuna.db", recorded_study(copy, "small"))
    assert restore(copy) == []
    assert len(stored(copy).get_trials()) == len(before.get_trials())


def test_points_that_were_pruned_failed_or_tried_again(
    project: Path, scripted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = Trial.measure

    def failing(self: Trial, seed: int, on_epoch: Any = None) -> dict[str, Any]:
        if self.point.kind == "det" and self.point.num_steps == 2:
            raise RuntimeError("no")
        return measure(self, seed, on_epoch)

    monkeypatch.setattr(Trial, "measure", failing)
    sweep(project, sampler="random", trials=40, pruner="median", eps=[0.5, 1.0, 2.0], num_steps=[1, 2], seeds=[0])
    states = pd.read_csv(project / "sweeps/small/trials.csv")["state"].value_counts()
    assert states["PRUNED"] > 0 < states["FAIL"]
    before, copy = stored(project), clone(project)
    repeats = json.loads((copy / "sweeps/small/study.json").read_text())["repeats"].values()
    assert any(len(states) == 2 for states in repeats)
    assert restore(copy) == ["small"]
    after = stored(copy)
    for state in ("COMPLETE", "PRUNED"):
        mine, other = (
            sorted(
                str(
                    (trial.params, trial.values if state == "COMPLETE" else None)
                )  # where a fit was cut off is not kept
                for trial in study.get_trials()
                if trial.state.name == state
            )
            for study in (before, after)
        )
        assert mine == other
    assert restore(copy) == []


def test_a_study_put_back_is_not_run_again(project: Path, scripted: list[str]) -> None:
    sweep(project)
    files = {path.name: path.read_bytes() for path in (project / "sweeps/small").iterdir()}
    (project / "sweeps/optuna.db").unlink()
    scripted.clear()
    assert restore(project) == ["small"]
    sweep(project)
    assert scripted == []
    assert {path.name: path.read_bytes() for path in (project / "sweeps/small").iterdir()} == files
    assert restore(project) == []


def test_broken_off_and_called_again(project: Path, scripted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(project)
    before, copy = stored(project), clone(project)
    (copy / "sweeps/optuna.db").touch()  # left by a command that failed
    with monkeypatch.context() as patched:
        add, added = optuna.Study.add_trial, []

        def limited(self: optuna.Study, trial: FrozenTrial) -> None:
            if len(added) == 3:
                raise KeyboardInterrupt
            added.append(trial)
            add(self, trial)

        patched.setattr(optuna.Study, "add_trial", limited)
        with pytest.raises(KeyboardInterrupt):
            restore(copy)
    assert restore(copy) == ["small"]
    assert by_slot(stored(copy)) == by_slot(before)


def test_a_stored_study_of_other_settings_stays(project: Path, scripted: list[str]) -> None:
    sweep(project)
    files = {path.name: path.read_bytes() for path in (project / "sweeps/small").iterdir()}
    set_params(project, sweep={"small": {**PARAMS["sweep"]["small"], "num_steps": [1]}})
    run(open_project(project), "small", jobs=1, replace=True)
    for name, content in files.items():  # `git checkout`
        (project / "sweeps/small" / name).write_bytes(content)
    before = by_slot(stored(project))
    assert restore(project) == []
    assert by_slot(stored(project)) == before


@pytest.mark.parametrize("damage", ["", "kind,eps\nrand,1\n", None])
def test_files_that_cannot_be_read_are_left_out(project: Path, scripted: list[str], damage: str | None) -> None:
    sweep(project)
    copy = clone(project)
    file = copy / "sweeps/small" / ("trials.csv" if damage is not None else "study.json")
    file.write_text(damage or "")
    assert restore(copy) == []
    assert finished_studies(copy) == []
    assert not (copy / "sweeps/optuna.db").exists()


def test_looking_at_a_study_leaves_no_database(project: Path) -> None:
    done = CliRunner().invoke(main, ["sweep", "status", "small"])
    assert done.exit_code == 1
    assert "no database there; `notbugs sweep small` runs the study, and `notbugs track` fills" in done.output
    assert not (project / "sweeps").exists()
    with pytest.raises(SweepError):
        restoring.recorded_studies(project) or restore(project) or run(open_project(project), "small", url="mysql://x")
    assert not (project / "sweeps").exists()


# MLflow


def runs(root: Path) -> list[Any]:
    uri = f"sqlite:///{root}/mlruns/mlflow.db"
    with mlflow_environment(uri):
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        experiment = client.get_experiment_by_name(PARAMS.get("experiment", "notbugs"))
        return list(client.search_runs([experiment.experiment_id], max_results=1000))


def curve(root: Path, run_id: str, name: str) -> list[tuple[int, float]]:
    uri = f"sqlite:///{root}/mlruns/mlflow.db"
    with mlflow_environment(uri):
        from mlflow import MlflowClient

        return [(point.step, point.value) for point in MlflowClient(uri).get_metric_history(run_id, name)]


def test_track_in_a_clone(project: Path, scripted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The command: study and runs are those of the files, and the second time nothing is added."""
    sweep(project)
    before, copy = stored(project), clone(project)
    (copy / ".dvc").mkdir()
    monkeypatch.chdir(copy)
    monkeypatch.setattr("notbugs.pipeline.running.run_cache.keep_runs", lambda root: None)
    for _ in range(2):
        done = CliRunner().invoke(main, ["track"])
        assert done.exit_code == 0, done.output
        assert by_slot(stored(copy)) == by_slot(before)
        found = runs(copy)
        (parent,) = [one for one in found if "mlflow.parentRunId" not in one.data.tags]
        children = [one for one in found if one is not parent]
        assert {one.data.tags["mlflow.parentRunId"] for one in children} == {parent.info.run_id}
        assert sorted(int(one.data.tags["sweep.trial"]) for one in children) == list(range(8))
        assert parent.data.tags["notbugs.shared"] == recorded_study(copy, "small").key
        assert {one.info.status for one in found} == {"FINISHED"}
    assert done.output == ""  # nothing was left to do
    table = pd.read_csv(copy / "sweeps/small/trials.csv")
    for child in children:
        point = table[
            (table["kind"] == child.data.tags["kind"])
            & (table["eps"] == float(child.data.params["dataset.eps"]))
            & (table["num_steps"] == int(child.data.params["dataset.num_steps"]))
        ]
        assert child.data.metrics["accuracy"] == pytest.approx(point["accuracy"].mean())
        assert (
            child.info.run_name
            == f"{child.data.tags['kind']} eps {point['eps'].iloc[0]:g} steps {point['num_steps'].iloc[0]}"
        )


def test_curves_come_where_they_are_kept(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep(project, kinds=["rand"], eps=[0.5], num_steps=[2])
    monkeypatch.delenv("NOTBUGS_TRACKING")
    (project / ".dvc").mkdir()
    summary = track(project, studies=finished_studies(project))
    assert (summary.ok, summary.recorded) == (True, 1)
    (child,) = [one for one in runs(project) if "sweep.trial" in one.data.tags]
    results = project / ".notbugs" / "sweeps" / "results"
    kept = [json.loads(file.read_text())["found"]["curves"] for file in results.glob("*.json")]
    for name, metric in (
        ("train_loss/seed-0", "learning_by_seed/train_loss.seed-0"),
        ("train_loss/seed-1", "learning_by_seed/train_loss.seed-1"),
    ):
        (expected,) = [[(epoch, row[name]) for epoch, row in curves] for curves in kept if name in curves[0][1]]
        assert curve(project, child.info.run_id, metric) == expected


def test_a_study_s_run_gets_its_heatmaps_once_they_are_drawn(project: Path, scripted: list[str]) -> None:
    """By the report, in dvc repro after the study; those of `small_two` are not its own."""
    sweep(project)
    copy = clone(project)
    (copy / ".dvc").mkdir()
    assert track(copy, studies=finished_studies(copy)).recorded == 8
    figures = copy / "plots/figures"
    figures.mkdir(parents=True)
    (copy / "sweeps/small_two").mkdir()
    for name in ("sweep_small_det_heatmaps", "sweep_small_lines", "sweep_small_two_lines", "grid_det"):
        (figures / f"{name}.png").write_bytes(b"png")
    for _ in range(2):
        (copy / ".notbugs/tracked.json").unlink()
        assert track(copy, studies=finished_studies(copy)).ok
    (parent,) = [one for one in runs(copy) if "mlflow.parentRunId" not in one.data.tags]
    uri = f"sqlite:///{copy}/mlruns/mlflow.db"
    with mlflow_environment(uri):
        from mlflow import MlflowClient

        found = sorted(item.path for item in MlflowClient(uri).list_artifacts(parent.info.run_id, "figures"))
    assert found == ["figures/sweep_small_det_heatmaps.png", "figures/sweep_small_lines.png"]


def test_runs_of_an_older_version_stay_the_only_ones(project: Path, scripted: list[str]) -> None:
    """A trial's run was called by its number, and its settings by `sweep.eps`: `track` finds it by its tag."""
    sweep(project)
    copy = clone(project)
    (copy / ".dvc").mkdir()
    track(copy, studies=finished_studies(copy))
    uri = f"sqlite:///{copy}/mlruns/mlflow.db"
    with mlflow_environment(uri):
        from mlflow import MlflowClient

        client = MlflowClient(uri)
        for one in runs(copy):
            if "sweep.trial" in one.data.tags:
                client.update_run(one.info.run_id, name=f"small, trial {one.data.tags['sweep.trial']}")
    (copy / ".notbugs/tracked.json").unlink()
    assert track(copy, studies=finished_studies(copy)).changed is False
    assert len(runs(copy)) == 9


def test_a_run_of_dvc_lock_is_the_parent(project: Path, scripted: list[str]) -> None:
    """One run for the stage: with the lineage of dvc.lock, and the trials below it, whichever came first."""
    sweep(project)
    for order in ("files first", "lock first"):
        copy = clone(project).rename(project.with_name(order.replace(" ", "-")))
        (copy / ".dvc").mkdir()
        if order == "files first":
            assert track(copy, studies=finished_studies(copy)).recorded == 8
        outs = [f"sweeps/small/{name}" for name in ("importance.csv", "study.json", "trials.csv")]
        write_lock(copy, outs)
        assert track(copy, studies=finished_studies(copy)).rebuilt == 1
        found = runs(copy)
        (parent,) = [one for one in found if "mlflow.parentRunId" not in one.data.tags]
        assert len(found) == 9
        assert parent.data.tags["pipeline.key"]
        assert not track(copy, studies=finished_studies(copy)).changed


def write_lock(root: Path, outs: list[str]) -> None:
    import hashlib

    described = [
        {
            "path": out,
            "hash": "md5",
            "md5": hashlib.md5((root / out).read_bytes()).hexdigest(),
            "size": (root / out).stat().st_size,
        }
        for out in outs
    ]
    entry = {"cmd": "notbugs sweep small --replace", "params": {"params.yaml": {"seed": 0}}, "outs": described}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"sweep@small": entry}}))
