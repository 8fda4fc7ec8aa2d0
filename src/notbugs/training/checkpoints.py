"""The state of a training in a file, so that a killed one goes on and ends with the same bytes."""

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from notbugs.runtime.distribution import is_first
from notbugs.runtime.state_file import StateError, load_state, save_state

SECONDS = 5.0
"""A checkpoint is written after an epoch unless the last one is younger than this."""
CHANGING = ("last_epoch", "_step_count", "_last_lr")
"""What changes in a scheduler while it trains; the rest follows from the settings."""


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


def training_state(
    model: nn.Module, optimizer: Optimizer, scheduler: LRScheduler, generator: torch.Generator
) -> dict[str, Any]:
    """All that a training changes besides its records."""
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": {name: getattr(scheduler, name) for name in CHANGING},
        "generator": generator.get_state(),
    }


def restore_training(
    state: Mapping[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    generator: torch.Generator,
) -> None:
    """Put back what `training_state` gave; all four as they were made."""
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for parameter, kept in optimizer.state.items():
        for name, value in kept.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                kept[name] = torch.empty_like(parameter).copy_(value)  # fused steps need the parameter's layout
    vars(scheduler).update(state["scheduler"])
    generator.set_state(state["generator"])
