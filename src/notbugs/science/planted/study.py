"""A small planted world from data to fits, seen through its matched filters."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor

from notbugs.attacks.norms import NormName
from notbugs.construction.building import construct
from notbugs.construction.recipe import Constructed
from notbugs.construction.settings import ConstructSettings, InvertSettings, TargetSettings
from notbugs.data.images import ImageData, make_generator
from notbugs.data.sources.planted import CLASS_NAMES, PATTERNS, PlantedSettings, patterns, read_planted
from notbugs.evaluation.accuracy import called_by, shifted_labels
from notbugs.evaluation.comparison import Estimate, Run, accuracy, difference
from notbugs.models import ModelSettings
from notbugs.models.base import Classifier
from notbugs.runtime.config import Radii, Settings
from notbugs.runtime.progress import Track
from notbugs.science.common.lab import Answer, Lab, Pictures
from notbugs.science.common.shares import Interval, interval, shares, wilson_share
from notbugs.science.common.training import clean_and_attacked, trained
from notbugs.science.features.usefulness import Usefulness, as_share, kept_share, worst
from notbugs.science.planted.truth import filter_features, follows, says, truth
from notbugs.training.settings import TrainSettings


class PlantedStudySettings(Settings):
    """Section `planted`: a planted world of its own, whatever `data` is."""

    world: PlantedSettings = PlantedSettings()
    """Patterns, noise and sizes."""
    model: ModelSettings = ModelSettings()
    """Classifier of the source models and the fits."""
    standard: TrainSettings
    """How the standard source model is trained; its first seed."""
    robust: TrainSettings
    """How the robust source model is trained; its first seed, and an attack."""
    invert: InvertSettings
    """How D_R is made."""
    rand: TargetSettings
    """How D_rand is made."""
    det: TargetSettings
    """How D_det is made."""
    fit: TrainSettings
    """How classifiers are fitted on each construction, one a seed."""
    norm: NormName = "linf"
    """Norm of the adversary of γ."""
    eps: Radii
    """Radii of γ, all > 0."""
    num_steps: int = Field(default=10, ge=1)
    """PGD steps of γ; the step size is 2.5·eps/num_steps."""

    @field_validator("robust")
    @classmethod
    def _attacked(cls, robust: TrainSettings) -> TrainSettings:
        if robust.attack is None:
            raise ValueError("settings with an attack: it makes the training robust")
        return robust


def planted(lab: Lab, settings: PlantedStudySettings) -> Answer:
    """Draw the world, train both source models, make D_R, D_rand and D_det, fit on them, look through the filters.

    With the digits preset about 85 s. Expected: D_det's fits call more images y than y + 1.
    """
    data, test = (part.select(slice(None)) for part in read_planted(settings.world, seed=lab.seed))
    models = {name: _source_model(lab, settings, name, data) for name in ("standard", "robust")}
    recipes: dict[str, ConstructSettings] = {"D_R": settings.invert, "D_rand": settings.rand, "D_det": settings.det}
    made = {
        name: construct(
            models[recipe.model],
            data,
            **recipe.arguments(),
            generator=make_generator(lab.seed, "planted", "construct", recipe.recipe),
            progress=lab.progress,
            description=f"planted: {name}",
        )
        for name, recipe in recipes.items()
    }
    tasks = [
        FitTask(settings, constructed.data, name, test, fit_seed, lab.seed, lab.device, lab.progress)
        for name, constructed in made.items()
        for fit_seed in settings.fit.seeds
    ]
    fits: dict[str, list[Masks]] = {name: [] for name in made}
    for task, fitted in zip(tasks, lab.do_all(tasks, fit_one, "planted, fits"), strict=True):
        fits[task.name].append(fitted)
    filters = _filters(settings, data, test)
    measured = {name: _fits(fitted) for name, fitted in fits.items()}
    metrics = {
        "num_train": len(data),
        "num_test": len(test),
        "norm": settings.norm,
        "filters": filters,
        "models": {name: _model(settings, model, test) for name, model in models.items()},
        "datasets": _datasets(data, made),
        "fits": measured,
    }
    det = measured["D_det"]
    says = (
        f"{sum(row['inside'] for row in filters)} of {len(filters)} measured usefulnesses have the planted one in "
        f"their interval; D_det's fits reach {det['y']['value']:.1%} on y, {det['shifted']['value']:.1%} on y + 1"
    )
    return Answer(metrics, (says,), _pictures(settings.world, data, made))


def _source_model(lab: Lab, settings: PlantedStudySettings, name: str, data: ImageData) -> Classifier:
    """The standard or the robust one, of the first of its seeds."""
    config: TrainSettings = getattr(settings, name)
    seed = config.seeds[0]
    return trained(lab, settings.model, data, config, ("planted", name, seed), f"planted: {name}, seed {seed}")


@dataclass(frozen=True)
class FitTask:
    """One classifier to be fitted, and all that it depends on: tasks can be done in any order, by any process.

    Attributes:
        data, name: what is learnt, and its name.
        test: what the classifier is then looked at with.
        fit_seed: of this fit; `seed` is the project's.
    """

    settings: PlantedStudySettings
    data: ImageData
    name: str
    test: ImageData
    fit_seed: int
    seed: int
    device: torch.device
    progress: Track


Masks = dict[str, np.ndarray]
"""What a fit says of the test images, (N,) bool each: whether it calls them "y", or the "shifted" label; and for each
pattern, whether it follows that one where the patterns are in conflict."""


def fit_one(task: FitTask) -> Masks:
    """Fit a classifier and look at it."""
    lab = Lab(task.seed, task.device, progress=task.progress)
    stream, description = ("planted", "fit", task.fit_seed), f"planted: {task.name}, seed {task.fit_seed}"
    model = trained(lab, task.settings.model, task.data, task.settings.fit, stream, description)
    test, called = task.test, called_by(model, task.test.images)
    shifted = shifted_labels(test.labels, len(test.class_names))
    masks = {"y": called == test.labels, "shifted": called == shifted, **follows(model, task.settings.world, test)}
    return {name: mask.numpy() for name, mask in masks.items()}


def _filters(settings: PlantedStudySettings, data: ImageData, test: ImageData) -> list[dict[str, Any]]:
    """ρ and γ of every matched filter: planted, and measured with simultaneous 95% intervals (Bonferroni)."""
    found = []
    z = float(torch.special.ndtri(torch.tensor(1 - 0.025 / (len(PATTERNS) * len(CLASS_NAMES)), dtype=torch.float64)))
    for name in PATTERNS:
        features = filter_features(name, data)
        measured = {0.0: features.usefulness(features.signed(test), test.labels)}
        for eps in settings.eps:
            signed = worst(features, test, eps=eps, num_steps=settings.num_steps, norm=settings.norm)
            measured[eps] = features.usefulness(signed, test.labels)
        for label, class_name in enumerate(CLASS_NAMES):
            known, pattern = truth(settings.world, name, label), patterns()[name][label]
            for eps, values in measured.items():
                planted = known.gamma(pattern, eps, settings.norm) if eps else known.rho
                found.append(
                    {"pattern": name, "class_name": class_name, "eps": eps, **_beside(planted, values[label], z)}
                )
    return found


def _beside(planted: float, measured: Usefulness, z: float) -> dict[str, Any]:
    low, high = measured.interval(z)
    return {"planted": round(planted, 6), **interval(measured.value, low, high), "inside": low <= planted <= high}


def _model(settings: PlantedStudySettings, model: Classifier, test: ImageData) -> dict[str, Any]:
    """Accuracy, clean and under the robust model's own attack, and which pattern is followed in conflict."""
    attack = settings.robust.attack
    assert attack is not None  # the settings ask for it
    clean, withstood = clean_and_attacked(model, test, attack, make_generator(0))
    followed = follows(model, settings.world, test)
    return {
        "clean": wilson_share(clean),
        "adversarial": {**wilson_share(withstood), "eps": attack.eps},
        "follows": {name: wilson_share(right) for name, right in followed.items()},
    }


