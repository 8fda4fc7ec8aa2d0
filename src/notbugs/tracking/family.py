"""Runs that belong together: one run for a whole study, and a child run for each of its trials.

The parent is shared: every session that works on the study, today or tomorrow, here or on another machine, adds
to the same MLflow run, found by its key. A child is sent by the writer of its session's parent, so that a trial
of two seconds does not start a process of three.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notbugs.tracking import location
from notbugs.tracking.journal import Journal, journals

if TYPE_CHECKING:
    from notbugs.tracking.client import Found, Store

SHARED = "notbugs.shared"
"""Tag of a shared run: its key."""
PARENT = "mlflow.parentRunId"
CHILDREN = ".trials"
"""Ending of the address that children's journals are filed under."""
_LOOK_SECONDS = 1.0
"""Between two looks for new children."""


@dataclass(frozen=True)
class Family:
    """What makes a run a parent or a child.

    Attributes:
        key: of the shared run.
        child: name of the child run; None for the shared run itself.
        sender: `Run.sender` of the session's parent, which sends the child; None where there is none: then the
            child is sent by itself.
        tags: further ones of the run.
    """

    key: str
    child: str | None = None
    sender: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def header(self, header: Mapping[str, Any]) -> dict[str, Any]:
        """What differs from the header of a run without family."""
        tags = {**header["tags"], **self.tags}
        if self.child is None:
            return {"tags": tags, "shared": self.key}
        address = f"{header['address']}{CHILDREN}"
        return {
            "tags": tags,
            "address": address,
            "run_name": self.child,
            "child_of": self.key,
            "sender": self.sender,
        }


def shared_run(store: "Store", header: Mapping[str, Any]) -> list["Found"]:
    """The run that a shared header belongs to, if another session has made it already."""
    return _of_key(store, header["shared"]) if header.get("shared") else []


def tags(store: "Store", header: Mapping[str, Any]) -> dict[str, str]:
    """Tags by which MLflow, and later sessions, know the family of a new run."""
    if header.get("shared"):
        return {SHARED: header["shared"]}
    parents = _of_key(store, header["child_of"]) if header.get("child_of") else []
    return {PARENT: parents[0].run_id} if parents else {}


def _of_key(store: "Store", key: str) -> list["Found"]:
    return [run for run in store.tagged(SHARED, key) if not run.deleted]


def waits_for_parent(store: "Store", journal: Journal) -> bool:
    """Whether a child has to wait, because its parent's own journal has yet to be sent."""
    header = journal.header
    if not header.get("child_of") or _of_key(store, header["child_of"]):
        return False
    address = journal.folder.parent.name.removesuffix(CHILDREN)
    parent = Journal(journal.folder.parents[1] / address / str(header.get("sender")))
    return bool(parent.header) and not parent.done


class Children:
    """The children that one parent's journal sends."""

    def __init__(self, parent: Journal) -> None:
        self._parent = parent
        self._address = f"{parent.header['address']}{CHILDREN}"
        self._done: set[str] = set()
        self._looked = -_LOOK_SECONDS

    def send(self, store: "Store", *, last: bool = False) -> None:
        """Send what the children have said since; looks once a second, or at once if it is the last time."""
        from notbugs.tracking.sending import begin, close_if_dead, send

        if not self._parent.header.get("shared") or (not last and time.monotonic() - self._looked < _LOOK_SECONDS):
            return
        self._looked = time.monotonic()
        work = location.work_folder(Path(self._parent.header["project"]))
        for journal in reversed(journals(work, self._address)):  # oldest first
            name = journal.folder.name
            if name in self._done or journal.header.get("sender") != self._parent.folder.name:
                continue
            with journal.locked() as mine:
                if not mine:
                    continue
                if not journal.facts and self._parent.facts:
                    journal.set_facts(self._parent.facts)  # the same inputs
                close_if_dead(journal)
                if journal.done or not begin(store, journal) or send(store, journal):
                    self._done.add(name)
