"""Leakage (Goh, Distill 2019): do D_rand and D_det teach by linear robust features that the attack leaked into them?

A linear feature aᵀx/‖a‖_Σ has its robust usefulness in closed form, ρ − eps·‖a‖*/‖a‖_Σ. The principal components of D
whose robust usefulness is above 0 are called robust. A linear classifier that sees nothing but these is trained on
D_rand and D_det: what it gets right on D's test images, the datasets leak.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from notbugs.data.images import ImageData, Images, make_generator
from notbugs.evaluation.accuracy import called_by
from notbugs.evaluation.statements import Chart, Position, Series, Verdict
from notbugs.runtime.config import dataset_name
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.question import Question, QuestionSettings
from notbugs.science.common.shares import share, share_table
from notbugs.science.debate._shared import gaps, in_points, in_words, judged, near, sub_sample
from notbugs.science.features.maps import principal_components
from notbugs.science.features.usefulness import choose, linear_usefulness, scale

DATASETS = ("rand", "det")
LITTLE = 0.10
"""A fit that beats the linear classifier by this much has learnt more than leaked linear features."""


class LeakageSettings(QuestionSettings):
    """Which linear features count as robust, and on how much they are tried."""

    eps: float = Field(gt=0, allow_inf_nan=False)
    """Radius of the adversary of the robust usefulness, pixel units."""
    norm: str = "l2"
    """Of the adversary."""
    max_linear: int = Field(default=64, ge=1)
    """At most this many principal components of D."""
    max_examples: int | None = Field(default=None, ge=10)
    """At most so many images of each dataset; null takes all."""


class LinearFeatures(NamedTuple):
    """The robust ones among D's principal components: directions (F, C·H·W), and how many were looked at."""

    directions: Tensor
    looked_at: int


def robust_directions(data: Images, settings: LeakageSettings) -> LinearFeatures:
    """D's principal components whose usefulness withstands every perturbation of the ball, in closed form."""
    directions = principal_components(data, settings.max_linear).flatten(1).double()
    scaled = scale(_pixels(data) @ directions.T)
    choice = choose(scaled.values, data.labels, len(data.class_names))
    rho = (choice.sides(data.labels) * scaled.values).mean(dim=0)
    gamma = [
        linear_usefulness(float(value), direction, float(std), settings.eps, settings.norm)
        for value, direction, std in zip(rho, directions, scaled.std, strict=True)
    ]
    return LinearFeatures(directions[torch.tensor(gamma) > 0], len(directions))


def learnt_linearly(directions: Tensor, data: Images, test: Images) -> Tensor:
    """What a linear classifier on these features, trained on a dataset with its own labels, calls the test images.

    Args:
        directions: (F, C·H·W), F >= 1.
    Returns: (N,) int64.
    """
    from sklearn.linear_model import LogisticRegression

    seen, asked = (_pixels(part) @ directions.T for part in (data, test))
    mean, std = seen.mean(dim=0), seen.std(dim=0).clamp(min=1e-12)
    found = LogisticRegression(max_iter=2000).fit(((seen - mean) / std).numpy(), data.labels.numpy())
    return torch.from_numpy(found.predict(((asked - mean) / std).numpy())).long()


def leakage(lab: Lab, settings: LeakageSettings) -> Answer:
    """How much of what is learnt from D_rand and D_det a linear classifier on robust features explains.

    On digits about 5 s.
    """
    test = lab.data["test"].data()
    parts = {name: sub_sample(data, settings.max_examples, _draw(lab, name)) for name, data in _learnt(lab).items()}
    robust = robust_directions(parts["train"], settings)
    chance = 1 / len(test.class_names)
    metrics: dict[str, Any] = {"eps": settings.eps, "norm": settings.norm, "chance": chance}
    metrics |= {"num_features": robust.looked_at, "num_robust": len(robust.directions), "datasets": {}}
    if not len(robust.directions):
        said = f"none of {robust.looked_at} principal components is robust at eps {settings.eps:g}"
        return Answer(metrics, (said,), verdicts=[_not_measured(name, said) for name in DATASETS])
    linear = {name: learnt_linearly(robust.directions, part, test) == test.labels for name, part in parts.items()}
    metrics["datasets"]["train"] = {
        "linear": share([linear["train"]]),
        "shuffled": share([learnt_linearly(robust.directions, _shuffled(lab, parts["train"]), test) == test.labels]),
    }
    right = {
        name: [called_by(lab.load(file), test.images) == test.labels for file in lab.fitted[name]] for name in DATASETS
    }
    fitted = share_table({name: {"fit": masks} for name, masks in right.items()})
    beyond = gaps({name: (masks, [linear[name]] * len(masks)) for name, masks in right.items()})
    for name in DATASETS:
        found = {"linear": share([linear[name]]), **fitted[name], "beyond": beyond[name]}
        metrics["datasets"][name] = {**found, "explained": _explained(found, chance)}
    verdicts = [_judged(name, metrics["datasets"][name]) for name in DATASETS]
    told = ", ".join(f"{dataset_name(name)} {in_words(metrics['datasets'][name]['linear'])}" for name in DATASETS)
    says = f"a linear classifier on {len(robust.directions)} robust features: {told}"
    return Answer(metrics, (says,), charts=[_chart(metrics)], verdicts=verdicts)


