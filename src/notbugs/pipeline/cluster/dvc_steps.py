"""DVC's graph of stages, and DVC's own work on one stage while others run.

This is the one place that reaches into DVC. What is to be run, in which order, what changed, the run cache, dvc.lock
and the cache are left to its functions; only the command of a stage is handed to somebody else. So whatever is there
afterwards is what `dvc repro` leaves.

DVC's objects are not made for threads. A stage is worked on in a thread of its own, which holds the baton while DVC
works and lays it down while the stage's command runs.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notbugs.runtime.dvc_lock import LockError, read_lock
from notbugs.runtime.errors import UserError


class PipelineError(UserError):
    """DVC cannot read the pipeline, or refuses what was asked of it."""


@dataclass(frozen=True)
class Command:
    """What a stage runs.

    Attributes:
        address: such as `construct@rand`.
        lines: of its `cmd`, for the shell.
        folder: where, absolute.
        environment: variables that DVC sets for it.
    """

    address: str
    lines: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str]


@dataclass(frozen=True)
class Options:
    """What `dvc repro` knows by the same names.

    Attributes:
        force: run stages that did not change, too.
        force_downstream: run what depends on a stage that ran, though it came out as before.
        single_item: only the targets, not what they depend on.
        downstream: the targets and what depends on them.
        pull: fetch from the remote what is missing.
    """

    force: bool = False
    force_downstream: bool = False
    single_item: bool = False
    downstream: bool = False
    pull: bool = False


@dataclass(frozen=True)
class Step:
    """A stage that is to be looked at.

    Attributes:
        address: its name in dvc.yaml, or of a .dvc file.
        waits_for: addresses of the steps that come before.
        stage: DVC's object.
    """

    address: str
    waits_for: frozenset[str]
    stage: Any


class Pipeline:
    """The pipeline of a project, while nobody else runs it."""

    def __init__(self, repo: Any, options: Options) -> None:
        self._repo = repo
        self._options = options
        self._baton = threading.Lock()
        self._upstream: dict[str, list[Any]] = {}

    def plan(self, targets: Sequence[str]) -> list[Step]:
        """What `dvc repro TARGETS` would look at, in its order.

        Raises: PipelineError, such as for a target that there is not.
        """
        from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

        with _in_one_line():
            if self._options.pull:
                self._pull_runs()
            stages = collect_stages(self._repo, targets) if targets else self._all_stages()
            graph = get_active_graph(self._repo.index.graph)
            planned = stages
            if not self._options.single_item:
                planned = plan_repro(graph, stages, downstream=self._options.downstream)
        names = {stage.addressing for stage in planned}
        steps = []
        for stage in planned:
            before = list(graph.successors(stage))  # DVC's arrows point at what a stage needs
            self._upstream[stage.addressing] = [] if self._options.single_item else before
            waits_for = frozenset(other.addressing for other in before) & names
            steps.append(Step(stage.addressing, waits_for, stage))
        return steps

    def reproduce(self, step: Step, *, force: bool, run: Callable[[Command], None]) -> bool:
        """Let DVC do a stage, or find that there is nothing to do; called in a thread of the stage's own.

        Args:
            force: also if nothing changed.
            run: runs its command; DVC is unlocked meanwhile. What it raises ends the stage.
        Returns: whether the stage was run or restored.
        Raises: what `run` raises; PipelineError for what DVC does not like.
        """
        from dvc.repo.reproduce import _reproduce_stage

        with self._baton, self._locked(), _in_one_line():
            _handed_to.here = _Handed(self._baton, run)
            settings = {"upstream": self._upstream[step.address], "pull": self._options.pull}
            return _reproduce_stage(step.stage, force=force, **settings) is not None

    def put_in_order(self, steps: Sequence[Step], known: Sequence[str]) -> None:
        """Order the stages that are new in dvc.lock as `dvc repro` would have come to them.

        Args:
            steps: of the plan, in its order.
            known: addresses that dvc.lock had before, in its order.
        """
        from dvc.utils.serialize import modify_yaml

        new = [step.address for step in steps if step.address not in known]
        with self._baton, self._locked():
            there = self.stages_in_lock()
            wanted = [*(name for name in there if name not in new), *(name for name in new if name in there)]
            if there != wanted:
                with modify_yaml(str(self._lock_file), fs=self._repo.fs) as content:
                    for name in wanted:
                        content["stages"].move_to_end(name)

    def stages_in_lock(self) -> list[str]:
        """Addresses in dvc.lock, in its order. Raises: PipelineError if it is none."""
        try:
            return [entry.address for entry in read_lock(self._lock_file)]
        except LockError as error:
            raise PipelineError(str(error)) from None

    def _all_stages(self) -> list[Any]:
        """Those of dvc.yaml, in its order: what DVC takes without a target, and would read from the files once more."""
        from dvc.dvcfile import PROJECT_FILE

        return [stage for stage in self._repo.index.stages if stage.path_in_repo == PROJECT_FILE]

    @property
    def _lock_file(self) -> Path:
        return Path(self._repo.root_dir) / "dvc.lock"

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self._repo.lock.lock()
        try:
            yield
        finally:
            self._repo.lock.unlock()

    def _pull_runs(self) -> None:
        from dvc.stage.cache import RunCacheNotSupported

        with suppress(RunCacheNotSupported):  # by this kind of remote: outputs are fetched all the same
            self._repo.stage_cache.pull(None)


@contextmanager
def open_pipeline(root: Path, options: Options) -> Iterator[Pipeline]:
    """A project's pipeline, with DVC ready for several threads.

    DVC's lock is free between two of its steps, as it is while `dvc repro` runs a command: other commands of DVC wait
    a moment, and what they must not touch is guarded by DVC's locks of single paths.

    Raises: PipelineError where there is no pipeline, or another DVC does not end.
    """
    from dvc.repo import Repo, lock_repo
    from dvc.stage import run as dvc_run

    with _in_one_line():
        repo = Repo(str(root), _wait_for_lock=True)  # a command of DVC's in another shell takes a moment
    logging.getLogger("dvc").setLevel(logging.WARNING)  # what it does is shown by who runs the stages
    for bars in ("dvc.progress", "dvc_data.callbacks"):
        logging.getLogger(bars).setLevel(logging.CRITICAL)
    before = dvc_run.cmd_run
    dvc_run.cmd_run = _hand_over
    try:  # DVC takes the names of targets from the current folder
        with chdir(root), repo, _in_one_line(), repo.scm_context(), lock_repo(repo):
            repo.lock.unlock()
            try:
                yield Pipeline(repo, options)
            finally:
                repo.lock.lock()
    finally:
        dvc_run.cmd_run = before


@dataclass(frozen=True)
class _Handed:
    baton: threading.Lock
    run: Callable[[Command], None]


_handed_to = threading.local()
"""`here`: who runs the commands of the stage that this thread works on."""


def _hand_over(stage: Any, dry: bool = False, run_env: Mapping[str, str] | None = None) -> None:
    """In the place of DVC's function that runs a command; DVC has let go of its lock."""
    from dvc.stage.run import _enforce_cmd_list, prepare_kwargs

    handed: _Handed = _handed_to.here
    settings = prepare_kwargs(stage, run_env=run_env)
    lines = tuple(_enforce_cmd_list(stage.cmd))
    command = Command(stage.addressing, lines, Path(settings["cwd"]), settings["env"])
    handed.baton.release()
    try:
        handed.run(command)
    finally:
        handed.baton.acquire()


@contextmanager
def _in_one_line() -> Iterator[None]:
    """DVC's errors as one line.

    Raises: PipelineError.
    """
    from dvc.exceptions import DvcException

    try:
        yield
    except DvcException as error:
        causes: list[BaseException] = [error]
        while causes[-1].__cause__ is not None:
            causes.append(causes[-1].__cause__)
        raise PipelineError(f"DVC: {': '.join(' '.join(str(cause).split()) for cause in causes)[:500]}") from None
