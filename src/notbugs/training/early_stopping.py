"""Learning curves, and which epoch's weights are kept."""

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from torch import Tensor, nn

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
