"""What a recipe is, what it makes of a part of D, and the paper's two: inversion and targeted attacks."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from notbugs.attacks import pgd
from notbugs.attacks.engine import frozen
from notbugs.data.images import ImageData, Images
from notbugs.data.store import DTYPES, Dtype
from notbugs.evaluation.accuracy import engine_of, model_device, shifted_labels
from notbugs.models.base import Classifier
from notbugs.runtime.devices import full_precision


@dataclass(frozen=True)
class Constructed:
    """A constructed dataset and, an example a row, how it came about.

    Attributes:
        data: images (N, C, H, W) and the labels given to them (N,).
        true_labels: (N,) labels of the source images.
        start_index: (N,) row of x' in D; -1 where there is none.
        columns: further per-example numbers, (N,) each, by the names of examples.parquet.
    """

    data: ImageData
    true_labels: Tensor
    start_index: Tensor
    columns: dict[str, Tensor]

    def rounded(self, dtype: Dtype) -> "Constructed":
        """The same with the images as they will be stored, so that what is said of them holds for the stored ones."""
        images = self.data.images.to(DTYPES[dtype]).float()
        return replace(self, data=replace(self.data, images=images))


def joined(made: Sequence[Constructed]) -> Constructed:
    """Parts in their order, as one.

    Raises: ValueError if there is none.
    """
    if not made:
        raise ValueError("no parts to join")
    data = ImageData(
        torch.cat([part.data.images for part in made]),
        torch.cat([part.data.labels for part in made]),
        made[0].data.class_names,
    )
    columns = {}
    for name in made[0].columns:
        columns[name] = torch.cat([part.columns[name] for part in made])
    true_labels = torch.cat([part.true_labels for part in made])
    return Constructed(data, true_labels, torch.cat([part.start_index for part in made]), columns)


class Recipe(Protocol):
    """A dataset that can be made in parts, in any order: everything random was drawn when it was set up."""

    def part(self, rows: slice) -> Constructed:
        """The examples made from these rows of D."""
        ...


def pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    """‖a − b‖₂ of each pair of images: (N, C, H, W) twice -> (N,)."""
    return (a - b).flatten(1).norm(dim=1)


class Inversion:
    """D_R (g of a robust model) or D_NR (g of a standard model).

    x_r = argmin over z in [0, 1]^d of ‖g(z) − g(x)‖₂, from z = x', a uniformly random other image of D; label y.

    Args:
        model: gives g, its penultimate layer.
        data: D, N >= 2 images.
        num_steps, step_size: gradient steps, and the length of each, pixel units.
        generator: draws x', for all examples, so that parts do not matter.
        compiled: compile the engine (see `attacks.engine.pays_to_compile`).
    Raises: ValueError if D has fewer than two images.
    Source: Ilyas et al. 2019, section 3.1 and appendix C.3.
    """

    def __init__(
        self,
        model: Classifier,
        data: Images,
        *,
        num_steps: int,
        step_size: float,
        generator: torch.Generator,
        compiled: bool = False,
    ) -> None:
        count = len(data)
        if count < 2:
            raise ValueError(f"inversion starts from another image: D needs at least 2, not {count}")
        self.start_index = (torch.arange(count) + torch.randint(1, count, (count,), generator=generator)) % count
        self._model, self._data, self._device = model, data, model_device(model)
        self._steps = {"num_steps": num_steps, "step_size": step_size}
        self._engine = engine_of(model, data, compiled=compiled)

    def part(self, rows: slice) -> Constructed:
        """The examples made from these rows of D."""
        given = self._data.select(rows)
        beginning = self._data.select(self.start_index[rows]).images
        start = beginning.to(self._device)
        targets = _representation(self._model, given.images.to(self._device))  # (n, F)
        descent: dict[str, Any] = {"norm": "box", "eps": float("inf"), "loss": "representation_distance", **self._steps}
        found = pgd(self._engine, start, targets, **descent, targeted=True, judge=False).x_adv
        images = found.cpu()
        columns = {
            "representation_distance": (_representation(self._model, found) - targets).norm(dim=1).cpu(),
            "representation_distance_start": (_representation(self._model, start) - targets).norm(dim=1).cpu(),
            "pixel_distance_start": pixel_distance(images, beginning),
        }
        data = ImageData(images, given.labels, given.class_names)
        return Constructed(data, given.labels, self.start_index[rows], columns)


@torch.no_grad()
def _representation(model: Classifier, images: Tensor) -> Tensor:
    """g(x) in eval mode and in full precision; the model is left in the mode it was in."""
    with frozen(model), full_precision(images.device):
        return model.representation(images)


Rule = Literal["random_target", "deterministic_target"]
"""t uniform over all classes, or t = (y + 1) mod C."""


class Targeting:
    """D_rand or D_det: x_adv = argmin over ‖x' − x‖ <= eps of L(x', t), labelled t.

    Every example runs all steps and its last iterate is kept, solved or not.

    Args:
        model: C of the paper.
        data: D.
        rule: of the targets, see `target_labels`.
        eps, norm: the perturbation ball, pixel units.
        num_steps, step_size: gradient steps, and the length of each, pixel units.
        generator: draws the random targets, for all examples, so that parts do not matter.
        compiled: compile the engine (see `attacks.engine.pays_to_compile`).
    Source: Ilyas et al. 2019, section 3.2 and appendix C.4.
    """

    def __init__(
        self,
        model: Classifier,
        data: Images,
        *,
        rule: Rule,
        eps: float,
        norm: str = "l2",
        num_steps: int,
        step_size: float,
        generator: torch.Generator,
        compiled: bool = False,
    ) -> None:
        self.targets = target_labels(rule, data.labels, len(data.class_names), generator)
        self._data, self._device = data, model_device(model)
        self._attack: dict[str, Any] = {"norm": norm, "eps": eps, "num_steps": num_steps, "step_size": step_size}
        self._engine = engine_of(model, data, compiled=compiled)

    def part(self, rows: slice) -> Constructed:
        """The examples made from these rows of D."""
        given, targets = self._data.select(rows), self.targets[rows]
        inputs, aims = given.images.to(self._device), targets.to(self._device)
        found = pgd(self._engine, inputs, aims, **self._attack, targeted=True, judge=False)
        data = ImageData(found.x_adv.cpu(), targets, given.class_names)
        return Constructed(data, given.labels, torch.full_like(targets, -1), {})


def target_labels(rule: Rule, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """Target t of each example: uniform over all classes (y among them), or (y + 1) mod C. Shape (N,)."""
    if rule == "random_target":
        return torch.randint(0, num_classes, labels.shape, generator=generator)
    return shifted_labels(labels, num_classes)
