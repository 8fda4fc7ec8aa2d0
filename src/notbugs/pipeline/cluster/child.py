"""The processes in which stages, and the tasks of stages, are done: forked from a server that has torch imported.

Each speaks with the thread of the Dask worker that started it, by a pipe. It ends with that worker.
"""

import multiprocessing
import os
import runpy
import shlex
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from distributed.protocol.pickle import dumps, loads

import notbugs
from notbugs.pipeline.cluster.dvc_steps import Command
from notbugs.runtime.machine import own_source

IMPORTED = time.time()
"""When the code was imported that runs here: by the server, which every process here is a fork of."""
IDLE_SECONDS = 10.0
"""How long a process that does tasks waits for the next one."""
PLAIN = frozenset("-_./@=+,:%")
"""What a command may hold besides letters, digits and spaces if it is to be understood without a shell."""


def do_command(command: Command, log: Path, mouth: Connection) -> None:
    """Run a stage's command; what it prints goes into `log`. Says ("end", exit code)."""
    os.setsid()  # so that all of it can be ended at once, and Ctrl-C reaches it through its starter
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which ignores it
    _write_to(log)
    _end_with_the_starter()
    os.environ.clear()
    os.environ.update(command.environment)
    os.chdir(command.folder)
    code = 0
    for line in command.lines:
        words = words_of_own_command(line)
        code = _run_here(words, mouth) if words is not None else _run_in_shell(line)
        if code:
            break
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who hears of the end ends what is left, this process too
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):
            stream.flush()
    with suppress(OSError):
        mouth.send(("end", code))
    os._exit(0)  # threads of libraries may not end by themselves


def words_of_own_command(line: str) -> list[str] | None:
    """Arguments of `notbugs ...`, where the project's own code runs here and a shell has nothing to do."""
    if not all(c.isalnum() or c in PLAIN or c == " " for c in line):
        return None
    words = shlex.split(line)
    if words[:1] != ["notbugs"] or own_source(Path.cwd()) is not None or _is_outdated():
        return None
    return words[1:]


def _is_outdated() -> bool:
    """Whether the package was changed after it was imported here: DVC takes the hash of what is there now."""
    return any(file.stat().st_mtime > IMPORTED for file in Path(notbugs.__file__).parent.rglob("*.py"))


def do_tasks(project: bytes, log: Path, mouth: Connection) -> None:
    """Do tasks of one stage, one after the other, until none comes.

    Args:
        project: the stage's `Context`, pickled.
        log: gets what they print.
        mouth: gives (work, task), pickled; gets ("said", message), then ("result", pickled) or ("error", pickled).
    """
    from notbugs.pipeline.running.jobs import attempt, begin_worker

    _write_to(log)
    begin_worker(loads(project))

    def say(message: Any) -> None:
        """Hand it on, unless nobody listens any more."""
        with suppress(OSError):
            mouth.send(("said", message))

    while mouth.poll(IDLE_SECONDS):
        try:
            work, task = loads(mouth.recv_bytes())
        except (EOFError, OSError):
            break
        try:
            answer = ("result", dumps(attempt(work, task, say)))
        except Exception as error:
            answer = ("error", dumps(error))
        mouth.send(answer)
    os._exit(0)


def _run_here(words: Sequence[str], mouth: Connection) -> int:
    """Run `notbugs WORDS` in this process; its tasks are left to the workers of all, others show its progress."""
    from notbugs.pipeline.running.jobs import leave_tasks_to
    from notbugs.runtime import progress
    from notbugs.tracking import live

    lock = threading.Lock()

    def tell(*message: Any) -> None:
        """Say something; an end of the other side ends this one, too, in another way."""
        with lock, suppress(OSError):
            mouth.send(message)

    progress.tell(lambda *how_far: tell("progress", *how_far))
    live.send_by(lambda folder, environment: tell("journal", folder, environment))
    leave_tasks_to(_Others(mouth, tell))
    try:
        sys.argv[:] = ["notbugs", *words]
        runpy.run_module("notbugs", run_name="__main__")
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


class _Others:
    """`jobs.Others`: hands what there is to do to who started this process."""

    def __init__(self, mouth: Connection, tell: Callable[..., None]) -> None:
        self._mouth, self._tell = mouth, tell

    def do_all(
        self, project: Any, tasks: Sequence[Any], work: Any, description: str, heard: Callable[[int, Any], None]
    ) -> list[Any]:
        """The results of the tasks."""
        self._tell("tasks", dumps(project), [dumps((work, task)) for task in tasks])
        results: list[Any] = [None] * len(tasks)
        left = len(tasks)
        self._tell("progress", description, 0, left)
        while left:
            kind, number, content = self._mouth.recv()
            if kind == "said":
                heard(number, content)
            elif kind == "result":
                results[number], left = loads(content), left - 1
                self._tell("progress", description, len(tasks) - left, len(tasks))
            elif kind == "error":
                raise loads(content)
            else:
                raise _lost(description, content)
        return results

    def run(self, command: str, environment: Mapping[str, str], most: int) -> None:
        """Return when the commands have ended."""
        self._tell("commands", command, dict(environment), most)
        kind, _, why = self._mouth.recv()
        if kind != "ended":
            raise _lost(command, why)


def _lost(what: str, why: str) -> Exception:
    from notbugs.pipeline.running.jobs import WorkerError

    return WorkerError(f"{what}: {why}; what is finished is kept: run it again to go on")


def _run_in_shell(line: str) -> int:
    """As DVC would run it."""
    from dvc.stage.run import _make_cmd, get_executable

    return subprocess.call(_make_cmd(get_executable(), line), stdin=subprocess.DEVNULL, env=dict(os.environ))


def _write_to(log: Path) -> None:
    """Let the standard streams of this process be the log, and empty."""
    log.parent.mkdir(parents=True, exist_ok=True)
    written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(written, 1)
    os.dup2(written, 2)


def _end_with_the_starter() -> None:
    """End all that runs for this stage when the worker that started it is gone."""

    def watch() -> None:
        """Wait for that."""
        starter = multiprocessing.parent_process()
        if starter is not None:
            starter.join()
            os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
