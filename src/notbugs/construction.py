"""The constructed datasets: D_R and D_NR by inversion, D_rand and D_det by targeted attacks.

The algorithms are the paper's (Ilyas et al. 2019, sections 3.1 and 3.2, appendix C): what is minimised, where
it starts, the projection, the target rule, last iterate for every example, model in eval mode.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from notbugs.attacks import pgd
from notbugs.attacks.engine import Engine, frozen
from notbugs.config import ConfigError, Settings, validate
from notbugs.evaluation import batches, model_device, predict, shifted_labels
from notbugs.images import ImageData
from notbugs.models.base import Classifier
from notbugs.progress import Track, silent
from notbugs.store import DTYPES, Dtype


class _RecipeSettings(Settings):
    model: Literal["standard", "robust"]
    """Which source model is used: its first seed."""
    num_steps: int = Field(ge=1)
    """Gradient steps."""
    step_size: float = Field(gt=0, allow_inf_nan=False)
    """Length of a step on the normalised gradient, pixel units."""
    batch_size: int = Field(default=500, ge=1)
    """Images worked on at a time; does not change the results beyond rounding."""
    dtype: Dtype = "float32"
    """Stored precision of the images; uint8 is not offered, its rounding is larger than the effect."""


class InvertSettings(_RecipeSettings):
    """D_R and D_NR: images with the representation of x, found from another image x'."""

    recipe: Literal["invert"]
    """argmin over z in [0, 1] of ‖g(z) − g(x)‖₂."""


class TargetSettings(_RecipeSettings):
    """D_rand and D_det: images pushed towards another class, and labelled as that class."""

    recipe: Literal["random_target", "deterministic_target"]
    """t uniform over all classes, or t = (y + 1) mod C."""
    norm: Literal["l2", "linf"] = "l2"
    """Norm of the perturbation."""
    eps: float = Field(gt=0, allow_inf_nan=False)
    """Radius of the perturbation ball, pixel units on [0, 1]."""


ConstructSettings = InvertSettings | TargetSettings
RECIPES: dict[str, type[InvertSettings] | type[TargetSettings]] = {
    "invert": InvertSettings,
    "random_target": TargetSettings,
    "deterministic_target": TargetSettings,
}


def construct_settings(section: Any, key: str) -> ConstructSettings:
    """Validate one entry of the section `construct`.

    Raises: ConfigError naming the key, the value and what is allowed.
    """
    recipe = section.get("recipe") if isinstance(section, Mapping) else None
    if recipe not in RECIPES:
        raise ConfigError(f"params.yaml: {key}.recipe = {recipe!r}: must be one of {', '.join(RECIPES)}")
    return validate(section, key, RECIPES[recipe])


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


def inverted_dataset(
    model: Classifier,
    data: ImageData,
    settings: InvertSettings,
    *,
    generator: torch.Generator,
    compiled: bool = False,
    progress: Track = silent,
    description: str = "invert",
) -> Constructed:
    """D_R (g of a robust model) or D_NR (g of a standard model).

    x_r = argmin over z in [0, 1]^d of ‖g(z) − g(x)‖₂, from z = x', a uniformly random other image of D; label y.

    Args:
        model: gives g, its penultimate layer.
        data: D, (N, C, H, W) and labels, N >= 2.
        settings: steps and step size.
        generator: draws x', for all examples before any work, so that batches do not matter.
        compiled: compile the engine (see `attacks.engine.pays_to_compile`).
        progress: shows the batches.
    Source: Ilyas et al. 2019, section 3.1 and appendix C.3.
    """
    count = len(data)
    if count < 2:
        raise ValueError(f"inversion starts from another image: D needs at least 2, not {count}")
    start_index = (torch.arange(count) + torch.randint(1, count, (count,), generator=generator)) % count
    device = model_device(model)
    engine = Engine(model, data.images[:8].to(device), compiled=compiled)
    images, reached, before = [], [], []
    for batch in progress(list(batches(count, settings.batch_size)), description):
        start = data.images[start_index[batch]].to(device)
        targets = _representation(model, data.images[batch].to(device))  # (n, F)
        found = pgd(
            engine,
            start,
            targets,
            norm="box",
            eps=float("inf"),
            step_size=settings.step_size,
            num_steps=settings.num_steps,
            loss="representation_distance",
            targeted=True,
            judge=False,
        ).x_adv
        before.append((_representation(model, start) - targets).norm(dim=1).cpu())
        reached.append((_representation(model, found) - targets).norm(dim=1).cpu())
        images.append(found.cpu())
    constructed = ImageData(torch.cat(images), data.labels, data.class_names)
    columns = {
        "representation_distance": torch.cat(reached),
        "representation_distance_start": torch.cat(before),
    }
    columns["pixel_distance_start"] = _pixel_distance(constructed.images, data.images[start_index])
    return Constructed(constructed, data.labels, start_index, columns)


