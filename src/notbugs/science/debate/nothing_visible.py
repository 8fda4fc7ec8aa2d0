"""Nothing visible (Kumano et al. 2024): do perturbations of uniform noise teach the classes of D?

Images of uniform noise are pushed towards random classes by the standard source model, in several norms, and labelled
so: D_rand with nothing of D in sight. Fits on them are asked for y of D's untouched test images; a control learns the
same images with their labels shuffled.

Why it should work, in closed form: a linear classifier of two classes has one gradient, ±w. So the perturbations, each
times the sign of its target and averaged, point along the step that the norm takes at w: along w itself in L2.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from notbugs.construction.beginnings import Beginnings
from notbugs.data.images import ImageData, Images, make_generator
from notbugs.evaluation.accuracy import called_by
from notbugs.evaluation.statements import Chart, Position, Series, Verdict, reproduced_if
from notbugs.runtime.config import Seeds
from notbugs.science.common.lab import Answer, Lab, UnfitError, require_images
from notbugs.science.common.question import Question, QuestionSettings
from notbugs.science.common.shares import share_table, wilson_share
from notbugs.science.common.training import StudyTraining
from notbugs.science.debate._budgets import Budget
from notbugs.science.debate._directions import SHUFFLES, along_means, along_weights, class_directions, linear_weights
from notbugs.science.debate._shared import fits, gaps, in_points, in_words, on_y, targeted

LEAST = 0.10
"""Points above the control that count as taught: a fifth of what D_rand itself teaches above chance in Ilyas et al.
(63.3% of ten classes), and more than a few hundred test images and two fits leave open."""
HALF = 0.5
"""Noises called t, and noises learnt, below which an accuracy at chance would say nothing of the perturbations."""
EXACT = 0.999
"""Cosine from which two directions are the same, to float32's rounding over all steps."""


class NothingVisibleSettings(QuestionSettings):
    """How much noise is pushed how far, and how it is learnt."""

    budgets: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,20}$")], Budget] = Field(min_length=1)
    """Name in tables, of letters, digits and _ -> how far a noise may be pushed."""
    num_noises: int | None = Field(default=None, ge=10)
    """Noise images of each budget; null takes as many as D has for training."""
    fit: StudyTraining
    """How they are learnt, with the pipeline's architecture."""
    seeds: Seeds = (0, 1)
    """One fit for each, on every budget and on its control."""
    pair: tuple[int, int] = Field(default=(0, 1), strict=False)
    """The two classes of D, by number, that the linear classifier of the closed form tells apart."""

    @field_validator("pair")
    @classmethod
    def _differs(cls, pair: tuple[int, int]) -> tuple[int, int]:
        if pair[0] == pair[1] or min(pair) < 0:
            raise ValueError("two different numbers of classes, from 0 on")
        return pair

    def check_data(self, data: Mapping[str, Images]) -> None:
        """Raises: UnfitError for too few noises, or a pair of classes of which D has one at most."""
        require_images("num_noises", self.num_noises, len(data["train"].class_names))
        classes = len(data["train"].class_names)
        if max(self.pair) >= classes:
            raise UnfitError("pair", list(self.pair), f"numbers of classes of D, in 0..{classes - 1}")


