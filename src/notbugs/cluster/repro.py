"""`notbugs repro`: the stages whose inputs are ready run at once, on the workers of a Dask cluster.

A stage takes a slot, which is a thread of a Dask worker; the tasks of all stages share the slots. DVC's own work, such
as hashing and copying into the cache, is done here, for one stage at a time.
"""

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from notbugs.cluster.pipeline import Command, Options, Pipeline, Step, open_pipeline
from notbugs.cluster.place import Cluster, InterruptedStageError, Place
from notbugs.cluster.schedule import Cost, read_costs, seconds_behind, write_costs
from notbugs.cluster.watch import Watch
from notbugs.runtime.config import Runtime, read_params, runtime
from notbugs.runtime.errors import UserError, one_line
from notbugs.runtime.files import file_lock, read_mapping, write_text

LOGS = Path(".notbugs") / "logs"
"""What each stage printed when it last ran, ADDRESS.log."""
HOLDER = Path(".notbugs") / "repro"
"""Locked by who runs the pipeline, and says who that is."""
SHARED_STAGES = ("train", "construct", "fit", "evaluate")
"""Stages that `processes` processes share, and so as many slots."""
BY_DEVICE = (
    *SHARED_STAGES,
    "diagnose",
    "transfer",
    "inversion",
    "estimator",
    "features",
    "planted",
    "science",
    "sweep",
)
"""Stages that compute on the device."""


class ReproError(UserError):
    """Stages failed, or the pipeline is not run."""


def repro(root: Path, targets: Sequence[str], options: Options, place: Place) -> int:
    """Bring the pipeline up to date, as `dvc repro` does, with stages side by side.

    Args:
        root: of the project.
        targets: stages, as DVC names them; none for all.
    Returns: how many stages were run or restored.
    Raises: ReproError once all that could be done is done, if a stage failed; PipelineError, ConfigError;
        KeyboardInterrupt with all stages ended, and their unfinished work kept.
    """
    shared = runtime(read_params(root / "params.yaml"))
    with _alone(root), open_pipeline(root, options) as pipeline:
        known = pipeline.stages_in_lock()
        steps = pipeline.plan(targets)
        session = _Session(root, shared, pipeline, steps, options, place)
        try:
            return session.run()
        finally:
            pipeline.put_in_order(steps, known)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the project while the block runs. Raises: ReproError if somebody else does."""
    from notbugs.runtime.process import identity

    holder = root / HOLDER
    holder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(holder.with_suffix(".lock")) as mine:
        if not mine:
            by = read_mapping(holder)
            who = f": process {by['pid']} on {str(by['host']).partition('/')[0]}" if by else ""
            raise ReproError(f"notbugs repro: another one runs in this project{who}")
        write_text(holder, identity() + "\n")
        yield


@dataclass
class _Session:
    """One run of the pipeline."""

    root: Path
    shared: Runtime
    pipeline: Pipeline
    steps: Sequence[Step]
    options: Options
    place: Place
    results: "queue.SimpleQueue[tuple[Step, bool | BaseException]]" = field(default_factory=queue.SimpleQueue)
    interrupted: threading.Event = field(default_factory=threading.Event)

    def run(self) -> int:
        """All steps; how many were run or restored."""
        self.costs = read_costs(self.root)
        with (
            Watch([step.address for step in self.steps]) as self.watch,
            Cluster(self.root, self.shared, self.place, self.watch.progress) as self.cluster,
        ):
            behind = seconds_behind(self.steps, self.costs, self.cluster.slots)
            waiting = {step.address: step for step in self.steps}
            order = sorted(waiting, key=lambda address: -behind[address])
            forced = {address for address in waiting if self.options.force}
            done, running, ran = set[str](), dict[str, threading.Thread](), 0
            failed: dict[str, BaseException] = {}
            try:
                while waiting or running:
                    for address in [name for name in order if name in waiting]:
                        step = waiting[address]
                        if not step.waits_for <= done or not self._fits(address, running):
                            continue
                        del waiting[address]
                        running[address] = self._begin(step, address in forced)
                    if not running:
                        break  # what is left waits for what failed
                    step, result = self.results.get()
                    running.pop(step.address).join()
                    if isinstance(result, BaseException):
                        failed[step.address] = result
                        self.watch.failed(
                            step.address, one_line(result), str(self._log(step.address).relative_to(self.root))
                        )
                        continue
                    done.add(step.address)
                    ran += result
                    if self.options.force_downstream and (result or step.address in forced):
                        forced |= {other.address for other in self.steps if step.address in other.waits_for}
                    self.watch.done(step.address, ran=result)
            except BaseException:
                self._interrupt(running)
                raise
            finally:
                write_costs(self.root, self.costs)
            if failed:
                raise ReproError(self._explained(failed, list(waiting)))
            return ran

    def _fits(self, address: str, running: Mapping[str, Any]) -> bool:
        """Whether there are slots for it; a stage that needs more than there are runs alone."""
        needed = self._slots(address)
        return not running or sum(map(self._slots, running)) + needed <= self.cluster.slots

    def _slots(self, address: str) -> int:
        return self.shared.processes if address.partition("@")[0] in SHARED_STAGES else 1

    def _begin(self, step: Step, force: bool) -> threading.Thread:
        def work() -> None:
            """Do the step, and say how it ended."""
            try:
                self.results.put((step, self.pipeline.reproduce(step, force=force, run=self._run_command)))
            except BaseException as error:
                self.results.put((step, error))

        thread = threading.Thread(target=work, name=step.address, daemon=True)
        thread.start()
        return thread

    def _run_command(self, command: Command) -> None:
        """Have a stage's command run by the cluster."""
        from notbugs.cluster.worker import CommandFailedError

        if self.interrupted.is_set():
            raise InterruptedStageError("interrupted")
        self.watch.begin(command.address)
        log = self._log(command.address)
        log.unlink(missing_ok=True)
        try:
            found = self.cluster.run(command, log, gpu=self._wants_gpu(command.address))
        except CommandFailedError as error:
            raise ReproError(f"{_last_line(log) or error}") from None
        self.costs[command.address] = Cost(found["own"], tuple(tuple(group) for group in found["tasks"]))

    def _wants_gpu(self, address: str) -> bool:
        return self.shared.device == "cuda" and address.partition("@")[0] in BY_DEVICE

    def _log(self, address: str) -> Path:
        return self.root / LOGS / f"{address.replace('/', '_').replace(':', '_')}.log"

    def _interrupt(self, running: Mapping[str, threading.Thread]) -> None:
        """End what runs, and wait until it has put its unfinished work away."""
        self.interrupted.set()
        self.watch.say("ending the stages that run; their unfinished work is kept")
        self.cluster.cancel()
        for thread in running.values():
            thread.join()

    def _explained(self, failed: Mapping[str, BaseException], left: Sequence[str]) -> str:
        parts = [f"{address}: {one_line(error)}" for address, error in failed.items()]
        logs = ", ".join(str(self._log(address).relative_to(self.root)) for address in failed)
        text = f"{'; '.join(parts)} (see {logs})"
        return text + (f"; not run, since they wait for it: {', '.join(left)}" if left else "")


def _last_line(log: Path) -> str:
    """What a stage said last, which is why it failed; empty if it said nothing."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("error: ") if said else ""