@torch.no_grad()
def _representation(model: Classifier, images: Tensor) -> Tensor:
    """g(x) in eval mode; the model is left in the mode it was in."""
    with frozen(model):
        return model.representation(images)


def target_dataset(
    model: Classifier,
    data: ImageData,
    settings: TargetSettings,
    *,
    generator: torch.Generator,
    compiled: bool = False,
    progress: Track = silent,
    description: str = "target",
) -> Constructed:
    """D_rand or D_det: x_adv = argmin over ‖x' − x‖ <= eps of L(x', t), labelled t.

    Every example runs all steps and its last iterate is kept, solved or not.

    Args:
        model: C of the paper.
        data: D, (N, C, H, W) and labels.
        settings: target rule, norm, eps, steps, step size.
        generator: draws the random targets, for all examples before any work.
        compiled: compile the engine (see `attacks.engine.pays_to_compile`).
        progress: shows the batches.
    Source: Ilyas et al. 2019, section 3.2 and appendix C.4.
    """
    targets = target_labels(settings.recipe, data.labels, len(data.class_names), generator)
    device = model_device(model)
    engine = Engine(model, data.images[:8].to(device), compiled=compiled)
    images = []
    for batch in progress(list(batches(len(data), settings.batch_size)), description):
        found = pgd(
            engine,
            data.images[batch].to(device),
            targets[batch].to(device),
            norm=settings.norm,
            eps=settings.eps,
            step_size=settings.step_size,
            num_steps=settings.num_steps,
            targeted=True,
            judge=False,
        )
        images.append(found.x_adv.cpu())
    constructed = ImageData(torch.cat(images), targets, data.class_names)
    return Constructed(constructed, data.labels, torch.full_like(targets, -1), {})


