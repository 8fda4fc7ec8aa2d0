"""Damaged files: commands name them in one line, and the next `dvc repro` puts everything right."""

import shutil
import subprocess
from pathlib import Path

import pytest

from projects import RUNS, assert_same, copy_of, cut, fail, flip, run, warm_environment

pytestmark = [pytest.mark.slow, pytest.mark.pipeline, pytest.mark.timeout(1800)]

DAMAGE = [
    ("data/train/images-00000.safetensors", "construct rand"),
    ("data/train/manifest.json", "construct rand"),
    ("data/rand/source-1/examples.parquet", "fit rand"),
    ("models/train/standard/seed-0.safetensors", "construct rand"),
    ("models/train/robust/seed-0.json", "construct rand"),
    ("metrics/per_example.parquet", "report"),
]
"""File, and a command that reads it."""
UNTRACKED = {"NOTBUGS_TRACKING": "off"}
"""Faults of tracking have tests of their own; without it a stage takes half the time."""


@pytest.mark.parametrize("harm", [cut, flip], ids=["truncated", "bit-flipped"])
def test_a_damaged_file_is_named_and_made_again(finished_project: Path, tmp_path: Path, harm) -> None:
    copy = copy_of(finished_project, tmp_path)
    shutil.copytree(finished_project / RUNS, copy / RUNS)
    for file, command in DAMAGE:
        harm(copy / file)
        line = fail(copy, "notbugs", *command.split(), **UNTRACKED)
        stem = (copy / file).with_suffix("")  # of a model and its .json, one is named
        assert f"error: {stem}" in line, line
        shutil.copyfile(finished_project / file, copy / file)
    for file, _ in DAMAGE:
        harm(copy / file)
    for file in ("metrics/results.csv", "metrics/fit/rand.json"):
        harm(copy / file)
    run(copy, "dvc", "repro", **UNTRACKED)
    assert_same(finished_project, copy)


def test_damaged_measurements_that_were_kept_are_taken_again(finished_project: Path, tmp_path: Path) -> None:
    copy = copy_of(finished_project, tmp_path)
    kept = sorted((copy / ".notbugs" / "evaluate").iterdir())
    assert len(kept) > 5
    for file in kept[:3]:
        flip(file)
    (copy / "metrics" / "results.csv").unlink()
    run(copy, "notbugs", "evaluate", **UNTRACKED)
    assert_same(finished_project, copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "params.yaml: expected sections"),
        ("data: [", "params.yaml: not valid YAML"),
        ("dataa: {}\n", "params.yaml: dataa: unknown key; did you mean data?"),
        ("seed: 0\nseed: 1\n", "params.yaml: seed: twice in one section, in lines 1 and 2"),
        ("seed: 0\ndata: {source: digits}\n", "missing; `notbugs preset NAME --missing` adds what a preset has there"),
    ],
)
def test_a_damaged_params_file_is_one_line_and_changes_nothing(
    finished_project: Path, tmp_path: Path, text: str, message: str
) -> None:
    copy = copy_of(finished_project, tmp_path)
    (copy / "params.yaml").write_text(text)
    assert message in fail(copy, "notbugs", "check")
    shutil.copyfile(finished_project / "params.yaml", copy / "params.yaml")
    assert_same(finished_project, copy)


def test_two_dvc_repro_at_once(finished_project: Path, tmp_path: Path) -> None:
    """One does the work; the other does it not a second time, or says that it has to wait."""
    copy = copy_of(finished_project, tmp_path)
    (copy / "metrics" / "train" / "robust.json").unlink()
    shutil.rmtree(copy / ".dvc" / "cache" / "files")  # from which DVC would restore the stage
    both = [
        subprocess.Popen(
            ["dvc", "repro"],
            cwd=copy,
            env=warm_environment(**UNTRACKED),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate()[0] for process in both]
    codes = [process.returncode for process in both]
    assert 0 in codes, said
    assert "".join(said).count("Running stage 'train@robust'") == 1
    for code, text in zip(codes, said, strict=True):
        assert "Traceback" not in text
        assert code == 0 or "is busy" in text or "lock" in text, text
    run(copy, "dvc", "repro", **UNTRACKED)
    assert_same(finished_project, copy)