def nothing_visible(lab: Lab, settings: NothingVisibleSettings) -> Answer:
    """What is learnt from perturbed noise, and along what its perturbations point.

    On digits about 20 s. Expected: far above chance, and above the shuffled control.
    """
    test, noise = lab.data["test"].data(), noises(lab, settings.num_noises)
    parts = {f"noise-{name}": partial(_pushed, settings=settings, name=name) for name in settings.budgets}
    pushed = lab.load_or_make_all(parts, "nothing_visible, budgets")
    means, linear = class_directions(lab.data["train"]), linear_weights(lab.data["train"], settings.pair)
    learnt: dict[str, Images] = {}
    asked: dict[str, ImageData] = {}
    budgets: dict[str, dict[str, Any]] = {}
    for (name, budget), (images, targets) in zip(settings.budgets.items(), pushed, strict=True):
        draw = make_generator(lab.seed, "nothing_visible", name, "controls")
        shuffled = targets[torch.randperm(len(targets), generator=draw)]
        for key, labels in ((name, targets), (f"{name}-shuffled", shuffled)):
            learnt[key] = ImageData(images, labels, noise.class_names)
            asked[key] = _joined(test, learnt[key])
        reached = wilson_share(called_by(lab.models["standard"], images) == targets)
        along = along_means(images - noise.images, targets, means, draw)
        budgets[name] = {"norm": budget.ball.title or budget.norm, "eps": budget.eps, "reached": reached}
        budgets[name] |= {"linear": along_weights(linear, noise, budget, draw), "means": along}
    called = fits(lab, learnt, settings.fit, settings.seeds, "nothing_visible", asked)
    right = {name: on_y(classes, asked[name]) for name, classes in called.items()}
    known = {name: [mask[len(test) :] for mask in masks] for name, masks in right.items()}
    right = {name: [mask[: len(test)] for mask in masks] for name, masks in right.items()}
    table = share_table({name: {"on_y": right[name], "own": known[name]} for name in learnt})
    more = gaps({name: (right[name], right[f"{name}-shuffled"]) for name in budgets})
    for name, found in budgets.items():
        found |= {"fit": table[name]["on_y"], "own": table[name]["own"], "control": table[f"{name}-shuffled"]["on_y"]}
        found["more"] = more[name]
    classes = [test.class_names[number] for number in settings.pair]
    metrics: dict[str, Any] = {"num_noises": len(noise), "pair": classes, "chance": round(1 / len(test.class_names), 6)}
    metrics |= {"num_classes": len(test.class_names), "budgets": budgets}
    verdicts = [_taught(name, found, metrics["chance"]) for name, found in budgets.items()]
    verdicts += [*_linear(classes, budgets), _along(budgets)]
    told = ", ".join(f"{name} {in_words(found['fit'])}" for name, found in budgets.items())
    says = f"fits on {len(noise)} perturbed noises, on y: {told}; chance {metrics['chance']:.1%}"
    return Answer(metrics, (says,), charts=[_chart(metrics)], verdicts=verdicts)


def _pushed(lab: Lab, *, settings: NothingVisibleSettings, name: str) -> tuple[Tensor, Tensor]:
    """The noises as the source model sees them best as random classes, (N, C, H, W), and these classes, (N,)."""
    draw, attack = make_generator(lab.seed, "nothing_visible", name), settings.budgets[name].attack()
    made = targeted(lab.models["standard"], noises(lab, settings.num_noises), "random_target", attack, draw)
    return made.images, made.labels


def noises(lab: Lab, count: int | None) -> ImageData:
    """Uniform images of D's shape, those that the option `start: noise` begins with; their labels mean nothing."""
    data, draw = lab.data["train"], make_generator(lab.seed, "nothing_visible", "noise")
    labels = torch.arange(len(data) if count is None else count) % len(data.class_names)
    blank = ImageData(torch.zeros(len(labels), *data.image_shape), labels, data.class_names)
    begun = Beginnings.drawn("noise", blank, draw).images(slice(0, len(labels)), blank.images)
    return ImageData(begun, labels, data.class_names)


def _joined(test: ImageData, own: Images) -> ImageData:
    """The test images, and as many of those that a fit learns."""
    some = own.select(slice(0, min(len(test), len(own))))
    return ImageData(torch.cat([test.images, some.images]), torch.cat([test.labels, some.labels]), test.class_names)


def _taught(name: str, found: Mapping[str, Any], chance: float) -> Verdict:
    """Reproduced if the fits call y at least LEAST oftener than the shuffled control's, the interval above 0."""
    title = f"Perturbed noise teaches y: {name}"
    more, reached, own = found["more"], found["reached"], found["own"]
    sentence = (
        f"On y: {in_words(found['fit'])}; labels shuffled: {in_words(found['control'])}; chance: {100 * chance:.1f}%; "
        f"{in_points(more)}. "
        f"Threshold: {100 * LEAST:g} points. The source calls {in_words(reached)} of the noises t, the fits "
        f"{in_words(own)} of those that they learnt."
    )
    basis = f"one source model, {own['num_seeds']} fits on each, {found['fit']['n']} test images"
    holds = more["value"] >= LEAST and more["low"] > 0
    if not holds and reached["value"] < HALF:
        return Verdict(f"taught_{name}", title, "", "inconclusive", f"Too few noises reach t. {sentence}", basis)
    if not holds and own["mean"] < HALF:
        return Verdict(f"taught_{name}", title, "", "inconclusive", f"The fits learnt too little. {sentence}", basis)
    return Verdict(f"taught_{name}", title, "", reproduced_if(holds), sentence, basis)