def _datasets(data: ImageData, made: dict[str, Constructed]) -> dict[str, Any]:
    """For D and each construction: what the filters say, y or the given label t, and how much usefulness is kept."""
    filters = {name: filter_features(name, data) for name in PATTERNS}
    before = {name: features.signed(data).mean(dim=0) for name, features in filters.items()}
    found: dict[str, Any] = {
        "D": {name: {"y": wilson_share(says(name, data.images) == data.labels)} for name in PATTERNS}
    }
    for key, constructed in made.items():
        images, given = constructed.data.images, constructed.data.labels
        found[key] = {}
        for name, features in filters.items():
            found[key][name] = {
                "y": wilson_share(says(name, images) == constructed.true_labels),
                "t": wilson_share(says(name, images) == given),
                "kept": as_share(kept_share(before[name], features.signed(constructed.data))),
            }
    return found


def _fits(fits: list[Masks]) -> dict[str, Any]:
    """Accuracy on y, on the shifted label and their difference, and the pattern followed: mean over the fits."""
    masks = {name: [torch.from_numpy(fit[name]) for fit in fits] for name in fits[0]}
    y, shifted = masks["y"], masks["shifted"]
    return {
        "seeds": shares(y),
        "y": over_fits(y),
        "shifted": over_fits(shifted),
        "y_minus_shifted": _interval(difference(_runs(y), _runs(shifted), len(y[0]))),
        "follows": {name: over_fits(masks[name]) for name in PATTERNS},
    }


def over_fits(masks: list[Tensor]) -> Interval:
    """Mean share over fits of one source model, value, low, high: an interval over test images and fits.

    Args:
        masks: (N,) bool, one a fit, on the same images.
    """
    return _interval(accuracy(_runs(masks), len(masks[0])))


def _interval(found: Estimate) -> Interval:
    return interval(found.value, found.low, found.high)


def _runs(masks: list[Tensor]) -> list[Run]:
    """One run a fit, of the world's only source model."""
    return [Run(0, seed, float(mask.double().mean()), mask.numpy()) for seed, mask in enumerate(masks)]


def _pictures(world: PlantedSettings, data: ImageData, made: dict[str, Constructed]) -> Pictures:
    """One honest example of each class in D and every construction, and the patterns, stretched to [0, 1]."""
    import pandas as pd

    honest = says("smooth", data.images) == data.labels
    rows = torch.stack([((data.labels == label) & honest).nonzero()[0, 0] for label in range(len(CLASS_NAMES))])
    labels = torch.arange(len(CLASS_NAMES))
    parts: dict[str, Tensor] = {name: (unit / unit.abs().amax() / 2 + 0.5).float() for name, unit in patterns().items()}
    parts |= {"D": data.images[rows], **{key: constructed.data.images[rows] for key, constructed in made.items()}}
    images = ImageData(torch.cat(list(parts.values())), labels.repeat(len(parts)), CLASS_NAMES)
    kinds = pd.DataFrame({"kind": [kind for kind in parts for _ in labels]})
    return Pictures(images, kinds, name="planted", source="planted", settings=world.model_dump(mode="json"))
