"""Independent tasks of a stage, done side by side by worker processes.

A task is done by a function at the top of a module, depends on nothing but its arguments, and computes with the
threads of `num_threads`, so that the results are the same bytes with any number of workers. Workers are forked from a
server that has torch imported: each starts in a moment, and none inherits threads or locks of the stage.

Where stages run side by side (`notbugs repro`), tasks of all of them share the same workers: `leave_tasks_to`.
"""

import copy
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for_jobs
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.sharedctypes import Synchronized
from typing import Any, Protocol, TypeVar

import torch

from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.fork_server import context, leave_to_others
from notbugs.runtime.devices import use_precision
from notbugs.runtime.distribution import world_size
from notbugs.runtime.errors import UserError, raised
from notbugs.runtime.machine import usable_processors
from notbugs.runtime.memory import keep_freed_memory
from notbugs.runtime.progress import hide
from notbugs.runtime.registry import allow, texts

T = TypeVar("T")
R = TypeVar("R")
Say = Callable[[Any], None]
"""What a task says while it is worked on: something that can be pickled."""
Heard = Callable[[int, Any], None]
"""(number of the task, what it said) -> None, in the stage's own process."""
LOOKED_AT_EVERY = 1.0
"""Seconds between two looks at whether all workers live."""
PATIENCE = 10.0
"""Seconds that the end waits for the last word of a worker that was killed while it spoke."""


class Others(Protocol):
    """Who has workers for the stages of a whole pipeline."""

    def do_all(
        self, project: Context, tasks: Sequence[Any], work: Callable[[Any, Say], Any], description: str, heard: Heard
    ) -> list[Any]:
        """See below."""
        ...

    def run(self, command: str, environment: Mapping[str, str], most: int) -> None:
        """Run a command of `notbugs` several times at once, with some variables, and wait until all have ended.

        Args:
            command: "notbugs ...".
            most: how many times at most; fewer where there are fewer workers.
        """
        ...


_others: Others | None = None


class WorkerError(UserError):
    """A worker process ended before its task did."""


class TaskError(UserError):
    """A task fails by an error that cannot be handed from process to process."""


def leave_tasks_to(others: Others) -> None:
    """From now on the tasks of this process are done by others' workers."""
    global _others
    _others = others
    leave_to_others()


def others() -> Others | None:
    """Who does the tasks of this process, if not its own workers."""
    return _others


def worker_count(project: Context, num_tasks: int) -> int:
    """Workers that `jobs` stands for, at most one a task; 1 means that the stage's own process does the work.

    `auto` is a worker for each `num_threads` of the usable processors, on the CPU alone: a GPU is one device.
    """
    jobs = project.runtime.jobs
    if jobs == "auto":
        jobs = usable_processors() // project.runtime.num_threads if project.device.type == "cpu" else 1
    return max(1, min(jobs, num_tasks)) if world_size() == 1 else 1


def _may_be_shared_out(project: Context) -> bool:
    """Whether params.yaml has tasks done side by side, however many processors are here."""
    jobs = project.runtime.jobs
    return world_size() == 1 and (project.device.type == "cpu" if jobs == "auto" else jobs > 1)


