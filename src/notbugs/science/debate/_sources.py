"""Source models g trained at many radii: what is measured of each, for the debate's part `little_robustness`."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from notbugs.data.images import ImageData, Images, make_generator
from notbugs.evaluation.accuracy import called_by
from notbugs.models import ModelSettings, create_model
from notbugs.models.base import Classifier
from notbugs.runtime.config import Seeds
from notbugs.science.common.lab import Lab, require_images
from notbugs.science.common.question import QuestionSettings
from notbugs.science.common.training import RISING_FROM_ZERO, Attack, StandardTraining, StudyTraining, trained
from notbugs.science.debate._shared import sub_sample, targeted
from notbugs.science.estimator import RobustStudyTraining
from notbugs.science.inversion import choose_pairs, features, invert
from notbugs.science.transfer import adversarial_examples

MEASURES = ("cka", "cka_plain", "reached")
"""Of a unit, numbers."""
AIMED = ("targeted", "noise")
"""Kinds of perturbed test images that other models are shown."""
FITS = {"D_R": "robust", "D_NR": "nonrobust", "D_rand": "rand", "D_det": "det"}
"""Name in tables -> construction."""
Masks = dict[str, list[Tensor]]
"""Column -> one a seed."""


class LittleRobustnessSettings(QuestionSettings):
    """Which source models g are tried, and what is made of them."""

    eps: Annotated[tuple[float, ...], Field(strict=False, min_length=4), RISING_FROM_ZERO]
    """Training radii of g, pixel units, rising from 0; 0 is standard training."""
    seeds: Seeds = (0, 1)
    """Each g is trained once for each, in both architectures."""
    standard: StandardTraining
    """Training at eps 0; so are the models trained that the examples are tried on."""
    robust: RobustStudyTraining
    """Training at any larger eps: its attack, with radius and steps in the proportion of the eps."""
    other: ModelSettings
    """The second architecture; the first is the pipeline's."""
    attack: Attack
    """Of g on the test images towards y + 1, and of D_rand."""
    fit: StandardTraining
    """How D_rand is learnt."""
    num_fitted: int = Field(default=2, ge=1)
    """D_rand is made and learnt of the g of at most so many seeds."""
    max_examples: int | None = Field(default=None, ge=10)
    """D_rand has at most so many images; null takes all of D."""
    num_inverted: int | None = Field(default=None, ge=10)
    """Test images that every g inverts, drawn by class; null takes all."""
    num_steps: int = Field(ge=1)
    """Gradient steps of an inversion."""
    step_size: float = Field(gt=0, allow_inf_nan=False)
    """Length of a step, pixel units."""

    @field_validator("robust")
    @classmethod
    def _has_a_radius(cls, training: RobustStudyTraining) -> RobustStudyTraining:
        if training.attack.eps == 0:
            raise ValueError("with an attack of eps > 0")
        return training

    def training_at(self, eps: float) -> StudyTraining:
        """How g is trained at a radius."""
        if eps == 0:
            return self.standard
        attack = self.robust.attack
        scaled = attack.model_copy(update={"eps": eps, "step_size": attack.step * eps / attack.eps})
        return self.robust.model_copy(update={"attack": scaled})

    def check_data(self, data: Mapping[str, Images]) -> None:
        """Raises: UnfitError if D has fewer images, or more classes, than are asked for."""
        test = data["test"]
        require_images("num_inverted", self.num_inverted, len(test.labels.unique()), len(test))


def linear_cka(x: Tensor, y: Tensor) -> float:
    """How alike two representations of the same images are, 0 to 1, whatever their rotation and scale.

        ‖YᵀX‖_F² / (‖XᵀX‖_F·‖YᵀY‖_F),  the columns centred

    Args:
        x, y: (N, F), (N, G). One that does not vary is like nothing: 0.
    Source: Kornblith et al. 2019, section 3.
    """
    x, y = (one.double() - one.double().mean(dim=0) for one in (x, y))
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    return float((y.T @ x).square().sum() / scale) if scale > 0 else 0.0


