"""What runs on the workers of a Dask cluster: a thread for each stage, and for each task of a stage.

The thread starts a process that does the work (`pipeline.cluster.child`), and looks after it: it hands on what the
process says, and ends it when the result is wanted no more. The tasks of a stage go back to the cluster, before the
stages that have not begun; while it waits for them, the stage's place on its worker is free.
"""

import json
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from distributed import Client, Future, Worker, WorkerPlugin, get_worker, worker_client

import notbugs
from notbugs.pipeline.cluster import child
from notbugs.pipeline.cluster.dvc_steps import Command
from notbugs.runtime.errors import UserError

LOOKED_AT_EVERY = 0.1
"""Seconds between two looks at whether the work is still wanted."""
ENDED_WITHIN = 20.0
"""Seconds that an interrupted stage has to put away its unfinished work."""
TASKS_FIRST = 1_000_000
"""Dask's priority of tasks, above that of any stage."""
PROGRESS = "notbugs-progress"
"""Topic of Dask's events: {"address", "description", "done", "total"}."""
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_")
"""Variables that Dask sets for its workers, and results depend on."""
_HANDED_ON = ("DVC_", "NOTBUGS_", "MLFLOW_", "AWS_", "GOOGLE_", "AZURE_")
"""Beginnings of the variables that a stage gets from who runs the pipeline, wherever it is done."""
_SERVE = "import sys; sys.path[:0] = sys.argv[1:]; from notbugs.tracking.sending import serve; serve()"


