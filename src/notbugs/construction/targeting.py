"""D_rand and D_det: images pushed towards another class t, and labelled t."""

from typing import Any, Literal

import torch
from torch import Tensor

from notbugs.attacks import pgd
from notbugs.construction.recipe import Constructed, engine_for
from notbugs.data.images import ImageData, Images
from notbugs.evaluation.accuracy import model_device, shifted_labels
from notbugs.models.base import Classifier

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
        norm: Literal["l2", "linf"] = "l2",
        num_steps: int,
        step_size: float,
        generator: torch.Generator,
        compiled: bool = False,
    ) -> None:
        self.targets = target_labels(rule, data.labels, len(data.class_names), generator)
        self._data, self._device = data, model_device(model)
        self._attack: dict[str, Any] = {"norm": norm, "eps": eps, "num_steps": num_steps, "step_size": step_size}
        self._engine = engine_for(model, data, compiled=compiled)

    def part(self, rows: slice) -> Constructed:
        """The examples made from these rows of D."""
        given, targets = self._data.select(rows), self.targets[rows]
        found = pgd(
            self._engine,
            given.images.to(self._device),
            targets.to(self._device),
            **self._attack,
            targeted=True,
            judge=False,
        )
        data = ImageData(found.x_adv.cpu(), targets, given.class_names)
        return Constructed(data, given.labels, torch.full_like(targets, -1), {})


def target_labels(rule: Rule, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """Target t of each example: uniform over all classes (y among them), or (y + 1) mod C. Shape (N,)."""
    if rule == "random_target":
        return torch.randint(0, num_classes, labels.shape, generator=generator)
    return shifted_labels(labels, num_classes)
