"""Commands in forks of one interpreter that has imported everything: a new one imports torch and MLflow for seconds.

`begin` starts the server and makes a folder of programs `notbugs`, `dvc` and `python`, to be put first in PATH. Each is
a client (`warm_client.py`): it hands its arguments, environment, folder and open files to the server, which forks, and
it ends as the fork does. To whoever starts it, it is a process like any other: it can be signalled and killed.

What it cannot show: how long a start takes, what a command imports, what order a hash seed of its own gives to sets.
Tests of these run a real interpreter; so does a client with more in PYTHONPATH than the package.
"""

import array
import atexit
import gc
import importlib
import io
import json
import os
import pkgutil
import random
import runpy
import select
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import traceback
import types
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

VARIABLE = "NOTBUGS_WARM"
"""Names the folder, for the processes of pytest-xdist too."""
LIBRARIES = [
    *("dvc.cli.parser", "dvc.repo.open_repo", "dvc.repo.reproduce", "dvc.stage.serialize", "dvc.output"),
    *("matplotlib.backends.backend_agg", "matplotlib.pyplot"),
    *("mlflow", "mlflow.data", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store"),
    *("optuna.storages", "optuna.visualization.matplotlib"),
    *("pyarrow.parquet", "safetensors.torch", "scipy.stats", "sklearn.datasets"),
    *("sklearn.decomposition", "sklearn.neighbors", "torch._dynamo"),
]
"""Imported beside the package itself, which imports them only when it uses them."""
CLIENT = Path(__file__).with_name("warm_client.py")


def begin() -> Callable[[], None]:
    """Start the server, which imports nothing until the first command comes.

    Returns: what ends it.
    """
    folder = Path(tempfile.mkdtemp(prefix="notbugs-warm-"))
    source = str(Path(__file__).parents[1] / "src")
    own = Path(sys.executable)
    for name in ("notbugs", "dvc", "python"):
        real = own if name == "python" else own.with_name(name)
        words = [own, "-I", "-S", CLIENT, folder / "socket", source, real]
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {shlex.join(map(str, words))} "$@"\n')
        program.chmod(0o755)
    os.environ[VARIABLE] = str(folder)
    server = subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},  # a fork cannot use the threads of its parent
        stdin=subprocess.PIPE,
        cwd=folder,
    )

    def end() -> None:
        server.communicate()
        shutil.rmtree(folder)

    return end


def hurry() -> None:
    """Do what commands of tests do in a fraction of its time, all alike, for their outputs are compared."""
    hurry_sqlite()
    hurry_evaluation()
    hurry_importance()
    _leave_blank()


