"""Running a study from one command: open it, set the workers to work, write what was found."""

import os
import shlex
import signal
import subprocess
import sys
from collections import Counter
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.jobs import Others, others
from notbugs.pipeline.running.own_code import require_files_watched, require_watched
from notbugs.runtime.machine import most_jobs
from notbugs.runtime.process import as_interrupts
from notbugs.sweeps.outputs import output_files, write_outputs
from notbugs.sweeps.plan import Plan, make_plan
from notbugs.sweeps.runs import ERROR
from notbugs.sweeps.settings import STORAGE_VARIABLE, SweepError
from notbugs.sweeps.stage import SWEEP
from notbugs.sweeps.storage import Patience, open_storage, storage_url
from notbugs.sweeps.study import SharedStudy, open_study
from notbugs.sweeps.worker import work
from notbugs.tracking import Run, SharedRun, live_run, location

SESSION_VARIABLE = "NOTBUGS_SWEEP_SESSION"
"""Environment variable of local workers: `Run.label` of the session, which sends their trials' runs to MLflow."""
_END_SECONDS = 30.0
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def run(
    project: Context,
    name: str,
    *,
    url: str | None = None,
    jobs: int | None = None,
    replace: bool = False,
    elsewhere: Others | None = None,
) -> None:
    """Run the study `name` to its end and write sweeps/<name>/.

    A finished study is not run again, an interrupted one goes on, and other sessions may work on it meanwhile.

    Args:
        project: opened.
        name: of an entry of `sweep` in params.yaml.
        url: of the database; see `storage.storage_url`.
        jobs: local worker processes; None takes as many as the processors bear.
        replace: begin anew if the stored study has other settings or inputs.
        elsewhere: has workers for the study, on any machines; None where they are processes of this one.
    Raises: ConfigError, SweepError, in one line.
    """
    url = storage_url(project.root, url)
    jobs = checked_jobs(project, jobs)
    plan = make_plan(project, name)
    require_watched(project.root, project.params, SWEEP, name)
    require_files_watched(project, SWEEP, plan.files_read)
    patience = Patience(project.say)
    with open_storage(url) as storage:
        shared = patience(lambda: open_study(storage, plan, replace=replace))
        settled, total = patience(lambda: shared.counts)
        if settled == total:
            project.say(f"sweep {name}: all {total} points are done")
            patience(lambda: write_outputs(project.root, shared))
            return
        project.say(f"sweep {name}: {total - settled} of {total} points to be tried, {jobs} at a time")
        files = output_files(project.root, name)
        with _study_run(plan, url, files) as tracked:
            with _ends_politely():
                _work(shared, url, min(jobs, total - settled), tracked.label, elsewhere or others())
            patience(lambda: _check_end(shared))
            tracked.metrics(patience(lambda: write_outputs(project.root, shared)))
            for file in files:
                tracked.artifact(file)
    project.say(f"sweep {name}: {files[0].relative_to(project.root)} holds {total} points")


def join(project: Context, name: str, *, url: str | None = None) -> None:
    """Be one worker of a study: `notbugs sweep worker`, on this or any other machine.

    Raises: ConfigError, SweepError, in one line; also if this machine's settings, data or models are others.
    """
    parent = os.getppid()
    plan = make_plan(project, name)
    session = os.environ.get(SESSION_VARIABLE)
    url = storage_url(project.root, url)
    with open_storage(url) as storage, _ends_politely():
        shared = Patience(project.say)(lambda: open_study(storage, plan))
        if session is not None:
            work(shared, session=session or None, stop=lambda: os.getppid() != parent)
            return
        with _study_run(plan, url) as tracked:
            work(shared, session=tracked.label)
        settled, total = shared.counts
    project.say(f"sweep {name}: {settled} of {total} points are done; `notbugs sweep {name}` writes sweeps/{name}")