def do_all(
    project: Context,
    tasks: Sequence[T],
    work: Callable[[T, Say], R],
    *,
    description: str,
    heard: Heard | None = None,
) -> list[R]:
    """Do all tasks.

    Args:
        project: how many workers, with how many threads; with one, its progress is what the tasks show themselves.
        tasks: picklable where there are several workers.
        work: (task, say) -> result, at the top of a module; tensors are better kept in files than in results.
        description: shown with the number of finished tasks.
        heard: gets what the tasks say, in the order in which each says it.
    Returns: the results, in the order of the tasks.
    Raises: what a task or `heard` raises, the first time that one does; the other workers are then ended, and what
        they kept of their tasks stays. WorkerError if a worker was killed.
    """
    heard = heard or (lambda number, message: None)
    if _others is not None and len(tasks) > 1 and _may_be_shared_out(project):
        return _others.do_all(project, tasks, work, description, heard)
    workers = worker_count(project, len(tasks))
    if workers == 1:
        return in_this_process(tasks, work, heard)
    before = set(multiprocessing.active_children())
    with _ears(workers, heard) as (mouths, taken):
        pool = ProcessPoolExecutor(workers, context(), _begin, (project, mouths, taken))
        try:
            jobs = [pool.submit(_do, work, number, task) for number, task in enumerate(tasks)]
            begun = set(multiprocessing.active_children()) - before  # one that ends is no longer among them
            for job in project.progress(_as_completed(jobs, begun), description, len(jobs)):
                job.result()
            return [job.result() for job in jobs]
        except BaseException as error:
            for worker in set(multiprocessing.active_children()) - before:
                worker.terminate()
            if not isinstance(error, BrokenProcessPool):
                raise
            raise WorkerError(
                f"{description}: a worker process was killed (out of memory?); what is finished is kept, `jobs: 1` "
                "in params.yaml needs less memory"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def in_this_process(tasks: Sequence[T], work: Callable[[T, Say], R], heard: Heard) -> list[R]:
    """Do all tasks here, one after the other."""
    return [work(task, partial(heard, number)) for number, task in enumerate(tasks)]


def by_workers(project: Context) -> Callable[[Sequence[T], Callable[[T], R], str], list[R]]:
    """`do_all` of tasks that say nothing while they are worked on: (tasks, work, description) -> results."""

    def done(tasks: Sequence[T], work: Callable[[T], R], description: str) -> list[R]:
        return do_all(project, tasks, partial(_silently, work), description=description)

    return done


def _silently(work: Callable[[T], R], task: T, say: Say) -> R:
    return work(task)


def _as_completed(jobs: Sequence["Future[R]"], workers: set[BaseProcess]) -> Iterator["Future[R]"]:
    """The jobs as they end.

    The pool may begin to wait for its workers before the last of them is started, and then never hears of that one's
    end; so they are looked at here, too.

    Args:
        workers: all that were started.
    Raises: BrokenProcessPool if a worker ended before its time.
    """
    left = set(jobs)
    while left:
        ended, left = wait_for_jobs(left, LOOKED_AT_EVERY, FIRST_COMPLETED)
        yield from ended
        if not ended and any(worker.exitcode is not None for worker in workers):
            raise BrokenProcessPool


@contextmanager
def _ears(workers: int, heard: Heard) -> Iterator[tuple[list[Connection], "Synchronized[int]"]]:
    """Hear what workers say while the block runs: by a pipe each, since one may be killed in the middle of a word.

    Args:
        workers: how many.
        heard: called in a thread; after an error of its own it is called no more, and the error is raised at the end.
    Gives: where they speak, one for each, which takes the next that is free; and how many of these are taken.
    """
    pipes = [context().Pipe(duplex=False) for _ in range(workers)]
    mouths = [mouth for _, mouth in pipes]
    over = threading.Event()
    errors: list[Exception] = []
    thread = threading.Thread(target=_listen, args=([ear for ear, _ in pipes], heard, over, errors), daemon=True)
    thread.start()
    try:
        yield mouths, context().Value("i", 0)
    finally:
        over.set()
        thread.join(PATIENCE)
        for ends in pipes:
            for end in ends:
                end.close()
    if errors:
        raise errors[0]


def _listen(ears: list[Connection], heard: Heard, over: threading.Event, errors: list[Exception]) -> None:
    """Hand on what is said until the end; an error of who hears it is kept, for the stage to see."""
    while True:
        was_over = over.is_set()  # asked first: what was said before is still heard
        speaking: list[Any] = wait(ears, timeout=0.1)
        for ear in speaking:
            try:
                message = ear.recv()
            except (EOFError, OSError):  # cut off in the middle of a word
                ears.remove(ear)
                continue
            try:
                if not errors:
                    heard(*message)
            except Exception as error:
                errors.append(error)
        if was_over and not speaking:
            return


_mouth: Connection | None = None
"""Where this worker says something."""


def _begin(project: Context, mouths: Sequence[Connection], taken: "Synchronized[int]") -> None:
    """A worker's first work: the stage's settings, and an end with the stage."""
    global _mouth
    with taken.get_lock():
        _mouth = mouths[taken.value]
        taken.value += 1
    begin_worker(project)


def begin_worker(project: Context) -> None:
    """Make this process one that does tasks of a stage: its settings, and an end with the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the stage ends its workers
    hide()
    torch.set_num_threads(project.runtime.num_threads)
    use_precision(project.device, project.precision)
    allow(texts(project.params), project.root)
    keep_freed_memory()
    threading.Thread(target=_end_with_the_starter, daemon=True).start()


def _end_with_the_starter() -> None:
    """A process that is killed cannot end those that it started, so they look whether it lives."""
    starter = multiprocessing.parent_process()
    if starter is not None:
        starter.join()
        os._exit(1)


def _do(work: Callable[[T, Say], R], number: int, task: T) -> R:
    def say(message: Any) -> None:
        """Send it to the stage, unless that is ending."""
        assert _mouth is not None  # set by _begin
        with suppress(BrokenPipeError):
            _mouth.send((number, message))

    return attempt(work, task, say)


def attempt(work: Callable[[T, Say], R], task: T, say: Say) -> R:
    """Do a task; an error that another process could not read becomes one that it can.

    Raises: what the task raises, or TaskError.
    """
    try:
        return work(task, say)
    except (UserError, InterruptedError):
        raise
    except SystemExit as error:
        raise TaskError(raised(error)) from None
    except Exception as error:
        if _can_be_sent(error):
            raise
        raise TaskError(raised(error)) from None


def _can_be_sent(error: Exception) -> bool:
    """Whether the stage gets the error as it is: those with arguments of their own cannot be read there."""
    try:
        copy.copy(error)  # made again from its arguments, as the stage would
    except Exception:
        return False
    return True
