"""Journals into a real MLflow database, and `track`, in this process."""

import json
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch
from tracking_tools import Runs, silent_server, stage, the_journal, write_lock

from notbugs.models import create_model, save_model
from notbugs.runtime.process import identity
from notbugs.tracking import location
from notbugs.tracking.journal import journals
from notbugs.tracking.reconcile import track
from notbugs.tracking.sending import send
from notbugs.tracking.store import Store, TrackingError, mlflow_environment, open_store

pytestmark = pytest.mark.usefixtures("no_sender")
CURVES = """subset,source_seed,seed,epoch,lr,train_loss,validation_accuracy,validation_adversarial_accuracy
full,,0,1,0.1,0.5,0.75,
full,,0,2,0.1,0.25,0.875,0.5
still_y,3,1,1,0.1,0.125,0.5,
"""


@pytest.fixture
def store(project: Path) -> Iterator[Store]:
    with open_store(location.tracking_uri(project), "test", project) as opened:
        yield opened


def finished_stage(project: Path, name: str = "rand", lr: float = 0.1) -> None:
    """A stage with a metrics file and learning curves, tracked, and its dvc.lock."""
    metrics, curves = project / f"metrics/{name}.json", project / f"plots/fit-{name}.csv"
    for path in (metrics, curves):
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
    with stage(
        project, name, params={"fit": {name: {"lr": lr}}}, outputs=[metrics, curves], metrics_file=metrics
    ) as run:
        run.curve(1, {"train_loss/seed-0": 0.5})
        run.curve(2, {"train_loss/seed-0": 0.25})
        metrics.write_text(json.dumps({"full": {"mean": {"validation_accuracy": lr}}}))
        curves.write_text(CURVES)
    write_lock(project, name=name, lr=lr, outs=(f"metrics/{name}.json", f"plots/fit-{name}.csv"))


def test_a_live_run_is_sent_and_linked_once(project: Path, runs: Runs) -> None:
    finished_stage(project)
    summary = track(project)
    assert (summary.ok, summary.sent, summary.claimed, summary.rebuilt) == (True, 1, 1, 0)
    run = runs.one()
    assert run.info.run_name == "fit@rand"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1", "dataset.name": "D_rand"}
    assert run.data.metrics["validation_accuracy"] == 0.1
    assert runs.curve(run, "learning/train_loss") == [(1, 0.5), (2, 0.25)]
    assert runs.artifacts(run) == ["rand.json"]
    tags = run.data.tags
    assert len(tags["pipeline.key"]) == 64
    assert tags["dvc.dep.data/train"] == "0" * 32 + ".dir"
    assert len(tags["dvc.out.metrics/rand.json"]) == 32
    assert "notbugs.rebuilt" not in tags
    assert track(project).changed is False
    assert runs.one().data.tags == tags


