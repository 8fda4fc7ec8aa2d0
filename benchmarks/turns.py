"""Implementations that take turns, each in a process of its own.

What one of them does to the memory allocator, to thread pools and to caches then stays its own, as it does for its
users: the allocator's setting of `notbugs.runtime.memory`, which every stage of ours has, would speed up the others.
"""

import multiprocessing
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Self

import torch

Make = tuple[Any, ...]
"""(function at the top of a module, *its arguments) -> the run that is timed."""


class Turns:
    """The processes of all implementations, started when they are first needed.

    Names of ours begin with "notbugs" or "limit": they keep freed memory, as the stages do.
    """

    def __init__(self, device: torch.device, rounds: int) -> None:
        self.device, self.rounds = device, rounds
        self._processes: dict[str, _Process] = {}

    def take(self, makes: dict[str, Make]) -> tuple[dict[str, float], dict[str, Any], dict[str, str]]:
        """Let implementations take turns.

        Returns: median seconds; what each found in a first turn that is not timed; and for those that are not
            installed, why they were left out.
        """
        found: dict[str, Any] = {}
        missing: dict[str, str] = {}
        for name, make in makes.items():
            if name not in self._processes:
                self._processes[name] = _Process(self.device, ours=name.startswith(("notbugs", "limit")))
            try:
                found[name] = self._processes[name].ask(make)
            except ImportError as error:
                missing[name] = str(error)
        seconds: dict[str, list[float]] = {name: [] for name in found}
        for _ in range(self.rounds):
            for name, taken in seconds.items():
                taken.append(self._processes[name].ask("run"))
        return {name: statistics.median(taken) for name, taken in seconds.items()}, found, missing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.end()


class _Process:
    def __init__(self, device: torch.device, *, ours: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, device.type, torch.get_num_threads(), ours), daemon=True
        )
        self._process.start()
        theirs.close()

    def ask(self, what: Make | str) -> Any:
        self._pipe.send(what)
        answer = self._pipe.recv()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def end(self) -> None:
        self._pipe.close()
        self._process.join()


def _serve(pipe: Connection, device: str, num_threads: int, ours: bool) -> None:
    """Answer until the other end is closed: to a Make with what its run found, to "run" with the seconds it took."""
    torch.set_num_threads(num_threads)
    if ours:
        from notbugs.runtime.memory import keep_freed_memory

        keep_freed_memory()
    run: Callable[[], Any] = lambda: None  # noqa: E731
    while True:
        try:
            asked = pipe.recv()
        except EOFError:
            return
        try:
            if asked == "run":
                started = time.perf_counter()
                run()
                if device == "cuda":
                    torch.cuda.synchronize()
                pipe.send(time.perf_counter() - started)
            else:
                function, *arguments = asked
                run = function(*arguments)
                found = run()
                pipe.send(found.cpu().numpy() if isinstance(found, torch.Tensor) else found)
        except ImportError as error:
            pipe.send(ImportError(str(error)))
        except Exception as error:
            pipe.send(RuntimeError(repr(error)))
