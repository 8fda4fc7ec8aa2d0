"""Does D_R show features of the data, or only the estimator that made it? One dataset, many estimators g.

The SEI/CMU discussion of Ilyas et al. 2019 holds data and model fixed and varies the estimation procedure alone;
since D_R and D_NR differ in nothing but the estimator of g, it holds that "features of the data" does not follow.
Here g's training radius, seed, architecture and training itself are varied, x and x' are the same for all, and
what is learnt from each dataset is always learnt the same way, by standard training.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from notbugs.attacks import AttackSettings
from notbugs.data.images import ImageData, Images, make_generator
from notbugs.models import ModelSettings
from notbugs.models.base import Classifier
from notbugs.runtime.config import Settings
from notbugs.runtime.progress import silent
from notbugs.science.common.lab import Answer, Lab, require_images
from notbugs.science.common.shares import share_table, shares
from notbugs.science.common.training import (
    RISING_FROM_ZERO,
    Attack,
    StandardTraining,
    StudyTraining,
    clean_and_attacked,
    trained,
)
from notbugs.science.inversion import Pairs, choose_pairs, invert, resemblance


class RobustStudyTraining(StudyTraining):
    """Adversarial training; the radius is replaced by each of the estimator's."""

    attack: AttackSettings
    """The inner attack: norm and number of steps; its radius is the estimator's eps, a step eps/5."""


class EstimatorSettings(Settings):
    """Which estimators g are tried, and how what they make is learnt and measured."""

    eps: Annotated[tuple[float, ...], Field(strict=False, min_length=2), RISING_FROM_ZERO]
    """Training radii of g, pixel units; 0 is standard training, whose inversions are D_NR."""
    seeds: tuple[int, ...] = Field(default=(0,), strict=False, min_length=1)
    """Each g is trained, inverted and fitted once for each."""
    num_examples: int | None = Field(default=None, ge=10)
    """Images of D that are inverted, drawn by class; null takes all. Each g learns all of D."""
    standard: StandardTraining
    """Training of g at eps 0."""
    robust: RobustStudyTraining
    """Training of g at any larger eps."""
    other: ModelSettings
    """The different architecture, trained at eps 0 and at other_eps."""
    other_eps: float = Field(gt=0, allow_inf_nan=False)
    """Training radius of the different architecture's robust model."""
    num_steps: int = Field(ge=1)
    """Gradient steps of the inversion."""
    step_size: float = Field(gt=0, allow_inf_nan=False)
    """Length of a step, pixel units."""
    fit: StandardTraining
    """Standard training on what was made, with the pipeline's own architecture."""
    attack: Attack
    """How adversarial accuracy is measured."""

    def check_data(self, data: Mapping[str, Images]) -> None:
        """Raises: UnfitError if D has fewer images, or more classes, than are asked for."""
        require_images("num_examples", self.num_examples, len(data["train"].labels.unique()), len(data["train"]))


def estimator(lab: Lab, settings: EstimatorSettings) -> Answer:
    """How robust what is learnt from each estimator's D_R is.

    On digits about two minutes. Expected: the fit's adversarial accuracy rises with the radius at which g was trained.
    """
    data = lab.data["train"]
    pairs = choose_pairs(data, settings.num_examples, make_generator(lab.seed, "estimator", "pairs"))
    parts: dict[str, Callable[[Lab], dict[str, Any]]] = {}
    measured: dict[Estimator, list[dict[str, Any]]] = {}
    for number, one in enumerate(estimators(settings, lab.architecture)):
        measured[one] = []
        for seed in settings.seeds:
            parts[f"estimator-{number}-seed-{seed}"] = partial(
                _measure_seed, settings=settings, one=one, pairs=pairs, seed=seed
            )
    found = iter(lab.load_or_make_all(parts, "estimators"))
    for seeds in measured.values():
        seeds += [next(found) for _ in settings.seeds]
    table = pooled(measured)
    for number, facts in enumerate(table.values()):
        lab.draw(number, {key: facts[key]["mean"] for key in ("g_attacked", "fit_clean", "fit_attacked")})
    metrics = {
        "eps": settings.attack.eps,
        "num_examples": len(pairs.target),
        "num_seeds": len(settings.seeds),
        "table": table,
    }
    rise = [facts["fit_attacked"]["mean"] for facts in table.values() if facts["kind"] == "radius"]
    shown = ", ".join(f"{eps:g}: {value:.1%}" for eps, value in zip(settings.eps, rise, strict=True))
    eps = settings.attack.eps
    return Answer(metrics, (f"adversarial accuracy of the fits at eps {eps:g} for g trained at eps {shown}",))


def _measure_seed(
    lab: Lab, *, settings: EstimatorSettings, one: "Estimator", pairs: Pairs, seed: int
) -> dict[str, Any]:
    """Train g, invert with it, fit and measure, for one seed."""
    g = estimate(lab, settings, one, seed)
    return measure_estimator(lab, settings, g, pairs, seed, description=f"estimator: {one.name}, seed {seed}")


@dataclass(frozen=True)
class Estimator:
    """One way to a representation g.

    Attributes:
        name: such as "eps 0.5".
        kind: "radius", "untrained" or "architecture".
        model: architecture.
        eps: training radius; None if untrained.
    """

    name: str
    kind: str
    model: ModelSettings
    eps: float | None


