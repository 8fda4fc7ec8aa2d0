"""`notbugs track`: MLflow brought up to date with dvc.lock, whatever happened in between."""

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notbugs.runtime.config import read_params, runtime
from notbugs.runtime.dvc_lock import Content, LockEntry, LockError, read_lock
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.locks import held
from notbugs.runtime.process import alive
from notbugs.tracking import location, memo
from notbugs.tracking.client import Store, StoreError, open_store
from notbugs.tracking.family import waits_for_parent
from notbugs.tracking.journal import PROCESS, Journal, journals
from notbugs.tracking.rebuilding import rebuild
from notbugs.tracking.recorded import RecordedFamily, bring_up_family
from notbugs.tracking.sending import begin, close_if_dead, send

WAIT_SECONDS = 20.0
"""How long to wait for the writers of stages that have just ended."""


@dataclass(frozen=True)
class TrackSummary:
    """What `track` did.

    Attributes:
        ok: False if MLflow could not be reached or used; `problem` says why.
        entries: stages in dvc.lock.
        sent: runs sent that their writers could not send.
        claimed: live runs that were given the lineage of dvc.lock.
        rebuilt: runs made from dvc.lock and the files it names.
        recorded: runs of trials made from the files of finished studies.
        closed: runs of dead processes that were ended.
        waiting: runs that their writers are still sending.
        skipped: stages without a run whose small outputs are not those of dvc.lock, or not here.
        problem: one line.
    """

    ok: bool = True
    entries: int = 0
    sent: int = 0
    claimed: int = 0
    rebuilt: int = 0
    recorded: int = 0
    closed: int = 0
    waiting: int = 0
    skipped: tuple[str, ...] = ()
    problem: str | None = None

    @property
    def changed(self) -> bool:
        """Whether MLflow is not as it was before."""
        return bool(self.sent or self.claimed or self.rebuilt or self.recorded or self.closed)

    def __str__(self) -> str:
        """One line for people."""
        if self.problem:
            return f"{self.problem}; nothing is lost, `notbugs track` adds it later"
        words = {
            "sent later": self.sent,
            "linked to dvc.lock": self.claimed,
            "rebuilt from dvc.lock": self.rebuilt,
            "of trials rebuilt from sweeps/": self.recorded,
            "closed after a kill": self.closed,
            "still being sent": self.waiting,
        }
        counts = ", ".join(f"{count} {word}" for word, count in words.items() if count)
        stages = "1 stage" if self.entries == 1 else f"{self.entries} stages"
        text = f"{stages} in dvc.lock, runs in MLflow: {counts or 'up to date'}"
        if self.skipped:
            text += f"; none for {', '.join(self.skipped)}: the workspace does not hold what dvc.lock says"
        return text


def track(root: Path, *, wait_seconds: float = WAIT_SECONDS, families: Sequence[RecordedFamily] = ()) -> TrackSummary:
    """Give every stage in dvc.lock its run in MLflow, and end the runs of processes that were killed.

    A stage has its run if one is tagged with its `pipeline.key`. If not: the live run whose outputs are those
    of dvc.lock is given the tag; where there is none (the outputs came from DVC's run cache, or the database
    was deleted), one is made from dvc.lock, metrics and learning curves. A second call changes nothing, and
    does not even import MLflow.

    Args:
        root: folder with dvc.lock and params.yaml.
        wait_seconds: how long to wait for the writers of stages that have just ended.
        families: what files say of runs that have children, whether or not they stand in dvc.lock.
    Returns: what was done; `ok` is False, with the reason, if MLflow cannot be used. Never raises for that.
    """
    work = _CatchUp(root.absolute(), families)
    try:
        (work.project / ".notbugs").mkdir(exist_ok=True)
        with held(work.project / ".notbugs" / "track.lock", wait_seconds) as mine:
            if not mine:
                return TrackSummary(ok=False, problem="another `notbugs track` is at work")
            return work.run(wait_seconds)
    except (StoreError, LockError, ConfigError, OSError) as error:
        return TrackSummary(ok=False, problem=str(error))


def experiment_name(root: Path) -> str:
    """The MLflow experiment that params.yaml names.

    Raises: ConfigError.
    """
    params = root / "params.yaml"
    return runtime(read_params(params) if params.exists() else {}).experiment