def measure_source(lab: Lab, *, settings: LittleRobustnessSettings, eps: float, seed: int) -> dict[str, Any]:
    """Train g of one radius and seed in both architectures, attack, make D_rand and learn it, invert."""
    place, test, about = settings.seeds.index(seed), lab.data["test"].data(), f"little_robustness: eps {eps:g}"
    training = settings.training_at(eps)
    g, other = (
        trained(lab, architecture, lab.data["train"], training, ("little_robustness", name, seed), f"{about}, {name}")
        for name, architecture in (("g", lab.architecture), ("other", settings.other))
    )
    noise = make_generator(lab.seed, "little_robustness", seed, "noise")
    examples = adversarial_examples(g, test, settings.attack, generator=noise)
    found: dict[str, Any] = {"images": {name: examples.images[name] for name in AIMED}}
    found |= {"targets": examples.targets, "own": examples.fooled["targeted"]}
    if eps == 0:
        found["other"] = {name: value.cpu() for name, value in other.state_dict().items()}
    if place < settings.num_fitted:
        stream = ("little_robustness", "fit", seed)
        fit = trained(lab, lab.architecture, _rand(lab, settings, g, seed), settings.fit, stream, f"{about}, D_rand")
        found["rand"] = called_by(fit, test.images) == test.labels
    pairs = choose_pairs(test, settings.num_inverted, make_generator(lab.seed, "little_robustness", "pairs"))
    x, start = (test.images[rows] for rows in (pairs.target, pairs.start))
    steps: dict[str, Any] = {"num_steps": settings.num_steps, "step_size": settings.step_size}
    inverted = invert(g, x, start, "representation", **steps, progress=lab.progress, description=f"{about}, inversion")
    wanted, begun, made = (features(g, images) for images in (x, start, inverted))
    ratio = (made - wanted).norm(dim=1) / (begun - wanted).norm(dim=1).clamp(min=1e-12)
    found |= {"reached": float(ratio.median()), "cka": linear_cka(made, features(other, inverted))}
    found["cka_plain"] = linear_cka(wanted, features(other, x))
    labels = test.labels[pairs.target]
    for name, files in {"D": lab.trained["standard"], **{name: lab.fitted[key] for name, key in FITS.items()}}.items():
        found[f"inverted.{name}"] = called_by(lab.load(files[place % len(files)]), inverted) == labels
    return found


def _rand(lab: Lab, settings: LittleRobustnessSettings, g: Classifier, seed: int) -> ImageData:
    """D_rand of a g; the images, and the classes that they are pushed to, are the same for g of all radii."""
    data = sub_sample(
        lab.data["train"], settings.max_examples, make_generator(lab.seed, "little_robustness", "examples")
    )
    attack = settings.attack.model_dump(include={"norm", "eps", "num_steps"}) | {"step_size": settings.attack.step}
    return targeted(g, data, "random_target", attack, make_generator(lab.seed, "little_robustness", seed, "rand"))


def masks_of(lab: Lab, settings: LittleRobustnessSettings, units: Mapping[float, Sequence[Any]]) -> dict[float, Masks]:
    """Radius -> column -> one a seed, (N,): bool, or the share of the models that an example is tried on.

    The columns of transfer: `same`, the pipeline's standard models; `other`, those of the other architecture;
    `transfer`, the mean of both; `noise`, of random perturbations as long.
    """
    data = lab.data["train"]
    models = {"same": [lab.load(file) for file in lab.trained["standard"]], "other": []}
    for one in units[0]:
        model = create_model(image_shape=data.image_shape, class_names=data.class_names, **settings.other.arguments())
        model.load_state_dict(one["other"])
        models["other"].append(model.to(lab.device).eval())
    found: dict[float, Masks] = {eps: defaultdict(list) for eps in units}
    for eps, seeds in units.items():
        for one in seeds:
            hits = {
                (aim, kind): torch.stack([called_by(model, one["images"][aim]) == one["targets"] for model in some])
                for aim in AIMED
                for kind, some in models.items()
            }
            mean = {key: hit.float().mean(dim=0) for key, hit in hits.items()}
            for kind in models:
                found[eps][kind].append(mean["targeted", kind])
            for name, aim in (("transfer", "targeted"), ("noise", "noise")):
                found[eps][name].append((mean[aim, "same"] + mean[aim, "other"]) / 2)
            for name in ("own", "rand", *(name for name in one if name.startswith("inverted."))):
                found[eps][name] += [one[name]] if name in one else []
    return found
