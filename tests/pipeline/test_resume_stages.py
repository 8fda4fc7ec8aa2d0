"""A stage that is cut off goes on where it was and ends with the bytes of an undisturbed run; nothing stale is used."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from resume_tools import contents, set_params, unfinished

import notbugs.evaluation.suite
import notbugs.pipeline.evaluate.measuring
import notbugs.training.checkpoints
import notbugs.training.loop
from notbugs.cli import main
from notbugs.pipeline.construct import Shards
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage
from tiny import CONSTRUCT


class CutOff(Exception):  # noqa: N818
    """Stands for a kill."""


def cut_after(monkeypatch, owner, name: str, calls: int) -> list[int]:
    """Let a function raise from call number `calls` + 1 on; the list counts the calls."""
    original, count = getattr(owner, name), [0]

    def counted(*args, **kwargs):
        count[0] += 1
        if count[0] > calls:
            raise CutOff
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, counted)
    return count


@pytest.fixture(autouse=True)
def _every_epoch(monkeypatch):
    monkeypatch.setattr(notbugs.training.checkpoints, "SECONDS", 0.0)


@pytest.mark.parametrize(
    ("stage", "name", "cut"), [("train", "standard", 6), ("train", "robust", 1), ("fit", "rand", 7)]
)
def test_training_goes_on_in_the_epoch_where_it_was(stage, name, cut, project, monkeypatch):
    """Two seeds of four epochs: a cut in the second seed does not repeat the first."""
    outputs = [project / part for part in ("models", "metrics", "plots")]
    expected = contents(*outputs)
    with monkeypatch.context() as patched:
        cut_after(patched, notbugs.training.loop, "_train_epoch", cut)
        with pytest.raises(CutOff):
            run_stage(open_project(project), stage, name)
    assert unfinished(project) == [f"{stage}-{name}"]
    total = cut_after(monkeypatch, notbugs.training.loop, "_train_epoch", 1000)
    run_stage(open_project(project), stage, name)
    assert contents(*outputs) == expected
    whole = {"standard": 8, "robust": 4}.get(name)
    if whole:
        assert total[0] == whole - cut
    assert unfinished(project) == []


@pytest.mark.parametrize("name", ["rand", "robust"])
def test_construction_goes_on_with_the_first_missing_shard(name, project, monkeypatch):
    """256 images in shards of 80, from each of two source models: the sixth is begun when the cut comes.

    The robust model has one seed, D_R one source.
    """
    sources = {"rand": 2, "robust": 1}[name]
    run_stage(open_project(project), "construct", name)
    outputs = [project / "data" / name, project / "metrics" / "construct"]
    expected = contents(*outputs)
    assert sum(file.endswith(".safetensors") for file in expected) == 4 * sources
    with monkeypatch.context() as patched:
        cut_after(patched, Shards, "write", 4 * sources - 2)
        with pytest.raises(CutOff):
            run_stage(open_project(project), "construct", name)
    (work,) = (project / ".notbugs" / "unfinished").glob(f"construct-{name}-*")
    shards = sorted((work / "dataset").rglob("*.safetensors"))
    assert len(shards) == 4 * sources - 2
    content = bytearray(shards[0].read_bytes())
    content[-1] ^= 1
    shards[0].write_bytes(content)  # it is made again
    written = cut_after(monkeypatch, Shards, "write", 100)
    run_stage(open_project(project), "construct", name)
    assert written[0] == 3
    assert contents(*outputs) == expected
    assert not work.exists()


def test_the_parts_of_a_construction_are_those_of_the_whole(project):
    """Shards and batches change neither images nor facts."""
    import pandas as pd

    from notbugs.data.store import load_dataset

    small = load_dataset(project / "data" / "rand" / "source-1")
    images, facts = small.data().images, small.examples
    set_params(project, construct={"rand": CONSTRUCT["rand"]})
    run_stage(open_project(project), "construct", "rand")
    whole = load_dataset(project / "data" / "rand" / "source-1")
    assert len(whole.manifest.shards) == 1
    assert (whole.data().images - images).abs().max() < 1e-5
    pd.testing.assert_frame_equal(whole.examples, facts, rtol=1e-3, atol=1e-5)


def test_evaluation_goes_on_within_a_model(project, monkeypatch):
    """60 test images in parts of 25: what was kept of a model is not measured again."""
    monkeypatch.setattr(notbugs.pipeline.evaluate.measuring, "PART", 25)
    set_params(project, evaluate={"suite_seeds": 0})
    run_stage(open_project(project), "evaluate")
    expected = contents(project / "metrics", project / "plots")
    kept = project / ".notbugs" / "evaluate"
    for file in kept.iterdir():
        file.unlink()
    with monkeypatch.context() as patched:
        cut_after(patched, notbugs.pipeline.evaluate.measuring, "find", 4)
        with pytest.raises(CutOff):
            run_stage(open_project(project), "evaluate")
    assert len(list(kept.iterdir())) == 4
    found = cut_after(monkeypatch, notbugs.pipeline.evaluate.measuring, "find", 1000)
    run_stage(open_project(project), "evaluate")
    assert contents(project / "metrics", project / "plots") == expected
    models = len(list((project / "models").rglob("seed-*.safetensors")))
    assert found[0] == 3 * models - 4


def test_random_starts_depend_on_the_example_alone(standard_model, digits):
    """Neither batch nor part changes who withstands: two restarts from random points."""
    import torch

    from notbugs.evaluation.accuracy import adversarially_correct

    attack = {"eps": 0.5, "num_steps": 2, "random_start": True, "num_restarts": 2}

    def withstood(rows: torch.Tensor, batch_size: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(4)
        part = digits[1].select(rows)
        return adversarially_correct(
            standard_model, part, **attack, batch_size=batch_size, generator=generator, numbers=rows
        )

    rows = torch.arange(120)
    whole = withstood(rows, 500)
    assert 0 < whole.sum() < 120
    assert torch.equal(whole, withstood(rows, 13))
    assert torch.equal(whole[40:], withstood(rows[40:], 50))
    assert torch.equal(whole.flip(0), withstood(rows.flip(0), 500))


# Keys


@pytest.mark.parametrize(
    "change",
    [
        lambda root: set_params(root, train={"standard": {**_tiny(root), "lr": 0.05}}),
        lambda root: set_params(root, seed=1),
        lambda root: set_params(root, model={"width": 3}),
        lambda root: _touch_validation(root),
    ],
    ids=["lr", "seed", "width", "data"],
)
def test_work_under_other_settings_or_inputs_is_not_taken_up(change, project, monkeypatch):
    with monkeypatch.context() as patched:
        cut_after(patched, notbugs.training.loop, "_train_epoch", 6)
        with pytest.raises(CutOff):
            run_stage(open_project(project), "train", "standard")
    change(project)
    trained = cut_after(monkeypatch, notbugs.training.loop, "_train_epoch", 1000)
    run_stage(open_project(project), "train", "standard")
    assert trained[0] == 8
    assert unfinished(project) == ["train-standard"]  # the stale one


def test_work_of_other_code_is_not_taken_up(project, monkeypatch):
    with monkeypatch.context() as patched:
        cut_after(patched, notbugs.training.loop, "_train_epoch", 6)
        with pytest.raises(CutOff):
            run_stage(open_project(project), "train", "standard")
    monkeypatch.setattr("notbugs.pipeline.running.job.made_with", lambda *_: {"code": "other", "libraries": {}})
    trained = cut_after(monkeypatch, notbugs.training.loop, "_train_epoch", 1000)
    run_stage(open_project(project), "train", "standard")
    assert trained[0] == 8


def _tiny(root: Path) -> dict:
    return open_project(root).params["train"]["standard"]


def _touch_validation(root: Path) -> None:
    manifest = root / "data" / "validation" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")


# A real kill


def test_a_killed_training_goes_on_with_the_same_bytes(project):
    """kill -9 in the middle of a real `notbugs train`; then the same command again."""
    set_params(project, train={"standard": {**_tiny(project), "epochs": 60, "seeds": [0]}})
    run_stage(open_project(project), "train", "standard")
    expected = contents(project / "models" / "train" / "standard")
    often = "import notbugs.training.checkpoints as c; c.SECONDS = 0.0; from notbugs.cli import main; main()"
    process = subprocess.Popen([sys.executable, "-c", often, "train", "standard"], cwd=project)
    deadline = time.monotonic() + 100
    while not list((project / ".notbugs" / "unfinished").glob("*/full-seed-0.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert unfinished(project) == ["train-standard"]
    run_stage(open_project(project), "train", "standard")
    assert contents(project / "models" / "train" / "standard") == expected
    assert unfinished(project) == []


# notbugs clean


def test_clean_shows_and_removes_unfinished_work(project, monkeypatch):
    monkeypatch.chdir(project)
    with monkeypatch.context() as patched:
        cut_after(patched, notbugs.training.loop, "_train_epoch", 6)
        with pytest.raises(CutOff):
            run_stage(open_project(project), "train", "standard")
    half = project / "data" / "rand.4711.tmp"
    half.mkdir()
    (half / "images-00000.safetensors.12.tmp").write_bytes(bytes(1_000_000))
    (project / ".notbugs" / "evaluate").mkdir()
    before = contents(project / "data" / "rand", project / "models")
    shown = CliRunner().invoke(main, ["clean"])
    assert shown.exit_code == 0
    assert "unfinished: train standard" in shown.output
    assert "1.0 MB" in shown.output
    assert "data/rand.4711.tmp" in shown.output
    assert "stays unless --all" in shown.output
    assert half.exists()
    removed = CliRunner().invoke(main, ["clean", "--yes"])
    assert removed.output.endswith("removed: 2\n")
    assert not half.exists()
    assert unfinished(project) == []
    assert (project / ".notbugs" / "evaluate").exists()
    assert contents(project / "data" / "rand", project / "models") == before
    assert "nothing to remove" in CliRunner().invoke(main, ["clean"]).output
    CliRunner().invoke(main, ["clean", "--all", "--yes"])
    assert not (project / ".notbugs" / "evaluate").exists()


def test_unfinished_work_says_what_it_was_made_from(project, monkeypatch):
    with monkeypatch.context() as patched:
        cut_after(patched, notbugs.training.loop, "_train_epoch", 6)
        with pytest.raises(CutOff):
            run_stage(open_project(project), "train", "standard")
    (file,) = (project / ".notbugs" / "unfinished").glob("*/made_from.json")
    made_from = json.loads(file.read_text())
    assert made_from["settings"]["train"]["standard"]["lr"] == 0.1
    assert set(made_from["inputs"]) == {"data/train", "data/validation"}
