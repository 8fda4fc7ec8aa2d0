"""Usefulness of the features of several sources: on D, under attack, and on every constructed dataset."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from notbugs.attacks.norms import NormName
from notbugs.data.images import ImageData, Images, make_generator, stratified_subset
from notbugs.data.sources.planted import patterns
from notbugs.evaluation.accuracy import adversarially_correct, called_by
from notbugs.runtime.config import Radii, Settings, dataset_name
from notbugs.science.common.lab import Answer, Lab, require_images
from notbugs.science.common.shares import interval, wilson_share
from notbugs.science.features.circles import CirclesSettings, circles
from notbugs.science.features.maps import LinearFeatures, Probabilities, principal_components
from notbugs.science.features.usefulness import (
    Features,
    Usefulness,
    as_share,
    features_of,
    kept_share,
    linear_usefulness,
    worst,
)


class FeaturesSettings(Settings):
    """Section `features`: which features are measured, and how."""

    norm: NormName = "l2"
    """Norm of the adversary."""
    eps: Radii
    """Radii of γ, pixel units on [0, 1], all > 0."""
    headline_eps: float = Field(gt=0, allow_inf_nan=False)
    """The radius, one of eps, at which features are called robust or not."""
    num_steps: int = Field(default=20, ge=1)
    """PGD steps; the step size is 2.5·eps/num_steps."""
    max_features: int | None = Field(default=None, ge=1)
    """At most this many features of each model, drawn at random; null takes all."""
    max_linear: int = Field(default=64, ge=1)
    """At most this many principal components of D, the linear features."""
    max_examples: int | None = Field(default=None, ge=2)
    """At most this many test images (and training images, for what is chosen under attack), by class."""
    least_rho: float = Field(default=0.05, gt=0, lt=1)
    """A feature is called useful from this ρ on, if its interval is above 0."""
    circles: CirclesSettings = CirclesSettings()
    """The concentric circles."""

    @field_validator("headline_eps")
    @classmethod
    def _is_measured(cls, headline_eps: float, info: ValidationInfo) -> float:
        if "eps" in info.data and headline_eps not in info.data["eps"]:
            raise ValueError(f"one of eps: {', '.join(f'{eps:g}' for eps in info.data['eps'])}")
        return headline_eps

    def check_data(self, data: Mapping[str, Images]) -> None:
        """Raises: UnfitError if D has more classes than examples are asked for."""
        require_images("max_examples", self.max_examples, len(data["train"].labels.unique()))


def features(lab: Lab, settings: FeaturesSettings) -> Answer:
    """Usefulness of the source models' features, of p(c|x), of D's principal components; of planted patterns.

    On digits about a minute. Expected there: D_R keeps all of the usefulness of the robust model's features, and D_NR
    that of the standard model's.
    """
    train = lab.data["train"]
    sources: dict[str, nn.Module] = dict(lab.models)
    sources["posterior"] = Probabilities(lab.models["standard"]).eval()
    linear: dict[str, Tensor] = {"linear": principal_components(train, settings.max_linear)}
    if train.manifest.settings.get("source") == "planted" and not {"classes", "superclasses"} & {
        *train.manifest.settings
    }:
        linear.update({str(name): directions for name, directions in patterns().items()})
    sources |= {name: LinearFeatures(directions).to(lab.device) for name, directions in linear.items()}
    rows, summary = study(lab, sources, settings)
    headline, shares = f"{settings.headline_eps:g}", []
    for name, part in summary["sources"].items():
        if part["share_nonrobust"]:
            shares.append(f"{name} {part['share_nonrobust'][headline]['value']:.0%} of {part['num_useful']}")
    summary["source_seeds"] = {dataset_name(name): seed for name, seed in lab.source_seeds.items()}
    says = f"not robust at eps {headline}, of the useful ones: {', '.join(shares)}"
    return Answer(summary, (says,), rows=rows)


def study(
    lab: Lab, sources: Mapping[str, nn.Module], settings: FeaturesSettings
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Measure the features of every source: rows of metrics/features.csv, and the summary.

    Args:
        lab: D and what was constructed from it; the seed of subsets and of the circles; progress.
        sources: name -> network with `representation`; γ of `LinearFeatures` is taken in closed form.
        settings: radii, sizes.
    Raises: FeatureError if no feature of a source varies, or a class is missing.
    """
    parts = {
        f"source-{number}": partial(_measure_source, name=name, source=source, settings=settings)
        for number, (name, source) in enumerate(sources.items())
    }
    found = lab.load_or_make_all(parts, "features")
    rows = [row for rows_of_source, _ in found for row in rows_of_source]
    rings = circles(settings.circles, make_generator(lab.seed, "features", "circles"))
    return rows, {
        "headline_eps": settings.headline_eps,
        "num_examples": len(_fewer(lab, "test", settings.max_examples)),
        "sources": {name: summary for name, (_, summary) in zip(sources, found, strict=True)},
        "circles": {name: as_share(found) for name, found in rings.usefulness().items()},
    }


