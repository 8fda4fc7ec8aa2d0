"""A training that is cut off goes on from its checkpoint and ends with the same bytes."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import notbugs.training.checkpoints
import notbugs.training.loop
from notbugs.attacks import AttackSettings
from notbugs.construction.building import construct
from notbugs.construction.settings import TargetSettings
from notbugs.data.images import ImageData
from notbugs.evaluation.accuracy import adversarially_correct, predict
from notbugs.runtime.out_of_memory import BatchSplitter, MemoryExhaustedError
from notbugs.runtime.state_file import StateError, load_state, save_state
from notbugs.training.checkpoints import Checkpoint
from notbugs.training.loop import TrainingError, train
from notbugs.training.settings import TrainSettings

ATTACK = AttackSettings(eps=0.3, num_steps=1, random_start=True)
WAYS = {
    "sgd_one_cycle": {"schedule": "one_cycle", "crop_padding": 1, "flip": True},
    "sgd_step": {"schedule": "step", "milestones": [2, 3], "nesterov": True},
    "adamw_constant": {"optimizer": "adamw", "lr": 0.01, "schedule": "constant"},
    "robust": {"attack": ATTACK, "validation_attack": ATTACK},
    "early_stopping": {"early_stopping": 1, "schedule": "constant"},
}


class CutOff(Exception):  # noqa: N818
    """Stands for a kill."""


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


@pytest.fixture(autouse=True)
def _every_epoch(monkeypatch):
    monkeypatch.setattr(notbugs.training.checkpoints, "SECONDS", 0.0)


@pytest.fixture
def few(digits) -> ImageData:
    return digits[0].select(torch.arange(90))


def settings(**changes) -> TrainSettings:
    return TrainSettings.model_validate({"epochs": 5, "batch_size": 32, "lr": 0.1, **changes})


def learn(new_model, data, config, **more):
    model = new_model(data, width=4)
    records = train(
        model, data, **config.arguments(), generator=generator(), validation=data.select(torch.arange(40)), **more
    )
    return model, records


def cut(new_model, data, config, file: Path, after: int) -> None:
    """Train, and be killed in the epoch after `after`."""

    def on_epoch(record) -> None:
        if record["epoch"] > after:
            raise CutOff

    with pytest.raises(CutOff):
        learn(new_model, data, config, checkpoint=Checkpoint(file), on_epoch=on_epoch)


@pytest.mark.parametrize("way", WAYS)
def test_a_training_that_was_cut_off_ends_with_the_same_bytes(way, few, new_model, tmp_path):
    config = settings(**WAYS[way])
    whole, expected = learn(new_model, few, config)
    file = tmp_path / "state.safetensors"
    for after in (1, 3) if len(expected) > 3 else (1,):
        cut(new_model, few, config, file, after)
        assert len(load_state(file)["records"]) == after
    seen = []
    resumed, records = learn(new_model, few, config, checkpoint=Checkpoint(file), on_epoch=seen.append)
    assert records == expected == seen  # the curves are told from the beginning
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_a_finished_training_is_not_done_again(few, new_model, tmp_path, monkeypatch):
    file = tmp_path / "state.safetensors"
    whole, expected = learn(new_model, few, settings(early_stopping=2), checkpoint=Checkpoint(file))
    monkeypatch.setattr(notbugs.training.loop, "_train_epoch", lambda *_, **__: pytest.fail("trained again"))
    again, records = learn(new_model, few, settings(early_stopping=2), checkpoint=Checkpoint(file))
    assert records == expected
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())


def test_checkpoints_are_written_now_and_then_and_at_the_end(few, new_model, tmp_path, monkeypatch):
    monkeypatch.setattr(notbugs.training.checkpoints, "SECONDS", 3600.0)
    written = []
    monkeypatch.setattr(
        notbugs.training.checkpoints, "save_state", lambda file, state: written.append(len(state["records"])) or None
    )
    learn(new_model, few, settings(), checkpoint=Checkpoint(tmp_path / "state.safetensors"))
    assert written == [1, 5]


def test_a_damaged_checkpoint_is_said_and_not_used(few, new_model, tmp_path, capsys):
    whole, expected = learn(new_model, few, settings())
    file = tmp_path / "state.safetensors"
    cut(new_model, few, settings(), file, 2)
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    model, records = learn(new_model, few, settings(), checkpoint=Checkpoint(file))
    assert "state.safetensors: altered" in capsys.readouterr().err
    assert records == expected
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in whole.state_dict().items())


# Faults


class Poisoned(nn.Module):
    """Gives no number from its n-th training step on."""

    def __init__(self, model: nn.Module, step: int) -> None:
        super().__init__()
        self.model, self.left = model, step

    def forward(self, x):
        if self.training:
            self.left -= 1
        return self.model(x) * (math.nan if self.training and self.left <= 0 else 1.0)


def test_a_loss_that_is_no_number_names_the_step_and_keeps_the_last_good_state(few, new_model, tmp_path):
    """Three steps an epoch: the eighth is the second of the third epoch."""
    file = tmp_path / "state.safetensors"
    model = Poisoned(new_model(few, width=4), 8)
    with pytest.raises(TrainingError, match=r"the loss is nan in epoch 3, step 2 of 3; .* is in .*state.safetensors"):
        train(model, few, **settings().arguments(), generator=generator(), checkpoint=Checkpoint(file))
    kept = load_state(file)
    assert len(kept["records"]) == 2
    assert all(value.isfinite().all() for value in kept["training"]["model"].values())


class Large(nn.Module):
    """A network that does not fit into memory with more than so many images while it trains."""

    def __init__(self, model: nn.Module, most: int) -> None:
        super().__init__()
        self.model, self.most, self.seen = model, most, []

    def forward(self, x):
        if self.training:
            if len(x) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.seen.append(len(x))
        return self.model(x)


def test_out_of_memory_halves_the_batch_and_says_so(few, new_model, capsys):
    """Without BatchNorm, parts of a batch give the batch's own gradient."""
    config = settings(epochs=1, schedule="constant", momentum=0.0)

    def network() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

    whole, halved = network(), Large(network(), 8)
    expected = train(whole, few, **config.arguments(), generator=generator())
    records = train(halved, few, **config.arguments(), generator=generator(), description="train x")
    assert halved.seen == [8] * 8 + [6, 7, 6, 7]
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "train x: out of memory; goes on with 16 images at a time, not 32",
        "train x: out of memory; goes on with 8 images at a time, not 16",
    ]
    assert records[0]["train_loss"] == pytest.approx(expected[0]["train_loss"], rel=1e-6)
    for first, second in zip(whole.parameters(), halved.parameters(), strict=True):
        torch.testing.assert_close(first, second)