class CommandFailedError(UserError):
    """A stage's command ended with another code than 0."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        """How it ended."""
        if self.code < 0:
            with suppress(ValueError):
                return f"was killed ({signal.Signals(-self.code).name})"
        return f"failed with exit code {self.code}"


class NotWantedError(UserError):
    """Nobody waits for the result any more."""


class Prepared(WorkerPlugin):
    """Makes a worker of Dask one that starts processes, with the threads that `dvc repro` here would give them."""

    name = "notbugs"

    def __init__(self, environment: Mapping[str, str], *, imports: bool) -> None:
        self.threads = {name: environment.get(name) for name in _THREADS}
        self.imports = imports

    def setup(self, worker: Worker) -> None:
        """Begin to import what stages need, in the process that all others are forked from."""
        from multiprocessing import forkserver

        from notbugs.pipeline.running.fork_server import PRELOADED, context

        for name, value in self.threads.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
        # Dask's workers are daemons, which may not start processes; these end by themselves with their worker.
        multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who asked for the work, who ends it then
        context().set_forkserver_preload([*(PRELOADED if self.imports else ()), child.__name__])
        forkserver.ensure_running()


def run_command(command: Command, log: Path) -> dict[str, Any]:
    """Run a stage's command, as a Dask task.

    Args:
        log: gets what it prints; a second attempt is written behind the first.
    Returns: what it cost: `own`, seconds of its own process, and `tasks`, those of its tasks, a list for each time
        that it had some.
    Raises: CommandFailedError.
    """
    place, wanted = get_worker(), _wanted()
    begun, shared_out = time.monotonic(), 0.0
    costs: list[list[float]] = []
    with ExitStack() as stack:
        environment = {**_environment(command.environment), **stack.enter_context(_one_gpu(place))}
        process = stack.enter_context(_Process(child.do_command, replace(command, environment=environment), log))
        group: _Group | None = None
        while True:
            message = process.hear(wanted)
            if group is not None and group.hand_on():
                costs.append(group.seconds)
                shared_out += group.end()
                group = None
            if message is None:
                continue
            kind, *content = message
            if kind == "end":
                if content[0]:
                    raise CommandFailedError(content[0])
                return {"own": round(time.monotonic() - begun - shared_out, 3), "tasks": costs}
            if kind == "progress":
                told = dict(zip(("description", "done", "total"), content, strict=True))
                place.log_event(PROGRESS, {"address": command.address, **told})
            elif kind == "journal":
                _senders.send(*content)
            elif kind == "tasks":
                group = stack.enter_context(_Tasks(process, log, *content))
            elif kind == "commands":
                group = stack.enter_context(_Commands(process, log, command, *content))


def do_task(project: bytes, task: bytes, group: str, number: int, log: Path) -> tuple[str, bytes, int, float]:
    """Do a task of a stage, as a Dask task.

    Args:
        project, task: pickled for `child.do_tasks`.
        group: names the tasks that belong together, and the topic of Dask's events for what they say.
        number: of the task among them.
        log: gets what it prints.
    Returns: ("result" or "error", pickled), how often it said something, seconds.
    """
    place, wanted, begun, said = get_worker(), _wanted(), time.monotonic(), 0
    with _task_processes.at_work(group, project, task, log) as process:
        while True:
            message = process.hear(wanted)
            if message is None:
                continue
            kind, content = message
            if kind != "said":
                return kind, content, said, time.monotonic() - begun
            said += 1
            place.log_event(group, (number, content))


class _Group(ABC):
    """What a stage has left to the cluster at one time; its process gets what comes of it.

    Attributes:
        seconds: of each part that is done.
    """

    def __init__(self, process: "_Process", log: Path) -> None:
        self.seconds: list[float] = []
        self._process, self._log = process, log
        self._name = f"notbugs-tasks-{os.getpid()}-{time.time_ns()}"
        self._events: queue.SimpleQueue[tuple[int, str, Any]] = queue.SimpleQueue()
        self._stack = ExitStack()
        self._begun = time.monotonic()

    def __enter__(self) -> "_Group":
        client = self._stack.enter_context(worker_client())  # frees this thread's place on the worker
        futures = self._submit(client)
        self._stack.callback(client.cancel, futures)
        for number, future in enumerate(futures):
            future.add_done_callback(lambda done, number=number: self._events.put((number, "done", done)))
        self._left = len(futures)
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def end(self) -> float:
        """Wait for a place on the worker again; seconds since the beginning."""
        self._stack.close()
        return time.monotonic() - self._begun

    @abstractmethod
    def hand_on(self) -> bool:
        """Give the process what there is; whether all is over."""

    @abstractmethod
    def _submit(self, client: Client) -> "list[Future[Any]]":
        """Have it begun."""


class _Tasks(_Group):
    """Tasks: what they say and find."""

    def __init__(self, process: "_Process", log: Path, project: bytes, tasks: Sequence[bytes]) -> None:
        super().__init__(process, log)
        self._project, self._tasks = project, tasks
        self._said: Counter[int] = Counter()
        self._waiting: dict[int, tuple[str, bytes, int, float]] = {}

    def _submit(self, client: Client) -> "list[Future[Any]]":
        self._stack.callback(_task_processes.end, self._name)
        client.subscribe_topic(self._name, lambda event: self._events.put((event[1][0], "said", event[1][1])))
        self._stack.callback(client.unsubscribe_topic, self._name)
        settings = {"pure": False, "priority": TASKS_FIRST}
        return [
            client.submit(do_task, self._project, task, self._name, number, self._log, **settings)
            for number, task in enumerate(self._tasks)
        ]

    def hand_on(self) -> bool:
        """Give the process what there is; whether all is done, or one failed."""
        while not self._events.empty():
            number, kind, content = self._events.get()
            if kind == "said":
                self._said[number] += 1
                self._process.tell("said", number, content)
            elif content.status != "finished":
                self._process.tell("lost", number, _why(content))
                return True
            else:
                self._waiting[number] = content.result()
        for number, (kind, answer, said, seconds) in list(self._waiting.items()):
            if self._said[number] < said:  # its last words are still on their way
                continue
            del self._waiting[number]
            self.seconds.append(round(seconds, 3))
            self._left -= 1
            self._process.tell(kind, number, answer)
            if kind == "error":
                return True
        return self._left == 0


class _Commands(_Group):
    """A command of the stage's own, several times at once."""

    def __init__(
        self,
        process: "_Process",
        log: Path,
        stage: Command,
        command: str,
        environment: Mapping[str, str],
        most: int,
    ) -> None:
        super().__init__(process, log)
        self._most = most
        self._command = replace(stage, lines=(command,), environment={**stage.environment, **environment})

    def _submit(self, client: Client) -> "list[Future[Any]]":
        count = max(1, min(self._most, sum(client.nthreads().values())))
        settings = {"pure": False, "priority": TASKS_FIRST}
        return [client.submit(run_command, self._command, self._log, **settings) for _ in range(count)]

    def hand_on(self) -> bool:
        """Tell the process when all have ended, or that one was lost."""
        while not self._events.empty():
            number, _, future = self._events.get()
            self._left -= 1
            if future.status == "finished":
                self.seconds.append(future.result()["own"])
            elif not isinstance(_error(future), CommandFailedError):  # that one has said why
                self._process.tell("lost", number, _why(future))
                return True
        if self._left == 0:
            self._process.tell("ended", 0, "")
        return self._left == 0


def _error(future: "Future[Any]") -> BaseException | None:
    return future.exception() if future.status == "error" else None


def _why(future: "Future[Any]") -> str:
    error = _error(future)
    if error is None:
        return f"a task was {future.status}"
    if isinstance(error, CommandFailedError):
        return f"a worker process {error} (out of memory?)"
    return f"a task failed ({type(error).__name__}: {error})"


