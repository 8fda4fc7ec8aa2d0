"""What a stage sees; the process that sends is tested in test_tracking_sender."""

import hashlib
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tracking_tools import stage, the_journal

from notbugs.tracking import live

pytestmark = pytest.mark.usefixtures("no_sender")


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def events(root: Path, kind: str) -> list[dict[str, object]]:
    return [event for _, event in the_journal(root).events() if event["kind"] == kind]


def test_header_of_a_run(bare_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "bold-hawk")
    with stage(bare_project, params={"fit": {"rand": {"lr": 0.1, "seeds": (0, 1), "attack": None}}, "train": {"x": 1}}):
        pass
    header = the_journal(bare_project).header
    assert header["address"] == "fit@rand"
    assert header["experiment"] == "test"
    assert header["store"] == "project"
    own = {"lr": "0.1", "seeds": "[0, 1]", "attack": "None"}
    assert header["params"] == {**own, "dataset.name": "D_rand"}
    tags = header["tags"]
    assert (tags["stage"], tags["name"], tags["seed"], tags["dvc.experiment"]) == ("fit", "rand", "3", "bold-hawk")
    assert tags["mlflow.source.name"] == "notbugs fit rand"


def test_a_stage_without_a_name(bare_project: Path) -> None:
    with live.live_run(
        "prepare",
        None,
        root=bare_project,
        experiment="test",
        params={},
        seed=0,
        inputs=[],
        outputs=[],
        metrics_file=None,
    ):
        pass
    header = the_journal(bare_project).header
    assert header["address"] == "prepare"
    assert "name" not in header["tags"]


def test_curves_leave_out_what_is_no_number(bare_project: Path) -> None:
    with stage(bare_project) as run:
        run.curve(1, {"loss": 0.5, "adversarial": None, "x": math.nan})
        run.curve(2, {"adversarial": None})
        run.metrics({"full": {"mean": {"accuracy": 0.9}, "n": 10}})
    first, second = events(bare_project, "metrics")
    assert (first["step"], first["values"]) == (1, {"loss": 0.5})
    assert second["values"] == {"full.mean.accuracy": 0.9, "full.n": 10.0}


def test_the_end_has_metrics_and_hashes_of_outputs(bare_project: Path) -> None:
    metrics, figure = bare_project / "metrics.json", bare_project / "figure.png"
    with stage(bare_project, outputs=[metrics, figure, bare_project / "absent"], metrics_file=metrics) as run:
        metrics.write_text(json.dumps({"full": {"mean": {"train_accuracy": 0.75}}}))
        figure.write_bytes(b"123")
        run.artifact(figure, "figures")
    assert [event["values"] for event in events(bare_project, "metrics")] == [{"train_accuracy": 0.75}]
    assert [event["folder"] for event in events(bare_project, "artifact")] == ["figures", None]
    (end,) = events(bare_project, "end")
    assert end["status"] == "FINISHED"
    assert end["outputs"] == {
        "metrics.json": {"md5": md5(metrics.read_bytes()), "size": 44, "nfiles": None},
        "figure.png": {"md5": md5(b"123"), "size": 3, "nfiles": None},
    }


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("no\nluck"), "FAILED"), (KeyboardInterrupt(), "KILLED"), (SystemExit(2), "FAILED")],
)
def test_an_error_in_the_stage_is_its_own(bare_project: Path, error: BaseException, status: str) -> None:
    metrics = bare_project / "metrics.json"
    metrics.write_text("{}")
    with pytest.raises(type(error)) as raised, stage(bare_project, outputs=[metrics], metrics_file=metrics):
        raise error
    assert raised.value is error
    (end,) = events(bare_project, "end")
    assert (end["status"], end["outputs"]) == (status, {})
    assert str(end["error"]).startswith(type(error).__name__)
    assert "\n" not in str(end["error"])
    assert events(bare_project, "artifact") == []


def test_off_leaves_no_trace(
    bare_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")
    with stage(bare_project) as run:
        run.curve(1, {"loss": 0.5})
        run.artifact(bare_project / "missing.png")
        run.model(bare_project / "missing.safetensors")
    assert not (bare_project / ".notbugs").exists()
    assert capsys.readouterr().err == ""


def test_only_the_first_process_of_many_tracks(bare_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with stage(bare_project):
        pass
    assert not (bare_project / ".notbugs").exists()


def test_without_mlflow_a_line_says_so(
    bare_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live.importlib.util, "find_spec", lambda name: None)
    with stage(bare_project) as run:
        run.curve(1, {"loss": 0.5})
    assert capsys.readouterr().err == "notbugs: tracking: MLflow is not installed, this run is not tracked\n"
    assert not (bare_project / ".notbugs").exists()


def test_a_folder_that_cannot_be_written_costs_one_line(bare_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bare_project / ".notbugs").write_text("in the way")
    with stage(bare_project) as run:
        run.curve(1, {"loss": 0.5})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("notbugs: tracking: this run is not tracked: ")


def test_a_journal_that_vanishes_costs_one_line(bare_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stage(bare_project) as run:
        shutil.rmtree(the_journal(bare_project).folder)
        for epoch in range(5):
            run.curve(epoch, {"loss": 0.5})
        run.artifact(bare_project / ".dvc")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "no longer tracked" in lines[0]


def test_a_missing_artifact_costs_one_line(bare_project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with stage(bare_project) as run:
        run.artifact(bare_project / "missing.png")
        run.model(bare_project / "missing.safetensors")
        run.curve(1, {"loss": 0.5})
    (line,) = capsys.readouterr().err.splitlines()
    assert "missing.png is not kept with the run" in line
    assert len(events(bare_project, "metrics")) == 1


def test_import_is_light() -> None:
    code = (
        "import sys, notbugs.tracking\n"
        "print([m for m in ('mlflow', 'torch', 'dvc', 'pandas', 'pydantic', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
