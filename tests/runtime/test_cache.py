"""Finished results by key, and the folder of unfinished work."""

import os
import time
from contextlib import suppress
from pathlib import Path

import pytest

from notbugs.runtime.cache import ANEW_VARIABLE, ResultCache, digest, load_or_make, resumable_folder


def test_a_result_is_found_by_what_it_is_made_from(tmp_path: Path) -> None:
    results = ResultCache(tmp_path / "kept")
    assert results.get({"a": 1}) is None
    results.put({"a": 1, "b": [2.5, None]}, [1.25, "x"])
    assert results.get({"b": [2.5, None], "a": 1}) == [1.25, "x"]
    assert results.get({"a": 1, "b": [2.5, 0]}) is None


@pytest.mark.parametrize("damage", ["", "{}", '{"sha256": "0", "found": [1]}', "[1", "[]"])
def test_a_damaged_result_is_none(tmp_path: Path, damage: str) -> None:
    results = ResultCache(tmp_path)
    results.put("key", [1])
    results.file("key").write_text(damage)
    assert results.get("key") is None
    assert results.get_or_compute("key", lambda: {"new": 1}) == {"new": 1}
    assert results.get("key") == {"new": 1}


def test_a_result_is_computed_once(tmp_path: Path) -> None:
    results, computed = ResultCache(tmp_path), []
    for _ in range(2):
        assert results.get_or_compute({"key": 1}, lambda: computed.append(1) or {"value": 7}) == {"value": 7}
    assert computed == [1]


def cut_off(root: Path, made: str) -> tuple[Path, str]:
    """Work that is cut off after its first part; its folder, and the part."""
    found = []
    with suppress(KeyboardInterrupt), resumable_folder(root, "train-a", {"lr": 1}) as work:
        found = [load_or_make(work / "part.safetensors", lambda: made)]
        raise KeyboardInterrupt
    return work, found[0]


def test_nothing_older_than_a_run_that_is_to_be_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = ResultCache(tmp_path / "kept")
    results.put("key", [1])
    work, part = cut_off(tmp_path, "old")
    assert part == "old"
    old = time.time() - 100
    for file in (results.file("key"), work / "made_from.json"):
        os.utime(file, (old, old))
    monkeypatch.setenv(ANEW_VARIABLE, str(old - 1))
    assert results.get("key") == [1]
    monkeypatch.setenv(ANEW_VARIABLE, str(int(old) + 50))
    assert results.get("key") is None
    assert cut_off(tmp_path, "new") == (work, "new")
    with resumable_folder(tmp_path, "train-a", {"lr": 1}):  # of this run: it goes on
        assert load_or_make(work / "part.safetensors", lambda: "newest") == "new"
    assert not work.exists()


def test_digests_do_not_depend_on_order_and_refuse_what_is_no_json() -> None:
    assert digest({"a": 1, "b": (1, 2)}) == digest({"b": [1, 2], "a": 1})
    with pytest.raises(TypeError):
        digest({"a": Path("x")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        digest(float("nan"))
