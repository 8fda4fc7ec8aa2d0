import json
import multiprocessing
import os
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from notbugs.runtime.locks import file_lock
from notbugs.tracking.journal import KEPT, Journal, journals, new_journal
from notbugs.tracking.process import alive, identity


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return new_journal(tmp_path, "fit@rand", {"stage": "fit"})


def kinds(journal: Journal, offset: int = 0) -> list[str]:
    return [event["kind"] for _, event in journal.events(offset)]


def test_events_come_back_from_any_offset(journal: Journal) -> None:
    for kind in ("one", "two", "three"):
        journal.append(kind, value=1)
    offsets = [offset for offset, _ in journal.events()]
    assert kinds(journal) == ["one", "two", "three"]
    assert kinds(journal, offsets[0]) == ["two", "three"]
    assert kinds(journal, offsets[2]) == []


def test_a_line_is_an_event_once_it_is_whole(journal: Journal) -> None:
    journal.append("one")
    ((offset, _),) = journal.events()
    with (journal.folder / "events.jsonl").open("a") as file:
        for text in ('{"kind": "tw', 'o"}'):
            file.write(text)
            file.flush()
            assert kinds(journal) == ["one"]
            assert kinds(journal, offset) == []
        file.write("\n")
    assert kinds(journal, offset) == ["two"]


def test_a_closed_journal_takes_no_more(journal: Journal) -> None:
    journal.append("end")
    assert journal.ended
    journal.close()
    with pytest.raises(FileNotFoundError):
        journal.append("metrics")
    assert sorted(path.name for path in journal.folder.iterdir()) == ["run.json"]


def test_artifacts_are_kept_as_they_were(journal: Journal, tmp_path: Path) -> None:
    figure, folder = tmp_path / "figure.png", tmp_path / "models"
    figure.write_bytes(b"old")
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "m.json").write_text("{}")
    kept, kept_folder = journal.keep(figure), journal.keep(folder)
    figure.write_bytes(b"new")
    assert (journal.folder / kept).read_bytes() == b"old"
    assert (journal.folder / kept_folder / "deep" / "m.json").read_text() == "{}"
    with pytest.raises(FileNotFoundError):
        journal.keep(tmp_path / "missing")


def test_damaged_files_read_as_empty(journal: Journal) -> None:
    (journal.folder / "state.json").write_text('{"phase": "do')
    (journal.folder / "facts.json").write_text("[]")
    assert journal.state == {}
    assert journal.facts == {}
    assert not journal.done


def _hold(path: Path, held_event: Event, release: Event) -> None:
    with file_lock(path):
        held_event.set()
        release.wait(20)


def test_the_lock_is_one_processes_until_it_dies(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    taken, release = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(tmp_path / "lock", taken, release))
    other.start()
    assert taken.wait(20)
    with file_lock(tmp_path / "lock", 0.1) as mine:
        assert not mine
    other.kill()
    other.join()
    with file_lock(tmp_path / "lock") as mine:
        assert mine


def test_sent_journals_are_pruned_and_others_kept(tmp_path: Path) -> None:
    for number in range(KEPT + 5):
        journal = new_journal(tmp_path, "fit@rand", {}, f"{number:03d}")
        if number != 1:
            journal.set_state(phase="done")
    new_journal(tmp_path, "fit@rand", {}, "999")
    names = [journal.folder.name for journal in journals(tmp_path, "fit@rand")]
    assert "001" in names
    assert "000" not in names
    assert f"{KEPT + 4:03d}" in names
    assert len(names) == KEPT + 2
    assert names == sorted(names, reverse=True)


def test_a_process_is_known_by_number_start_machine_and_boot() -> None:
    own = identity()
    assert alive(own) is True
    assert alive(json.dumps({**json.loads(own), "started": time.time() - 9999})) is False
    assert alive(json.dumps({**json.loads(own), "boot": "another"})) is False
    assert alive(json.dumps({**json.loads(own), "host": "another"})) is None
    assert alive(None) is None
    assert alive("no json") is None


def test_a_dead_process_is_dead_even_before_it_is_reaped() -> None:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_tell_identity, args=(sender,))
    child.start()
    name = receiver.recv()
    assert alive(name) is True
    os.kill(child.pid or 0, 9)
    deadline = time.monotonic() + 20
    while alive(name) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert alive(name) is False
    child.join()
    assert alive(name) is False


def _tell_identity(sender: "multiprocessing.connection.Connection") -> None:
    sender.send(identity())
    time.sleep(60)
