"""The journal of a run: what a stage has to say, kept in a folder until MLflow has it.

A stage only ever writes here, which takes microseconds and cannot hang; another process reads the journal
and sends it on (`sending`), or `notbugs track` does later. So training never waits for a tracking server, and
what a dead server missed is not lost.

Files in the folder of a journal:
    run.json      what is known at the start: stage, params, tags, experiment, process (written once)
    events.jsonl  what happened since, one JSON object a line (only appended to)
    ended         there once the stage has said its last word
    files/        copies of artifacts and models, as they were when the stage handed them in
    state.json    how much of it MLflow has, under which run id, and what was found out beside the running stage
    lock          held by the process that is sending
Once all is sent only run.json and state.json remain.
"""

import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from notbugs.runtime.files import file_lock, read_mapping, write_text

PROCESS = "notbugs.process"
"""Tag of a run that names its process."""
JOURNAL = "notbugs.journal"
"""Tag of a run that names its journal; of a trial's run, its session's journal and its number."""
KEPT = 20
"""Journals of one stage that are kept after they were sent."""


@dataclass(frozen=True)
class Journal:
    """One run's folder."""

    folder: Path

    @property
    def header(self) -> dict[str, Any]:
        """Contents of run.json; empty if there is none or it is damaged."""
        return read_mapping(self.folder / "run.json")

    @property
    def process(self) -> str | None:
        """The stage's process, as `process.identity` names it."""
        name = self.header.get("tags", {}).get(PROCESS)
        return None if name is None else str(name)

    @property
    def state(self) -> dict[str, Any]:
        """Contents of state.json; keys: phase, error, inputs, run_id, offset, outputs, pipeline_key."""
        return read_mapping(self.folder / "state.json")

    @property
    def label(self) -> str:
        """Its place among the project's journals, which its run in MLflow is tagged with."""
        return f"{self.folder.parent.name}/{self.folder.name}"

    @property
    def done(self) -> bool:
        """Whether MLflow has all of it."""
        return bool(self.state.get("phase") == "done")

    def set_state(self, **changes: Any) -> None:
        """Change some keys of state.json."""
        _write(self.folder / "state.json", {**self.state, **changes})

    def append(self, kind: str, **values: Any) -> None:
        """Add an event; safe from several threads and processes at once.

        Raises: OSError if the disk is full, or the journal was sent and closed.
        """
        line = json.dumps({"kind": kind, "time": now(), **values}, allow_nan=False) + "\n"
        descriptor = os.open(self.folder / "events.jsonl", os.O_WRONLY | os.O_APPEND)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)
        if kind == "end":
            (self.folder / "ended").touch()

    @property
    def ended(self) -> bool:
        """Whether the stage has said its last word."""
        return (self.folder / "ended").exists()

    def events(self, offset: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """Events from a byte offset on, each with the offset behind it; without a line cut off by a kill."""
        try:
            with (self.folder / "events.jsonl").open("rb") as file:
                file.seek(offset)
                lines = file.read().splitlines(keepends=True)
        except FileNotFoundError:
            return
        for line in lines:
            offset += len(line)
            if not line.endswith(b"\n"):
                return
            try:
                event = json.loads(line)
            except ValueError:
                continue
            yield offset, event

    def keep(self, source: Path) -> str:
        """Copy a file or folder into the journal; of a classifier's weights, their description too.

        Returns: its place, relative to the journal's folder.
        Raises: OSError.
        """
        files = self.folder / "files"
        files.mkdir(exist_ok=True)
        place = files / str(time.monotonic_ns())
        place.mkdir()
        target = place / source.name
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copyfile(source, target)
            description = source.with_suffix(".json")
            if source.suffix == ".safetensors" and description.exists():
                shutil.copyfile(description, target.with_suffix(".json"))
        return target.relative_to(self.folder).as_posix()

    def locked(self, wait_seconds: float = 0.0) -> AbstractContextManager[bool]:
        """Hold the journal's lock; gives False if another process still has it after `wait_seconds`."""
        return file_lock(self.folder / "lock", wait_seconds)

    def close(self) -> None:
        """Throw away what is no longer needed once all is sent."""
        shutil.rmtree(self.folder / "files", ignore_errors=True)
        for name in ("events.jsonl", "sender.log", "ended"):
            (self.folder / name).unlink(missing_ok=True)


def new_journal(work: Path, header: Mapping[str, Any]) -> Journal:
    """Start a journal in `<work>/<address>/`.

    Args:
        work: folder of all journals.
        header: contents of run.json; `address` names the stage, such as `construct@rand`.
    Raises: OSError if it cannot be written.
    """
    stages = work / _safe(header["address"])
    stages.mkdir(parents=True, exist_ok=True)
    _prune(stages)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    folder = stages / f"{stamp}-{os.getpid()}-{time.monotonic_ns() % 10**9:09d}"
    folder.mkdir()
    (folder / "events.jsonl").touch()
    _write(folder / "run.json", header)
    return Journal(folder)


def journals(work: Path, address: str | None = None) -> list[Journal]:
    """All journals, or those of one stage; newest first within a stage."""
    pattern = "*/*/run.json" if address is None else f"{_safe(address)}/*/run.json"
    return [Journal(path.parent) for path in sorted(work.glob(pattern), reverse=True)]


def now() -> int:
    """Milliseconds since 1970, as MLflow counts time."""
    return time.time_ns() // 1_000_000


def _prune(stages: Path) -> None:
    sent = [Journal(path) for path in sorted(stages.iterdir(), reverse=True) if path.is_dir()]
    for journal in [journal for journal in sent if journal.done][KEPT:]:
        shutil.rmtree(journal.folder, ignore_errors=True)


def _safe(address: str) -> str:
    return "".join(c if c.isalnum() or c in "@._-" else "_" for c in address).lstrip(".") or "_"


def _write(path: Path, value: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(value, allow_nan=False))
