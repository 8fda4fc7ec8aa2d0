"""Independent tasks of a stage, done side by side by worker processes.

A task is done by a function at the top of a module, depends on nothing but its arguments, and computes with the
threads of `num_threads`, so that the results are the same bytes with any number of workers. Workers are forked from a
server that has torch imported: each starts in a moment, and none inherits threads or locks of the stage.
"""

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.queues import SimpleQueue
from typing import Any, TypeVar

import torch

from notbugs.distribution import world_size
from notbugs.errors import UserError
from notbugs.machine import usable_processors
from notbugs.memory import keep_freed_memory
from notbugs.progress import hide
from notbugs.stages.context import Context
from notbugs.stages.fork_server import context

T = TypeVar("T")
R = TypeVar("R")
Say = Callable[[Any], None]
"""What a task says while it is worked on: something that can be pickled."""
Heard = Callable[[int, Any], None]
"""(number of the task, what it said) -> None, in the stage's own process."""


class WorkerError(UserError):
    """A worker process ended before its task did."""


def worker_count(project: Context, num_tasks: int) -> int:
    """Workers that `jobs` stands for, at most one a task; 1 means that the stage's own process does the work.

    `auto` is a worker for each `num_threads` of the usable processors, on the CPU alone: a GPU is one device.
    """
    jobs = project.runtime.jobs
    if jobs == "auto":
        jobs = usable_processors() // project.runtime.num_threads if project.device.type == "cpu" else 1
    return max(1, min(jobs, num_tasks)) if world_size() == 1 else 1


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
    Raises: what a task raises, once those that were begun have ended; WorkerError if a worker was killed.
    """
    heard = heard or _ignore
    workers = worker_count(project, len(tasks))
    if workers == 1:
        return [work(task, partial(heard, number)) for number, task in enumerate(tasks)]
    forked = context()
    said: SimpleQueue[tuple[int, Any] | None] = forked.SimpleQueue()
    listener = threading.Thread(target=_listen, args=(said, heard), daemon=True)
    listener.start()
    pool = ProcessPoolExecutor(workers, forked, _begin, (project.runtime.num_threads, said))
    try:
        jobs = [pool.submit(_do, work, number, task) for number, task in enumerate(tasks)]
        for job in project.progress(as_completed(jobs), description, len(jobs)):
            job.result()
        return [job.result() for job in jobs]
    except BrokenProcessPool:
        raise WorkerError(
            f"{description}: a worker process was killed (out of memory?); what is finished is kept, `jobs: 1` in "
            "params.yaml needs less memory"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)
        said.put(None)
        listener.join()


def _listen(said: "SimpleQueue[tuple[int, Any] | None]", heard: Heard) -> None:
    while (message := said.get()) is not None:
        heard(*message)


_said: "SimpleQueue[tuple[int, Any] | None] | None" = None
"""Where this worker says something."""


def _begin(num_threads: int, said: "SimpleQueue[tuple[int, Any] | None]") -> None:
    """A worker's first work: the stage's settings, and an end with the stage."""
    global _said
    _said = said
    hide()
    torch.set_num_threads(num_threads)
    keep_freed_memory()
    threading.Thread(target=_end_with_the_stage, daemon=True).start()


def _end_with_the_stage() -> None:
    """A stage that is killed cannot end its workers, so they look whether it lives."""
    stage = multiprocessing.parent_process()
    if stage is not None:
        stage.join()
        os._exit(1)


def _do(work: Callable[[T, Say], R], number: int, task: T) -> R:
    assert _said is not None  # set by _begin
    said = _said
    return work(task, lambda message: said.put((number, message)))


def _ignore(number: int, message: Any) -> None:
    """Nobody listens."""
