"""D_rand and D_det: images pushed towards another class, and labelled as that class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from notbugs.attacks import pgd
from notbugs.attacks.course import Schedule
from notbugs.attacks.losses import USUAL_LOSS
from notbugs.attacks.straight_through import straightened
from notbugs.construction.beginnings import Beginnings, Start, Steps, draw_seeds
from notbugs.construction.recipe import Constructed, RecipeError, pixel_distance
from notbugs.data.images import ImageData, Images
from notbugs.evaluation.accuracy import engine_of, model_device, shifted_labels
from notbugs.models.base import Classifier
from notbugs.runtime.errors import one_line

Target = str | Sequence[int]
"""Where images are pushed: a rule of RULES, the class for each class, or a file of labels (.npy, .csv)."""
RULES = ("random", "next", "permutation")
"""t uniform over all classes; t = (y + 1) mod C; t = π(y), π drawn among the cycles through all classes."""
TABLES = (".npy", ".csv")
"""Kinds of files that hold a target for each image of D."""


class Targeting:
    """D_rand or D_det: x_adv = argmin over ‖x' − x‖ <= eps of L(x', t), labelled t.

    Every example runs all steps and its last iterate is kept, solved or not.

    Args:
        model: C of the paper.
        data: D.
        target: of each example, see `target_labels`.
        eps, norm: the perturbation ball, pixel units.
        num_steps, step_size: gradient steps, and the length of each, pixel units.
        generator: draws the random targets, for all examples, so that parts do not matter; then what options need.
        compiled: compile the engine (see `attacks.engine.pays_to_compile`).
        start: what is perturbed instead of x; the ball lies around it. t and y stay those of x's row.
        label: give t, or y (the untouched labels of Fowl et al. 2021).
        loss: a name in LOSSES, descended towards t; an ensemble takes it of the mean of its log-probabilities.
        views: k > 0 descends the mean over k random flips and shifts of log((1 − p)/p), p being t's probability: the
            cross-entropy's gradient to a factor a view, which does not vanish for the views that are solved. Of an
            ensemble it is the mean of the members' cross-entropies; of another loss, of that loss.
        schedule, momentum: of the steps, see `attacks.course.Course`.
        straight_through: look for the gradient through last ReLUs that let all pass.
    Raises: RecipeError for targets that D does not have, NoReluError if there is no ReLU to pass through.
    Source: Ilyas et al. 2019, section 3.2 and appendix C.4.
    """

    def __init__(
        self,
        model: Classifier,
        data: Images,
        *,
        target: Target,
        eps: float,
        norm: str = "l2",
        num_steps: int,
        step_size: float,
        generator: torch.Generator,
        compiled: bool = False,
        start: Start = "x",
        label: Literal["target", "source"] = "target",
        loss: str = USUAL_LOSS,
        views: int = 0,
        schedule: Schedule = "constant",
        momentum: float = 0.0,
        straight_through: bool = False,
    ) -> None:
        self.targets = target_labels(target, data.labels, len(data.class_names), generator)
        self._beginnings = Beginnings.drawn(start, data, generator)
        seeds = draw_seeds(len(data), generator) if views else None
        self._steps = Steps(num_steps, step_size, schedule, momentum, views, seeds)
        self._data, self._device, self._start, self._label = data, model_device(model), start, label
        self._attack: dict[str, Any] = {"norm": norm, "eps": eps, "num_steps": num_steps, "step_size": step_size}
        # an ensemble has a cross-entropy of its own
        self._attack["loss"] = getattr(model, "attack_loss", loss) if loss == USUAL_LOSS else loss
        self._engine = engine_of(straightened(model) if straight_through else model, data, compiled=compiled)

    def part(self, rows: slice) -> Constructed:
        """The examples made from these rows of D."""
        given, targets = self._data.select(rows), self.targets[rows]
        beginning = self._beginnings.images(rows, given.images)
        inputs, aims = beginning.to(self._device), targets.to(self._device)
        course = self._steps.course(rows, given.image_shape)
        found = pgd(self._engine, inputs, aims, **self._attack, course=course, targeted=True, judge=False)
        images, columns = found.x_adv.cpu(), {}
        if self._start != "x":
            columns["pixel_distance_start"] = pixel_distance(images, beginning)
        if self._label == "source":
            columns["target_label"] = targets
        data = ImageData(images, given.labels if self._label == "source" else targets, given.class_names)
        return Constructed(data, given.labels, self._beginnings.index[rows], columns)


def target_labels(target: Target, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """Target t of each example.

    Args:
        target: "random": uniform over all classes (y among them). "next": (y + 1) mod C. "permutation": π(y), one cycle
            through all classes, drawn. A list: its entry y. Else a file with one label for each image of D: .npy holds
            (N,) whole numbers, .csv has them in its column `label`.
        labels: y, (N,).
    Returns: (N,) int64.
    Raises: RecipeError for a list or a file that does not fit D.
    """
    if isinstance(target, str) and target.endswith(TABLES):
        return _from_file(Path(target), len(labels), num_classes)
    if target == "random":
        return torch.randint(0, num_classes, labels.shape, generator=generator)
    if target == "next":
        return shifted_labels(labels, num_classes)
    if target == "permutation":
        return _cycle(num_classes, generator)[labels]
    if isinstance(target, str):
        raise RecipeError(f"target = {target!r}: must be {TARGETS}")
    if sorted(target) != list(range(num_classes)):
        raise RecipeError(f"target = {list(target)}: must hold each of D's classes 0..{num_classes - 1} once")
    return torch.tensor(list(target))[labels]


TARGETS = (
    f"{', '.join(RULES)}, a list that holds each class once (entry y is where class y is pushed), or a file of labels "
    f"ending in {' or '.join(TABLES)}"
)
"""What a target may be, in words."""


def _cycle(num_classes: int, generator: torch.Generator) -> Tensor:
    """A permutation without a fixed point, uniform among those of one cycle, (C,)."""
    order = torch.randperm(num_classes, generator=generator)
    following = torch.empty_like(order)
    following[order] = order.roll(-1)
    return following


def _from_file(file: Path, count: int, num_classes: int) -> Tensor:
    """The labels that a file holds, (count,)."""
    wanted = f"{count} whole numbers in 0..{num_classes - 1}"
    found, asked = read_labels(file, wanted), _asked(file, wanted)
    if found.shape != (count,):
        raise RecipeError(f"{asked}; it holds {found.shape} {found.dtype}")
    if count and not (found.min() >= 0 and found.max() < num_classes):
        raise RecipeError(f"{asked}; it holds numbers from {found.min()} to {found.max()}")
    return torch.from_numpy(found.astype(np.int64))


def _asked(file: Path, wanted: str) -> str:
    return f"target = {str(file)!r}: must hold {wanted}, one an image of D"


def read_labels(file: Path, wanted: str = "whole numbers") -> np.ndarray:
    """The labels that a file of targets holds, (N,) whole numbers.

    Args:
        wanted: what it must hold, for the error.

    Raises: RecipeError if there is none, or it holds something else.
    """
    asked = _asked(file, wanted)
    try:
        found = _labels_in(file)
    except FileNotFoundError:
        raise RecipeError(f"{asked}; there is no such file") from None
    except Exception as error:  # NumPy and pandas raise anything at somebody else's file
        raise RecipeError(f"{asked}; it cannot be read: {type(error).__name__}: {one_line(error)}") from None
    if found.ndim != 1 or not np.issubdtype(found.dtype, np.integer):
        raise RecipeError(f"{asked}; it holds {found.shape} {found.dtype}")
    return found


def _labels_in(file: Path) -> np.ndarray:
    if file.suffix == ".npy":
        loaded: np.ndarray = np.load(file, allow_pickle=False)
        return loaded
    import pandas as pd

    table = pd.read_csv(file)
    if "label" not in table:
        raise ValueError(f"it has no column label, only {', '.join(map(str, table.columns))}")
    return table["label"].to_numpy()
