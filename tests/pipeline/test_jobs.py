"""Worker processes: the same bytes with any number, one line for what goes wrong, none left behind."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from job_tasks import dying, failing, of_process, sleeping, talkative, talking_to_the_end
from resume_tools import PARAMS, contents, set_params

from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.jobs import WorkerError, do_all, worker_count
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.config import Runtime, validate
from notbugs.runtime.errors import ConfigError, UserError
from notbugs.training.loop import TrainingError


@pytest.mark.usefixtures("whole_level")  # which workers have, too
@pytest.mark.parametrize("suite_seeds", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_stages_give_the_same_bytes_with_any_number_of_workers(project: Path, suite_seeds: int) -> None:
    """All of train, construct, fit and evaluate, done anew by two workers."""
    set_params(project, evaluate={"suite_seeds": suite_seeds})
    fewer = {"rand": {**PARAMS["fit"]["rand"], "seeds": [0], "still_y": False}}
    run_stage(set_params(project, fit=fewer), "fit", "rand")
    run_stage(set_params(project), "evaluate")
    folders = [project / name for name in ("data", "models", "metrics", "plots")]
    expected = contents(*folders)
    for folder in ("models", "metrics", "plots", ".notbugs"):
        shutil.rmtree(project / folder)
    shutil.rmtree(project / "data" / "rand")
    alone = {name: digest for name, digest in expected.items() if "metrics/prepare" in name}
    again = set_params(project, jobs=2)
    for name in ("standard", "robust"):
        run_stage(again, "train", name)
    run_stage(again, "construct", "rand")
    run_stage(again, "fit", "rand")
    run_stage(again, "evaluate")
    found = contents(*folders)
    assert {name for name in expected if found.get(name) != expected[name]} == set(alone)
    assert set(found) == set(expected) - set(alone)


@pytest.fixture
def two(project: Path) -> Context:
    return set_params(project, jobs=2)


def test_tasks_are_done_by_workers_and_come_back_in_order(two: Context) -> None:
    done = do_all(two, range(6), of_process, description="six")
    assert [task for task, _ in done] == list(range(6))
    assert os.getpid() not in {process for _, process in done}
    alone = do_all(two, [7], of_process, description="one")
    assert alone == [(7, os.getpid())]


def test_what_tasks_say_is_heard_in_their_order(two: Context) -> None:
    heard: dict[int, list[object]] = {}
    results = do_all(
        two, [3, 4, 5], talkative, description="talk", heard=lambda n, said: heard.setdefault(n, []).append(said)
    )
    assert results == [9, 16, 25]
    assert heard == {n: [(n + 3, number) for number in range(3)] for n in range(3)}


def test_an_error_of_a_task_is_the_stages(two: Context) -> None:
    with pytest.raises(TrainingError, match="the loss is nan; a smaller lr may help") as raised:
        do_all(two, range(4), failing, description="four")
    assert isinstance(raised.value, UserError)


def test_a_worker_that_is_killed_ends_the_stage_in_one_line(two: Context) -> None:
    with pytest.raises(WorkerError, match=r"fit rand: a worker process was killed .*`jobs: 1` in params.yaml"):
        do_all(two, range(4), dying, description="fit rand")


def test_a_worker_that_is_killed_while_it_speaks_ends_the_stage_too(two: Context) -> None:
    heard = []
    with pytest.raises(WorkerError):
        do_all(two, range(2), talking_to_the_end, description="talk", heard=lambda number, said: heard.append(said))
    assert heard.count(50) >= 1


def test_an_error_ends_what_the_other_workers_do(two: Context) -> None:
    workers: list[object] = []
    begun = time.monotonic()
    with pytest.raises(TrainingError, match="no more"):
        do_all(two, range(2), sleeping, description="sleep", heard=lambda number, said: workers.append(said))
    assert time.monotonic() - begun < 120
    assert len(workers) == 2
    wait_until(lambda: not any(psutil.pid_exists(worker) for worker in workers))


def test_an_error_of_who_listens_is_the_stages(two: Context) -> None:
    def deaf(number: int, said: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        do_all(two, [3, 4, 5], talkative, description="talk", heard=deaf)


def test_auto_takes_the_processors_and_never_more_than_tasks(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    monkeypatch.setattr("notbugs.pipeline.running.jobs.usable_processors", lambda: 8)
    assert worker_count(set_params(project), 100) == 1  # the default
    auto = set_params(project, jobs="auto", num_threads=2)
    assert [worker_count(auto, tasks) for tasks in (0, 1, 3, 100)] == [1, 1, 3, 4]
    on_gpu = Context(auto.root, auto.params, auto.runtime, torch.device("cuda"))
    assert worker_count(on_gpu, 100) == 1
    monkeypatch.setattr("notbugs.pipeline.running.jobs.world_size", lambda: 2)
    assert worker_count(auto, 100) == 1


@pytest.mark.parametrize("jobs", [0, -1, 1.5, "all", True, 2000])
def test_impossible_numbers_of_workers_are_refused(jobs: object) -> None:
    with pytest.raises(ConfigError, match=r"params.yaml: jobs[\w.\[\]' -]* = .*: must be"):
        validate({"jobs": jobs}, "", Runtime)


SLOW = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from notbugs.pipeline.running import fork_server
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.running.jobs import do_all
fork_server.PRELOADED[:] = ["notbugs.pipeline.running.jobs"]  # no more than these workers need
from slow_tasks import slow
do_all(open_project(Path({root!r})), range(2), slow, description="slow")
"""


def begin_slow(folder: Path, project: Context) -> tuple["subprocess.Popen[str]", list[int]]:
    """A stage in a process of its own whose two workers are at work, and the numbers of their processes."""
    (folder / "slow_tasks.py").write_text(
        "import os, time\nfrom pathlib import Path\n"
        f"def slow(task, say):\n    Path({str(folder)!r}, f'{{task}}.pid').write_text(str(os.getpid()))\n"
        "    time.sleep(600)\n"
    )
    stage = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(tests=str(folder), root=str(project.root))],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    files = [folder / f"{task}.pid" for task in range(2)]
    wait_until(lambda: all(file.exists() and file.read_text() for file in files))
    return stage, [int(file.read_text()) for file in files]


@pytest.mark.usefixtures("warm_python")
def test_a_stage_that_is_killed_leaves_no_worker(tmp_path: Path, two: Context) -> None:
    stage, workers = begin_slow(tmp_path, two)
    stage.kill()
    stage.communicate()
    wait_until(lambda: not any(psutil.pid_exists(worker) for worker in workers))


@pytest.mark.usefixtures("warm_python")
def test_ctrl_c_ends_the_stage_and_its_workers(tmp_path: Path, two: Context) -> None:
    """In a terminal all of them get the signal; the stage ends at once, with no line of a worker."""
    stage, workers = begin_slow(tmp_path, two)
    for process in (*workers, stage.pid):  # the stage ends its workers, so it is the last
        os.kill(process, signal.SIGINT)
    _, said = stage.communicate(timeout=60)
    assert stage.returncode != 0
    assert said.count("Traceback") == 1  # the stage's own; the command line makes it one line
    wait_until(lambda: not any(psutil.pid_exists(worker) for worker in workers))


def wait_until(condition, seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.1)