def _measure_source(
    lab: Lab, *, name: str, source: nn.Module, settings: FeaturesSettings
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and summary of one source."""
    chosen = _Source(lab, name, source, settings)
    return list(chosen.rows()), chosen.summary()


def _fewer(lab: Lab, name: str, count: int | None) -> ImageData:
    """At most `count` examples of a split of D, by class."""
    data = lab.data[name]
    size = min(count or len(data), len(data))
    return data.select(stratified_subset(data.labels, size, make_generator(lab.seed, "features", name)))


class _Source:
    """One source: its features, what was measured of them, what is said of them."""

    def __init__(self, lab: Lab, name: str, source: nn.Module, settings: FeaturesSettings) -> None:
        self.name, self.settings, self.progress = name, settings, lab.progress
        self.attack = settings.model_dump(include={"norm", "num_steps"})
        train, self.test = (_fewer(lab, split, settings.max_examples) for split in ("train", "test"))
        self.data = lab.data["train"]
        self.linear = isinstance(source, LinearFeatures)
        limit = None if self.linear else settings.max_features
        self.features = features_of(source, self.data, limit, make_generator(lab.seed, "features", name))
        self.rho = self.features.usefulness(self.features.signed(self.test), self.test.labels)
        self.gamma = {eps: self._gamma(eps, self.test, self.rho) for eps in settings.eps}
        at_train = self.features.usefulness(self.features.signed(train), train.labels)
        gamma_train = self._gamma(settings.headline_eps, train, at_train)
        self.robust_on_train = torch.tensor([found.value > 0 for found in gamma_train])
        self.before = self.features.signed(self.data).mean(dim=0)  # ρ on D's training images, (F,)
        self.after = {dataset_name(key): self.features.signed(lab.data[key]) for key in lab.source_seeds}

    def _gamma(self, eps: float, data: ImageData, rho: list[Usefulness]) -> list[Usefulness]:
        """γ of each feature: in closed form if linear, else by PGD."""
        if self.linear:
            directions = self.features.network.source.directions[self.features.kept]  # type: ignore[index]
            return [
                Usefulness(linear_usefulness(found.value, a, float(std), eps, self.settings.norm), found.standard_error)
                for found, a, std in zip(rho, directions, self.features.scaling.std, strict=True)
            ]
        shown: dict[str, Any] = {"progress": self.progress, "description": f"features of {self.name}, eps {eps:g}"}
        signed = worst(self.features, data, eps=eps, **self.attack, **shown)
        return self.features.usefulness(signed, data.labels)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Every feature's ρ and γ on the test images, and its ρ on D's training images and every construction."""
        yield from self._rows("D_test", 0.0, self.rho, len(self.test))
        for eps, gamma in self.gamma.items():
            yield from self._rows("D_test", eps, gamma, len(self.test))
        for key, signed in {"D": self.features.signed(self.data), **self.after}.items():
            scatter = (signed.std(dim=0) / math.sqrt(len(signed))).tolist()
            found = [Usefulness(*pair) for pair in zip(signed.mean(dim=0).tolist(), scatter, strict=True)]
            yield from self._rows(key, 0.0, found, len(signed))

    def _rows(self, dataset: str, eps: float, found: list[Usefulness], count: int) -> Iterator[dict[str, Any]]:
        choice = self.features.choice
        for place, usefulness in enumerate(found):
            yield {
                "source": self.name,
                "feature": int(self.features.kept[place]),
                "class_name": self.data.class_names[int(choice.classes[place])],
                "sign": int(choice.signs[place]),
                "dataset": dataset,
                "eps": eps,
                **as_share(usefulness),
                "n": count,
            }

    def summary(self) -> dict[str, Any]:
        """Counts at the headline eps, what each construction keeps, and linear classifiers on parts."""
        kept = {key: as_share(kept_share(self.before, signed)) for key, signed in self.after.items()}
        robust = self.robust_on_train
        parts = {"all": torch.ones_like(robust), "robust": robust, "nonrobust": ~robust}
        return {
            "num_features": len(self.features),
            "num_dead": self.features.num_dead,
            "mean_rho": round(sum(found.value for found in self.rho) / len(self.rho), 6),
            "largest_rho": as_share(max(self.rho, key=lambda found: found.value)),
            "mean_gamma": {
                f"{eps:g}": round(sum(found.value for found in gamma) / len(gamma), 6)
                for eps, gamma in self.gamma.items()
            },
            **self._counts(),
            "kept": kept,
            "linear_classifier": {part: self._classifier(part, columns) for part, columns in parts.items()},
        }

    def _counts(self) -> dict[str, Any]:
        """How many features are useful, and at each eps the share of these that is not robust (γ < 0).

        Its interval: the share that surely is not (the interval of γ lies below 0), and that may be.
        """
        useful = [
            place
            for place, found in enumerate(self.rho)
            if found.value >= self.settings.least_rho and found.interval()[0] > 0
        ]
        shares = {}
        for eps, gamma in self.gamma.items() if useful else ():
            ends = [(gamma[place].value, *gamma[place].interval()) for place in useful]
            below = [sum(end[side] < 0 for end in ends) / len(useful) for side in (0, 2, 1)]
            shares[f"{eps:g}"] = interval(*below)
        return {"num_useful": len(useful), "share_nonrobust": shares}

    def _surely(self, part: str, columns: Tensor) -> int:
        """How many of a group's features are surely of it: on test images the interval of γ lies on its side of 0."""
        ends = [found.interval() for found in self.gamma[self.settings.headline_eps]]
        sure = {
            "all": [True] * len(ends),
            "robust": [low > 0 for low, _ in ends],
            "nonrobust": [high < 0 for _, high in ends],
        }[part]
        return int((torch.tensor(sure) & columns).sum())

    def _classifier(self, part: str, columns: Tensor) -> dict[str, Any] | None:
        """A linear classifier on the features of a group, (F,) bool; its accuracy clean and under attack."""
        if not columns.any():
            return None
        network = linear_classifier(self.features, columns, self.data)
        clean = called_by(network, self.test.images) == self.test.labels
        withstood = adversarially_correct(network, self.test, eps=self.settings.headline_eps, **self.attack)
        return {
            "num_features": int(columns.sum()),
            "num_surely": self._surely(part, columns),
            "clean": wilson_share(clean),
            "adversarial": wilson_share(withstood),
        }


def linear_classifier(features: Features, columns: Tensor, train: Images) -> nn.Module:
    """Logistic regression on the scaled features where `columns` (F,) is true, as a network of images."""
    from sklearn.linear_model import LogisticRegression

    values = features.scaling.values * columns
    fitted = LogisticRegression(max_iter=2000).fit(values.numpy(), train.labels.numpy())
    weight, bias = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
    if len(weight) == 1:  # two classes: scikit-learn gives the logit of the second
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    head = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        head.weight.copy_(weight * columns)
        head.bias.copy_(bias)
    return nn.Sequential(features.network, head.to(features.network.mean.device)).eval()
