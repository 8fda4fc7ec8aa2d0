"""Runs of a family known from files, where no live ones were kept: a fresh clone, or a new database."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from notbugs.runtime.nested import flatten, numbers
from notbugs.tracking import location
from notbugs.tracking.client import Store
from notbugs.tracking.facts import source_tags
from notbugs.tracking.family import CHILDREN, PARENT, SHARED
from notbugs.tracking.journal import Journal, journals, new_journal, now
from notbugs.tracking.sending import send

REBUILT = "notbugs.rebuilt"
"""Tag of runs that were made from files."""


@dataclass(frozen=True)
class RecordedRun:
    """What files say of one run.

    Attributes:
        title: name of the run. tags: beside those of its stage.
        params: nested. metrics: nested numbers.
        curves: (step, {curve: value}). files: artifacts.
        status: FINISHED or FAILED.
    """

    title: str
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    curves: tuple[tuple[int, Mapping[str, float | None]], ...] = ()
    files: tuple[Path, ...] = ()
    status: str = "FINISHED"


@dataclass(frozen=True)
class RecordedFamily:
    """A shared run and its children.

    Attributes:
        stage, name: such as "sweep", "small".
        key: of the shared run, see `family.Family`.
        run: the shared one. children: gives the others, each with a title of its own.
    """

    stage: str
    name: str
    key: str
    run: RecordedRun
    children: Callable[[], Iterable[RecordedRun]]

    @property
    def address(self) -> str:
        """As of a stage in dvc.lock."""
        return f"{self.stage}@{self.name}"


def bring_up_family(family: RecordedFamily, store: Store, root: Path, project: Path, header: Mapping[str, Any]) -> int:
    """Give a family its runs, unless it ran here: then its sessions have sent them, or will.

    Broken off anywhere and called again, it goes on; runs that the user deleted do not come back.

    Args:
        root: of the stage. project: whose journals they join.
        header: experiment and store of the journals.
    Returns: how many children were added.
    """
    work = location.work_folder(project)
    if any(one.header.get("shared") == family.key and not one.done for one in journals(work, family.address)):
        return 0
    common = {**header, "stage": family.stage, "name": family.name, "project": str(project), "root": str(root)}
    shared = store.tagged(SHARED, family.key)
    if not shared:
        parent = _journal(work, family.address, {**common, "shared": family.key}, family.run, family)
        _send(store, parent)
        shared = store.tagged(SHARED, family.key)
    living = [run for run in shared if not run.deleted]
    if not living or REBUILT not in living[0].tags:
        return 0
    there = {run.tags.get("mlflow.runName") for run in store.tagged(PARENT, living[0].run_id, most=50_000)}
    added = 0
    for child in family.children():
        if child.title not in there:
            own = {**common, "child_of": family.key, "sender": None}
            _send(store, _journal(work, f"{family.address}{CHILDREN}", own, child, family))
            added += 1
    return added


def _journal(work: Path, address: str, header: Mapping[str, Any], run: RecordedRun, family: RecordedFamily) -> Journal:
    """The journal of a run that is over."""
    tags = {"stage": family.stage, "name": family.name, REBUILT: "true", **source_tags(family.stage, family.name)}
    time = now()
    whole = {
        **header,
        "address": address,
        "run_name": run.title,
        "params": {key: str(value) for key, value in flatten(run.params).items()},
        "tags": {**tags, **run.tags},
        "inputs": [],
        "started": time,
    }
    title = "".join(c if c.isalnum() else "-" for c in run.title)
    journal = new_journal(work, address, whole, f"rebuilt-{title}-{time}")
    for step, values in run.curves:
        journal.append("metrics", step=step, values=numbers(values))
    journal.append("metrics", step=0, values=numbers(run.metrics))
    for file in run.files:
        journal.append("artifact", path=journal.keep(file), folder=None)
    journal.append("end", status=run.status, error=None, outputs={})
    return journal


def _send(store: Store, journal: Journal) -> None:
    with journal.locked() as mine:
        if mine:
            send(store, journal)