class _Process:
    """A process that does the work of a thread here."""

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        from notbugs.pipeline.running.fork_server import context

        self._ear, mouth = context().Pipe()
        self._process = context().Process(target=target, args=(*args, mouth))
        self._process.start()
        mouth.close()
        self._leads = target is child.do_command
        _living.add(self)

    def __enter__(self) -> "_Process":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def tell(self, *message: Any) -> None:
        """Say something; that it has died is seen elsewhere."""
        with suppress(OSError):
            self._ear.send(message)

    def tell_bytes(self, message: bytes) -> None:
        """Say something that is pickled already. Raises: OSError if it has ended."""
        self._ear.send_bytes(message)

    def hear(self, wanted: Callable[[], bool]) -> Any:
        """What it says next; None after a moment without a word.

        Raises: NotWantedError, CommandFailedError if it ended without its last word.
        """
        if not wanted():
            raise NotWantedError
        try:
            if self._ear.poll(LOOKED_AT_EVERY):
                return self._ear.recv()
        except (EOFError, OSError):
            self._process.join(ENDED_WITHIN)
            raise CommandFailedError(self._process.exitcode or -signal.SIGKILL) from None
        return None

    @property
    def lives(self) -> bool:
        """Whether it has not ended by itself."""
        return self._process.is_alive()

    def end(self) -> None:
        """End it with all that it started: a stage is asked first, and puts its unfinished work away."""
        if self._process.is_alive() and self._leads:
            self._signal(signal.SIGINT)
            self._process.join(ENDED_WITHIN)
        self._signal(signal.SIGKILL)
        self._process.join()
        self._ear.close()
        _living.discard(self)

    def _signal(self, number: int) -> None:
        with suppress(OSError):
            if self._leads and os.getpgid(self._process.pid or 0) == self._process.pid:
                os.killpg(self._process.pid, number)
            elif self._process.is_alive():
                os.kill(self._process.pid or 0, number)


def processes_here() -> int:
    """How many stages and tasks this worker is at."""
    return sum(process.lives for process in list(_living))


_living: set[_Process] = set()


class _TaskProcesses:
    """Processes that have done a task, and wait for another one of the same group."""

    def __init__(self) -> None:
        self._idle: dict[str, list[_Process]] = defaultdict(list)
        self._lock = threading.Lock()

    @contextmanager
    def at_work(self, group: str, project: bytes, task: bytes, log: Path) -> Iterator[_Process]:
        """One that has begun with a task; it waits for the next one if the block ends well."""
        process = self._idle_one(group)
        try:
            if process is None:
                raise BrokenPipeError
            process.tell_bytes(task)
        except OSError:  # none, or one that has just waited for too long
            process = _Process(child.do_tasks, project, log)
            process.tell_bytes(task)
        try:
            yield process
        except BaseException:
            process.end()
            raise
        with self._lock:
            self._idle[group].append(process)

    def _idle_one(self, group: str) -> _Process | None:
        """One that waits for a task of a group; those that have waited for too long are forgotten."""
        with self._lock:
            for name, waiting in list(self._idle.items()):
                for process in [one for one in waiting if not one.lives]:
                    waiting.remove(process)
                    process.end()
                if not waiting:
                    del self._idle[name]
            return self._idle[group].pop() if group in self._idle else None

    def end(self, group: str) -> None:
        """The group is done."""
        with self._lock:
            waiting = self._idle.pop(group, [])
        for process in waiting:
            process.end()


_task_processes = _TaskProcesses()


class _Senders:
    """The process that sends to MLflow what the stages of this worker tell."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()

    def send(self, folder: str, environment: Mapping[str, str]) -> None:
        """Have a journal sent; if that cannot be, `notbugs track` does it later."""
        line = json.dumps([folder, dict(environment)]) + "\n"
        with self._lock, suppress(OSError):
            if self._process is None or self._process.poll() is not None:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _SERVE, str(Path(notbugs.__file__).parents[1])],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    env={**os.environ, "OMP_NUM_THREADS": "1"},
                    start_new_session=True,
                )
            assert self._process.stdin is not None  # a pipe
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()


_senders = _Senders()


def _wanted() -> Callable[[], bool]:
    """Whether the Dask task of this thread is still wanted: not cancelled, and who asked for it is there."""
    from distributed.worker import thread_state  # type: ignore[attr-defined]

    place, key = get_worker(), thread_state.key

    def wanted() -> bool:
        task = place.state.tasks.get(key)
        return task is not None and task.state in ("executing", "long-running")

    return wanted


def _environment(given: Mapping[str, str]) -> dict[str, str]:
    """This machine's variables, and those of who runs the pipeline that say how."""
    chosen = {name: value for name, value in given.items() if name.startswith(_HANDED_ON) or name in _THREADS}
    return {**os.environ, **chosen}


_gpus_taken: set[int] = set()
_gpus_lock = threading.Lock()


@contextmanager
def _one_gpu(place: Worker) -> Iterator[dict[str, str]]:
    """The variable that shows a stage one GPU of its own, where the worker was started with several (resource GPU)."""
    count = int(place.state.total_resources.get("GPU", 0))
    if count < 2:
        yield {}
        return
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else [str(number) for number in range(count)]
    with _gpus_lock:
        number = min(set(range(count)) - _gpus_taken)
        _gpus_taken.add(number)
    try:
        yield {"CUDA_VISIBLE_DEVICES": names[number]}
    finally:
        with _gpus_lock:
            _gpus_taken.remove(number)
