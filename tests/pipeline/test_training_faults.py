"""Losses that are no numbers and too little memory, through the command line: one line, its exit code, what is kept."""

import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from resume_tools import contents, set_params

from notbugs.cli import main
from notbugs.models.base import Classifier
from tiny import TRAIN

OUTPUTS = ("data", "models", "metrics", "plots")


@pytest.fixture
def command(project: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a command line in the project."""
    monkeypatch.chdir(project)
    return lambda line: CliRunner().invoke(main, line.split())


def outputs(project: Path) -> dict[str, str]:
    return contents(*(project / name for name in OUTPUTS))


def the_error(done: Result) -> str:
    """The one line of a command that failed."""
    assert done.exit_code == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.stderr.endswith(line + "\n")
    return line


def test_a_loss_that_is_no_number_stops_the_stage_and_keeps_the_models(project, command) -> None:
    before = outputs(project)
    set_params(project, train={"standard": {**TRAIN, "lr": 1e30, "schedule": "constant"}})
    message = r"error: train standard, seed 0: the loss is (nan|inf) in epoch \d, step \d of 5; a smaller lr may help.*"
    assert re.fullmatch(message, the_error(command("train standard")))
    assert outputs(project) == before
    set_params(project, train={"standard": TRAIN})
    assert command("train standard").exit_code == 0
    assert outputs(project) == before


def limit_memory(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let no network take more than so many images."""
    forward = Classifier.forward

    def limited(self: Classifier, x: torch.Tensor) -> torch.Tensor:
        if len(x) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x)

    monkeypatch.setattr(Classifier, "forward", limited)


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        ("train standard", "train standard, seed 0: out of memory; goes on with 32 images at a time, not 64"),
        ("construct rand", "out of memory; goes on with 20 images at a time, not 40"),
        ("fit rand", "fit rand, source 0, seed 0: out of memory; goes on with 16 images at a time, not 32"),
        ("evaluate", "out of memory; goes on with 30 images at a time, not 60"),
    ],
)
def test_out_of_memory_halves_the_batch_and_the_stage_ends_well(stage, said, project, command, monkeypatch) -> None:
    set_params(project, evaluate={"suite_seeds": 0})  # what it tells of its models is all about their networks
    limit_memory(monkeypatch, 16)
    done = command(stage)
    assert done.exit_code == 0, done.output
    assert said in done.stderr
    assert "error: " not in done.stderr


def test_out_of_memory_with_the_smallest_batch_stops_the_stage_and_keeps_the_models(
    project, command, monkeypatch
) -> None:
    before = outputs(project)
    with monkeypatch.context() as patched:
        limit_memory(patched, 1)
        line = the_error(command("train standard"))
    assert line == (
        "error: train standard, seed 0: out of memory with 2 images at a time; a smaller batch_size may help"
    )
    assert outputs(project) == before
    assert command("train standard").exit_code == 0
    assert outputs(project) == before
