"""`notbugs record`: a finished run as Git is to hold it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from notbugs.cli import main
from notbugs.evaluation.results import load_results
from notbugs.pipeline.cluster import schedule
from notbugs.pipeline.cluster.schedule import Cost
from notbugs.runtime.dvc_lock import read_lock
from notbugs.tracking import costs

Record = Callable[[Path], Result]


@pytest.fixture
def record(finished_project: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    monkeypatch.chdir(finished_project)
    return lambda folder: CliRunner().invoke(main, ["record", str(folder)])


def test_a_recording_holds_the_run_without_its_data_and_models(
    record: Record, finished_project: Path, tmp_path: Path
) -> None:
    out = tmp_path / "recorded"
    assert record(out).exit_code == 0
    for name in ("params.yaml", "dvc.lock", "metrics/results.csv", "reports/report.html", "metrics/construct/det.json"):
        assert (out / name).read_bytes() == (finished_project / name).read_bytes()
    assert not (out / "data").exists()
    assert not (out / "models").exists()
    facts = json.loads((out / "record.json").read_text())
    assert facts["source"] == load_results(finished_project).iloc[0]["source"]
    assert {"python", "torch", "mlflow", "dvc", "optuna"} <= set(facts["versions"])
    stages = {one["command"]: one for one in facts["stages"]}
    assert {"notbugs train robust", "notbugs construct det", "notbugs fit rand", "notbugs evaluate"} <= set(stages)
    assert all(one["seconds"] > 0 and one["runs"] >= 1 for one in stages.values())


def test_its_page_shows_the_table_and_what_each_stage_took(record: Record, tmp_path: Path) -> None:
    out = tmp_path / "recorded"
    record(out)
    page = (out / "README.md").read_text()
    assert "| D_rand |" in page
    assert "| `notbugs fit rand` | 1 |" in page
    picture = page.partition("](")[2].partition(")")[0]
    assert (out / picture).read_bytes().startswith(b"\x89PNG")


def test_a_recording_is_replaced_and_nothing_else_is(record: Record, tmp_path: Path) -> None:
    out = tmp_path / "recorded"
    record(out)
    (out / "stale.txt").write_text("of an earlier run")
    assert record(out).exit_code == 0
    assert not (out / "stale.txt").exists()
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    refused = record(other)
    assert refused.exit_code == 1
    assert "must be a new or empty folder, or an earlier recording" in refused.output
    assert [file.name for file in other.iterdir()] == ["thesis.txt"]


def test_a_recording_does_not_hold_itself(record: Record, finished_project: Path) -> None:
    refused = record(Path("sweeps/recorded"))
    assert refused.exit_code == 1
    assert "sweeps/recorded: lies in sweeps, which is recorded" in refused.output
    assert not (finished_project / "sweeps/recorded").exists()


def test_a_run_that_is_not_finished_is_not_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    monkeypatch.chdir(tmp_path)
    refused = CliRunner().invoke(main, ["record", "recorded"])
    assert refused.exit_code == 1
    assert "dvc.lock: not found; `dvc repro` finishes the run" in refused.output
    assert not (tmp_path / "recorded").exists()


def test_without_mlflow_nothing_is_recorded(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    refused = record(tmp_path / "recorded")
    assert refused.exit_code == 1
    assert refused.output.startswith("error: MLflow, which knows what each stage took: ")
    assert not (tmp_path / "recorded").exists()


def test_costs_of_all_runs_of_a_stage_are_added(finished_project: Path) -> None:
    found = {cost.command: cost for cost in costs.stage_costs(finished_project)}
    assert found["notbugs prepare"].runs == 1
    assert next(iter(found)) == "notbugs prepare"


def test_of_a_stage_without_a_run_in_mlflow_the_last_run_is_known(
    record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {"prepare": Cost(9000.0), "construct@det": Cost(90.0), "construct@gone": Cost(90.0)}
    monkeypatch.setattr(schedule, "read_costs", lambda root: known)
    tracked = costs.stage_costs
    monkeypatch.setattr(
        costs, "stage_costs", lambda root: [cost for cost in tracked(root) if cost.command != "notbugs construct det"]
    )
    assert record(tmp_path / "recorded").exit_code == 0
    page = (tmp_path / "recorded/README.md").read_text()
    assert "| `notbugs construct det` | 1 | 1.5 |" in page
    assert page.count("`notbugs prepare`") == 1
    assert "| 150.0 |" not in page
    assert "construct gone" not in page, "dvc.lock has no such stage"
    commands = re.findall(r"^\| `(notbugs .*?)` ", page, re.MULTILINE)
    assert commands == [entry.command for entry in read_lock(tmp_path / "recorded/dvc.lock")]