def test_nothing_to_do_needs_no_mlflow(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_stage(project)
    assert track(project).changed
    monkeypatch.setattr("notbugs.tracking.reconcile.open_store", None)
    summary = track(project)
    assert (summary.ok, summary.changed, summary.entries) == (True, False, 1)
    assert str(summary) == "1 stage in dvc.lock, runs in MLflow: up to date"


def test_a_new_project_is_left_without_a_database(bare_project: Path) -> None:
    assert track(bare_project).ok
    assert not (bare_project / "mlruns").exists()


def test_without_a_live_run_one_is_rebuilt_once(project: Path, runs: Runs) -> None:
    finished_stage(project)
    for journal in journals(location.work_folder(project)):
        journal.close()
        journal.set_state(phase="done", status="LOST")
    assert track(project).rebuilt == 1
    run = runs.one()
    assert run.info.run_name == "fit@rand"
    assert run.data.tags["notbugs.rebuilt"] == "true"
    assert (run.data.tags["stage"], run.data.tags["name"]) == ("fit", "rand")
    assert run.data.params == {"lr": "0.1", "dataset.name": "D_rand"}
    assert run.data.metrics["validation_accuracy"] == 0.1
    assert runs.curve(run, "learning/train_loss") == [(1, 0.5), (2, 0.25)]
    assert runs.curve(run, "learning/validation_adversarial_accuracy") == [(2, 0.5)]
    assert runs.curve(run, "learning_still_y/train_loss") == [(1, 0.125)]
    assert not any(key.startswith("lr") for key in run.data.metrics)
    assert runs.artifacts(run) == ["rand.json"]
    (project / ".notbugs" / "tracked.json").unlink()
    assert track(project).changed is False
    assert len(runs.all()) == 1


def test_what_the_workspace_does_not_hold_is_not_rebuilt(project: Path, runs: Runs) -> None:
    (project / "metrics").mkdir()
    (project / "metrics" / "rand.json").write_text('{"accuracy": 1}')
    write_lock(project, outs=("metrics/rand.json",))
    (project / "metrics" / "rand.json").write_text('{"accuracy": 2}')
    summary = track(project)
    assert summary.skipped == ("fit@rand",)
    assert "none for fit@rand: the workspace does not hold what dvc.lock says" in str(summary)
    assert runs.all() == []
    (project / "metrics" / "rand.json").write_text('{"accuracy": 1}')
    assert track(project).rebuilt == 1


def test_the_same_outputs_from_other_inputs_are_another_run(project: Path, runs: Runs) -> None:
    (project / "metrics").mkdir()
    metrics = project / "metrics" / "rand.json"
    for lr in (0.1, 0.2):
        with stage(project, outputs=[metrics], metrics_file=metrics):
            metrics.write_text('{"n": 10}')
        write_lock(project, lr=lr, outs=("metrics/rand.json",))
        assert track(project).claimed == 1
    found = runs.all()
    assert len({run.data.tags["pipeline.key"] for run in found}) == 2


def test_going_back_to_former_settings_finds_the_former_run(project: Path, runs: Runs) -> None:
    for lr in (0.1, 0.2):
        finished_stage(project, lr=lr)
        track(project)
    (project / "metrics/rand.json").write_text(json.dumps({"full": {"mean": {"validation_accuracy": 0.1}}}))
    write_lock(project, lr=0.1, outs=("metrics/rand.json", "plots/fit-rand.csv"))
    assert track(project).changed is False
    assert len(runs.all()) == 2


def test_another_dvc_lock_is_noticed(project: Path, runs: Runs) -> None:
    finished_stage(project)
    track(project)
    write_lock(project, lr=0.3, outs=("metrics/rand.json", "plots/fit-rand.csv"))
    assert track(project).rebuilt == 1
    assert {run.data.params["lr"] for run in runs.all()} == {"0.1", "0.3"}


def test_another_experiment_is_noticed(project: Path, runs: Runs) -> None:
    finished_stage(project)
    track(project)
    params = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(params.replace("experiment: test", "experiment: other"))
    assert track(project).rebuilt == 1
    assert [run.info.run_name for run in runs.all("other")] == ["fit@rand"]


def test_a_run_that_the_user_deleted_stays_deleted(project: Path, runs: Runs) -> None:
    finished_stage(project)
    track(project)
    with runs.client() as client:
        client.delete_run(runs.one().info.run_id)
    (project / ".notbugs" / "tracked.json").unlink()
    assert track(project).changed is False
    assert runs.all() == []


def test_a_stage_killed_with_its_sender_is_closed(project: Path, runs: Runs) -> None:
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[2])\n"
        "from pathlib import Path; from notbugs.tracking import live; from tracking_tools import stage\n"
        "live._start_sender = lambda *arguments: None\n"
        "with stage(Path(sys.argv[1])) as run:\n"
        "    run.curve(1, {'loss': 0.5}); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    arguments = [sys.executable, "-c", code, str(project), str(Path(__file__).parent)]
    assert subprocess.run(arguments, check=False).returncode == -9
    assert track(project).sent == 1
    run = runs.one()
    assert run.info.status == "KILLED"
    assert run.data.tags["notbugs.error"] == "the process was killed"
    assert runs.curve(run, "loss") == [(1, 0.5)]
    assert 0 <= run.info.end_time - run.info.start_time < 60_000
    assert track(project).changed is False


def test_a_run_left_over_without_a_journal_is_closed(project: Path, runs: Runs, store: Store) -> None:
    dead = {**json.loads(identity()), "boot": "another"}
    ours = {"notbugs.journal": "fit@rand/1", "notbugs.process": json.dumps(dead)}
    store.create("dead", ours, 1000)
    store.create("alive", {"notbugs.journal": "fit@rand/2", "notbugs.process": identity()}, 1000)
    store.create("elsewhere", {**ours, "notbugs.process": json.dumps({**dead, "host": "x"})}, 1000)
    store.create("a stranger's", {}, 1000)
    assert track(project).sent == 0
    (project / ".dvc" / "x").touch()
    write_lock(project, outs=(".dvc/x",))
    assert track(project).closed == 1
    found = {run.info.run_name: run.info.status for run in runs.all()}
    assert found["dead"] == "KILLED"
    assert {found["alive"], found["elsewhere"], found["a stranger's"]} == {"RUNNING"}


