"""Linux and macOS, which lacks some of Linux's names; Windows is told where to go."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from notbugs.cli import main
from notbugs.runtime.machine import project_folder, usable_processors
from notbugs.runtime.process import writer_lives


def test_processors_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {1, 4, 5}, raising=False)
    assert usable_processors() == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert usable_processors() == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_processors() == 1


def test_a_writer_is_told_by_number_and_start() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        started = psutil.Process(process.pid).create_time()
        assert writer_lives(process.pid, time.time())
        assert not writer_lives(process.pid, started - 3600)  # the number was another process's then
        process.communicate()
    assert not writer_lives(process.pid, time.time())
    assert not writer_lives(2**40, time.time())


def test_somebody_elses_process_counts_as_living(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int) -> None:
        raise psutil.AccessDenied(pid)

    monkeypatch.setattr(psutil, "Process", refuse)
    assert writer_lives(1, time.time())


def test_a_project_is_found_from_below(tmp_path: Path) -> None:
    below = tmp_path / "project" / "data" / "train"
    below.mkdir(parents=True)
    assert project_folder(below) is None
    (tmp_path / "project" / "params.yaml").touch()
    assert project_folder(below) == tmp_path / "project"


def test_windows_is_told_of_wsl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    for command in (["prepare"], ["results"], []):
        done = CliRunner().invoke(main, command)
        assert done.exit_code == 1
        (line,) = done.output.splitlines()
        assert line.startswith("error: notbugs runs on Linux and macOS; on Windows install WSL")


WINDOWS = """
import sys
import click, yaml  # they ask for the system themselves
for name in ("fcntl", "grp", "pwd", "resource", "termios"):
    sys.modules[name] = None
sys.platform = "win32"
from notbugs.cli import main
main(["prepare"])
"""
"""Python without modules that Windows lacks."""


def test_windows_gets_as_far_as_that_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WINDOWS], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: notbugs runs on Linux and macOS; on Windows install WSL")


MACOS = """
import os, sys
for name in ("sched_getaffinity", "sched_setaffinity"):
    delattr(os, name)
from notbugs.cli import main
for command in sys.argv[1:]:
    main(command.split(), standalone_mode=False)
"""
"""Python without what macOS lacks."""
WITHOUT_FCNTL = """
import sys, warnings
sys.modules["fcntl"] = None
warnings.simplefilter("ignore")  # filelock says that its lock is a plain file
from pathlib import Path
from notbugs.runtime.files import file_lock
with file_lock(Path(sys.argv[1])) as first, file_lock(Path(sys.argv[1])) as second:
    print(first, second)
with file_lock(Path(sys.argv[1])) as third:
    print(third)
"""


def test_locks_need_no_fcntl(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_FCNTL, str(tmp_path / "lock")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False", "True"], done.stderr


@pytest.fixture
def small_project(tmp_path: Path) -> Path:
    import yaml

    from tiny import TINY_PARAMS

    train = {"epochs": 1, "batch_size": 64, "lr": 0.1}
    params = {
        **TINY_PARAMS,
        "data": {"source": "digits", "max_train": 100, "max_test": 20},
        "train": {"standard": train, "robust": {**train, "attack": {"eps": 0.5, "num_steps": 1}}},
        "sweep": {"small": {"kinds": ["rand"], "eps": [0.5], "num_steps": [1]}},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return tmp_path


@pytest.mark.slow
def test_stages_sweep_and_tracking_without_the_names_of_linux(small_project: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "NOTBUGS"))}
    commands = ("check", "prepare", "train standard", "train robust", "sweep small --jobs 1", "track")
    done = subprocess.run(
        [sys.executable, "-c", MACOS, *commands],
        cwd=small_project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert done.returncode == 0, done.stderr
    assert (small_project / "sweeps" / "small" / "trials.csv").exists()
    assert "not tracked" not in done.stderr
    assert (small_project / "mlruns" / "mlflow.db").exists()