def status(project: Context, name: str, *, url: str | None = None) -> str:
    """How far a study is, in a line, and a line for each point that failed.

    Raises: SweepError if it cannot be read, or is of other settings than params.yaml.
    """
    plan = make_plan(project, name)
    url = storage_url(project.root, url)
    database = location.database_file(url)
    if database is not None and not database.exists():
        raise SweepError(
            f"sweep {name}: {database}: no database there; `notbugs sweep {name}` runs the study, and `notbugs track` "
            f"fills a database from the trials in sweeps/"
        )
    with open_storage(url) as storage:
        slots = open_study(storage, plan).slots()
    states = Counter(trial.state.name.lower() for slot in slots for trial in slot.trials)
    settled = sum(slot.result is not None for slot in slots)
    lines = [f"sweep {name}: {settled} of {plan.total} points are done; trials: "]
    lines[0] += ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    for slot in slots:
        errors = [trial for trial in slot.trials if trial.user_attrs.get(ERROR)]
        lines += [f"trial {trial.number}, {trial.params}: {trial.user_attrs[ERROR]}" for trial in errors]
    return "\n".join(lines)


def checked_jobs(project: Context, jobs: int | None) -> int:
    """The number of local workers; each needs `num_threads` processors, on which its results depend.

    Raises: ConfigError if they would get in each other's way.
    """
    most = most_jobs(project.runtime.num_threads, jobs)
    if jobs is None:
        return most if project.device.type == "cpu" else 1
    return jobs


def _work(shared: SharedStudy, url: str, jobs: int, session: str | None, elsewhere: Others | None) -> None:
    """Work here, by workers elsewhere, or by worker processes: asked to end with this, and ended if they do not."""
    project = shared.plan.lab.project
    if elsewhere is not None and project.device.type == "cpu":
        settled, total = shared.counts
        handed = {STORAGE_VARIABLE: url, SESSION_VARIABLE: session or ""}
        elsewhere.run(f"notbugs sweep worker {shlex.quote(shared.plan.name)}", handed, total - settled)
        return
    if jobs == 1:
        work(shared, session=session)
        return
    threads = {variable: str(project.runtime.num_threads) for variable in _THREADS}
    source = str(Path(__file__).parents[2])
    environment = {
        **os.environ,
        **threads,
        STORAGE_VARIABLE: url,
        SESSION_VARIABLE: session or "",
        "PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-m", "notbugs", "sweep", "worker", shared.plan.name]
    workers = [
        subprocess.Popen(command, cwd=project.root, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        for _ in range(jobs)
    ]
    try:
        for worker in workers:
            worker.wait()
    finally:
        for request in (signal.SIGTERM, signal.SIGKILL):
            for worker in workers:
                if worker.poll() is None:
                    worker.send_signal(request)
            for worker in workers:
                with suppress(subprocess.TimeoutExpired):
                    worker.wait(_END_SECONDS)


def _study_run(plan: Plan, url: str, outputs: tuple[Path, ...] = ()) -> AbstractContextManager[Run]:
    """The study's run in MLflow, which its sessions share; the trials' runs hang from it."""
    project = plan.lab.project
    return live_run(
        "sweep",
        plan.name,
        root=project.root,
        experiment=project.runtime.experiment,
        params={"sweep": {plan.name: plan.record["sweep"]}},
        seed=project.seed,
        inputs=[project.root / path for path in plan.hashes],
        outputs=outputs,
        metrics_file=None,
        study=SharedRun(plan.key, "notbugs.sweeps.runs:trial_runs", {STORAGE_VARIABLE: url}),
    )


def _ends_politely() -> AbstractContextManager[None]:
    """Treat a request to end (SIGTERM, a closed terminal) like Ctrl-C, so that the trial is given back."""
    return as_interrupts(signal.SIGTERM, signal.SIGHUP, signal.SIGINT, once=True)


def _check_end(shared: SharedStudy) -> None:
    settled, total = shared.counts
    name = shared.plan.name
    if settled < total:
        raise SweepError(
            f"sweep {name}: the workers ended with {total - settled} of {total} points to go; run it again"
        )
    reasons = [slot.result.user_attrs.get("error") for slot in shared.slots() if slot.result]
    if all(reasons):
        raise SweepError(f"sweep {name}: every point failed, the last one with {reasons[-1]}")
