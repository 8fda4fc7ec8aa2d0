"""`notbugs repro` on small pipelines of shell commands: what runs, in which order, what fails, what DVC has then."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from projects import environment, fail, run
from tiny import SHARED

Make = Callable[..., Path]


@pytest.fixture
def mini(tmp_path: Path) -> Make:
    """A project without Git whose stages are given by name: (command, what it needs, what it makes)."""

    def make(**stages: tuple[str, str, str]) -> Path:
        written: dict[str, Any] = {}
        for name, (command, needs, makes) in stages.items():
            written[name] = {"cmd": command, "deps": needs.split(), "outs": makes.split()}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(SHARED))
        (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": written}, sort_keys=False))
        (tmp_path / "seed").write_text("1")
        run(tmp_path, "dvc", "init", "--no-scm", "-q")
        return tmp_path

    return make


def _repro(project: Path, *arguments: str, code: int = 0) -> str:
    """What `notbugs repro` said."""
    done = run(project, "notbugs", "repro", *arguments, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def _lock(project: Path) -> list[str]:
    return list(yaml.safe_load((project / "dvc.lock").read_text())["stages"])


def _cache(project: Path) -> dict[str, bytes]:
    files = (file for file in (project / ".dvc" / "cache").rglob("*") if file.is_file())
    return {file.relative_to(project).as_posix(): file.read_bytes() for file in files}


MEET = "touch {mine}.here; for i in $(seq 400); do [ -e {other}.here ] && break; sleep 0.05; done; [ -e {other}.here ]"
"""Waits until another stage has begun, too."""


def test_what_is_ready_runs_at_once_and_dvc_has_the_same(mini, tmp_path_factory):
    """Two stages wait for each other; a third for both. The bytes are those of `dvc repro`, which has nothing to do."""
    stages = {
        "z": (f"{MEET.format(mine='z', other='a')} && cp seed z", "seed", "z"),
        "a": (f"{MEET.format(mine='a', other='z')} && cp seed a", "seed", "a"),
        "both": ("cat a z > both", "a z", "both"),
    }
    project = mini(**stages)
    said = _repro(project, "--jobs", "2")
    assert "both: done" in said
    assert "(3 of 3 stages)" in said
    assert "3 stages run or restored" in said
    assert run(project, "dvc", "status").stdout.strip() == "Data and pipelines are up to date."
    other = tmp_path_factory.mktemp("other") / "project"
    run(project, "cp", "-r", str(project), str(other))
    for name in ("dvc.lock", "a", "z", "both"):
        (other / name).unlink()
    run(other, "rm", "-r", ".dvc/cache")
    run(other, "dvc", "repro", "-q")
    assert (other / "dvc.lock").read_bytes() == (project / "dvc.lock").read_bytes()
    assert _cache(other) == _cache(project)
    assert "nothing to do" in _repro(project)


def test_a_failure_keeps_back_what_depends_on_it_alone(mini):
    project = mini(
        bad=("echo no luck >&2; exit 3", "seed", "bad"),
        after=("cp bad after", "bad", "after"),
        last=("cp after last", "after", "last"),
        good=("sleep 0.3; cp seed good", "seed", "good"),
        better=("cp good better", "good", "better"),
    )
    said = _repro(project, code=1)
    error = said.splitlines()[-1]
    assert error == ("error: bad: no luck (see .notbugs/logs/bad.log); not run, since they wait for it: after, last")
    assert "bad: failed: no luck" in said
    assert (project / "better").read_text() == "1"
    assert _lock(project) == ["good", "better"]
    edit = (project / "dvc.yaml").read_text().replace("echo no luck >&2; exit 3", "cp seed bad")
    (project / "dvc.yaml").write_text(edit)
    assert "3 stages run or restored" in _repro(project)
    assert set(_lock(project)) == {"bad", "after", "last", "good", "better"}


def test_a_stage_that_says_nothing_and_is_killed(mini):
    project = mini(bad=("kill -9 $$", "seed", "bad"))
    assert _repro(project, code=1).splitlines()[-1].startswith("error: bad: was killed (SIGKILL) (see ")


def test_options_are_those_of_dvc(mini):
    project = mini(a=("cp seed a", "seed", "a"), b=("cp a b", "a", "b"), c=("cp b c", "b", "c"))
    assert "2 stages run" in _repro(project, "b")
    assert not (project / "c").exists()
    assert "1 stages run" in _repro(project, "--downstream", "b")
    (project / "below").mkdir()
    assert "nothing to do" in run(project / "below", "notbugs", "repro", "b").stderr
    assert "3 stages run" in _repro(project, "--force")
    assert "1 stages run" in _repro(project, "--force", "--single-item", "b")
    (project / "seed").write_text("2")
    assert "nothing to do" in _repro(project, "--single-item", "c")  # what it needs is old, but there
    assert "3 stages run" in _repro(project)
    assert (project / "c").read_text() == "2"
    (project / "seed").write_text("1")
    said = _repro(project)
    assert "restored from the run cache" in said
    assert "begins" not in said
    assert (project / "c").read_text() == "1"
    run(project, "dvc", "freeze", "b")
    (project / "seed").write_text("3")
    assert "1 stages run" in _repro(project)
    assert (project / "c").read_text() == "1"


def test_force_downstream(mini):
    project = mini(a=("echo > a; cp seed a2", "seed", "a a2"), b=("cp a b; date +%N > b2", "a", "b b2"))
    _repro(project)
    (project / "seed").write_text("2")  # `a` is made anew and comes out as before, but for a2
    first = (project / "b2").read_text()
    assert "1 stages run" in _repro(project)
    (project / "seed").write_text("3")
    assert "2 stages run" in _repro(project, "--force-downstream")
    assert (project / "b2").read_text() != first


def test_missing_data_are_pulled(mini, tmp_path_factory):
    project = mini(a=("cp seed a", "seed", "a"), b=("cp a b", "a", "b"))
    run(project, "dvc", "remote", "add", "-q", "-d", "away", str(tmp_path_factory.mktemp("remote")))
    _repro(project)
    run(project, "dvc", "push", "-q")
    run(project, "rm", "-r", ".dvc/cache", "a", "b")
    said = _repro(project, "--pull")
    assert "begins" not in said
    assert (project / "b").read_text() == "1"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["nowhere"], "error: DVC: Stage 'nowhere' not found inside 'dvc.yaml' file"),
        (["--jobs", "999"], "error: --jobs 999: with num_threads = 1 that is 999 threads on"),
        (["--jobs", "2", "--scheduler", "tcp://127.0.0.1:1"], "error: --jobs with --scheduler: a cluster has as many"),
        (["--scheduler", "tcp://127.0.0.1:1"], "error: --scheduler tcp://127.0.0.1:1: no Dask scheduler answers there"),
        (["--scheduler", "what"], "error: --scheduler what: no Dask scheduler answers there"),
        (["--dashboard"], "error: --dashboard needs bokeh; install it with pip install 'notbugs[dashboard]'"),
        (["--simulate", "2,none"], "error: --simulate 2,none: numbers of slots, separated by commas"),
        (["--simulate", "2"], "error: not known what these cost, since they never ran here: a"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_errors_are_one_line(mini, arguments, error):
    project = mini(a=("cp seed a", "seed", "a"))
    assert fail(project, "notbugs", "repro", *arguments).startswith(error)
    assert not (project / "dvc.lock").exists()


def test_a_second_one_says_who_is_at_work(mini):
    project = mini(a=("echo $$ > pid; sleep 60; cp seed a", "seed", "a"))
    first = _started(project, "pid")
    try:
        open_ports = [known for known in psutil.Process(first.pid).net_connections() if known.status == "LISTEN"]
        assert {known.laddr.ip for known in open_ports} <= {"127.0.0.1"}
        error = fail(project, "notbugs", "repro")
        assert error.startswith(f"error: notbugs repro: another one runs in this project: process {first.pid} on ")
    finally:
        os.killpg(first.pid, signal.SIGINT)
        first.wait()


@pytest.mark.parametrize(("how", "send"), [(signal.SIGINT, os.killpg), (signal.SIGTERM, os.kill)], ids=["C-c", "kill"])
def test_an_interrupt_ends_all_that_runs(mini, how, send):
    """Ctrl-C, which the whole group gets, and a request to end: what it started is gone, and a second run goes on."""
    project = mini(
        a=("trap 'touch asked; exit 1' INT; echo $$ > pid; sleep 60 & wait; cp seed a", "seed", "a"),
        b=("cp seed b", "seed", "b"),
    )
    process = _started(project, "pid")
    began = time.monotonic()
    send(process.pid, how)
    assert process.wait(40) == 130
    assert time.monotonic() - began < 15
    assert (project / "asked").exists()  # to put its unfinished work away
    assert not _lives(project / "pid")
    assert (project / "said").read_text().splitlines()[-1] == "interrupted"
    edit = (project / "dvc.yaml").read_text().replace("sleep 60 & wait; ", "")
    (project / "dvc.yaml").write_text(edit)
    _repro(project)
    assert (project / "a").exists()


def test_nothing_outlives_a_killed_one(mini):
    project = mini(a=("echo $$ > pid; sleep 60", "seed", "a"))
    process = _started(project, "pid")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 20
    while _lives(project / "pid") and time.monotonic() < until:
        time.sleep(0.1)
    assert not _lives(project / "pid")
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text().replace("sleep 60", "cp seed a"))
    _repro(project)


def _lives(pid: Path) -> bool:
    """Whether the process lives whose number is in a file."""
    try:
        return psutil.Process(int(pid.read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_one_that_was_suspended_goes_on(mini, monkeypatch):
    """As a laptop that slept: no heartbeat of Dask's came for longer than it waits for one."""
    project = mini(a=("echo 1 > begun; sleep 1; cp seed a", "seed", "a"), b=("cp a b", "a", "b"))
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "1s")
    process = _started(project, "begun")
    process.send_signal(signal.SIGSTOP)
    time.sleep(8)  # Dask gives a worker ten heartbeats, half a second each, besides
    process.send_signal(signal.SIGCONT)
    try:
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert _lock(project) == ["a", "b"]


def _started(project: Path, begun: str) -> "subprocess.Popen[bytes]":
    """`notbugs repro` in a session of its own, once a stage has written a file; what it says goes into `said`."""
    with (project / "said").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "notbugs", "repro", "--jobs", "2"],
            cwd=project,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
    until = time.monotonic() + 60
    while not (project / begun).exists() or not (project / begun).read_text():
        assert process.poll() is None, (project / "said").read_text()
        assert time.monotonic() < until
        time.sleep(0.05)
    return process