def test_a_running_stage_is_left_alone(project: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_stage(project)
    track(project)
    with stage(project, "det") as run:
        run.curve(1, {"loss": 0.5})
        with monkeypatch.context() as patch:
            patch.setattr("notbugs.tracking.reconcile.open_store", None)
            assert track(project).changed is False
        (project / ".notbugs" / "tracked.json").unlink()
        assert track(project).changed is False
    assert len(runs.all()) == 1
    assert track(project).sent == 1


def test_failed_runs_are_sent_but_not_linked(project: Path, runs: Runs) -> None:
    finished_stage(project)
    (project / "metrics" / "rand.json").write_text('{"other": 1}')
    write_lock(project, outs=("metrics/rand.json",))
    with pytest.raises(ValueError, match="no luck"), stage(project):
        raise ValueError("no luck")
    summary = track(project)
    assert (summary.sent, summary.claimed, summary.rebuilt) == (2, 0, 1)
    by_status = {run.info.status: run for run in runs.all() if "pipeline.key" not in run.data.tags}
    assert by_status["FAILED"].data.tags["notbugs.error"] == "ValueError: no luck"


def test_sending_can_be_broken_off_anywhere(project: Path, store: Store, runs: Runs) -> None:
    picture = project / "grid.png"
    picture.write_bytes(b"png")
    with stage(project) as run:
        for step in range(1, 4):
            run.curve(step, {"loss": 1 / step})
            run.artifact(picture, f"step-{step}")
    journal = the_journal(project)

    class Dying:
        """A store that dies at its n-th call, after MLflow has done what was asked."""

        def __init__(self, calls: int) -> None:
            self.calls = calls

        def __getattr__(self, name: str) -> object:
            def call(*args: object, **kwargs: object) -> object:
                result = getattr(store, name)(*args, **kwargs)
                self.calls -= 1
                if self.calls == 0:
                    raise TrackingError("the network is gone")
                return result

            return call

    failures = 0
    for calls in range(1, 30):
        try:
            assert send(Dying(calls), journal)  # type: ignore[arg-type]
            break
        except TrackingError:
            failures += 1
    assert failures >= 4
    assert journal.done
    run = runs.one()
    assert runs.curve(run, "loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    assert runs.artifacts(run) == ["step-1", "step-2", "step-3"]
    assert run.info.status == "FINISHED"


def test_a_new_database_gets_what_the_old_one_had_in_part(project: Path, store: Store, runs: Runs) -> None:
    with stage(project) as run:
        run.curve(1, {"loss": 0.5})
    the_journal(project).set_state(run_id="0" * 32, offset=10_000, inputs_sent=True)
    assert track(project).sent == 1
    assert runs.curve(runs.one(), "loss") == [(1, 0.5)]


def test_models_come_back_with_a_signature_and_without_pickle(project: Path, runs: Runs) -> None:
    folder = project / "models" / "fit" / "rand"
    model = create_model("small_cnn", (1, 8, 8), tuple("0123456789"), generator=torch.Generator().manual_seed(1))
    save_model(model, folder / "full" / "seed-0.safetensors")
    with stage(project, outputs=[folder]) as run:
        run.model(folder)
        run.model(folder / "full" / "seed-0.safetensors")
    track(project)
    files = {path.name for path in (project / "mlruns" / "artifacts").rglob("*") if path.is_file()}
    about = {"MLmodel", "requirements.txt", "conda.yaml", "python_env.yaml"}
    assert files == {*about, "model.safetensors", "model.json"}
    found = runs.one()
    images = torch.rand(3, 1, 8, 8)
    with runs.client() as client:
        import mlflow

        logged = {m.name: m for m in client.search_logged_models([found.info.experiment_id])}
        assert sorted(logged) == ["rand-0"]  # handed in twice, and one model
        assert len(found.outputs.model_outputs) == 1
        assert logged["rand-0"].tags["notbugs.file"] == "models/fit/rand/full/seed-0.safetensors"
        assert logged["rand-0"].params == {"lr": "0.1", "dataset.name": "D_rand", "seed": "0", "subset": "full"}
        for uri in (f"runs:/{found.info.run_id}/rand-0", f"models:/{logged['rand-0'].model_id}"):
            loaded = mlflow.pyfunc.load_model(uri)
            with torch.no_grad():
                expected = model.eval()(images).numpy()
            assert (loaded.predict(images.numpy()) == expected).all()
        with pytest.raises(mlflow.MlflowException, match="Failed to enforce schema"):
            loaded.predict(images[0].numpy())


def test_weights_without_a_description_are_plain_files(project: Path, runs: Runs) -> None:
    weights = project / "models" / "odd.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"123")
    with stage(project) as run:
        run.model(weights.parent)
    track(project)
    assert runs.artifacts(runs.one(), "model") == ["model/odd.safetensors"]


def test_pictures_and_models_of_a_rebuilt_run(project: Path, runs: Runs) -> None:
    (project / "plots/figures").mkdir(parents=True)
    (project / "plots/figures/grid.png").write_bytes(b"png")
    (project / "reports").mkdir()
    (project / "reports/report.html").write_text("<html></html>")
    for folder in ("data/rand/source-0", "data/validation"):  # datasets are not kept, though they are safetensors too
        (project / folder).mkdir(parents=True)
        (project / folder / "manifest.json").write_text("{}")
        (project / folder / "images-00000.safetensors").write_bytes(b"images")
    model = create_model("small_cnn", (1, 8, 8), ("a", "b"), generator=torch.Generator().manual_seed(1))
    save_model(model, project / "models/full/seed-0.safetensors")
    write_lock(project, outs=("plots/figures", "reports/report.html", "data/rand", "data/validation", "models"))
    assert track(project).rebuilt == 1
    run = runs.one()
    assert runs.artifacts(run) == ["figures", "report.html"]
    assert runs.artifacts(run, "figures") == ["figures/grid.png"]
    assert len(run.outputs.model_outputs) == 1


def test_artifacts_open_after_the_folder_was_moved(project: Path) -> None:
    finished_stage(project)
    track(project)
    moved = project.rename(project.with_name("moved here"))
    assert track(moved).ok
    runs = Runs(moved)
    run = runs.one()
    assert runs.artifacts(run) == ["rand.json"]
    with mlflow_environment(runs.uri):
        import mlflow

        local = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="rand.json"))
    assert json.loads(local.read_text()) == {"full": {"mean": {"validation_accuracy": 0.1}}}


