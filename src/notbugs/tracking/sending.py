"""Sending a journal to MLflow, as far as it goes, each thing once."""

import re
from pathlib import Path
from typing import Any

from notbugs.runtime.process import alive
from notbugs.tracking import family
from notbugs.tracking.client import Store
from notbugs.tracking.journal import Journal

_AT_ONCE = 1000
"""Numbers collected before they are sent together."""


def send(store: Store, journal: Journal) -> bool:
    """Send what MLflow does not have yet; the caller holds the journal's lock.

    Broken off anywhere and called again, it goes on where it was: what could have been sent twice (a batch
    whose answer was lost) leaves no trace, since MLflow keeps a number with the same time and step once.

    Returns: whether the run has ended and all of it is sent.
    Raises: StoreError or what MLflow raises; `open_store` turns it into a StoreError.
    """
    header = journal.header
    run_id = _run_id(store, journal, header)
    _send_facts(store, journal, run_id)
    waiting: list[tuple[str, float, int, int]] = []
    for offset, event in journal.events(int(journal.state.get("offset", 0))):
        if event["kind"] == "metrics":
            waiting += [(key, value, event["time"], event["step"]) for key, value in event["values"].items()]
            if len(waiting) < _AT_ONCE:
                continue
        store.log(run_id, metrics=waiting)
        waiting = []
        if event["kind"] == "end":
            _finish(store, journal, run_id, event)
            return True
        _send_event(store, journal, run_id, event)
        journal.set_state(offset=offset)
    if waiting:
        store.log(run_id, metrics=waiting)
        journal.set_state(offset=offset)
    return False


def begin(store: Store, journal: Journal) -> bool:
    """Look whether the run of a journal that was partly sent is still there; the caller holds the lock.

    If the database is a new one, all is sent again. If the user deleted the run, the journal is done with.

    Returns: whether there is something to send.
    """
    run_id = journal.state.get("run_id")
    found = store.get(run_id) if run_id else None
    if run_id and found is None:
        journal.set_state(run_id=None, creating=False)
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


def _run_id(store: Store, journal: Journal, header: dict[str, Any]) -> str:
    """The run of this journal, started if there is none yet."""
    state = journal.state
    if state.get("run_id"):
        return str(state["run_id"])
    own = f"{header['address']}/{journal.folder.name}"
    found = store.tagged("notbugs.journal", own) if state.get("creating") else []
    found = found or family.shared_run(store, header)
    journal.set_state(creating=True)
    if found:
        run_id = found[0].run_id
        store.reopen(run_id)
        lineage = {key: value for key, value in header["tags"].items() if key.startswith(("pipeline.", "dvc."))}
        store.log(run_id, tags=lineage)
    else:
        tags = {**header["tags"], "notbugs.journal": own, **family.tags(store, header)}
        run_id = store.create(header.get("run_name") or header["address"], tags, header["started"])
    journal.set_state(run_id=run_id, offset=0, facts_sent=False)
    store.log(run_id, params=header["params"])
    return run_id


def _send_facts(store: Store, journal: Journal, run_id: str) -> None:
    facts = journal.facts
    if facts and not journal.state.get("facts_sent"):
        store.log(run_id, tags=facts["tags"])
        store.log_datasets(run_id, facts["datasets"])
        journal.set_state(facts_sent=True)


def _send_event(store: Store, journal: Journal, run_id: str, event: dict[str, Any]) -> None:
    if event["kind"] == "artifact":
        store.log_artifact(run_id, journal.folder / event["path"], event.get("folder"))
    elif event["kind"] == "model":
        send_models(store, run_id, journal.folder / event["path"], event.get("name") or "")


def send_models(store: Store, run_id: str, path: Path, name: str) -> None:
    """Log the classifiers at `path`; what has no description beside it is logged as a plain file."""
    for weights in sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]:
        relative = weights.relative_to(path).with_suffix("").as_posix() if path.is_dir() else name
        if weights.with_suffix(".json").exists():
            store.log_model(run_id, re.sub(r"[^\w-]+", "-", relative), weights)
        else:
            store.log_artifact(run_id, weights, "model")


def _finish(store: Store, journal: Journal, run_id: str, event: dict[str, Any]) -> None:
    outputs = event["outputs"]
    tags = {f"dvc.out.{path}": there["md5"] for path, there in outputs.items() if there["md5"]}
    if event.get("error"):
        tags["notbugs.error"] = event["error"]
    store.log(run_id, tags=tags)
    store.finish(run_id, event["status"], event.get("at") or event["time"])
    key = journal.header["tags"].get("pipeline.key")
    journal.set_state(phase="done", error=None, status=event["status"], outputs=outputs, pipeline_key=key)
    journal.close()
