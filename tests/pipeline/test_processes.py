"""Several processes on one work: same constructions and measurements, same steps of training; one dies, all end."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from resume_tools import contents, set_params, unfinished
from torch import multiprocessing, nn

from notbugs.attacks import AttackSettings
from notbugs.data.images import ImageData
from notbugs.evaluation.accuracy import predict
from notbugs.pipeline.running import fork_server
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.distribution import own_generator, own_part, summed, world_size
from notbugs.runtime.state_file import load_state
from notbugs.training.loop import train
from notbugs.training.settings import TrainSettings


def run(root: Path, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "notbugs", *command], cwd=root, capture_output=True, text=True, timeout=200
    )
    assert not check or done.returncode == 0, done.stderr
    return done


# Alone, nothing changes


def test_one_process_has_everything():
    generator = torch.Generator().manual_seed(1)
    assert world_size() == 1
    assert own_part(torch.arange(5)).tolist() == [0, 1, 2, 3, 4]
    assert summed(torch.tensor(2), 0.5) == [2.0, 0.5]
    assert own_generator(generator) is generator


def test_a_process_draws_its_own_numbers_from_a_copy(monkeypatch):
    """Each of several its own, and the generator that all share stays as it is."""
    shared = torch.Generator().manual_seed(1)
    before = shared.get_state()
    monkeypatch.setattr("notbugs.runtime.distribution.world_size", lambda: 2)
    seeds = []
    for rank in (0, 1):
        monkeypatch.setattr("notbugs.runtime.distribution.rank", lambda rank=rank: rank)
        seeds.append(own_generator(shared).initial_seed())
    assert seeds[0] != seeds[1]
    assert torch.equal(shared.get_state(), before)


# Training


def in_two_processes(function: Callable[..., None], *arguments: object) -> None:
    """Call function(rank, *arguments) in two processes, forked from the server of the workers of stages."""
    fork_server.context()
    multiprocessing.start_processes(function, arguments, nprocs=2, start_method="forkserver")


def _network() -> nn.Module:
    """Without BatchNorm, whose statistics are each process's own."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2)
        return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))


def _learn(data: ImageData) -> dict[str, Any]:
    """Weights, records, and the state of the generator, which gave all orders, crops and flips."""
    model, generator = _network(), torch.Generator().manual_seed(3)
    config = TrainSettings.model_validate(
        {
            "epochs": 3,
            "batch_size": 8,
            "lr": 0.1,
            "schedule": "one_cycle",
            "crop_padding": 1,
            "flip": True,
            "attack": {"eps": 0.3, "num_steps": 2},
            "validation_attack": {"eps": 0.3, "num_steps": 2},
        }
    )
    validation = data.select(torch.arange(45))
    records = train(model, data, **config.arguments(), generator=generator, validation=validation)
    return {"weights": model.state_dict(), "records": records, "generator": generator.get_state()}


