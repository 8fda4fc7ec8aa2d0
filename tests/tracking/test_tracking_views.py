"""Saved views of the table of runs, as MLflow's page reads them."""

import json
from pathlib import Path
from typing import Any

from tracking_tools import Runs

from notbugs.tracking import location
from notbugs.tracking.store import open_store
from notbugs.tracking.views import ALL, BY_EPS, VERSION, WRITTEN, view_tag


def experiment_tags(runs: Runs) -> dict[str, str]:
    with runs.client() as client:
        return dict(client.get_experiment_by_name("test").tags)


def opened(project: Path) -> None:
    with open_store(location.tracking_uri(project), "test", project):
        pass


def state(tags: dict[str, str], view: str) -> dict[str, Any]:
    saved = json.loads(tags[view_tag(view)])
    assert isinstance(saved["name"], str)
    assert isinstance(saved["createdAt"], int)
    return dict(json.loads(saved["state"]))


def test_a_new_experiment_has_them(project: Path, runs: Runs) -> None:
    opened(project)
    tags = experiment_tags(runs)
    assert tags[WRITTEN] == VERSION
    everything, by_eps = state(tags, ALL), state(tags, BY_EPS)
    assert everything["selectedColumns"][:2] == ["params.`dataset.name`", "params.`dataset.eps`"]
    assert "metrics.`adversarial_accuracy`" in everything["selectedColumns"]
    order = everything["columnOrder"]
    assert order.index("params.`dataset.eps`") < order.index("metrics.`accuracy`")
    assert "searchFilter" not in everything
    drawn = [chart["metricKey"] for chart in everything["compareRunCharts"] if chart["type"] == "LINE"]
    assert drawn[0] == "learning/validation_accuracy"
    assert len(drawn) == len(everything["compareRunCharts"]) == 5
    sections = {section["uuid"] for section in everything["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in everything["compareRunCharts"]} == sections
    assert by_eps["searchFilter"].startswith("metrics.accuracy >= 0")
    assert {chart["xaxis"]["key"] for chart in by_eps["compareRunCharts"]} == {"dataset.eps"}
    assert all(len(value) < 20_000 for value in tags.values())  # as much as MLflow keeps


def test_the_filter_is_one_that_mlflow_takes(project: Path, runs: Runs) -> None:
    opened(project)
    with runs.client() as client:
        experiment = client.get_experiment_by_name("test").experiment_id
        for eps in ("0.5", None):
            run = client.create_run(experiment)
            client.log_metric(run.info.run_id, "accuracy", 0.5)
            if eps:
                client.log_param(run.info.run_id, "dataset.eps", eps)
        by_eps = state(experiment_tags(runs), BY_EPS)
        order = [f"{by_eps['orderByKey']} ASC"]
        (found,) = client.search_runs([experiment], by_eps["searchFilter"], order_by=order)
    assert found.data.params == {"dataset.eps": "0.5"}


def test_an_experiment_of_an_older_version_gets_them_once(project: Path, runs: Runs) -> None:
    with runs.client() as client:
        experiment = client.create_experiment("test")
    opened(project)
    assert view_tag(ALL) in experiment_tags(runs)
    with runs.client() as client:
        client.delete_experiment_tag(experiment, view_tag(ALL))
    opened(project)
    tags = experiment_tags(runs)
    assert view_tag(ALL) not in tags  # what the user deleted stays away
    assert view_tag(BY_EPS) in tags
