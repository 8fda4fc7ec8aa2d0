"""D_R and D_NR: images with the representation of x, found from elsewhere."""

from typing import Any, Literal

import torch
from torch import Tensor

from notbugs.attacks import pgd
from notbugs.attacks.course import Schedule
from notbugs.attacks.engine import frozen
from notbugs.attacks.straight_through import straightened
from notbugs.construction.beginnings import Beginnings, Steps
from notbugs.construction.recipe import Constructed, pixel_distance
from notbugs.data.images import ImageData, Images
from notbugs.evaluation.accuracy import engine_of, model_device
from notbugs.models.base import Classifier
from notbugs.runtime.devices import full_precision


class Inversion:
    """D_R (g of a robust model) or D_NR (g of a standard model).

    x_r = argmin over z in [0, 1]^d of ‖g(z) − g(x)‖₂, from z = x', a uniformly random other image of D; label y.

    Args:
        model: gives g, its penultimate layer.
        data: D, N >= 2 images.
        num_steps, step_size: gradient steps, and the length of each, pixel units.
        generator: draws x', for all examples, so that parts do not matter.
        compiled: compile the engine (see `attacks.engine.pays_to_compile`).
        start: another image, or uniform noise in [0, 1].
        schedule, momentum: of the steps, see `attacks.course.Course`.
        straight_through: look for the gradient through last ReLUs that let all pass, as the authors' code does; the
            distances reported are those of the network itself.
        normalise_distance: report ‖g(z) − g(x)‖₂ / ‖g(x)‖₂, as the authors' code does. Steps go along the normalised
            gradient, so the images stay the same.
    Raises: RecipeError if D has fewer than two images to start from, NoReluError if there is no ReLU to pass through.
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
        start: Literal["another_image", "noise"] = "another_image",
        schedule: Schedule = "constant",
        momentum: float = 0.0,
        straight_through: bool = False,
        normalise_distance: bool = False,
    ) -> None:
        self._beginnings = Beginnings.drawn(start, data, generator)
        self._model, self._data, self._device = model, data, model_device(model)
        self._steps = Steps(num_steps, step_size, schedule, momentum)
        self._relative = normalise_distance
        self._engine = engine_of(straightened(model) if straight_through else model, data, compiled=compiled)

    def part(self, rows: slice) -> Constructed:
        """The examples made from these rows of D."""
        given, steps = self._data.select(rows), self._steps
        beginning = self._beginnings.images(rows, given.images)
        start = beginning.to(self._device)
        targets = _representation(self._model, given.images.to(self._device))  # (n, F)
        descent: dict[str, Any] = {"norm": "box", "eps": float("inf"), "loss": "representation_distance"}
        descent |= {"num_steps": steps.num_steps, "step_size": steps.step_size}
        course = steps.course(rows, given.image_shape)
        found = pgd(self._engine, start, targets, **descent, course=course, targeted=True, judge=False).x_adv
        images = found.cpu()
        columns = {
            "representation_distance": self._distance(found, targets),
            "representation_distance_start": self._distance(start, targets),
            "pixel_distance_start": pixel_distance(images, beginning),
        }
        data = ImageData(images, given.labels, given.class_names)
        return Constructed(data, given.labels, self._beginnings.index[rows], columns)

    def _distance(self, images: Tensor, targets: Tensor) -> Tensor:
        """‖g(z) − target‖₂ of each image, (n,), on the CPU; relative to ‖target‖₂ where that is asked for."""
        distances = (_representation(self._model, images) - targets).norm(dim=1)
        if self._relative:
            norms = targets.norm(dim=1)
            distances = distances / torch.where(norms > 0, norms, 1)
        return distances.cpu()


@torch.no_grad()
def _representation(model: Classifier, images: Tensor) -> Tensor:
    """g(x) in eval mode and in full precision; the model is left in the mode it was in."""
    with frozen(model), full_precision(images.device):
        return model.representation(images)
