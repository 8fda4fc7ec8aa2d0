"""Tracking under real DVC: reproducing, going back, losing the database, experiments in temporary copies."""

import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from tracking_tools import wait_for

from notbugs.tracking import location
from notbugs.tracking.journal import journals

pytestmark = [pytest.mark.pipeline, pytest.mark.usefixtures("warm_python")]
STAGE = """
import json, sys
from pathlib import Path
import yaml
from notbugs.tracking import live_run

name, root = sys.argv[1], Path.cwd()
lr = yaml.safe_load(Path("params.yaml").read_text())["fit"][name]["lr"]
data, metrics, curves = root / "data" / name, root / f"metrics/{name}.json", root / f"plots/fit-{name}.csv"
with live_run("fit", name, root=root, experiment="test", params={"fit": {name: {"lr": lr}}}, seed=0,
              inputs=[root / "data/train"], outputs=[data, metrics, curves], metrics_file=metrics) as run:
    for path in (data / "x", metrics, curves):
        path.parent.mkdir(parents=True, exist_ok=True)
    (data / "a-b").write_text(str(lr))
    (data / "x").write_text(name)
    run.curve(1, {"train_loss/seed-0": lr})
    curves.write_text(f"subset,seed,epoch,lr,train_loss\\nfull,0,1,0.1,{lr}\\n")
    metrics.write_text(json.dumps({"full": {"mean": {"validation_accuracy": lr}}}))
"""
PIPELINE = """
stages:
  fit:
    foreach: {rand: null}
    do:
      cmd: PYTHON stage.py ${key}
      params:
        - fit.${key}
      deps:
        - data/train
        - stage.py
      outs:
        - data/${key}
        - metrics/${key}.json:
            cache: false
        - plots/fit-${key}.csv:
            cache: false
"""


def run(root: Path, *command: str) -> str:
    names = ("MLFLOW_TRACKING_URI", "DVC_ROOT", "NOTBUGS_TRACKING")
    environment = {key: value for key, value in os.environ.items() if key not in names}
    done = subprocess.run(
        command, cwd=root, env=environment | {"DVC_NO_ANALYTICS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def dvc(root: Path, *arguments: str) -> str:
    return run(root, sys.executable, "-m", "dvc", *arguments)


def git(root: Path, *arguments: str) -> None:
    run(root, "git", "-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false", *arguments)


def track(root: Path) -> str:
    code = "import sys; from pathlib import Path; from notbugs.tracking.reconcile import track\nprint(track(Path('.')))"
    return run(root, sys.executable, "-c", code).strip()


@pytest.fixture
def pipeline(project: Path) -> Path:
    shutil.rmtree(project / ".dvc")
    (project / "data/train").mkdir(parents=True)
    (project / "data/train/manifest.json").write_text('{"name": "D_train"}')
    (project / "stage.py").write_text(STAGE)
    (project / "dvc.yaml").write_text(PIPELINE.replace("PYTHON", sys.executable))
    (project / "params.yaml").write_text("experiment: test\nfit:\n  rand: {lr: 0.5}\n")
    (project / ".gitignore").write_text("/mlruns\n/.notbugs\n")
    git(project, "init", "-q")
    dvc(project, "init", "-q")
    git(project, "add", ".")
    git(project, "commit", "-q", "-m", "one")
    return project


def tracked(root: Path) -> list[tuple[str, str, dict[str, str], float]]:
    """Id, status, tags and accuracy of the runs, read past MLflow: it would keep a deleted database open."""
    with closing(sqlite3.connect(root / "mlruns" / "mlflow.db")) as database:
        found = database.execute(
            "SELECT run_uuid, status, value FROM runs JOIN latest_metrics USING (run_uuid) "
            "WHERE key = 'validation_accuracy' ORDER BY start_time"
        ).fetchall()
        tags = database.execute("SELECT run_uuid, key, value FROM tags").fetchall()
    return [
        (run, status, {key: text for owner, key, text in tags if owner == run}, value) for run, status, value in found
    ]


def test_tracking_follows_dvc(pipeline: Path) -> None:
    output = dvc(pipeline, "repro")
    assert "notbugs: tracking" not in output
    assert track(pipeline) == "1 stage in dvc.lock, runs in MLflow: 1 linked to dvc.lock"
    ((_, status, tags, accuracy),) = tracked(pipeline)
    assert (status, accuracy) == ("FINISHED", 0.5)
    assert (len(tags["git.commit"]), tags["git.dirty"]) == (40, "false")
    assert tags["dvc.dep.data/train"].endswith(".dir")
    assert tags["dvc.out.data/rand"].endswith(".dir")
    assert len(tags["dvc.dep.stage.py"]) == 32
    assert track(pipeline) == "1 stage in dvc.lock, runs in MLflow: up to date"

    shutil.rmtree(pipeline / "mlruns")
    assert track(pipeline) == "1 stage in dvc.lock, runs in MLflow: 1 rebuilt from dvc.lock"
    ((rebuilt, status, again, accuracy),) = tracked(pipeline)
    assert (status, accuracy, again["notbugs.rebuilt"]) == ("FINISHED", 0.5, "true")
    lineage = ("dvc.", "pipeline.")
    assert {k: v for k, v in again.items() if k.startswith(lineage)} == {
        k: v for k, v in tags.items() if k.startswith(lineage)
    }
    assert track(pipeline) == "1 stage in dvc.lock, runs in MLflow: up to date"

    git(pipeline, "add", ".")
    git(pipeline, "commit", "-q", "-m", "two")
    output = dvc(pipeline, "exp", "run", "--temp", "-S", "fit.rand.lr=0.75")
    wait_for(lambda: all(journal.done for journal in journals(location.work_folder(pipeline))))
    first, (_, status, tags, accuracy) = tracked(pipeline)
    assert first[0] == rebuilt
    assert (status, accuracy) == ("FINISHED", 0.75)
    assert f"experiment '{tags['dvc.experiment']}'" in output
    assert not list((pipeline / ".dvc/tmp").rglob("mlflow.db"))
