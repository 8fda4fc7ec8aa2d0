"""What is kept of a training: its learning curves, the weights of its best epoch, and its state in a file, so that a
killed one goes on and ends with the same bytes."""

import copy
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from notbugs.runtime.distribution import is_first
from notbugs.runtime.state_file import StateError, load_state, save_state

SECONDS = 5.0
"""A checkpoint is written after an epoch unless the last one is younger than this."""
CHANGING = ("last_epoch", "_step_count", "_last_lr")
"""What changes in a scheduler while it trains; the rest follows from the settings."""
DecidingColumn = Literal["validation_accuracy", "validation_adversarial_accuracy"]


class EpochRecord(TypedDict):
    """One point of the learning curves; None where it was not measured."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    validation_accuracy: float | None
    validation_accuracy_shifted: float | None
    validation_adversarial_accuracy: float | None


def deciding_column(*, adversarial: bool) -> DecidingColumn:
    """What early stopping compares: accuracy, or adversarial accuracy of an adversarial training."""
    return "validation_adversarial_accuracy" if adversarial else "validation_accuracy"


def kept_record(records: Sequence[EpochRecord], patience: int | None, *, adversarial: bool) -> EpochRecord:
    """The record of the epoch whose weights `train` left in the model: the best with early stopping, else the last."""
    column = deciding_column(adversarial=adversarial)
    measured = [record for record in records if record[column] is not None]
    if patience is None or not measured:
        return records[-1]
    return max(measured, key=lambda record: record[column] or 0.0)


class BestEpoch:
    """Remembers the weights of the best epoch of a training.

    Args:
        patience: measured epochs without a better one after which training is over; None: never, and nothing is kept.
        column: what is compared, the higher the better.
    """

    def __init__(self, patience: int | None, column: DecidingColumn) -> None:
        self.patience, self.column = patience, column
        self.score = -math.inf
        self.waited = 0
        self.weights: dict[str, Tensor] | None = None

    @property
    def over(self) -> bool:
        """Whether the patience is at its end."""
        return self.patience is not None and self.waited >= self.patience

    def update(self, model: nn.Module, record: EpochRecord) -> None:
        """Take note of a measured epoch."""
        if self.patience is None:
            return
        score = record[self.column]
        assert score is not None  # TrainSettings asks for the validation attack
        if score > self.score:
            self.score, self.waited, self.weights = score, 0, copy.deepcopy(model.state_dict())
        else:
            self.waited += 1

    def restore(self, model: nn.Module) -> None:
        """Give the model the weights of its best epoch, if they were kept."""
        if self.weights is not None:
            model.load_state_dict(self.weights)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"score": self.score, "waited": self.waited, "state": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.score, self.waited, self.weights = state["score"], state["waited"], state["state"]


class Checkpoint:
    """One training's state, on disk.

    Args:
        file: .safetensors, of a name that stands for all that the training depends on; need not exist.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._written = -float("inf")

    def save(self, state: Callable[[], Mapping[str, Any]], *, last: bool = False) -> None:
        """Write the state, unless that was done a moment ago; of several processes the first writes.

        Args:
            state: gives it.
            last: write in any case.
        """
        if is_first() and (last or time.monotonic() - self._written >= SECONDS):
            save_state(self.file, state())
            self._written = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The state; None if there is none, or a damaged one, which is said."""
        try:
            state: dict[str, Any] = load_state(self.file)
        except FileNotFoundError:
            return None
        except StateError as error:
            if is_first():
                print(f"{error}; this training starts anew", file=sys.stderr, flush=True)
            return None
        return state


@dataclass
class History:
    """The epochs of a training so far, and all that it has changed: what a checkpoint holds."""

    model: nn.Module
    optimizer: Optimizer
    scheduler: LRScheduler
    generator: torch.Generator
    best: BestEpoch
    checkpoint: Checkpoint | None
    on_epoch: Callable[[EpochRecord], None]
    records: list[EpochRecord] = field(default_factory=list)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one; its epochs are told anew. All must be as it was at the start."""
        state = self.checkpoint.load() if self.checkpoint else None
        if state is None:
            return
        changed = state["training"]
        self.model.load_state_dict(changed["model"])
        self.optimizer.load_state_dict(changed["optimizer"])
        for parameter, moments in self.optimizer.state.items():
            for name, value in moments.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(value)  # fused steps need the parameter's layout
        vars(self.scheduler).update(changed["scheduler"])
        self.generator.set_state(changed["generator"])
        self.best.load_state_dict(state["best"])
        self.records = state["records"]
        for record in self.records:
            self.on_epoch(record)

    def epochs_left(self, epochs: int) -> range:
        """Numbers of the epochs that are to come."""
        return range(len(self.records) + 1, 1 if self.best.over else epochs + 1)

    def add(self, record: EpochRecord, *, measured: bool, last: bool) -> None:
        """Take note of an epoch, and keep the state."""
        self.records.append(record)
        self.on_epoch(record)
        if measured:
            self.best.update(self.model, record)
        if self.checkpoint:
            self.checkpoint.save(self._state, last=last or self.best.over)

    def _state(self) -> dict[str, Any]:
        changed = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": {name: getattr(self.scheduler, name) for name in CHANGING},
            "generator": self.generator.get_state(),
        }
        return {"training": changed, "best": self.best.state_dict(), "records": self.records}
