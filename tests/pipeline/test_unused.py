"""Outputs of entries that params.yaml no longer has go, and only these; a clone is then like the workspace."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.running.unused import remove_unused
from projects import run

OURS = (
    "data/det/source-0/manifest.json",
    "metrics/construct/det.json",
    "models/fit/det/full/source-0/seed-0.safetensors",
    "metrics/fit/det.json",
    "plots/learning/fit-det.csv",
)
FOLDERS = ("data/det", "models/fit/det")
OTHERS = (
    "data/train/manifest.json",
    "data/mine/manifest.json",
    "data/rand/source-0/manifest.json",
    "models/mine/det/x.safetensors",
    "models/fit/mine/x.safetensors",
    "models/fit/rand/full/source-0/seed-0.safetensors",
    "models/train/standard/seed-0.safetensors",
    "metrics/fit/rand.json",
    "metrics/construct/rand.json",
    "plots/learning/train-standard.csv",
    "plots/learning/fit-rand.csv",
)


def md5(content: str) -> str:
    return hashlib.md5(content.encode()).hexdigest()


def cached(root: Path, digest: str) -> Path:
    return root / ".dvc" / "cache" / "files" / "md5" / digest[:2] / digest[2:]


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """All files; dvc.lock names OURS, and the cache has the folders."""
    for name in (*OURS, *OTHERS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    outs = [{"path": name, "md5": md5(name)} for name in OURS if not name.startswith(FOLDERS)]
    for folder in FOLDERS:
        (name,) = (name for name in OURS if name.startswith(folder))
        listing = json.dumps([{"md5": md5(name), "relpath": Path(name).relative_to(folder).as_posix()}])
        outs.append({"path": folder, "md5": f"{md5(listing)}.dir"})
        for digest, content in ((md5(name), name), (f"{md5(listing)}.dir", listing)):
            cached(tmp_path, digest).parent.mkdir(parents=True, exist_ok=True)
            cached(tmp_path, digest).write_text(content)
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"fit@det": {"outs": outs}}}))
    return tmp_path


def set_entries(root: Path, construct: list[str], fit: list[str]) -> None:
    params = {"device": "cpu", "construct": {key: {} for key in construct}, "fit": {key: {} for key in fit}}
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def files(root: Path) -> set[str]:
    found = {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()}
    return {name for name in found if not name.startswith(".dvc/")} - {"params.yaml", "dvc.lock"}


def test_nothing_goes_that_is_named(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_entries(full, ["rand", "det"], ["rand", "det"])
    remove_unused(open_project(full))
    (full / "params.yaml").write_text("device: cpu\n")  # no such sections: nobody deleted an entry
    remove_unused(open_project(full))
    assert files(full) == {*OURS, *OTHERS}
    assert capsys.readouterr().err == ""


def test_what_was_made_for_a_deleted_entry_goes(full: Path, capsys: pytest.CaptureFixture[str]) -> None:
    set_entries(full, ["rand", "det"], ["rand"])
    remove_unused(open_project(full))
    assert files(full) == {*OURS[:2], *OTHERS}
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "removed what params.yaml no longer names: models/fit/det, metrics/fit/det.json, plots/learning/fit-det.csv"
    )
    set_entries(full, ["rand"], ["rand"])
    remove_unused(open_project(full))
    assert files(full) == set(OTHERS)
    assert capsys.readouterr().err.startswith("removed what params.yaml no longer names: data/det, metrics/constr")
    assert not (full / "data" / "det").exists()


def test_a_link_to_the_cache_goes_and_the_cache_stays(full: Path, tmp_path: Path) -> None:
    kept = shutil.move(full / "data" / "det", tmp_path / "cache")
    (full / "data" / "det").symlink_to(kept)
    set_entries(full, ["rand"], ["rand", "det"])
    remove_unused(open_project(full))
    assert not (full / "data" / "det").is_symlink()
    assert (Path(kept) / "source-0" / "manifest.json").exists()


@pytest.mark.parametrize("lost", ["lock", "cache", "content", "changed", "more"])
def test_the_only_copy_stays(full: Path, capsys: pytest.CaptureFixture[str], lost: str) -> None:
    """Of a stage run without DVC, after `dvc gc`, or run once more by hand."""
    weights = full / OURS[2]
    if lost == "lock":
        (full / "dvc.lock").unlink()
    elif lost == "cache":
        shutil.rmtree(full / ".dvc")
    elif lost == "content":
        cached(full, md5(OURS[2])).unlink()
    elif lost == "changed":
        weights.write_text("other weights")
    else:
        weights.with_name("seed-1.safetensors").write_text("not in the cache")
    set_entries(full, ["rand", "det"], ["rand"])
    before = files(full)
    remove_unused(open_project(full))
    gone = set() if lost == "lock" else {*OURS[3:]}
    assert files(full) == before - gone
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("left, though params.yaml names it no longer, since DVC's cache has no copy: models/fit/det")


EVALUATE = {
    "cmd": "notbugs evaluate",
    "params": ["train", "fit", "evaluate"],
    "deps": ["data/test", "metrics/fit", "models/fit", "models/train"],
    "metrics": [{"metrics/evaluate.json": {"cache": False}}],
}


@pytest.mark.slow
def test_a_clone_is_unchanged_after_an_entry_was_deleted(project: Path, tmp_path: Path) -> None:
    """The stage's recorded inputs are those of a clone, which never gets what a deleted entry left behind."""
    run(project, "dvc", "init", "-q", "--no-scm")
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"evaluate": EVALUATE}}))
    clone = shutil.copytree(project, tmp_path / "clone")
    shutil.copytree(project / "models" / "fit" / "rand", project / "models" / "fit" / "det")
    shutil.copy(project / "metrics" / "fit" / "rand.json", project / "metrics" / "fit" / "det.json")
    fitted = {"cmd": "notbugs fit det", "outs": ["models/fit/det", {"metrics/fit/det.json": {"cache": False}}]}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"fit": {"foreach": ["det"], "do": fitted}}}))
    run(project, "dvc", "commit", "--force", "--quiet")
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"evaluate": EVALUATE}}))
    done = run(project, "dvc", "repro", NOTBUGS_TRACKING="off")
    assert "removed what params.yaml no longer names: models/fit/det, metrics/fit/det.json" in done.stderr
    shutil.copy(project / "dvc.lock", clone)
    shutil.copy(project / "metrics" / "evaluate.json", clone / "metrics")
    for place in (project, clone):
        assert json.loads(run(place, "dvc", "status", "--json").stdout) == {}