def test_out_of_memory_with_the_smallest_batch_ends_the_training(few, new_model):
    with pytest.raises(MemoryExhaustedError, match=r"train: out of memory with 2 images at a time; a smaller"):
        train(Large(new_model(few, width=4), 1), few, **settings().arguments(), generator=generator())


def test_halves_do_all_of_the_work_in_order():
    splitter = BatchSplitter("work")

    def work(rows: slice) -> list[int]:
        if rows.stop - rows.start > 3:
            raise torch.OutOfMemoryError
        return list(range(rows.start, rows.stop))

    for count in (10, 1, 7, 0):
        assert list(itertools.chain(*splitter(count, work))) == list(range(count))


def test_evaluation_and_construction_halve_their_batches_too(standard_model, digits, capsys):
    """The same examples withstand, and the images are the same to rounding."""
    few = digits[1].select(torch.arange(60))
    attack = {"eps": 0.4, "num_steps": 4, "random_start": True}
    expected = adversarially_correct(standard_model, few, **attack, generator=generator())
    assert 0 < expected.sum() < 60
    settings = TargetSettings(recipe="random_target", model="standard", num_steps=3, step_size=0.2, eps=0.5)
    wanted = construct(standard_model, few, **settings.arguments(), generator=generator())
    logits = predict(standard_model, few.images)
    short = OutOfMemory(standard_model, 16)
    assert torch.equal(adversarially_correct(short, few, **attack, generator=generator()), expected)
    made = construct(short, few, **settings.arguments(), generator=generator())
    torch.testing.assert_close(made.data.images, wanted.data.images, rtol=0, atol=1e-5)
    torch.testing.assert_close(predict(short, few.images), logits, rtol=1e-4, atol=1e-4)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "adversarial accuracy: out of memory; goes on with 30 images at a time, not 60"
    assert said[-1] == "prediction: out of memory; goes on with 15 images at a time, not 30"


class OutOfMemory(nn.Module):
    """A network that does not fit into memory with more than so many images."""

    def __init__(self, model: nn.Module, most: int) -> None:
        super().__init__()
        self.model, self.most = model, most

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.model(x)


# The file


def test_state_comes_back_as_it_was(tmp_path):
    state = {
        "a": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        5: [1, (2.5, -math.inf, None), {"b": torch.tensor(3, dtype=torch.uint8)}],
        "c": True,
        "empty": [],
    }
    save_state(tmp_path / "x", state)
    again = load_state(tmp_path / "x")
    assert torch.equal(again["a"], state["a"])
    assert again[5][:2] == state[5][:2]
    assert again[5][2]["b"].dtype == torch.uint8
    assert (again["c"], again["empty"]) == (True, [])
    with pytest.raises(TypeError, match="state cannot hold a set"):
        save_state(tmp_path / "x", {"a": {1}})
    assert load_state(tmp_path / "x").keys() == state.keys()  # the old one stands


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied", "text"])
def test_a_damaged_file_of_state_is_refused(damage, tmp_path):
    file = tmp_path / "x"
    save_state(file, {"a": torch.arange(100), "b": 2})
    content = file.read_bytes()
    flipped = content.replace(rb"[\"b\"", rb"[\"c\"")
    assert flipped != content
    file.write_bytes({"truncated": content[:-1], "flipped": flipped, "emptied": b"", "text": b"x" * 200}[damage])
    with pytest.raises(StateError, match=str(file)):
        load_state(file)


def test_a_missing_file_of_state_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_state(tmp_path / "x")
