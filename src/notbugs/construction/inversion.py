"""D_R and D_NR: images with the representation of x, found from another image x'."""

import torch
from torch import Tensor

from notbugs.attacks import pgd
from notbugs.attacks.engine import frozen
from notbugs.construction.recipe import Constructed, engine_for, pixel_distance
from notbugs.data.images import ImageData, Images
from notbugs.evaluation.accuracy import model_device
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
        self._num_steps, self._step_size = num_steps, step_size
        self._engine = engine_for(model, data, compiled=compiled)

    def part(self, rows: slice) -> Constructed:
        """The examples made from these rows of D."""
        given = self._data.select(rows)
        beginning = self._data.select(self.start_index[rows]).images
        start = beginning.to(self._device)
        targets = _representation(self._model, given.images.to(self._device))  # (n, F)
        found = pgd(
            self._engine,
            start,
            targets,
            norm="box",
            eps=float("inf"),
            step_size=self._step_size,
            num_steps=self._num_steps,
            loss="representation_distance",
            targeted=True,
            judge=False,
        ).x_adv
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
