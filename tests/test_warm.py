"""A warm command is a process like any other: what it reads, says, returns, and how it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import warm
from projects import run

pytestmark = pytest.mark.skipif(warm.VARIABLE not in os.environ, reason="forks and pidfd_open, which only Linux has")
PYTHON = warm.program("python")


def test_arguments_folder_environment_and_files_are_those_of_who_starts_it(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv, os.getcwd(), os.environ['WORD'], input()); print('aloud', file=sys.stderr)"
    command = [PYTHON, "-c", code, "an argument", ""]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "WORD": "said"}, input="typed", capture_output=True, text=True
    )
    assert done.stdout == f"['-c', 'an argument', ''] {tmp_path} said typed\n"
    assert done.stderr == "aloud\n"
    assert done.returncode == 0


def test_everything_is_imported_and_each_command_has_its_own_memory(tmp_path: Path) -> None:
    code = "import sys; print('torch' in sys.modules, hasattr(sys, 'mine')); sys.mine = 1"
    for _ in range(2):
        assert run(tmp_path, "python", "-c", code).stdout == "True False\n"


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("raise SystemExit(7)", 7, ""),
        ("import sys; sys.exit('a reason')", 1, "a reason\n"),
        ("1 / 0", 1, "ZeroDivisionError"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, ""),
    ],
)
def test_it_ends_as_the_command_does(tmp_path: Path, code: str, status: int, said: str) -> None:
    done = run(tmp_path, "python", "-c", code, check=False)
    assert done.returncode == status
    assert said in done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_reaches_the_command(number: signal.Signals) -> None:
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    with subprocess.Popen([PYTHON, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as client:
        assert client.stdout is not None
        command = int(client.stdout.readline())
        client.send_signal(number)
    assert client.returncode != 0
    deadline = time.monotonic() + 20
    while Path(f"/proc/{command}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_another_package_or_module_is_run_by_a_new_interpreter(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("print('customised')")
    assert run(tmp_path, "python", "-c", "pass", PYTHONPATH=str(tmp_path)).stdout == "customised\n"
    assert "torch" not in run(tmp_path, "python", "-X", "importtime", "-c", "pass").stderr
    assert run(tmp_path, "python", "-c", "import sys; print(sys.executable)").stdout == f"{PYTHON}\n"
    assert run(tmp_path, "python", "-Ic", "import sys; print(sys.executable)").stdout == f"{sys.executable}\n"