def _linear(classes: list[str], budgets: Mapping[str, Mapping[str, Any]]) -> Iterator[Verdict]:
    """Of the closed form: reproduced if, where nothing is clipped, every norm's cosine is the expected one."""
    known = {name: found["linear"] for name, found in budgets.items() if found["linear"]["free"] is not None}
    if not known:
        return
    told = [f"{name} {one['free']:.4f} (closed form {one['expected']:.4f})" for name, one in known.items()]
    clipped = [f"{name} {found['linear']['clipped']:.3f}" for name, found in budgets.items()]
    holds = all(abs(one["free"] - one["expected"]) <= 1 - EXACT for one in known.values())
    sentence = (
        f"Cosine with w, nothing clipped: {', '.join(told)}; tolerance {1 - EXACT:.3f}. From noise in [0, 1], clipped: "
        f"{', '.join(clipped)}."
    )
    title = "A linear classifier's mean perturbation is its weights, by the norm's step"
    basis = f"logistic regression of class {classes[1]} against {classes[0]}"
    yield Verdict("linear", title, "", reproduced_if(holds), sentence, basis)


def _along(budgets: Mapping[str, Mapping[str, Any]]) -> Verdict:
    """Reproduced if every budget's mean cosine has its interval above the largest of the shuffled ones."""
    means = {name: found["means"] for name, found in budgets.items()}
    holds = all(one["cosine"]["low"] > max(one["shuffled"], 0.0) for one in means.values())
    told = [
        f"{name} {one['cosine']['value']:.3f} [{one['cosine']['low']:.3f}, {one['cosine']['high']:.3f}] "
        f"(shuffled at most {one['shuffled']:.3f})"
        for name, one in means.items()
    ]
    title = "The network's perturbations of noise point along the class means of D"
    sentence = (
        f"Cosine of the mean perturbation towards a class with that class's mean image, both less their mean over "
        f"classes: {', '.join(told)}. Threshold: an interval above all {SHUFFLES} shuffled labels."
    )
    return Verdict("means", title, "", reproduced_if(holds), sentence, "one source model; intervals over classes")


def _chart(metrics: Mapping[str, Any]) -> Chart:
    budgets = metrics["budgets"]
    series = [
        Series.of_shares("fits on perturbed noise", {name: found["fit"] for name, found in budgets.items()}),
        Series.of_shares("the same, labels shuffled", {name: found["control"] for name, found in budgets.items()}),
    ]
    caption = (
        f"Accuracy on y of D's untouched test images, of fits on {metrics['num_noises']} uniform noises that were "
        "pushed towards random classes; whiskers: 95% intervals."
    )
    marks = {"chance": metrics["chance"]}
    return Chart("accuracy", caption, "budget of the perturbation", "test accuracy on y", series, "bars", marks=marks)


QUESTION = Question(
    settings=NothingVisibleSettings,
    study=nothing_visible,
    inputs=("data/train", "data/test", "models/train/standard"),
    title="Learning from perturbed noise",
    says="Do perturbations of uniform noise, in which nothing of D is visible, teach the classes of D?",
    position=Position(
        who="Kumano et al. 2024",
        claim="Perturbations contain class features: on uniform noise, and of few pixels, they teach them too.",
        reported="Proved for a one-hidden-layer network on orthogonal samples; MNIST, Fashion-MNIST and CIFAR-10 tried "
        "with L0, L2 and L-infinity perturbations of noise (in the released code 50,000 noises for CIFAR-10, at L2 0.5 "
        "and L-infinity 0.1, and up to 1,200,000 for MNIST).",
        source="https://arxiv.org/abs/2402.10470",
        mind="Fits on perturbed noise less than 10 points above the same images with shuffled labels, where the source "
        "calls at least half of the noises t.",
    ),
)
