"""A study whose workers are tasks of a Dask cluster, on one database."""

import json

import optuna
import pytest
import yaml
from sweep_tools import set_params

from dask_cluster import dask_cluster
from notbugs.sweeps.runs import WORKER
from notbugs.sweeps.storage import open_storage
from projects import fail, run

pytestmark = pytest.mark.timeout(600)
POINTS = {"kinds": ["det"], "eps": [0.25, 0.5, 0.75, 1.0], "num_steps": [1, 2, 3], "seeds": [0]}


def test_twelve_trials_over_two_workers(project, postgres, tmp_path):
    set_params(project, sweep={"twelve": POINTS})
    with dask_cluster(tmp_path) as cluster:
        options = ("--scheduler", cluster.address, "--storage", postgres.url)
        said = run(project, "notbugs", "sweep", "twelve", *options, cold=True).stderr
    assert "Traceback" not in said
    with open_storage(postgres.url) as storage:
        (name,) = optuna.get_all_study_names(storage)
        trials = optuna.load_study(study_name=name, storage=storage).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 12
    assert len({json.loads(trial.user_attrs[WORKER])["pid"] for trial in trials}) == 2
    rows = (project / "sweeps" / "twelve" / "trials.csv").read_text().splitlines()
    assert len(rows) == 1 + 12
    assert yaml.safe_load((project / "params.yaml").read_text())["sweep"]["twelve"] == POINTS


def test_no_scheduler_there(project):
    set_params(project, sweep={"twelve": POINTS})
    error = fail(project, "notbugs", "sweep", "twelve", "--scheduler", "tcp://127.0.0.1:1")
    assert error.startswith("error: --scheduler tcp://127.0.0.1:1: no Dask scheduler answers there")
