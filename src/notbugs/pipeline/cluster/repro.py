"""`notbugs repro`: the stages whose inputs are ready run at once, on the workers of a Dask cluster.

A stage takes a slot, which is a thread of a Dask worker; the tasks of all stages share the slots. DVC's own work, such
as hashing and copying into the cache, is done here, for one stage at a time.
"""

import queue
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from notbugs.pipeline.cluster.dvc_steps import Command, Options, Pipeline, Step, open_pipeline
from notbugs.pipeline.cluster.place import LOGS, Cluster, InterruptedStageError, Place
from notbugs.pipeline.cluster.schedule import Cost, read_costs, seconds_behind, write_costs
from notbugs.pipeline.cluster.watch import Watch
from notbugs.pipeline.stages import STAGES
from notbugs.runtime.config import Runtime, read_params, runtime
from notbugs.runtime.errors import UserError, one_line
from notbugs.runtime.files import file_lock, read_mapping, write_text
from notbugs.runtime.process import as_interrupts, identity

HOLDER = Path(".notbugs") / "repro"
"""Locked by who runs the pipeline, and says who that is."""
SHARED_STAGES = tuple(name for name, stage in STAGES.items() if stage.processes)
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
        place = replace(place, imports=any("notbugs" in str(step.stage.cmd) for step in steps))
        session = _Session(root, shared, pipeline, steps, options, place)
        try:
            with as_interrupts(signal.SIGTERM, signal.SIGHUP):
                return session.run()
        finally:
            pipeline.put_in_order(steps, known)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Hold the project while the block runs. Raises: ReproError if somebody else does."""
    holder = root / HOLDER
    holder.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(holder.with_suffix(".lock")) as mine:
        if not mine:
            by = read_mapping(holder)
            who = f": process {by['pid']} on {str(by['host']).partition('/')[0]}" if by else ""
            raise ReproError(f"notbugs repro: another one runs in this project{who}")
        write_text(holder, identity() + "\n")
        yield


class _Session:
    """One run of the pipeline: what waits, what runs, what is done."""

    def __init__(
        self, root: Path, shared: Runtime, pipeline: Pipeline, steps: Sequence[Step], options: Options, place: Place
    ) -> None:
        self._root, self._shared, self._pipeline, self._options = root, shared, pipeline, options
        self._steps = steps
        self._costs = read_costs(root)
        self._watch = Watch([step.address for step in steps])
        self._cluster = Cluster(root, shared, place, self._watch.progress, self._watch.say)
        self._waiting = {step.address: step for step in steps}
        self._forced = {step.address for step in steps if options.force}
        self._running: dict[str, threading.Thread] = {}
        self._failed: dict[str, BaseException] = {}
        self._done: set[str] = set()
        self._ran = 0
        self._results: queue.SimpleQueue[tuple[Step, bool | BaseException]] = queue.SimpleQueue()
        self._interrupted = threading.Event()

    def run(self) -> int:
        """All steps; how many were run or restored."""
        with self._watch, self._cluster:
            behind = seconds_behind(self._steps, self._costs, self._cluster.slots)
            order = sorted(self._steps, key=lambda step: -behind[step.address])
            try:
                while self._begin_what_fits(order):
                    self._settle(*self._results.get())
            except BaseException:
                self._interrupt()
                raise
        if self._failed:
            raise ReproError(self._explained())
        return self._ran

    def _begin_what_fits(self, order: Sequence[Step]) -> bool:
        """Begin the steps that are ready while there are slots; whether any runs now."""
        for step in order:
            if step.address in self._waiting and step.waits_for <= self._done and self._fits(step.address):
                del self._waiting[step.address]
                self._begin(step)
        return bool(self._running)

    def _settle(self, step: Step, result: bool | BaseException) -> None:
        """Note how a step ended."""
        self._running.pop(step.address).join()
        if isinstance(result, BaseException):
            self._failed[step.address] = result
            self._watch.failed(step.address, one_line(result))
            return
        self._done.add(step.address)
        self._ran += result
        if result:
            write_costs(self._root, self._costs)
        if self._options.force_downstream and (result or step.address in self._forced):
            self._forced |= {other.address for other in self._steps if step.address in other.waits_for}
        self._watch.done(step.address, ran=result)

    def _fits(self, address: str) -> bool:
        """Whether there are slots for it; a stage that needs more than there are runs alone."""
        taken = sum(map(self._slots, self._running))
        return not taken or taken + self._slots(address) <= self._cluster.slots

    def _slots(self, address: str) -> int:
        return self._shared.processes if address.partition("@")[0] in SHARED_STAGES else 1

    def _begin(self, step: Step) -> None:
        force = step.address in self._forced

        def work() -> None:
            """Do the step, and say how it ended."""
            try:
                self._results.put((step, self._pipeline.reproduce(step, force=force, run=self._run_command)))
            except BaseException as error:
                self._results.put((step, error))

        thread = threading.Thread(target=work, name=step.address, daemon=True)
        self._running[step.address] = thread
        thread.start()

    def _run_command(self, command: Command) -> None:
        """Have a stage's command run by the cluster; called in the thread of the stage."""
        from notbugs.pipeline.cluster.worker import CommandFailedError

        if self._interrupted.is_set():
            raise InterruptedStageError("interrupted")
        self._watch.begin(command.address)
        log = self._log(command.address)
        log.unlink(missing_ok=True)
        gpu = command.address.partition("@")[0] in BY_DEVICE
        try:
            found = self._cluster.run(command, log, gpu=gpu)
        except CommandFailedError as error:
            raise ReproError(f"{_last_line(log) or error}") from None
        self._costs[command.address] = Cost(found["own"], tuple(tuple(group) for group in found["tasks"]))

    def _log(self, address: str) -> Path:
        return self._root / LOGS / f"{address.replace('/', '_').replace(':', '_')}.log"

    def _interrupt(self) -> None:
        """End what runs, and wait until it has put its unfinished work away."""
        self._interrupted.set()
        self._watch.say("ending the stages that run; their unfinished work is kept")
        self._cluster.cancel()
        for thread in self._running.values():
            thread.join()

    def _explained(self) -> str:
        text = "; ".join(f"{address}: {one_line(error)}" for address, error in self._failed.items())
        logs = [self._log(address) for address in self._failed]
        there = [log.relative_to(self._root).as_posix() for log in logs if log.exists()]
        if there:
            text += f" (see {', '.join(there)})"
        if self._waiting:
            text += f"; not run, since they wait for it: {', '.join(self._waiting)}"
        return text


def _last_line(log: Path) -> str:
    """What a stage said last, which is why it failed; empty if it said nothing."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    said = [line.strip() for line in lines if line.strip()]
    return said[-1].removeprefix("error: ") if said else ""
