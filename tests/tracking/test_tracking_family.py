"""One shared run for a study, a child for each trial; sent by one writer, made good later, never in the way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tracking_tools import Runs, stage, wait_for

from notbugs.tracking import Family, live, track
from notbugs.tracking.family import PARENT

pytestmark = pytest.mark.usefixtures("warm_python")

KEY = "small-0123"


def child(root: Path, number: int, sender: str | None) -> "object":
    family = Family(KEY, f"trial {number}", sender, {"sweep.study": "small", "sweep.trial": str(number)})
    return stage(root, family=family)


def by_name(runs: Runs) -> dict[str, object]:
    return {run.info.run_name: run for run in runs.all()}


def test_children_are_sent_by_their_parent_s_writer(project: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = live._start_writer
    monkeypatch.setattr(live, "_start_writer", lambda journal: started.append(journal) or start(journal))
    with stage(project, family=Family(KEY), inputs=[project / "dvc.yaml"]) as parent:
        for number in range(3):
            with child(project, number, parent.sender) as run:  # type: ignore[attr-defined]
                run.curve(1, {"accuracy": 0.1 * number})
                run.metrics({"still_y": 0.9})
    wait_for(lambda: len(runs.all()) == 4 and all(run.info.status == "FINISHED" for run in runs.all()))
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
        assert run.data.metrics["still_y"] == 0.9
        assert runs.curve(run, "accuracy") == [(1, 0.1 * number)]


def test_a_later_session_joins_the_same_run(project: Path, runs: Runs) -> None:
    for number in range(2):
        with stage(project, family=Family(KEY)) as parent, child(project, number, parent.sender):
            pass
        wait_for(lambda number=number: len(runs.all()) == number + 2)
        wait_for(lambda: all(run.info.status == "FINISHED" for run in runs.all()))
    found = by_name(runs)
    assert sorted(found) == ["fit@rand", "trial 0", "trial 1"]
    top = found["fit@rand"].info.run_id
    assert {found[name].data.tags[PARENT] for name in ("trial 0", "trial 1")} == {top}


@pytest.mark.usefixtures("no_writer")
def test_track_sends_a_family_that_no_writer_sent(project: Path, runs: Runs) -> None:
    (project / "params.yaml").write_text("experiment: test\n")
    with stage(project, family=Family(KEY)) as parent:
        for number in range(2):
            with child(project, number, parent.sender):
                pass
    assert track(project).sent == 3
    found = by_name(runs)
    assert {found[f"trial {number}"].data.tags[PARENT] for number in range(2)} == {found["fit@rand"].info.run_id}
    assert track(project).sent == 0


@pytest.mark.usefixtures("no_writer")
def test_track_lets_a_child_wait_for_its_parent(project: Path, runs: Runs) -> None:
    """While the session goes on, its parent's run is not there yet: the child is not sent without one."""
    (project / "params.yaml").write_text("experiment: test\n")
    with stage(project, family=Family(KEY)) as parent:
        with child(project, 0, parent.sender):
            pass
        found = track(project)
        assert (found.sent, found.waiting) == (0, 1)
    assert track(project).sent == 2
    assert by_name(runs)["trial 0"].data.tags[PARENT] == by_name(runs)["fit@rand"].info.run_id


def test_a_killed_trial_ends_as_killed(project: Path, runs: Runs) -> None:
    program = """
import sys, os, time
sys.path[:0] = sys.argv[2:]
from pathlib import Path
from tracking_tools import stage
from notbugs.tracking import Family
with stage(Path(sys.argv[1]), family=Family("small-0123", "trial 7", os.environ["SENDER"])) as run:
    run.curve(1, {"accuracy": 0.5})
    print("ready", flush=True)
    time.sleep(600)
"""
    places = [str(Path(__file__).parent), str(Path(live.__file__).parents[2])]
    with stage(project, family=Family(KEY)) as parent:
        worker = subprocess.Popen(
            [sys.executable, "-c", program, str(project), *places],
            env={**os.environ, "SENDER": parent.sender},
            stdout=subprocess.PIPE,
        )
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"ready\n"
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        worker.stdout.close()
    wait_for(lambda: "trial 7" in by_name(runs) and by_name(runs)["trial 7"].info.status == "KILLED")
    assert runs.curve(by_name(runs)["trial 7"], "accuracy") == [(1, 0.5)]
