"""`notbugs track`: MLflow brought up to date with dvc.lock, whatever happened in between."""

import csv
import hashlib
import json
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from notbugs.runtime.config import read_params, runtime
from notbugs.runtime.dvc_lock import Content, LockEntry, LockError, content, read_lock
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import file_lock, read_mapping, sha256, write_text
from notbugs.runtime.outdated import is_asked_for, outdated
from notbugs.runtime.process import alive
from notbugs.tracking import location
from notbugs.tracking.description import run_params
from notbugs.tracking.journal import JOURNAL, PROCESS, Journal, journals
from notbugs.tracking.measured import RESULTS, link, measured
from notbugs.tracking.rebuilding import REBUILT, STUDY, StudyRuns, Trials, rebuild, record, study_run
from notbugs.tracking.sending import begin, close_if_dead, send
from notbugs.tracking.store import Store, TrackingError, open_store

WAIT_SECONDS = 20.0
"""How long to wait for the senders of stages that have just ended."""
FIGURES = "figures"
"""Folder of a study's figures among the artifacts of its run."""
Settings = Callable[[LockEntry], Mapping[str, Any] | None]
"""Stage in dvc.lock -> its settings, nested, with what is left out at its default; None where that cannot be said."""


@dataclass(frozen=True)
class TrackSummary:
    """What `track` did.

    Attributes:
        ok: False if MLflow could not be reached or used; `problem` says why.
        entries: stages in dvc.lock.
        sent: runs sent that their senders could not send.
        claimed: live runs that were given the lineage of dvc.lock.
        rebuilt: runs made from dvc.lock and the files it names.
        recorded: runs of trials added to those of finished studies.
        closed: runs of dead processes that were ended.
        waiting: runs that their senders are still sending.
        skipped: stages without a run whose small outputs are not those of dvc.lock, or not here.
        outdated: stages without a run whose outputs are of other settings or data than the project has now.
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
    outdated: tuple[str, ...] = ()
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
        if self.outdated:
            text += f"; none for {', '.join(self.outdated)}: of other settings or data than the project has now"
        return text


def track(root: Path, *, studies: Sequence[StudyRuns] = (), settings: Settings = lambda entry: None) -> TrackSummary:
    """Give every stage in dvc.lock its run in MLflow, and end the runs of processes that were killed.

    A stage has its run if one is tagged with its `pipeline.key`. If not: the live run whose outputs are those
    of dvc.lock is given the tag; where there is none (the outputs came from DVC's run cache, or the database
    was deleted), one is made from dvc.lock, metrics and learning curves. A second call changes nothing, and
    does not even import MLflow.

    Args:
        root: folder with dvc.lock and params.yaml.
        studies: finished ones, whether or not they stand in dvc.lock.
        settings: of a stage in dvc.lock, asked only for runs that are made from it.
    Returns: what was done; `ok` is False, with the reason, if MLflow cannot be used. Never raises for that.
    """
    work = _Reconciliation(root.absolute(), studies, settings)
    try:
        (work.project / ".notbugs").mkdir(exist_ok=True)
        with file_lock(work.project / ".notbugs" / "track.lock", WAIT_SECONDS) as mine:
            if not mine:
                return TrackSummary(ok=False, problem="another `notbugs track` is at work")
            return work.run()
    except (TrackingError, LockError, ConfigError, OSError) as error:
        return TrackSummary(ok=False, problem=str(error))


def experiment_name(root: Path) -> str:
    """The MLflow experiment that params.yaml names.

    Raises: ConfigError.
    """
    params = root / "params.yaml"
    return runtime(read_params(params) if params.exists() else {}).experiment


class _Reconciliation:
    """One call of `track`."""

    def __init__(self, root: Path, studies: Sequence[StudyRuns], settings: Settings) -> None:
        self.root = root
        self.settings = settings
        self.new: set[str] = set()
        """Stages whose runs were made now."""
        self.studies = {study.address: study for study in studies}
        self.project = location.anchor(root)
        self.work = location.work_folder(self.project)
        self.uri = location.tracking_uri(self.project)
        self.store_name = location.store_name(self.project, self.uri)
        self.counts: dict[str, Any] = Counter()
        self.skipped: list[str] = []
        self.outdated: list[str] = []
        self.known: str | None = None
        """A run that MLflow has."""
        self.old: Mapping[str, str] = {}
        """Stages whose outputs are of other settings or data than the project has now -> why."""
        self.memory = self.project / ".notbugs" / "tracked.json"

    def run(self) -> TrackSummary:
        """Send what is pending, then rebuild what dvc.lock names and MLflow lacks.

        Raises: TrackingError if MLflow is away; LockError, ConfigError.
        """
        # A stage that depends on nothing, `code` in a project of `notbugs new`, has no run.
        entries = [entry for entry in read_lock(self.root / "dvc.lock") if entry.deps or entry.params]
        if (self.root / "params.yaml").exists():
            params = read_params(self.root / "params.yaml")
            entries = [entry for entry in entries if is_asked_for(entry, params)]
            self.old = outdated(self.root, params)
        experiment = experiment_name(self.root)
        location.relocate_artifacts(self.project, self.uri)
        reason = location.problem(self.uri)
        if reason:
            raise TrackingError(f"MLflow at {location.shown(self.uri)}: {reason}")
        self._wait_for_senders()
        pending = list(self._pending())
        database = location.database_file(self.uri)
        nothing = not entries and not self.studies and database is not None and not database.exists()
        if not pending and (nothing or self._is_current(experiment)):
            return TrackSummary(entries=len(entries))
        for name in {journal.header["experiment"] for journal in pending} | {experiment}:
            with open_store(self.uri, name, self.project) as store:
                self._send([journal for journal in pending if journal.header["experiment"] == name], store)
                for entry in entries if name == experiment else []:
                    self._bring_up(entry, store)
                if name == experiment:
                    self._link_models(entries, store)
                for study in self.studies.values() if name == experiment else []:
                    self._bring_up_study(study, store)
                self._close_leftovers(store)
        if not self.skipped and not self.counts["waiting"]:
            write_text(self.memory, json.dumps({"run": self.known, "when": self._state(experiment)}))
        skipped, old = tuple(self.skipped), tuple(self.outdated)
        return TrackSummary(entries=len(entries), skipped=skipped, outdated=old, **self.counts)

    def _journals(self, address: str | None = None) -> list[Journal]:
        """Journals that belong to the tracking store in use."""
        found = journals(self.work, address)
        return [journal for journal in found if journal.header.get("store") == self.store_name]

    def _pending(self) -> Iterator[Journal]:
        """Journals that have ended (or whose stage is dead) and are not sent, in the order in which they began."""
        for journal in sorted(self._journals(), key=lambda journal: int(journal.header.get("started", 0))):
            if not journal.done and (journal.ended or alive(journal.process) is False):
                yield journal

    def _wait_for_senders(self) -> None:
        """Let the senders of ended stages finish, as long as they are getting on."""
        deadline = time.monotonic() + WAIT_SECONDS
        for journal in self._pending():
            while not journal.done and journal.state.get("phase") != "failed" and time.monotonic() < deadline:
                with journal.locked() as mine:
                    if mine:
                        break
                time.sleep(0.05)

    def _send(self, pending: list[Journal], store: Store) -> None:
        for journal in pending:
            with journal.locked() as mine:
                unsent = mine and not journal.done and close_if_dead(journal)
                if unsent and begin(store, journal) and send(store, journal):
                    self.counts["sent"] += 1
                    self.known = journal.state["run_id"]
                    self.new.add(journal.header["tags"]["stage"])

    def _close_leftovers(self, store: Store) -> None:
        """End runs that count as running although their process is dead and their journal is gone."""
        for run in store.running():
            own = run.tags.get(JOURNAL)
            if own and not (self.work / own / "run.json").exists() and alive(run.tags.get(PROCESS)) is False:
                store.set_status(run.run_id, "KILLED", run.last_time)
                self.counts["closed"] += 1

    def _bring_up(self, entry: LockEntry, store: Store) -> None:
        """See that one stage of dvc.lock has its run."""
        own = self._journals(entry.address)
        claimed = sum(_claim(journal, entry, store) for journal in own)
        self.counts["claimed"] += claimed
        there = store.tagged("pipeline.key", entry.key)
        if claimed or any(run.status == "FINISHED" for run in there):
            self.known = next((run.run_id for run in there), self.known)
            return  # also if the user has deleted the run: it is not to come back
        if any(_is_coming(journal) for journal in own):
            self.counts["waiting"] += 1
            return
        if entry.address in self.old:  # as a clone's default run is, of which this project knows no more than numbers
            self.outdated.append(entry.address)
            return
        study = self.studies.get(entry.address)
        run = rebuild(self.root, entry, study, self.settings(entry))
        if run is None:
            self.skipped.append(entry.address)
            return
        unfinished = next((one for one in there if REBUILT in one.tags and not one.deleted), None)
        self.known = record(store, run, unfinished or (study_run(store, study.key) if study else None))
        self.counts["rebuilt"] += 1
        self.new.add(entry.stage)

    def _link_models(self, entries: list[LockEntry], store: Store) -> None:
        """Give models, and the runs that trained them, what was measured of them, if any of these runs is new."""
        entry = next((entry for entry in entries if str(RESULTS) in entry.outs), None)
        if entry is None or not self.new & {"train", "fit", entry.stage}:
            return
        run = next((run for run in store.tagged("pipeline.key", entry.key) if run.status == "FINISHED"), None)
        there = content(self.root / RESULTS)
        if run is None or run.deleted or there is None or not there.fits(entry.outs[str(RESULTS)]):
            return
        rebuilt = rebuild(self.root, entry, settings=self.settings(entry))
        if rebuilt is None:
            return
        dataset = next((data for data in rebuilt.datasets if data["context"] == "test"), None)
        with suppress(OSError, ValueError, KeyError, csv.Error):  # a table of another version
            link(store, run.run_id, run.started, measured(self.root, run_params(rebuilt.params)), dataset)

    def _bring_up_study(self, study: StudyRuns, store: Store) -> None:
        """See that a finished study has its run, and each of its trials; its sessions at work send theirs."""
        for journal in self._journals(study.address):
            if not journal.done and (journal.header.get("study") or {}).get("key") == study.key:
                return
        there = store.tagged(STUDY, study.key)
        found = next((run for run in there if not run.deleted), None)
        if found is None and there:
            return  # the user has deleted it
        if found is None or (found.status == "RUNNING" and REBUILT in found.tags):
            found = store.get(record(store, study.run, found))
        if found:
            session = None if REBUILT in found.tags else ""
            self.counts["recorded"] += Trials(self.work, study.trials, session).update(store, found.run_id, last=True)
            drawn = store.artifacts(found.run_id, FIGURES) if study.figures else set()
            for figure in study.figures:
                if figure.name not in drawn:
                    store.log_artifact(found.run_id, figure, FIGURES)

    def _is_current(self, experiment: str) -> bool:
        """Whether all is as it was when the last call ended; found out without MLflow."""
        memory = read_mapping(self.memory)
        if memory.get("when") != self._state(experiment):
            return False
        return not location.is_server(self.uri) or self._server_knows(memory.get("run"))

    def _state(self, experiment: str) -> dict[str, Any]:
        """All that decides whether there is something to do."""
        lock, database = self.root / "dvc.lock", location.database_file(self.uri)
        there = database.stat() if database and database.exists() else None
        sent = sorted(journal.folder.name for journal in journals(self.work) if journal.done)
        return {
            "store": self.store_name,
            "experiment": experiment,
            "studies": sorted(study.key for study in self.studies.values()),
            "outdated": sorted(self.old),
            "lock": sha256(lock) if lock.exists() else None,
            "database": [there.st_dev, there.st_ino] if there else None,
            "sent": hashlib.sha256("\n".join(sent).encode()).hexdigest(),
        }

    def _server_knows(self, run_id: str | None) -> bool:
        """Ask a server for a run that it once had; False only if it does not know the run."""
        if run_id is None:
            return False
        try:
            address = location.endpoint(self.uri, "/api/2.0/mlflow/runs/get") + f"?run_id={run_id}"
            urllib.request.urlopen(address, timeout=location.CHECK_SECONDS).close()
        except urllib.error.HTTPError as error:
            error.close()
            return error.code != 404
        except OSError:  # it is away: who knows
            pass
        return True


def _is_coming(journal: Journal) -> bool:
    """Whether a journal's run is still to be expected: the stage runs, or its writer sends."""
    return not journal.done and (journal.ended or alive(journal.process) is True)


def _claim(journal: Journal, entry: LockEntry, store: Store) -> bool:
    """Tag the run of a journal if its outputs are those of dvc.lock and it is not tagged yet."""
    state = journal.state
    if not journal.done or state.get("pipeline_key") or state.get("status") != "FINISHED":
        return False
    made = {path: Content.from_json(there) for path, there in state["outputs"].items()}
    if not entry.outs or not all(path in made and made[path].fits(there) for path, there in entry.outs.items()):
        return False
    run = store.get(state["run_id"])
    if run is None or run.deleted:
        return False
    store.log(state["run_id"], tags={"pipeline.key": entry.key, **entry.hash_tags()})
    journal.set_state(pipeline_key=entry.key)
    return True
