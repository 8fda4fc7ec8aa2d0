from pathlib import Path

import pytest

from notbugs.tracking.journal import KEPT, Journal, journals, new_journal


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return new_journal(tmp_path, {"address": "fit@rand"})


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
    (journal.folder / "run.json").write_text("[]")
    assert journal.state == {}
    assert journal.header == {}
    assert not journal.done


def test_sent_journals_are_pruned_and_others_kept(tmp_path: Path) -> None:
    def named(name: str) -> Journal:
        journal = new_journal(tmp_path, {"address": "fit@rand"})
        return Journal(journal.folder.rename(journal.folder.with_name(name)))

    for number in range(KEPT + 5):
        journal = named(f"{number:03d}")
        if number != 1:
            journal.set_state(phase="done")
    named("999")
    names = [journal.folder.name for journal in journals(tmp_path, "fit@rand")]
    assert "001" in names
    assert "000" not in names
    assert f"{KEPT + 4:03d}" in names
    assert len(names) == KEPT + 2
    assert names == sorted(names, reverse=True)
