"""Killed workers, a killed database, two workers at once: nothing is lost, nothing is done twice.

With real processes (`notbugs sweep`, `notbugs sweep worker`), an SQLite file and a real PostgreSQL server.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import FrozenTrial
from sweep_tools import PARAMS, Postgres, set_params

from notbugs.pipeline.running.context import open_project
from notbugs.sweeps.recorded import study_key
from notbugs.sweeps.runs import trial_runs
from notbugs.sweeps.session import run
from notbugs.sweeps.settings import SweepError
from notbugs.sweeps.storage import open_storage, storage_url

pytestmark = pytest.mark.usefixtures("warm_python")
SOURCE = Path(__file__).parents[2] / "src"
SECONDS = 120.0


@contextlib.contextmanager
def command(root: Path, *arguments: str, url: str | None = None) -> Iterator["subprocess.Popen[bytes]"]:
    """`notbugs sweep ...` as a process of its own; killed at the end of the block if it still runs."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE), "NOTBUGS_SWEEP_HEARTBEAT": "1", "OMP_NUM_THREADS": "1"}
    if url:
        environment["NOTBUGS_SWEEP_STORAGE"] = url
    with (root / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "notbugs", "sweep", *arguments],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def slow_fits(root: Path) -> None:
    """Four points that take about a second each, so that one can be killed in the middle."""
    fit = {**PARAMS["fit"]["rand"], "epochs": 50, "measure_every": 10}
    study = {"kinds": ["rand"], "eps": [0.5, 1.0], "num_steps": [1, 2]}
    set_params(root, fit={**PARAMS["fit"], "rand": fit}, sweep={"small": study})


def trials(root: Path, url: str | None = None) -> list[FrozenTrial]:
    """All trials; none while the study is not there yet."""
    try:
        with open_storage(storage_url(root, url)) as storage:
            return optuna.load_study(study_name="small", storage=storage).get_trials()
    except (KeyError, optuna.exceptions.StorageInternalError):
        return []


def study_key_of(root: Path) -> str:
    with open_storage(storage_url(root, None)) as storage:
        record = optuna.load_study(study_name="small", storage=storage).user_attrs["record"]
    return study_key("small", record)


