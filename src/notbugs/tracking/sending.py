"""Sending a journal to MLflow, and the process beside a running stage that does so.

A process, not a thread: importing MLflow takes three seconds of pure Python, which in the stage would slow
training and make every short stage wait; and what hangs here hangs for itself.
"""

import json
import os
import signal
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from notbugs.runtime.process import alive
from notbugs.tracking import location
from notbugs.tracking.description import NOTE, describe_inputs
from notbugs.tracking.journal import JOURNAL, Journal, journals, now
from notbugs.tracking.measured import Measured, link
from notbugs.tracking.rebuilding import STUDY, Trials, study_run
from notbugs.tracking.shown import note
from notbugs.tracking.store import SYSTEM_METRICS, Store, TrackingError, open_store

POLL_SECONDS = 0.1
HEAD_START_SECONDS = 3.0
"""How long after the stage's start MLflow is imported, which costs seconds of a processor."""
RETRY_SECONDS = 10.0
"""Between two attempts while the server is away."""
PATIENCE_SECONDS = 60.0
"""How long attempts go on once the stage has ended; then it is left to `notbugs track`."""
SYSTEM_SECONDS = 30.0
"""How long a run lasts before what the machine does is measured: of a run of seconds there would be nothing to see."""
OTHERS_SECONDS = 30.0
"""How long the numbers of models wait for the runs that log these models, if they are being sent."""
_AT_ONCE = 1000
"""Numbers collected before they are sent together."""


def send(store: Store, journal: Journal, trials: Trials | None = None) -> bool:
    """Send what MLflow does not have yet; the caller holds the journal's lock.

    Broken off anywhere and called again, it goes on where it was: what could have been sent twice (a batch
    whose answer was lost) leaves no trace, since MLflow keeps a number with the same time and step once.

    Args:
        trials: of the study, if it is one and this is not the first call.
    Returns: whether the run has ended and all of it is sent.
    Raises: TrackingError or what MLflow raises; `open_store` turns it into a TrackingError.
    """
    trials = trials or Trials.of(journal)
    run_id = _run_id(store, journal)
    state = journal.state
    if state.get("inputs") and not state.get("inputs_sent"):
        store.log(run_id, tags=state["inputs"]["tags"])
        store.log_datasets(run_id, state["inputs"]["datasets"])
        journal.set_state(inputs_sent=True)
    trials.update(store, run_id)
    waiting: list[tuple[str, float, int, int]] = []
    sent = int(state.get("offset", 0))
    for offset, event in journal.events(sent):
        if event["kind"] == "measured" and _others_are_coming(journal, event):
            break
        sent = offset
        if event["kind"] == "metrics":
            waiting += [(key, value, event["time"], event["step"]) for key, value in event["values"].items()]
            if len(waiting) < _AT_ONCE:
                continue
        store.log(run_id, metrics=waiting)
        waiting = []
        if event["kind"] == "end":
            trials.update(store, run_id, last=True)
            _finish(store, journal, run_id, event)
            return True
        if event["kind"] == "artifact":
            store.log_artifact(run_id, journal.folder / event["path"], event.get("folder"))
        elif event["kind"] == "model":
            place = event.get("place") or event.get("name") or ""
            address, params = journal.header["address"], journal.header["params"]
            store.log_models(run_id, journal.folder / event["path"], place, address=address, params=params)
        elif event["kind"] == "measured":
            link(store, run_id, journal.header["started"], Measured.from_json(event), _measured_on(journal))
        journal.set_state(offset=offset)
    if waiting:
        store.log(run_id, metrics=waiting)
        journal.set_state(offset=sent)
    return False


def begin(store: Store, journal: Journal) -> bool:
    """Look whether the run of a journal that was partly sent is still there; the caller holds the lock.

    If the database is a new one, all is sent again. If the user deleted the run, the journal is done with.

    Returns: whether there is something to send.
    """
    run_id = journal.state.get("run_id")
    found = store.get(run_id) if run_id else None
    if run_id and found is None:
        journal.set_state(run_id=None)
    elif found is not None and found.deleted:
        journal.set_state(phase="done", error=None, status="DELETED")
        journal.close()
        return False
    return True


def close_if_dead(journal: Journal) -> bool:
    """End the journal of a stage that died without a word; the caller holds the lock.

    Returns: whether the journal has an end now. A stage on another machine counts as living.
    """
    if journal.ended:
        return True
    if alive(journal.process) is not False:
        return False
    events = [event for _, event in journal.events()]  # read after the look at the process, so nothing is missed
    if not any(event["kind"] == "end" for event in events):
        last = max([event["time"] for event in events], default=journal.header.get("started"))
        journal.append("end", status="KILLED", error="the process was killed", outputs={}, at=last)
    return True


def _run_id(store: Store, journal: Journal) -> str:
    """The run of this journal, started if there is none yet; sessions of one study share a run."""
    state, header = journal.state, journal.header
    if state.get("run_id"):
        return str(state["run_id"])
    study = header.get("study")
    begun = store.tagged(JOURNAL, journal.label)  # by a call that was broken off
    found = begun[0] if begun else study_run(store, study["key"]) if study else None
    if found:
        run_id = found.run_id
        store.set_status(run_id, "RUNNING")
        lineage = {key: value for key, value in header["tags"].items() if key.startswith(("pipeline.", "dvc."))}
        store.log(run_id, tags=lineage)
    else:
        tags = {**header["tags"], JOURNAL: journal.label, **({STUDY: study["key"]} if study else {})}
        run_id = store.create(header["address"], tags, header["started"])
    journal.set_state(run_id=run_id, offset=0, inputs_sent=False)
    store.log(run_id, params=header["params"])
    return run_id


