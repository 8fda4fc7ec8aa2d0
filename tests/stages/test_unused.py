"""Outputs of entries that params.yaml no longer has go, and only these; a clone is then like the workspace."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from notbugs.stages.context import open_project
from notbugs.stages.unused import remove_unused
from projects import run

OURS = (
    "data/det/source-0/manifest.json",
    "metrics/construct/det.json",
    "models/fit/det/full/source-0/seed-0.safetensors",
    "metrics/fit/det.json",
    "plots/learning/fit-det.csv",
)
OTHERS = (
    "data/train/manifest.json",
    "data/mine/manifest.json",
    "data/rand/source-0/manifest.json",
    "data/inversion/manifest.json",
    "models/mine/det/x.safetensors",
    "models/fit/mine/x.safetensors",
    "models/fit/rand/full/source-0/seed-0.safetensors",
    "models/train/standard/seed-0.safetensors",
    "metrics/fit/rand.json",
    "metrics/construct/rand.json",
    "plots/learning/train-standard.csv",
    "plots/learning/fit-rand.csv",
)


@pytest.fixture
def full(tmp_path: Path) -> Path:
    for name in (*OURS, *OTHERS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    return tmp_path


def set_entries(root: Path, construct: list[str], fit: list[str]) -> None:
    params = {"device": "cpu", "construct": {key: {} for key in construct}, "fit": {key: {} for key in fit}}
    (root / "params.yaml").write_text(yaml.safe_dump(params))


def files(root: Path) -> set[str]:
    return {file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file()} - {"params.yaml"}


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
    done = run(project, "dvc", "repro", NOTBUGS_TRACKING="off")
    assert "removed what params.yaml no longer names: models/fit/det, metrics/fit/det.json" in done.stderr
    shutil.copy(project / "dvc.lock", clone)
    shutil.copy(project / "metrics" / "evaluate.json", clone / "metrics")
    for place in (project, clone):
        assert json.loads(run(place, "dvc", "status", "--json").stdout) == {}