def _learnt(lab: Lab) -> dict[str, Images]:
    return {name: lab.data[name] for name in ("train", *DATASETS)}


def _draw(lab: Lab, name: str) -> torch.Generator:
    return make_generator(lab.seed, "leakage", name)


def _shuffled(lab: Lab, data: ImageData) -> ImageData:
    """The same images, whose labels say nothing of them."""
    order = torch.randperm(len(data), generator=_draw(lab, "shuffled"))
    return ImageData(data.images, data.labels[order], data.class_names)


def _pixels(data: Images) -> Tensor:
    return data.select(slice(None)).images.flatten(1).double()


def _explained(found: Mapping[str, Any], chance: float) -> float | None:
    """Share of the fits' accuracy above chance that the linear classifier reaches; None for fits at chance."""
    above = found["fit"]["mean"] - chance
    return round((found["linear"]["mean"] - chance) / above, 4) if found["fit"]["low"] > chance else None


def _judged(name: str, found: Mapping[str, Any]) -> Verdict:
    """Reproduced if the fits know at least LITTLE more than leaked linear features, the interval above 0."""
    title = f"{dataset_name(name)} teaches more than the linear robust features that it leaks"
    beyond, explained = found["beyond"], found["explained"]
    sentence = (
        f"Linear classifier on robust features: {in_words(found['linear'])} on y; the fits: {in_words(found['fit'])}, "
        f"{in_points(beyond)}. Threshold: {100 * LITTLE:g} points."
    )
    if explained is not None:
        sentence += f" Of the fits' accuracy above chance it explains {100 * max(explained, 0.0):.0f}%."
    basis = f"one source model, {found['fit']['num_seeds']} fits, {found['fit']['n']} test images"
    holds = beyond["value"] >= LITTLE and beyond["low"] > 0
    return judged(f"beyond_{name}", title, sentence, basis, holds=holds, on_edge=near(beyond, LITTLE))


def _not_measured(name: str, why: str) -> Verdict:
    title = f"{dataset_name(name)} teaches more than the linear robust features that it leaks"
    return Verdict(f"beyond_{name}", title, "", "inconclusive", f"Inconclusive: {why}.")


def _chart(metrics: Mapping[str, Any]) -> Chart:
    rows = {dataset_name(name): metrics["datasets"][name] for name in DATASETS}
    series = [
        Series.of_shares("linear classifier on robust features", {name: row["linear"] for name, row in rows.items()}),
        Series.of_shares("fits of the network", {name: row["fit"] for name, row in rows.items()}),
    ]
    caption = (
        f"Accuracy on y from D_rand and D_det: of a linear classifier that sees {metrics['num_robust']} robust "
        "principal components alone, and of the pipeline's fits; whiskers: 95% intervals."
    )
    return Chart(
        "leakage", caption, "trained on", "test accuracy on y", series, "bars", marks={"chance": metrics["chance"]}
    )


QUESTION = Question(
    settings=LeakageSettings,
    study=leakage,
    inputs=("data/train", "data/test", "data/rand", "data/det", "models/fit/rand", "models/fit/det"),
    title="Leakage of linear robust features",
    says="How much of what D_rand and D_det teach is leaked linear robust features?",
    position=Position(
        who="Goh 2019",
        claim="Targeted perturbations leak robust features into D_rand; D_det is the cleaner experiment.",
        reported="A linear classifier on robust linear features reaches 23.5% from D_rand and 6.8% from D_det "
        "(CIFAR-10).",
        source="https://distill.pub/2019/advex-bugs-discussion/response-2/",
        mind="A linear classifier on robust features that comes within 10 points of the fits would say that leakage is "
        "all there is.",
    ),
)
