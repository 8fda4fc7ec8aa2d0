"""One shared run for a study, a child for each trial that a list tells of; sent by one process, made good later."""

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from tracking_tools import Runs, stage, wait_for

from notbugs.tracking import SharedRun, live
from notbugs.tracking.rebuilding import PARENT, RecordedRun, StudyRuns
from notbugs.tracking.reconcile import track

KEY = "small-0123"
STUDY = SharedRun(KEY, "test_tracking_study:listed_trials", {"TRIALS": "trials.json"})


def listed_trials(root: Path, name: str, key: str) -> list[RecordedRun]:
    """What the sending process asks, in the place of Optuna's database."""
    assert (name, key) == ("rand", KEY)
    assert os.environ.get("TRIALS", "trials.json") == "trials.json"
    file = root / "trials.json"
    return [RecordedRun(**fields) for fields in json.loads(file.read_text())] if file.exists() else []


def write_trials(root: Path, *trials: RecordedRun) -> None:
    (root / "trials.new").write_text(json.dumps([asdict(trial) for trial in trials]))
    (root / "trials.new").rename(root / "trials.json")


def trial(number: int, session: str | None, **changes: Any) -> RecordedRun:
    tags = {"sweep.study": "small", "sweep.trial": str(number), "notbugs.journal": f"{session}/{number}"}
    fields: dict[str, Any] = {"metrics": {"still_y": 0.9}, "curves": ((1000, 1, {"accuracy": 0.1 * number}),)}
    return RecordedRun(f"trial {number}", tags, {"sweep": {"eps": number}}, **{"started": 900, **fields, **changes})


@pytest.fixture(autouse=True)
def found_by_the_sender(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    (project / "params.yaml").write_text("experiment: test\n")


def by_name(runs: Runs) -> dict[str, Any]:
    return {run.info.run_name: run for run in runs.all()}


def test_children_are_sent_by_their_study_s_process(project: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = live._start_sender
    monkeypatch.setattr(live, "_start_sender", lambda *arguments: started.append(arguments) or start(*arguments))
    data = project / "data" / "train"
    data.mkdir(parents=True)
    (data / "manifest.json").write_text('{"name": "D_train"}')
    with stage(project, study=STUDY, inputs=[data]) as parent:
        write_trials(project, trial(0, parent.label, status="RUNNING", metrics={}))
        wait_for(lambda: "trial 0" in by_name(runs))
        assert by_name(runs)["trial 0"].info.status == "RUNNING"
        others = [trial(1, parent.label), trial(2, parent.label, status="KILLED", ended=2000)]
        write_trials(project, trial(0, parent.label), *others)
    wait_for(lambda: len(runs.all()) == 4 and all(run.info.status != "RUNNING" for run in runs.all()))
    assert len(started) == 1
    found = by_name(runs)
    top = found.pop("fit@rand")
    assert top.data.tags["notbugs.shared"] == KEY
    assert PARENT not in top.data.tags
    assert sorted(found) == ["trial 0", "trial 1", "trial 2"]
    for number in range(3):
        run = found[f"trial {number}"]
        assert run.data.tags[PARENT] == top.info.run_id
        assert run.data.tags["sweep.trial"] == str(number)
        assert run.data.tags["dvc.dep.data/train"] == top.data.tags["dvc.dep.data/train"]
        assert [one.dataset.name for one in run.inputs.dataset_inputs] == ["D_train"]
        assert run.data.params == {"sweep.eps": str(number)}
        assert run.data.metrics["still_y"] == 0.9
        assert runs.curve(run, "accuracy") == [(1, 0.1 * number)]
    assert (found["trial 2"].info.status, found["trial 2"].info.end_time) == ("KILLED", 2000)


@pytest.mark.usefixtures("no_sender")
def test_a_later_session_joins_the_same_run(project: Path, runs: Runs) -> None:
    labels: list[str | None] = []
    for number in range(2):
        with stage(project, study=STUDY) as parent:
            labels.append(parent.label)
            write_trials(project, *(trial(index, label) for index, label in enumerate(labels)))
        assert track(project).sent == 1
        assert len(runs.all()) == number + 2
    found = by_name(runs)
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert sorted(found) == ["fit@rand", "trial 0", "trial 1"]
    top = found["fit@rand"].info.run_id
    assert {found[name].data.tags[PARENT] for name in ("trial 0", "trial 1")} == {top}


@pytest.mark.usefixtures("no_sender")
def test_track_sends_a_study_that_nobody_sent(project: Path, runs: Runs) -> None:
    """Not while its session goes on, whose own process does it."""
    with stage(project, study=STUDY) as parent:
        write_trials(project, trial(0, parent.label), trial(1, parent.label), trial(2, "fit@rand/elsewhere"))
        assert track(project).sent == 0
    assert track(project).sent == 1
    found = by_name(runs)
    assert sorted(found) == ["fit@rand", "trial 0", "trial 1"]
    assert {found[f"trial {number}"].data.tags[PARENT] for number in range(2)} == {found["fit@rand"].info.run_id}
    assert track(project).changed is False


@pytest.mark.usefixtures("no_sender")
def test_what_a_session_left_behind_is_told_by_the_next(project: Path, runs: Runs) -> None:
    """A trial that its worker finished when the session, and the process that sends, had been killed."""
    with stage(project, study=STUDY) as first:
        write_trials(project, trial(0, first.label, status="RUNNING"))
    track(project)
    with stage(project, study=STUDY) as second:
        write_trials(project, trial(0, first.label), trial(1, first.label), trial(2, second.label))
    track(project)
    found = by_name(runs)
    assert sorted(found) == ["fit@rand", "trial 0", "trial 1", "trial 2"]
    assert {run.info.status for run in found.values()} == {"FINISHED"}


@pytest.mark.usefixtures("no_sender")
def test_a_trial_that_the_user_deleted_stays_deleted(project: Path, runs: Runs) -> None:
    with stage(project, study=STUDY) as parent:
        write_trials(project, trial(0, parent.label))
    track(project)
    with runs.client() as client:
        client.delete_run(by_name(runs)["trial 0"].info.run_id)
    trials = lambda: [trial(0, parent.label), trial(1, parent.label)]  # noqa: E731
    study = StudyRuns("fit@rand", KEY, {}, {}, (), trials)
    assert track(project, studies=[study]).recorded == 1
    assert sorted(by_name(runs)) == ["fit@rand", "trial 1"]


def test_a_finished_study_is_recorded_once(project: Path, runs: Runs) -> None:
    """Also if the first call is broken off after any of its runs."""
    told = [trial(0, "fit@rand/elsewhere"), trial(1, None, status="FAILED")]

    def broken_off() -> list[RecordedRun]:
        raise OSError("the disk is gone")

    params = {"fit": {"rand": {"kinds": ["rand"]}}}
    study = StudyRuns("fit@rand", KEY, params, {"points": 2}, (), broken_off)
    assert not track(project, studies=[study]).ok
    study = StudyRuns("fit@rand", KEY, params, {"points": 2}, (), lambda: told)
    assert track(project, studies=[study]).recorded == 2
    assert track(project, studies=[study]).changed is False
    found = by_name(runs)
    assert sorted(found) == ["fit@rand", "trial 0", "trial 1"]
    assert {run.data.tags["notbugs.rebuilt"] for run in found.values()} == {"true"}
    assert found["fit@rand"].data.params == {"kinds": '["rand"]'}
    assert found["trial 1"].info.status == "FAILED"
