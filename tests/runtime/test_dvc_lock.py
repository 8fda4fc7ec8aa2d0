import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from notbugs.runtime.dvc_lock import Content, LockError, content, read_lock


def test_hashes_are_those_of_dvc(tmp_path: Path) -> None:
    data = tmp_path / "data"
    for name in ("a/b.bin", "a-b.bin", "a.bin", "A/z", "sub/deep/ü.txt", "sub/empty"):
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(name.encode() * 100 if "empty" not in name else b"")
    (tmp_path / "model.bin").write_bytes(os.urandom(100_000))
    (tmp_path / "text.csv").write_bytes(b"one\r\ntwo\r\n")
    outs = ("data", "model.bin", "text.csv")
    for command in (["init", "--no-scm", "-q"], ["add", "-q", *outs]):
        environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
        subprocess.run([sys.executable, "-m", "dvc", *command], cwd=tmp_path, check=True, env=environment)
    for out in outs:
        (entry,) = yaml.safe_load((tmp_path / f"{out}.dvc").read_text())["outs"]
        assert content(tmp_path / out) == Content(entry["md5"], entry["size"], entry.get("nfiles"))


def test_large_content_is_known_by_its_size(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for name in "ab":
        (tmp_path / "data" / name).write_bytes(b"x" * 50)
    assert content(tmp_path / "data", limit=99) == Content(None, 100, 2)
    assert content(tmp_path / "data" / "a", limit=49) == Content(None, 50)
    assert content(tmp_path / "nothing") is None


def test_content_fits_by_hash_or_else_by_size() -> None:
    known = Content("aa.dir", 100, 2)
    assert known.fits(Content("aa.dir", 100, 2))
    assert not known.fits(Content("bb.dir", 100, 2))
    assert known.fits(Content(None, 100, 2))
    assert not known.fits(Content(None, 100, 3))
    assert not known.fits(Content(None, 101, 2))


def test_the_key_follows_command_params_and_inputs_but_not_outputs(tmp_path: Path) -> None:
    def key(**changes: object) -> str:
        stage = {
            "cmd": "notbugs fit rand",
            "deps": [{"path": "data", "hash": "md5", "md5": "11.dir", "size": 5, "nfiles": 1}],
            "params": {"params.yaml": {"fit.rand": {"lr": 0.1, "epochs": 3}}},
            "outs": [{"path": "m.json", "md5": "22", "size": 5}],
        }
        (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": {"fit@rand": stage | changes}}))
        (entry,) = read_lock(tmp_path / "dvc.lock")
        return entry.key

    usual = key()
    assert len(usual) == 64
    assert key(params={"params.yaml": {"fit.rand": {"epochs": 3, "lr": 0.1}}}) == usual
    assert key(outs=[{"path": "m.json", "md5": "33", "size": 6}]) == usual
    changed = {
        key(cmd="notbugs fit det"),
        key(params={"params.yaml": {"fit.rand": {"lr": 0.2, "epochs": 3}}}),
        key(deps=[{"path": "data", "hash": "md5", "md5": "12.dir", "size": 5, "nfiles": 1}]),
        key(deps=[{"path": "other", "hash": "md5", "md5": "11.dir", "size": 5, "nfiles": 1}]),
        key(deps=[]),
    }
    assert len(changed) == 5
    assert usual not in changed


def test_lock_entries(tmp_path: Path) -> None:
    empty = hashlib.md5(b"{}").hexdigest()
    entry = {
        "cmd": "notbugs fit rand",
        "deps": [{"path": "data/train", "hash": "md5", "md5": "0" * 32 + ".dir", "size": 10, "nfiles": 2}],
        "outs": [{"path": "m.json", "hash": "md5", "md5": empty, "size": 2}],
    }
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"fit@rand": entry}}))
    (found,) = read_lock(tmp_path / "dvc.lock")
    assert (found.address, found.stage, found.name) == ("fit@rand", "fit", "rand")
    assert found.hash_tags() == {"dvc.dep.data/train": "0" * 32 + ".dir", "dvc.out.m.json": empty}


@pytest.mark.parametrize("text", ["stages: [", "stages: 3", "- a\n- b", "stages: {a: {outs: [{md5: x}]}}"])
def test_a_broken_lock_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "dvc.lock").write_text(text)
    with pytest.raises(LockError, match=r"dvc\.lock: cannot be read"):
        read_lock(tmp_path / "dvc.lock")


def test_no_lock_has_no_entries(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "dvc.lock") == []
    (tmp_path / "dvc.lock").write_text("")
    assert read_lock(tmp_path / "dvc.lock") == []