def estimators(settings: EstimatorSettings, model: ModelSettings) -> list[Estimator]:
    """Every estimator that the settings ask for; `model` is the pipeline's own architecture."""
    other = settings.other
    return [
        *(Estimator(f"eps {eps:g}", "radius", model, eps) for eps in settings.eps),
        Estimator("untrained", "untrained", model, None),
        Estimator(f"{other.architecture}, eps 0", "architecture", other, 0.0),
        Estimator(f"{other.architecture}, eps {settings.other_eps:g}", "architecture", other, settings.other_eps),
    ]


def training_at(settings: EstimatorSettings, eps: float) -> StudyTraining:
    """How g is trained at a radius: standard at 0, else adversarially with steps of eps/5."""
    if eps == 0:
        return settings.standard
    attack = settings.robust.attack.model_copy(update={"eps": eps, "step_size": eps / 5})
    return settings.robust.model_copy(update={"attack": attack})


def estimate(lab: Lab, settings: EstimatorSettings, one: Estimator, seed: int) -> Classifier:
    """Train g on D, or leave it untrained, with its normalisation set."""
    training = None if one.eps is None else training_at(settings, one.eps)
    stream = ("estimator", seed, one.model.architecture, str(one.eps))
    return trained(lab, one.model, lab.data["train"], training, stream, f"estimator: {one.name}")


def blend(data: Images, pairs: Pairs, inverted: Tensor) -> Tensor:
    """The pixel control: x' moved straight towards x until it is as near to x in pixels as x_r is.

        z = x + r·(x' − x),  r = min(1, ‖x_r − x‖ / ‖x' − x‖)

    No model takes part. If z teaches as much robustness as x_r, then nearness in pixels explains it.

    Returns: (M, C, H, W), in [0, 1].
    """
    target, start = (data.select(rows).images for rows in (pairs.target, pairs.start))
    whole = (start - target).flatten(1).norm(dim=1).clamp(min=1e-12)
    ratio = ((inverted - target).flatten(1).norm(dim=1) / whole).clamp(max=1)
    return target + ratio.view(-1, 1, 1, 1) * (start - target)


def measure_estimator(
    lab: Lab, settings: EstimatorSettings, g: Classifier, pairs: Pairs, seed: int, description: str = "estimator"
) -> dict[str, Any]:
    """Invert with g, fit on the result and on its pixel control, and measure g and the two fits on the test images.

    Args:
        lab: with D ("train" and "test"), and the architecture of the fits.
        g: the estimator.
        pairs: x and x'.
    Returns: `masks`: name -> (N,) bool, `still_y` among the images whose x 1-NN calls y; `distances`: name -> median.
    """
    data = lab.data["train"]
    target, start = (data.select(rows).images for rows in (pairs.target, pairs.start))
    steps = settings.model_dump(include={"num_steps", "step_size"})
    inverted = invert(g, target, start, "representation", **steps, progress=lab.progress, description=description)
    pixels, own = resemblance(inverted, data, pairs), resemblance(inverted, data, pairs, g)
    labels = data.labels[pairs.target]
    before = resemblance(target, data, pairs)["neighbour"]
    still_y = (pixels["neighbour"] == labels)[before == labels]  # of an x that 1-NN does not know, it says nothing
    models, quiet = {"g": g}, replace(lab, progress=silent)  # the bar is the inversion's
    for name, images in (("fit", inverted), ("blend", blend(data, pairs, inverted))):
        made = ImageData(images, labels, data.class_names)
        # The fit and its control are compared, so that they share initialisation and order of batches.
        models[name] = trained(quiet, lab.architecture, made, settings.fit, ("estimator", seed, "fit"))
    masks = {"still_y": still_y}
    for name, model in models.items():
        generator = make_generator(lab.seed, "estimator", seed, "attack")
        masks[f"{name}_clean"], masks[f"{name}_attacked"] = clean_and_attacked(
            model, lab.data["test"], settings.attack, generator
        )
    ratio = own["to_target"] / own["start_to_target"].clamp(min=1e-12)
    distances = {"pixels_to_target": pixels["to_target"], "pixels_to_start": pixels["to_start"], "reached": ratio}
    return {"masks": masks, "distances": {name: float(values.median()) for name, values in distances.items()}}


def pooled(measured: Mapping[Estimator, Sequence[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What `measure_estimator` found for each estimator and seed: shares with intervals, medians, values by seed.

    Returns: the estimator's name -> facts.
    """
    columns: dict[str, dict[str, list[Tensor]]] = {}
    for one, seeds in measured.items():
        columns[one.name] = {name: [seed["masks"][name] for seed in seeds] for name in seeds[0]["masks"]}
    pooled_shares, table = share_table(columns), {}
    for one, seeds in measured.items():
        masks = columns[one.name]
        table[one.name] = {
            "kind": one.kind,
            "architecture": one.model.architecture,
            "eps": one.eps,
            **pooled_shares[one.name],
            **{name: _mean([seed["distances"][name] for seed in seeds]) for name in seeds[0]["distances"]},
            "seeds": {name: shares(masks[name]) for name in BY_SEED},
        }
    return table


BY_SEED = ("g_attacked", "fit_clean", "fit_attacked", "blend_attacked")
"""Shares of which each seed's value is told."""


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 6)
