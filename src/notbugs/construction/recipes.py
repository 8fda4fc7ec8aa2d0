"""The constructed datasets: D_R and D_NR by inversion, D_rand and D_det by targeted attacks.

The algorithms are the paper's (Ilyas et al. 2019, sections 3.1 and 3.2, appendix C): what is minimised, where
it starts, the projection, the target rule, last iterate for every example, model in eval mode.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from pydantic import Field, field_validator
from torch import Tensor

from notbugs.attacks import pgd
from notbugs.attacks.engine import Engine, frozen
from notbugs.attacks.losses import called
from notbugs.data.images import ImageData, Images, make_generator
from notbugs.data.store import DTYPES, Dtype
from notbugs.evaluation.accuracy import batches, called_by, model_device, predict, shifted_labels
from notbugs.evaluation.neighbours import nearest_neighbour
from notbugs.models.base import Classifier
from notbugs.runtime.config import Settings, validate
from notbugs.runtime.devices import full_precision
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.out_of_memory import BatchSplitter
from notbugs.runtime.progress import Track, silent


class _RecipeSettings(Settings):
    model: Literal["standard", "robust"]
    """Which source model is used."""
    source_seeds: tuple[int, ...] | None = Field(default=None, strict=False, min_length=1)
    """Seeds of `train.<model>` from whose models a dataset is made, one each; null takes all of them."""
    num_steps: int = Field(ge=1)
    """Gradient steps."""
    step_size: float = Field(gt=0, allow_inf_nan=False)
    """Length of a step on the normalised gradient, pixel units."""
    batch_size: int = Field(default=500, ge=1)
    """Images worked on at a time; does not change the results beyond rounding."""
    shard_size: int = Field(default=2000, ge=1)
    """Images in a file, at most 128 MiB: what a process makes at a time, and what is kept when it is killed."""
    dtype: Dtype = "float32"
    """Stored precision of the images; uint8 is not offered, its rounding is larger than the effect."""

    @field_validator("source_seeds")
    @classmethod
    def _differ(cls, seeds: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if seeds is not None and len(set(seeds)) != len(seeds):
            raise ValueError("seeds that differ from each other")
        return seeds


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
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise ConfigError(f"params.yaml: {key}.recipe = {recipe!r}: must be one of {', '.join(RECIPES)}")
    return validate(section, key, RECIPES[recipe])


def recipe_generator(seed: int, settings: ConstructSettings, source_seed: int) -> torch.Generator:
    """What a recipe draws from: x' of an inversion, or t of random targets.

    The construction's name is no part of the stream, nor is the kind of the source model: D_R and D_NR of one source
    seed start from the same x', D_rand and its control aim at the same t, and so they differ by the model alone.

    Args:
        seed: of the project.
        source_seed: of the source model.
    """
    return make_generator(seed, "construct", settings.recipe, source_seed)


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


class Recipe(Protocol):
    """A dataset that can be made in parts, in any order: everything random was drawn when it was set up."""

    def part(self, rows: slice) -> Constructed:
        """The examples made from these rows of D."""
        ...


class Inversion:
    """D_R (g of a robust model) or D_NR (g of a standard model).

    x_r = argmin over z in [0, 1]^d of ‖g(z) − g(x)‖₂, from z = x', a uniformly random other image of D; label y.

    Args:
        model: gives g, its penultimate layer.
        data: D, N >= 2 images.
        settings: steps and step size.
        generator: draws x', for all examples, so that parts do not matter.
        compiled: compile the engine (see `attacks.engine.pays_to_compile`).
    Raises: ValueError if D has fewer than two images.
    Source: Ilyas et al. 2019, section 3.1 and appendix C.3.
    """

    def __init__(
        self,
        model: Classifier,
        data: Images,
        settings: InvertSettings,
        *,
        generator: torch.Generator,
        compiled: bool = False,
    ) -> None:
        count = len(data)
        if count < 2:
            raise ValueError(f"inversion starts from another image: D needs at least 2, not {count}")
        self.start_index = (torch.arange(count) + torch.randint(1, count, (count,), generator=generator)) % count
        self._model, self._data, self._settings = model, data, settings
        self._device = model_device(model)
        few = data.select(slice(0, FEW)).images.to(self._device)
        self._engine = Engine(model, few, compiled=compiled)

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
            step_size=self._settings.step_size,
            num_steps=self._settings.num_steps,
            loss="representation_distance",
            targeted=True,
            judge=False,
        ).x_adv
        images = found.cpu()
        columns = {
            "representation_distance": (_representation(self._model, found) - targets).norm(dim=1).cpu(),
            "representation_distance_start": (_representation(self._model, start) - targets).norm(dim=1).cpu(),
            "pixel_distance_start": _pixel_distance(images, beginning),
        }
        data = ImageData(images, given.labels, given.class_names)
        return Constructed(data, given.labels, self.start_index[rows], columns)


class Targeting:
    """D_rand or D_det: x_adv = argmin over ‖x' − x‖ <= eps of L(x', t), labelled t.

    Every example runs all steps and its last iterate is kept, solved or not.

    Args:
        model: C of the paper.
        data: D.
        settings: target rule, norm, eps, steps, step size.
        generator: draws the random targets, for all examples, so that parts do not matter.
        compiled: compile the engine (see `attacks.engine.pays_to_compile`).
    Source: Ilyas et al. 2019, section 3.2 and appendix C.4.
    """

    def __init__(
        self,
        model: Classifier,
        data: Images,
        settings: TargetSettings,
        *,
        generator: torch.Generator,
        compiled: bool = False,
    ) -> None:
        self.targets = target_labels(settings.recipe, data.labels, len(data.class_names), generator)
        self._data, self._settings = data, settings
        self._device = model_device(model)
        few = data.select(slice(0, FEW)).images.to(self._device)
        self._engine = Engine(model, few, compiled=compiled)

    def part(self, rows: slice) -> Constructed:
        """The examples made from these rows of D."""
        given, targets = self._data.select(rows), self.targets[rows]
        found = pgd(
            self._engine,
            given.images.to(self._device),
            targets.to(self._device),
            norm=self._settings.norm,
            eps=self._settings.eps,
            step_size=self._settings.step_size,
            num_steps=self._settings.num_steps,
            targeted=True,
            judge=False,
        )
        data = ImageData(found.x_adv.cpu(), targets, given.class_names)
        return Constructed(data, given.labels, torch.full_like(targets, -1), {})


FEW = 8
"""Images on which an engine is checked."""


@torch.no_grad()
def _representation(model: Classifier, images: Tensor) -> Tensor:
    """g(x) in eval mode and in full precision; the model is left in the mode it was in."""
    with frozen(model), full_precision(images.device):
        return model.representation(images)


def target_labels(recipe: str, labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """Target t of each example: uniform over all classes (y among them), or (y + 1) mod C. Shape (N,)."""
    if recipe == "random_target":
        return torch.randint(0, num_classes, labels.shape, generator=generator)
    return shifted_labels(labels, num_classes)


def set_up(
    model: Classifier,
    data: Images,
    settings: ConstructSettings,
    *,
    generator: torch.Generator,
    compiled: bool = False,
) -> Recipe:
    """The recipe that `settings` asks for, ready to make parts."""
    if isinstance(settings, InvertSettings):
        return Inversion(model, data, settings, generator=generator, compiled=compiled)
    return Targeting(model, data, settings, generator=generator, compiled=compiled)


def parts(
    recipe: Recipe,
    num_examples: int,
    settings: ConstructSettings,
    *,
    first: int = 0,
    progress: Track = silent,
    description: str = "construct",
) -> Iterator[tuple[slice, Constructed]]:
    """A dataset from its row `first` on, in order, a batch at a time, in its stored precision, with the rows of D."""
    splitter = BatchSplitter(description)
    for batch in progress(list(batches(num_examples, settings.batch_size)), description):
        start = first + batch.start

        def work(rows: slice, start: int = start) -> Constructed:
            return recipe.part(slice(start + rows.start, start + rows.stop))

        made = joined(splitter(batch.stop - batch.start, work))
        yield slice(start, first + batch.stop), made.rounded(settings.dtype)


def construct(
    model: Classifier,
    data: Images,
    settings: ConstructSettings,
    *,
    generator: torch.Generator,
    compiled: bool = False,
    progress: Track = silent,
    description: str = "construct",
) -> Constructed:
    """The dataset that `settings` describes, whole, in memory and in its stored precision.

    Args: see `Inversion` and `Targeting`; `progress` shows the batches.
    """
    recipe = set_up(model, data, settings, generator=generator, compiled=compiled)
    return joined([part for _, part in parts(recipe, len(data), settings, progress=progress, description=description)])


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
    return Constructed(
        data,
        torch.cat([part.true_labels for part in made]),
        torch.cat([part.start_index for part in made]),
        {name: torch.cat([part.columns[name] for part in made]) for name in made[0].columns},
    )


def describe(
    constructed: Constructed,
    data: Images,
    model: Classifier,
    robust_model: Classifier,
    *,
    first: int = 0,
    reference: Images | None = None,
    neighbours: Tensor | None = None,
    others: Sequence[Classifier] = (),
) -> dict[str, Tensor]:
    """The per-example facts of a constructed dataset or of a part, (N,) each, by the names of examples.parquet.

    `still_y` is true where both judges called the image y before the perturbation and still do: of an image that a
    judge did not know before, it cannot say what the perturbation changed.

    Args:
        constructed: the dataset.
        data: D, from which it was made, row by row.
        model: its source model: probabilities before and after, success.
        robust_model: one of the two judges of what an image still shows; the other is 1-NN on D.
        first: row of D that the first example was made from.
        reference: D as 1-NN sees it, see `neighbours.neighbour_reference`; None for D itself.
        neighbours: what 1-NN calls each image of D (`neighbours.own_neighbours`), (len(data),); None computes it.
        others: models of the source's kind from other seeds; `success_other_seeds` is the share of them that call the
            image by its given label, NaN where there are none.
    """
    new, true, given = constructed.data.images, constructed.true_labels, constructed.data.labels
    rows = slice(first, first + len(new))
    old = data.select(rows).images
    before = predict(model, old).softmax(dim=1)
    logits = predict(model, new)
    after = logits.softmax(dim=1)
    nan = torch.full((len(new),), torch.nan)
    known = data if reference is None else reference
    device = model_device(model)
    columns = {
        "true_label": true,
        "given_label": given,
        "delta_norm": _pixel_distance(new, old),
        "pixel_distance_start": nan,
        "representation_distance": nan,
        "representation_distance_start": nan,
        **constructed.columns,
        "probability_true_before": _of(before, true),
        "probability_given_before": _of(before, given),
        "probability_true_after": _of(after, true),
        "probability_given_after": _of(after, given),
        "success": called(logits) == given,
        "success_other_seeds": _success(others, new, given) if others else nan,
        "robust_prediction_before": called_by(robust_model, old),
        "robust_prediction": called_by(robust_model, new),
        "neighbour_prediction_before": nearest_neighbour(old, known, first=first, device=device)
        if neighbours is None
        else neighbours[rows],
        "neighbour_prediction": nearest_neighbour(new, known, first=first, device=device),
    }
    predictions = [
        columns[f"{judge}_prediction{when}"] for judge in ("robust", "neighbour") for when in ("", "_before")
    ]
    columns["still_y"] = torch.stack([prediction == true for prediction in predictions]).all(dim=0)
    return columns


def _success(models: Sequence[Classifier], images: Tensor, given: Tensor) -> Tensor:
    """Share of the models that call each image by its given label, (N,) float32."""
    hits = torch.stack([called_by(model, images) == given for model in models])  # (M, N)
    return hits.float().mean(dim=0)


JUDGES = {"robust_model": "robust_prediction", "nearest_neighbour": "neighbour_prediction"}
"""Judge in the summary -> its column of examples.parquet; the column for the untouched image ends in `_before`."""


def summarise(columns: Mapping[str, Tensor]) -> dict[str, Any]:
    """Summary of the per-example facts, one source model's part of metrics/construct/<name>.json; shares are fractions.

    Of each judge: `before`, the share that it called y before the perturbation; `still_y`, the share still called y
    among those (null where there are none); `still_y_absolute`, the share of all that it calls y; `target`, the given
    label. `still_y_both` is the share that both still call y, among those that both called y before.
    """
    true, given = columns["true_label"], columns["given_label"]
    others = columns["success_other_seeds"]
    summary: dict[str, Any] = {
        "num_examples": len(true),
        "success_rate": _share(columns["success"]),
        "success_other_seeds": None if others.isnan().any() else float(others.double().mean()),
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
    knew = []
    for judge, column in JUDGES.items():
        prediction, before = columns[column], columns[f"{column}_before"] == true
        knew.append(before)
        summary[judge] = {
            "before": _share(before),
            "still_y": _share((prediction == true)[before]),
            "still_y_absolute": _share(prediction == true),
            "target": _share(prediction == given),
        }
    summary["still_y_both"] = _share(columns["still_y"][torch.stack(knew).all(dim=0)])
    summary["num_still_y"] = int(columns["still_y"].sum())
    return summary


def over_sources(summaries: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Contents of metrics/construct/<name>.json: the mean of every number over the source models, and their own.

    Args:
        summaries: source seed -> what `summarise` gives.
    Returns: the keys of `summarise`, and `sources`: {seed: the same keys}. Counts are rounded to whole numbers; the
        mean of what some source does not have is null.
    """
    own = {str(seed): dict(summary) for seed, summary in summaries.items()}
    return {**_mean(list(summaries.values())), "sources": own}


def _mean(values: Sequence[Any]) -> Any:
    """Mean of equally nested numbers, number by number."""
    if isinstance(values[0], Mapping):
        return {key: _mean([value[key] for value in values]) for key in values[0]}
    if any(value is None for value in values):
        return None
    mean = math.fsum(values) / len(values)
    return round(mean) if isinstance(values[0], int) else mean


def _quantiles(values: Tensor) -> dict[str, float]:
    levels = {"q05": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "q95": 0.95}
    ordered = values.double().sort().values
    summary = {name: round(float(ordered[round(level * (len(ordered) - 1))]), 6) for name, level in levels.items()}
    return {**summary, "mean": round(float(values.double().mean()), 6)}


def _share(mask: Tensor) -> float | None:
    """Share that is true; None of none."""
    return float(mask.double().mean()) if len(mask) else None


def _of(probabilities: Tensor, labels: Tensor) -> Tensor:
    return probabilities.gather(1, labels[:, None])[:, 0]


def _pixel_distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).norm(dim=1)