class _CatchUp:
    """One call of `track`."""

    def __init__(self, root: Path, families: Sequence[RecordedFamily]) -> None:
        self.root = root
        self.families = {family.address: family for family in families}
        self.project = location.anchor(root)
        self.uri = location.tracking_uri(self.project)
        self.store_name = location.store_name(self.project, self.uri)
        self.counts: Counter[str] = Counter()
        self.skipped: list[str] = []

    def run(self, wait_seconds: float) -> TrackSummary:
        """Send what is pending, then rebuild what dvc.lock names and MLflow lacks.

        Args:
            wait_seconds: how long to wait for the writers of stages that have just ended.
        Raises: StoreError if MLflow is away; LockError, ConfigError.
        """
        entries = _named(read_lock(self.root / "dvc.lock"), self.root)
        experiment = experiment_name(self.root)
        location.relocate_artifacts(self.project, self.uri)
        reason = location.problem(self.uri)
        if reason:
            raise StoreError(f"MLflow at {location.shown(self.uri)}: {reason}")
        self._wait_for_writers(wait_seconds)
        pending = sorted(self._pending(), key=lambda journal: "child_of" in journal.header)  # parents first
        keys = [family.key for family in self.families.values()]
        arguments = (self.root, self.project, self.uri, experiment, keys)
        nothing = not entries and not keys and not self._database_exists()
        if not pending and (nothing or memo.is_current(*arguments)):
            return TrackSummary(entries=len(entries))
        for name in {journal.header["experiment"] for journal in pending} | {experiment}:
            with open_store(self.uri, name, self.project) as store:
                self._send([journal for journal in pending if journal.header["experiment"] == name], store)
                self._close_leftovers(store)
                for entry in entries if name == experiment else []:
                    self._bring_up(entry, experiment, store)
                for family in self.families.values() if name == experiment else []:
                    header = {"experiment": experiment, "store": self.store_name}
                    self.counts["recorded"] += bring_up_family(family, store, self.root, self.project, header)
        if not self.skipped and not self.counts["waiting"]:
            memo.remember(*arguments)
        return TrackSummary(
            entries=len(entries),
            sent=self.counts["sent"],
            claimed=self.counts["claimed"],
            rebuilt=self.counts["rebuilt"],
            recorded=self.counts["recorded"],
            closed=self.counts["closed"],
            waiting=self.counts["waiting"],
            skipped=tuple(self.skipped),
        )

    def _database_exists(self) -> bool:
        database = location.database_file(self.uri)
        return database is None or database.exists()

    def _journals(self, address: str | None = None) -> list[Journal]:
        """Journals that belong to the tracking store in use."""
        found = journals(location.work_folder(self.project), address)
        return [journal for journal in found if journal.header.get("store") == self.store_name]

    def _pending(self) -> Iterator[Journal]:
        """Journals that have ended (or whose stage is dead) and are not sent."""
        for journal in self._journals():
            if journal.done:
                continue
            if journal.folder.name.startswith("rebuilt-") and not journal.ended:
                shutil.rmtree(journal.folder, ignore_errors=True)  # a `track` was killed while it wrote this
            elif journal.ended or alive(journal.process) is False:
                yield journal

    def _wait_for_writers(self, wait_seconds: float) -> None:
        """Let the writers of ended stages finish, as long as they are getting on."""
        deadline = time.monotonic() + wait_seconds
        for journal in self._pending():
            while not journal.done and journal.state.get("phase") != "failed" and time.monotonic() < deadline:
                with journal.locked() as mine:
                    if mine:
                        break
                time.sleep(0.05)

    def _send(self, pending: list[Journal], store: Store) -> None:
        for journal in pending:
            with journal.locked() as mine:
                if mine and not journal.done and close_if_dead(journal):
                    self._send_one(journal, store)

    def _send_one(self, journal: Journal, store: Store) -> None:
        if waits_for_parent(store, journal):
            self.counts["waiting"] += 1
        elif begin(store, journal) and send(store, journal):
            self.counts["sent"] += 1

    def _close_leftovers(self, store: Store) -> None:
        """End runs that count as running although their process is dead and their journal is gone."""
        for run in store.running():
            own = run.tags.get("notbugs.journal")
            if not own or (location.work_folder(self.project) / own / "run.json").exists():
                continue
            if alive(run.tags.get(PROCESS)) is False:
                store.finish(run.run_id, "KILLED", run.last_time)
                self.counts["closed"] += 1

    def _bring_up(self, entry: LockEntry, experiment: str, store: Store) -> None:
        """See that one stage of dvc.lock has its run."""
        own = self._journals(entry.address)
        claimed = sum(_claim(journal, entry, store) for journal in own)
        self.counts["claimed"] += claimed
        if claimed or any(run.status == "FINISHED" for run in store.tagged("pipeline.key", entry.key)):
            return  # also if the user has deleted the run: it is not to come back
        if any(_is_coming(journal) for journal in own):
            self.counts["waiting"] += 1
            return
        family = self.families.get(entry.address)
        key = family.key if family else None
        journal = rebuild(self.root, self.project, entry, experiment, self.store_name, key)
        if journal is None:
            self.skipped.append(entry.address)
            return
        with journal.locked() as mine:
            if mine:
                send(store, journal)
        self.counts["rebuilt"] += 1


def _named(entries: list[LockEntry], root: Path) -> list[LockEntry]:
    """Without the entries of stages that params.yaml no longer names: dvc.lock keeps those."""
    params = root / "params.yaml"
    sections = read_params(params) if params.exists() else {}
    names = {stage: section for stage, section in sections.items() if isinstance(section, Mapping)}
    return [entry for entry in entries if entry.name is None or entry.name in names.get(entry.stage, [entry.name])]


def _is_coming(journal: Journal) -> bool:
    """Whether a journal's run is still to be expected: the stage runs, or its writer sends."""
    return not journal.done and (journal.ended or alive(journal.process) is True)


def _claim(journal: Journal, entry: LockEntry, store: Store) -> bool:
    """Tag the run of a journal if its outputs are those of dvc.lock and it is not tagged yet."""
    state = journal.state
    if not journal.done or state.get("pipeline_key") or state.get("status") != "FINISHED":
        return False
    if not _made(state["outputs"], entry):
        return False
    run = store.get(state["run_id"])
    if run is None or run.deleted:
        return False
    store.log(state["run_id"], tags={"pipeline.key": entry.key, **entry.hash_tags()})
    journal.set_state(pipeline_key=entry.key)
    return True


def _made(outputs: Mapping[str, Any], entry: LockEntry) -> bool:
    return bool(entry.outs) and all(
        path in outputs and Content.from_json(outputs[path]).fits(there) for path, there in entry.outs.items()
    )