def target_labels(recipe: str, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """Target t of each example: uniform over all classes (y among them), or (y + 1) mod C. Shape (N,)."""
    if recipe == "random_target":
        return torch.randint(0, num_classes, labels.shape, generator=generator)
    return shifted_labels(labels, num_classes)


def construct(
    model: Classifier,
    data: ImageData,
    settings: ConstructSettings,
    *,
    generator: torch.Generator,
    compiled: bool = False,
    progress: Track = silent,
    description: str = "construct",
) -> Constructed:
    """Build the dataset that `settings` describes, in its stored precision, by one of the two recipes above."""
    arguments: dict[str, Any] = {
        "generator": generator,
        "compiled": compiled,
        "progress": progress,
        "description": description,
    }
    if isinstance(settings, InvertSettings):
        constructed = inverted_dataset(model, data, settings, **arguments)
    else:
        constructed = target_dataset(model, data, settings, **arguments)
    return constructed.rounded(settings.dtype)


def describe(
    constructed: Constructed, data: ImageData, model: Classifier, robust_model: Classifier
) -> dict[str, Tensor]:
    """The per-example facts of a constructed dataset, (N,) each, by the names of examples.parquet.

    Args:
        constructed: the dataset.
        data: D, from which it was made, row by row.
        model: its source model: probabilities before and after, success.
        robust_model: one of the two judges of what an image still shows; the other is 1-NN on D.
    """
    new, true, given = constructed.data.images, constructed.true_labels, constructed.data.labels
    before = predict(model, data.images).softmax(dim=1)
    after = predict(model, new).softmax(dim=1)
    nan = torch.full((len(new),), torch.nan)
    columns = {
        "true_label": true,
        "given_label": given,
        "delta_norm": _pixel_distance(new, data.images),
        "pixel_distance_start": nan,
        "representation_distance": nan,
        "representation_distance_start": nan,
        **constructed.columns,
        "probability_true_before": _of(before, true),
        "probability_given_before": _of(before, given),
        "probability_true_after": _of(after, true),
        "probability_given_after": _of(after, given),
        "success": after.argmax(dim=1) == given,
        "robust_prediction": predict(robust_model, new).argmax(dim=1),
        "neighbour_prediction": nearest_neighbour(new, data, device=model_device(model)),
    }
    columns["still_y"] = (columns["robust_prediction"] == true) & (columns["neighbour_prediction"] == true)
    return columns


@torch.no_grad()
def nearest_neighbour(
    images: Tensor, reference: ImageData, *, device: torch.device | str = "cpu", batch_size: int = 1000
) -> Tensor:
    """Label of the nearest image of `reference` in L2 over pixels: (N, C, H, W) -> (N,), on the CPU.

    Image i is not compared with the i-th image of `reference`, from which it was made: that one is never
    further than the perturbation, and would answer y for the image whatever it shows.

    Raises: ValueError if the two do not pair up.
    """
    if len(images) != len(reference) or len(reference) < 2:
        raise ValueError(f"need as many images as references, at least 2, not {len(images)} and {len(reference)}")
    known = reference.images.flatten(1).to(device)  # (M, d)
    called = []
    for batch in batches(len(images), batch_size):
        distances = torch.cdist(images[batch].flatten(1).to(device), known)  # (n, M)
        rows = torch.arange(batch.stop - batch.start, device=distances.device)
        distances[rows, rows + batch.start] = torch.inf
        called.append(reference.labels[distances.argmin(dim=1).cpu()])
    return torch.cat(called)


def summarise(columns: Mapping[str, Tensor]) -> dict[str, Any]:
    """Summary of the per-example facts, for metrics/construct/<name>.json; shares are fractions."""
    true, given = columns["true_label"], columns["given_label"]
    summary: dict[str, Any] = {
        "num_examples": len(true),
        "success_rate": _share(columns["success"]),
        "given_is_true": _share(given == true),
    }
    for name in (
        "delta_norm",
        "pixel_distance_start",
        "representation_distance",
        "representation_distance_start",
    ):
        if not columns[name].isnan().any():
            summary[name] = _quantiles(columns[name])
    judges: dict[str, Callable[[], Tensor]] = {
        "robust_model": lambda: columns["robust_prediction"],
        "nearest_neighbour": lambda: columns["neighbour_prediction"],
    }
    for judge, called in judges.items():
        summary[judge] = {"still_y": _share(called() == true), "target": _share(called() == given)}
    summary["still_y_both"] = _share(columns["still_y"])
    summary["num_still_y"] = int(columns["still_y"].sum())
    return summary


def _quantiles(values: Tensor) -> dict[str, float]:
    levels = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
    ordered = values.double().sort().values
    summary = {name: round(float(ordered[round(level * (len(ordered) - 1))]), 6) for name, level in levels.items()}
    return {**summary, "mean": round(float(values.double().mean()), 6)}


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())


def _of(probabilities: Tensor, labels: Tensor) -> Tensor:
    return probabilities.gather(1, labels[:, None])[:, 0]


def _pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).norm(dim=1)