def _one_of_two(rank: int, folder: str, data: ImageData) -> None:
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.save(_learn(data), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_take_the_steps_of_one(digits, tmp_path):
    """Each learns from half of every batch (the last is odd), in one process's orders, crops and flips.

    So the weights are those of one process to rounding.
    """
    data = digits[0].select(torch.arange(101))
    expected = _learn(data)
    in_two_processes(_one_of_two, str(tmp_path), data)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert first["records"] == second["records"]
    for found in (first, second):
        assert torch.equal(found["generator"], expected["generator"])
    for name, value in expected["weights"].items():
        assert torch.equal(first["weights"][name], second["weights"][name]), name
        torch.testing.assert_close(first["weights"][name], value, rtol=1e-3, atol=1e-5)
    for mine, wanted in zip(first["records"], expected["records"], strict=True):
        assert mine == pytest.approx(wanted, rel=1e-4, abs=1e-6)


def _learn_with_statistics(rank: int, folder: str, data: ImageData) -> None:
    """One of two: a network with BatchNorm, its record, and what it then says of all validation images."""
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(2)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
        )
    config = TrainSettings(epochs=2, batch_size=16, lr=0.3, validation_attack=AttackSettings(eps=0.3, num_steps=2))
    learnt, validation = data.select(torch.arange(200)), data.select(torch.arange(200, 500))
    records = train(
        model, learnt, **config.arguments(), generator=torch.Generator().manual_seed(3), validation=validation
    )
    right = predict(model, validation).argmax(dim=1) == validation.labels
    accuracy = float(right.double().mean())
    torch.save({"model": model.state_dict(), "records": records, "accuracy": accuracy}, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_model_recorded_is_the_model_saved(digits, tmp_path):
    """Processes see different parts of the batches, but measure and keep one model, with one set of statistics."""
    in_two_processes(_learn_with_statistics, str(tmp_path), digits[0])
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in first["model"].items():
        assert torch.equal(second["model"][name], value), name
    assert first["records"] == second["records"]
    assert first["accuracy"] == second["accuracy"] == first["records"][-1]["validation_accuracy"]
    assert 0.2 < first["accuracy"] < 1


@pytest.mark.slow
def test_training_in_two_processes_is_within_the_noise_of_seeds(project):
    """BatchNorm sees half batches, so the models differ; the validation accuracies do not more than seeds do."""
    alone = json.loads((project / "metrics" / "train" / "robust.json").read_text())["full"]["mean"]
    set_params(project, processes=2)
    done = run(project, "train", "robust")
    assert len(done.stderr.strip().splitlines()) == 1  # one process speaks
    together = json.loads((project / "metrics" / "train" / "robust.json").read_text())["full"]["mean"]
    assert abs(together["validation_accuracy"] - alone["validation_accuracy"]) < 0.15
    assert together["train_loss"] == pytest.approx(alone["train_loss"], rel=0.25)
    assert together != alone
    assert unfinished(project) == []
    assert not list((project / ".notbugs" / "processes").glob("*"))


# Construction and evaluation


@pytest.mark.usefixtures("warm_python")
def test_two_processes_construct_and_measure_the_same(project):
    """Bit for bit: shards and parts of the test split are the same, whoever makes them."""
    set_params(project, evaluate={"suite_seeds": 0})
    run_stage(open_project(project), "evaluate")
    outputs = [project / part for part in ("data", "metrics", "plots")]
    expected = contents(*outputs)
    for file in (project / ".notbugs" / "evaluate").iterdir():
        file.unlink()
    shutil.rmtree(project / "data" / "rand")
    set_params(project, processes=2)
    run(project, "construct", "rand")
    run(project, "evaluate")
    assert contents(*outputs) == expected
    with (project / "metrics" / "results.csv").open() as file:
        measured = {(row["dataset"], row["estimator"], row["source_seed"], row["seed"]) for row in csv.DictReader(file)}
    assert len(measured) == len(list((project / "models").rglob("seed-*.safetensors")))


def test_two_machines_share_a_stage(project):
    """Two agents of torchrun that meet on loopback, a process each: the bytes of two processes of one machine."""
    set_params(project, processes=2, train={"standard": {"seeds": [0], "epochs": 2, "batch_size": 64, "lr": 0.1}})
    outputs = [project / "models" / "train" / "standard", project / "data" / "rand"]
    for command in (("train", "standard"), ("construct", "rand")):
        run(project, *command)
    expected = contents(*outputs)
    for output in outputs:
        shutil.rmtree(output)
    for command in (("train", "standard"), ("construct", "rand")):
        _on_two_machines(project, *command)
    assert contents(*outputs) == expected
    assert unfinished(project) == []


def _on_two_machines(project: Path, *command: str) -> None:
    """`torchrun --nnodes 2 -m notbugs COMMAND`, once on each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--rdzv-id", "test"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    started = [*torchrun, *meet, "--local-addr", "127.0.0.1", "-m", "notbugs", *command]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1", "NOTBUGS_TRACKING": "off"}
    machines = [subprocess.Popen(started, cwd=project, stderr=subprocess.PIPE, env=surroundings) for _ in range(2)]
    for machine in machines:
        _, error = machine.communicate(timeout=200)
        assert machine.returncode == 0, error.decode()


# Faults


def _workers(process: subprocess.Popen) -> dict[int, psutil.Process]:
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            rank = child.environ().get("RANK")
        except psutil.Error:
            continue
        if rank is not None:
            found[int(rank)] = child
    return found


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _started(project: Path) -> tuple[subprocess.Popen, dict[int, psutil.Process]]:
    """A long training in two processes that has kept its first epochs."""
    one = {"seeds": [0], "epochs": 150, "batch_size": 64, "lr": 0.1, "schedule": "one_cycle", "measure_every": 150}
    set_params(project, processes=2, train={"standard": one})
    command = [sys.executable, "-m", "notbugs", "train", "standard"]
    process = subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((project / ".notbugs" / "unfinished").glob("*/full-seed-0.safetensors")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = _workers(process)
    assert set(workers) == {0, 1}
    return process, workers


@pytest.mark.slow
def test_a_process_that_dies_ends_all_and_the_work_goes_on(project):
    process, workers = _started(project)
    os.kill(workers[1].pid, signal.SIGKILL)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert error.strip().splitlines() == [
        "error: train standard: process 1 of 2 was killed (SIGKILL); what was done is kept: run it again to go on"
    ]
    assert not psutil.pid_exists(workers[0].pid)
    assert unfinished(project) == ["train-standard"]
    (file,) = (project / ".notbugs" / "unfinished").glob("*/full-seed-0.safetensors")
    assert load_state(file)["records"]
    run(project, "train", "standard")
    resumed = contents(project / "models" / "train" / "standard")
    run(project, "train", "standard")
    assert contents(project / "models" / "train" / "standard") == resumed  # the bytes of an undisturbed run


@pytest.mark.slow
def test_the_processes_end_with_the_one_that_started_them(project):
    process, workers = _started(project)
    process.kill()
    deadline = time.monotonic() + 20
    while any(map(_runs, workers.values())):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.communicate()


@pytest.mark.usefixtures("warm_python")
def test_what_a_user_can_mend_is_said_once(project):
    set_params(project, processes=2)
    shard = next((project / "data" / "train").glob("*.safetensors"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)
    done = run(project, "construct", "rand", check=False)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert "truncated or altered" in line