def wait_until(condition: Callable[[], object], output: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {output.read_text() if output.exists() else ''}"
        time.sleep(0.05)


def in_mid_trial(root: Path, url: str | None = None) -> Callable[[], bool]:
    """Whether a trial is complete and another one runs."""

    def look() -> bool:
        states = Counter(trial.state.name for trial in trials(root, url))
        return states["COMPLETE"] >= 1 and states["RUNNING"] >= 1

    return look


def assert_each_point_once(found: list[FrozenTrial], total: int = 4) -> None:
    states = Counter(trial.state.name for trial in found)
    assert states["RUNNING"] == states["WAITING"] == 0
    complete = [trial.user_attrs["slot"] for trial in found if trial.state.name == "COMPLETE"]
    assert sorted(complete) == list(range(total))


@pytest.fixture(scope="module")
def undisturbed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The outputs of the slow study, run by one process without disturbance."""
    import shutil

    root = shutil.copytree(trained, tmp_path_factory.mktemp("undisturbed") / "project")
    slow_fits(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NOTBUGS_TRACKING", "off")
        patch.delenv("NOTBUGS_SWEEP_STORAGE", raising=False)
        run(open_project(root), "small", jobs=1)
    return outputs(root)


def outputs(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "sweeps/small").glob("*.*")}


def test_kill_9_in_mid_trial_and_again(project: Path, undisturbed: dict[str, bytes]) -> None:
    """SQLite: the trial of the killed process is failed, its point enqueued again, the rest is kept."""
    slow_fits(project)
    with command(project, "small", "--jobs", "1") as first:
        wait_until(in_mid_trial(project), project / "output.txt")
        first.send_signal(signal.SIGKILL)
    before = {trial.number: trial for trial in trials(project)}
    assert any(trial.state.name == "RUNNING" for trial in before.values())
    told = {run.identity: run.status for run in trial_runs(project, "small", study_key_of(project))}
    running = next(number for number, trial in before.items() if trial.state.name == "RUNNING")
    assert told[str(running)] == "KILLED"
    with command(project, "small", "--jobs", "1") as second:
        assert second.wait(SECONDS) == 0, (project / "output.txt").read_text()
    after = trials(project)
    assert_each_point_once(after)
    assert Counter(trial.state.name for trial in after)["FAIL"] == 1
    for number, trial in before.items():
        if trial.state.name == "COMPLETE":
            assert after[number].datetime_complete == trial.datetime_complete  # not run again
    assert outputs(project) == undisturbed


@pytest.mark.slow
def test_ctrl_c_gives_the_trial_back(project: Path, undisturbed: dict[str, bytes]) -> None:
    slow_fits(project)
    output = project / "output.txt"
    with command(project, "small", "--jobs", "2") as first:
        wait_until(lambda: output.exists() and "sweep small: 1/4" in output.read_text(), output)
        first.send_signal(signal.SIGINT)
        assert first.wait(SECONDS) == 130
    said = output.read_text()
    assert "interrupted" in said
    assert "Traceback" not in said
    states = Counter(trial.state.name for trial in trials(project))
    assert states["RUNNING"] == 0
    assert states["COMPLETE"] >= 1
    with command(project, "small", "--jobs", "2") as second:
        assert second.wait(SECONDS) == 0
    assert_each_point_once(trials(project))
    assert outputs(project) == undisturbed


def test_postgres_two_workers_do_each_point_once(
    project: Path, postgres: Postgres, undisturbed: dict[str, bytes]
) -> None:
    slow_fits(project)
    worker = ("worker", "small")
    with command(project, *worker, url=postgres.url) as one, command(project, *worker, url=postgres.url) as two:
        assert one.wait(SECONDS) == two.wait(SECONDS) == 0, (project / "output.txt").read_text()
    found = trials(project, postgres.url)
    assert len(found) == 4
    assert_each_point_once(found)
    assert len({trial.user_attrs["worker"] for trial in found}) == 2
    assert not (project / "sweeps/small").exists()  # a worker writes no results
    run(open_project(project), "small", url=postgres.url, jobs=1)
    assert len(trials(project, postgres.url)) == 4
    assert outputs(project) == undisturbed


@pytest.mark.slow
def test_postgres_a_killed_worker_is_replaced_by_the_other(
    project: Path, postgres: Postgres, undisturbed: dict[str, bytes]
) -> None:
    slow_fits(project)
    with command(project, "worker", "small", url=postgres.url) as one:
        wait_until(in_mid_trial(project, postgres.url), project / "output.txt")
        one.send_signal(signal.SIGKILL)
        one.wait()
        lost = [trial for trial in trials(project, postgres.url) if trial.state.name == "RUNNING"]
        assert len(lost) == 1
        with command(project, "worker", "small", url=postgres.url) as two:
            assert two.wait(SECONDS) == 0
    found = trials(project, postgres.url)
    assert_each_point_once(found)
    assert found[lost[0].number].state.name == "FAIL"
    run(open_project(project), "small", url=postgres.url, jobs=1)
    assert outputs(project) == undisturbed


@pytest.mark.slow
def test_postgres_killed_and_started_again(project: Path, postgres: Postgres, undisturbed: dict[str, bytes]) -> None:
    slow_fits(project)
    with command(project, "small", "--jobs", "1", url=postgres.url) as session:
        wait_until(in_mid_trial(project, postgres.url), project / "output.txt")
        postgres.stop("immediate")
        time.sleep(3)
        assert session.poll() is None  # it waits
        postgres.start()
        assert session.wait(SECONDS) == 0, (project / "output.txt").read_text()
    assert "waiting for the database" in (project / "output.txt").read_text()
    assert_each_point_once(trials(project, postgres.url))
    assert outputs(project) == undisturbed


def test_a_silent_worker_of_another_machine_is_given_up(
    project: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose process cannot be looked at is judged by its heartbeat alone, and not too early."""
    from notbugs.sweeps import study as module
    from notbugs.sweeps.plan import make_plan
    from notbugs.sweeps.storage import Patience
    from notbugs.sweeps.study import open_study

    monkeypatch.setenv("NOTBUGS_SWEEP_HEARTBEAT", "1")
    monkeypatch.setattr(module, "GRACE", 2)
    monkeypatch.setattr("notbugs.sweeps.storage.GRACE", 2)
    monkeypatch.setattr(module, "identity", lambda: '{"pid": 1, "host": "elsewhere"}')
    plan = make_plan(open_project(project), "small")
    patience = Patience(lambda text: None)
    with open_storage(storage_url(project, postgres.url)) as storage:
        silent = open_study(storage, plan).claim(patience)
        other = open_study(storage, plan)
        second = other.claim(patience)
        assert silent is not None
        assert second is not None
        assert silent.number != second.number
        assert trials(project, postgres.url)[silent.number].state.name == "RUNNING"
        time.sleep(2.5)
        storage.record_heartbeat(second._trial_id)
        third = other.claim(patience)
        assert third is not None
        found = trials(project, postgres.url)
        assert found[silent.number].state.name == "FAIL"
        assert found[second.number].state.name == found[third.number].state.name == "RUNNING"
        again = [trial for trial in found if trial.user_attrs["slot"] == 0]
        assert [trial.state.name for trial in again] == ["FAIL", "WAITING"]
        with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):  # too late to count
            other.end(silent, optuna.trial.TrialState.COMPLETE, [0.5])


@pytest.mark.slow
def test_sqlite_and_postgres_give_the_same_bytes(project: Path, postgres: Postgres) -> None:
    run(open_project(project), "small", jobs=1)
    first = outputs(project)
    run(open_project(project), "small", jobs=1, url=postgres.url)
    assert outputs(project) == first


@pytest.mark.slow
def test_mysql_two_workers_do_each_point_once(project: Path, mysql: str, undisturbed: dict[str, bytes]) -> None:
    """They wait for each other by a lock of the server's; curves longer than its usual text columns are kept."""
    slow_fits(project)
    worker = ("worker", "small")
    with command(project, *worker, url=mysql) as one, command(project, *worker, url=mysql) as two:
        assert one.wait(SECONDS) == two.wait(SECONDS) == 0, (project / "output.txt").read_text()
    assert "secret" not in (project / "output.txt").read_text()
    found = trials(project, mysql)
    assert_each_point_once(found)
    run(open_project(project), "small", url=mysql, jobs=1)
    assert outputs(project) == undisturbed
    with open_storage(storage_url(project, mysql)) as storage:
        study = optuna.load_study(study_name="small", storage=storage)
        study.set_user_attr("long", "x" * 100_000)
        assert len(study.user_attrs["long"]) == 100_000


def test_without_a_driver_the_extra_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    monkeypatch.setattr("notbugs.tracking.location.problem", lambda uri: None)
    with (
        pytest.raises(
            SweepError, match=r"mysql\+pymysql://me:\*\*\*@h/x: needs the extra mysql: pip install 'notbugs\[mysql"
        ),
        open_storage(storage_url(project, "mysql://me:secret@h/x")),
    ):
        pass
