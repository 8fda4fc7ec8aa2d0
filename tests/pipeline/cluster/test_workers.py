"""The pipeline of the tiny project on a cluster: the bytes of `dvc repro`, also where a machine is lost on the way."""

import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from dask_cluster import dask_cluster
from projects import assert_same, contents, copy_of, environment, make_project, mlflow_runs, run

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(900)]

HURRY = """
import os, sys
if not {"dask", "distributed"} & set(sys.argv[:2]) and "resource_tracker" not in " ".join(sys.orig_argv):
    sys.path.append(os.environ["TESTS"])
    import warm
    warm.hurry()
"""
"""Python runs a module `sitecustomize` first: stages do as those of `finished_project`, which hurries (see `warm`)."""


@pytest.mark.parametrize(
    "targets",
    [
        pytest.param(("fit@rand", "fit@robust", "estimator"), id="some"),
        pytest.param((), id="all", marks=pytest.mark.slow),
    ],
)
def test_side_by_side_leaves_what_dvc_leaves(finished_project, tmp_path, targets):
    """Stages and their tasks shared out: outputs, dvc.lock and the cache to the byte, and a run of each in MLflow."""
    project = tmp_path / "project"
    project.mkdir()
    make_project(project)
    params = yaml.safe_load((project / "params.yaml").read_text())
    (project / "params.yaml").write_text(yaml.safe_dump({**params, "jobs": "auto"}, sort_keys=False))
    folder = tmp_path / "hurried"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HURRY)
    surroundings = {"PYTHONPATH": str(folder), "TESTS": str(Path(__file__).parents[2])}
    said = run(project, "notbugs", "repro", "--jobs", "2", *targets, cold=True, **surroundings).stderr
    assert "Traceback" not in said
    assert "Warning" not in said
    stages, expected = (
        yaml.safe_load((root / "dvc.lock").read_text())["stages"] for root in (project, finished_project)
    )
    assert stages == {address: expected[address] for address in stages}
    if targets:
        assert set(targets) < set(stages)
    else:
        assert (project / "dvc.lock").read_bytes() == (finished_project / "dvc.lock").read_bytes()
    assert_same(_part_of(finished_project, stages, tmp_path), project)
    run(project, "notbugs", "track")  # which completes the run cache
    assert _cached(project) <= _cached(finished_project)
    assert targets or _cached(project) == _cached(finished_project)
    assert "up to date" in run(project, "dvc", "repro", *targets).stdout
    found = [run for run in mlflow_runs(project) if "pipeline.key" in run["tags"]]
    assert sorted(run["tags"]["mlflow.runName"] for run in found) == sorted(stages)
    assert {run["status"] for run in found} == {"FINISHED"}


def _part_of(project: Path, stages: Mapping[str, Any], folder: Path) -> Path:
    """A folder with what these stages made, and nothing else."""
    part = folder / "part"
    for path in (out["path"] for stage in stages.values() for out in stage["outs"]):
        (part / path).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (project / path).is_dir() else shutil.copy
        copy(project / path, part / path)
    return part


def _cached(project: Path) -> set[Path]:
    """Files of DVC's cache and run cache."""
    return {path.relative_to(project) for path in (project / ".dvc/cache").rglob("*") if path.is_file()}


def test_a_lost_machine_has_its_stage_done_elsewhere(finished_project, tmp_path):
    """One of two workers is killed while it trains: the other goes on from what was kept, with the same bytes."""
    alone = copy_of(finished_project, tmp_path)
    long = {"seeds": [0], "epochs": 40, "batch_size": 64, "lr": 0.1, "schedule": "one_cycle", "measure_every": 5}
    params = yaml.safe_load((alone / "params.yaml").read_text())
    params["train"]["standard"] = long
    (alone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    shared = Path(shutil.copytree(alone, tmp_path / "shared"))
    run(alone, "notbugs", "train", "standard")
    with dask_cluster(tmp_path) as cluster:
        begun = _repro(shared, cluster.address)
        kept = shared / ".notbugs" / "unfinished"
        until = time.monotonic() + 120
        while not list(kept.glob("train-standard-*/*.safetensors")):
            assert begun.poll() is None
            assert time.monotonic() < until
            time.sleep(0.02)
        (lost,) = cluster.at_work()
        lost.kill()
        assert begun.wait(200) == 0
    models = [contents(root)["models/train/standard/seed-0.safetensors"] for root in (alone, shared)]
    assert models[0] == models[1]
    assert contents(alone)["metrics/train/standard.json"] == contents(shared)["metrics/train/standard.json"]
    assert run(shared, "dvc", "status", "train@standard").stdout.strip() == "Data and pipelines are up to date."


def _repro(project: Path, address: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "notbugs", "repro", "train@standard", "--scheduler", address]
    return subprocess.Popen(command, cwd=project, env=environment(), stdin=subprocess.DEVNULL)
