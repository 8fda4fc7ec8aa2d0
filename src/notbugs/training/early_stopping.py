"""Learning curves, and which epoch's weights are kept."""

import copy
import math
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

    def see(self, model: nn.Module, record: EpochRecord) -> None:
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

    def load_state_dict(self, kept: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        self.score, self.waited, self.weights = kept["score"], kept["waited"], kept["state"]