def _others_are_coming(journal: Journal, event: dict[str, Any]) -> bool:
    """Whether runs that log the models of these numbers are still being sent, and it is worth waiting for them."""
    if now() - event["time"] > 1000 * OTHERS_SECONDS:
        return False
    others = (other for run in Measured.from_json(event).runs for other in journals(journal.folder.parents[1], run))
    store, own = journal.header.get("store"), journal.folder
    return any(
        not other.done and other.ended and other.folder != own and other.header.get("store") == store
        for other in others
    )


def _measured_on(journal: Journal) -> dict[str, Any] | None:
    """The test split among a stage's inputs."""
    inputs = journal.state.get("inputs")
    if inputs is None:  # the process beside the stage was killed before it had looked
        root = Path(journal.header["root"])
        inputs = describe_inputs(root, [Path(name) for name in journal.header["inputs"]])
    return next((data for data in inputs["datasets"] if data["context"] == "test"), None)


def _finish(store: Store, journal: Journal, run_id: str, event: dict[str, Any]) -> None:
    outputs = event["outputs"]
    tags = {f"dvc.out.{path}": there["md5"] for path, there in outputs.items() if there["md5"]}
    if event.get("error"):
        tags["notbugs.error"] = event["error"]
    found, header = store.get(run_id), journal.header
    if found and NOTE not in found.tags:  # unless the user has written one
        file = header.get("metrics_file", "") if event["status"] == "FINISHED" else ""
        tags[NOTE] = note(header["address"], header["tags"]["stage"], found.metrics, file)
    store.log(run_id, tags=tags)
    store.set_status(run_id, event["status"], event.get("at") or event["time"])
    key = journal.header["tags"].get("pipeline.key")
    journal.set_state(phase="done", error=None, status=event["status"], outputs=outputs, pipeline_key=key)
    journal.close()


def main(folder: str) -> int:
    """The process: send the journal in `folder` until it is sent, or the stage has ended and MLflow is away."""
    for ignored in (signal.SIGINT, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    with suppress(OSError):
        os.nice(10)
    journal = Journal(Path(folder))
    with journal.locked() as mine:
        if mine:
            _Sender(journal).work()
    return 0


def serve() -> None:
    """Send every journal that a line on standard input names, each by a process forked from this one.

    So MLflow is imported once, not for every stage. A line is a JSON list: the folder, and variables to set. Ends with
    its input; what was begun goes on.
    """
    import mlflow  # noqa: F401 (what all need)

    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):  # ignored, the last has the system forget the dead
        signal.signal(ignored, signal.SIG_IGN)
    for line in sys.stdin:
        folder, environment = json.loads(line)
        sys.stdout.flush()
        if os.fork():
            continue
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.environ.update(environment)
        os.setsid()
        with (Path(folder) / "sender.log").open("wb") as log:
            os.dup2(log.fileno(), 2)
        os.chdir(Journal(Path(folder)).header["project"])
        os._exit(main(folder))


class _Sender:
    """Attempts until the journal is sent."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.header = journal.header
        self.uri = location.tracking_uri(Path(self.header["project"]))

    def work(self) -> None:
        """Hash the inputs and ask Git, wait until the stage has started, and try until all is sent or patience ends."""
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
        self.journal.set_state(phase="starting")
        self._can_send()
        inputs = [Path(name) for name in self.header["inputs"]]
        self.journal.set_state(inputs=describe_inputs(Path(self.header["root"]), inputs))
        head_start = self.header["started"] + 1000 * HEAD_START_SECONDS
        while now() < head_start and not self.journal.ended:  # the processors are the stage's while it imports torch
            time.sleep(POLL_SECONDS)
        given_up = None
        while not self._attempt():
            ended = close_if_dead(self.journal)
            if ended:
                given_up = given_up or time.monotonic() + PATIENCE_SECONDS
                if time.monotonic() > given_up:
                    return
            until = time.monotonic() + RETRY_SECONDS
            while time.monotonic() < until and (ended or not close_if_dead(self.journal)):
                time.sleep(POLL_SECONDS)

    def _can_send(self) -> bool:
        """Whether nothing speaks against an attempt; else the stage may tell why."""
        reason = location.problem(self.uri)
        if reason:
            self.journal.set_state(phase="failed", error=f"MLflow at {location.shown(self.uri)}: {reason}")
        return not reason

    def _attempt(self) -> bool:
        """Send until the end, or until something fails; whether all is sent."""
        if not self._can_send():
            return False
        try:
            with open_store(self.uri, self.header["experiment"], Path(self.header["project"])) as store:
                self.journal.set_state(phase="open", error=None)
                return not begin(store, self.journal) or self._follow(store)
        except TrackingError as error:
            self.journal.set_state(phase="failed", error=str(error))
            return False

    def _follow(self, store: Store) -> bool:
        """Send what the stage says until it ends."""
        trials = Trials.of(self.journal)
        with ExitStack() as stack:
            asked = os.environ.get(SYSTEM_METRICS, "").lower()
            measuring = asked in ("false", "0")
            due = self.header["started"] + (0 if asked in ("true", "1") else 1000 * SYSTEM_SECONDS)
            while not send(store, self.journal, trials):
                if not measuring and not self.journal.ended and now() >= due:
                    measuring = True
                    run_id = self.journal.state["run_id"]
                    stack.enter_context(store.system_metrics(run_id, int(self.header["pid"])))
                close_if_dead(self.journal)
                time.sleep(POLL_SECONDS)
        return True

    def _watch(self) -> None:
        """End this process if a call hangs long after the stage has ended."""
        while not self.journal.ended and alive(self.journal.process) is not False:
            time.sleep(1)
        time.sleep(2 * PATIENCE_SECONDS)
        os._exit(3)