def test_a_dead_server_is_one_line(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_stage(project)
    with silent_server(answers=False) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        summary = track(project)
    assert not summary.ok
    assert str(summary) == (
        f"MLflow at http://127.0.0.1:{port}: connection refused; nothing is lost, `notbugs track` adds it later"
    )
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert track(project).sent == 1


@pytest.mark.parametrize("damage", ["no database at all" * 100, None])
def test_a_database_that_cannot_be_used_is_one_line(project: Path, damage: str | None) -> None:
    finished_stage(project)
    database = project / "mlruns" / "mlflow.db"
    if damage:
        database.write_text(damage)
    else:
        with closing(sqlite3.connect(database)) as connection, connection:
            connection.execute("UPDATE alembic_version SET version_num = 'ff0000000000'")
    summary = track(project)
    assert not summary.ok
    assert str(summary).startswith(f"MLflow at sqlite:///{database}: ")
    assert "\n" not in str(summary)
    assert ("file is not a database" if damage else "out-of-date database schema") in str(summary)


def test_a_deleted_experiment_is_not_revived(project: Path, store: Store, runs: Runs) -> None:
    with runs.client() as client:
        client.delete_experiment(client.get_experiment_by_name("test").experiment_id)
    finished_stage(project)
    summary = track(project)
    assert not summary.ok
    assert "the MLflow experiment 'test' was deleted: `mlflow experiments restore" in str(summary)


def test_broken_settings_and_locks_are_one_line(project: Path) -> None:
    finished_stage(project)
    (project / "params.yaml").write_text("experiment: 3\n")
    assert "experiment = 3: must be a valid string" in str(track(project))
    (project / "params.yaml").write_text("experiment: test\n")
    (project / "dvc.lock").write_text("stages: [")
    assert "dvc.lock: cannot be read" in str(track(project))


def test_strange_names_do_not_stop_a_run(project: Path, runs: Runs) -> None:
    (project / "däta,1").write_text("x")
    params = {"fit": {"rand": {"a=b": {"ü": "x" * 9000}}}}
    with stage(project, params=params, outputs=[project / "däta,1"]) as run:
        run.curve(1, {"loss [%]": 0.5})
    assert track(project).sent == 1
    found = runs.one()
    assert found.data.params == {"a_b.ü": "x" * 6000, "dataset.name": "D_rand"}
    assert found.data.metrics["loss ___"] == 0.5
    assert "dvc.out.däta_1" in found.data.tags