def hurry_sqlite() -> None:
    """Databases do not wait for the disk: the tests kill processes, not the machine."""
    from sqlalchemy import Engine, event

    @event.listens_for(Engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        if isinstance(connection, sqlite3.Connection):
            with suppress(sqlite3.Error):  # of a file that is no database: whoever asks for it is to find out
                connection.execute("PRAGMA synchronous=OFF")


def hurry_evaluation() -> None:
    """Make of `quick` a level of all its attacks with a few steps of each: few tests ask how hard they are."""
    from notbugs.evaluation.levels import LEVELS

    few = {"restarts": (3, 2), "minimum": (("ddn", 10), ("fmn", 10)), "fixed": (("apgd_t", 4),), "square": 20}
    LEVELS["quick"] = replace(LEVELS["quick"], **few)


def hurry_importance() -> None:
    """What Optuna says of each quantity of a study comes from a forest: of few trees."""
    importance = importlib.import_module("optuna.importance")  # not the one that stands for it until then
    importance.FanovaImportanceEvaluator = partial(importance.FanovaImportanceEvaluator, n_trees=4)


def program(name: str) -> str:
    """Path of a warm program; of the real one where there is no server."""
    return str(Path(os.environ.get(VARIABLE, Path(sys.executable).parent)) / name)


def serve(folder: Path) -> None:
    """Run commands until the standard input ends, which is when the tests have."""
    del sys.path[0]  # the tests
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen(64)
    imported = False
    commands: dict[int, Command] = {}
    """By the files that are to be looked at: the client's socket and the process's."""
    while True:
        ready, _, _ = select.select([0, listener, *commands], [], [])
        if 0 in ready:
            return
        for file in commands.keys() & set(ready):
            command = commands.get(file)
            if command is not None and command.look():
                del commands[command.client.fileno()], commands[command.process]
                command.close()
        if listener in ready:
            client, _ = listener.accept()
            if not imported:
                _import_all()
                imported = True
            command = Command(client, folder)
            commands |= dict.fromkeys((client.fileno(), command.process), command)


class Command:
    """A client's command in a fork."""

    def __init__(self, client: socket.socket, folder: Path) -> None:
        request, files = _received(client)
        self.client = client
        self.number = os.fork()
        if self.number == 0:
            _run(request, files, folder)
        self.process = os.pidfd_open(self.number)
        for file in files:
            os.close(file)

    def look(self) -> bool:
        """Pass the client's signals on, its death too; tell it how the command ended. Returns: whether it has."""
        ready, _, _ = select.select([self.client, self.process], [], [], 0)
        if self.client in ready:
            sent = self.client.recv(1)
            with suppress(ProcessLookupError):
                os.kill(self.number, sent[0] if sent else signal.SIGKILL)
            if not sent:
                select.select([self.process], [], [])
        elif self.process not in ready:
            return False
        number, status = os.waitpid(self.number, os.WNOHANG)
        if number:
            with suppress(OSError):  # it does not want to know
                self.client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
        return number != 0

    def close(self) -> None:
        """Forget it."""
        self.client.close()
        os.close(self.process)


def _import_all() -> None:
    os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"}
    import notbugs

    for name in LIBRARIES:
        importlib.import_module(name)
    for module in pkgutil.walk_packages(notbugs.__path__, "notbugs."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    hurry()
    gc.collect()
    gc.freeze()  # what never changes stays shared with the forks


def blank_png(figure: Any) -> bytes:
    """The same small picture, whatever the figure."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, format="png")
    return buffer.getvalue()


def _leave_blank() -> None:
    """The figures of reports are made, but all are saved as the same small picture."""
    from notbugs.report import page, studies

    page.to_png = studies.to_png = blank_png
    page.script = lambda root: ""  # without it no chart is live


def _received(client: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The request, and the client's standard files."""
    room = array.array("i")
    head, ancillary, _, _ = client.recvmsg(8, socket.CMSG_LEN(3 * room.itemsize))
    room.frombytes(ancillary[0][2])
    left, content = int.from_bytes(head, "big"), b""
    while len(content) < left:
        content += client.recv(left - len(content))
    return json.loads(content), list(room)


def _run(request: dict[str, Any], files: list[int], folder: Path) -> None:
    """Be the command. Does not return."""
    os.setsid()
    sys.executable = str(folder / "python")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    random.seed()
    code = 1
    try:
        os.chdir(request["folder"])
        code = _exit_code(lambda: _command(request["program"], request["arguments"]))
    finally:
        threading._shutdown()
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _command(program: str, arguments: list[str]) -> None:
    """What Python's own start does with a command line."""
    if arguments[:1] == ["-m"]:
        program, arguments = arguments[1], arguments[2:]
    sys.argv = sys.orig_argv = [program, *arguments]
    if program.endswith("notbugs"):
        from notbugs.cli import main as notbugs

        notbugs(arguments)
    elif program.endswith("dvc"):
        from dvc.cli import main as dvc

        sys.exit(dvc(arguments))
    elif arguments[0].endswith(".py"):
        sys.argv = arguments
        sys.path.insert(0, str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")
    else:
        if arguments[0] == "-P":
            arguments = arguments[1:]
        else:
            sys.path.insert(0, "")
        sys.argv = ["-c", *arguments[2:]]
        main_module = types.ModuleType("__main__")
        sys.modules["__main__"] = main_module
        exec(compile(arguments[1], "<string>", "exec"), main_module.__dict__)


def _exit_code(run: Callable[[], None]) -> int:
    try:
        run()
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
    os._exit(0)  # what was frozen is not to be told apart
