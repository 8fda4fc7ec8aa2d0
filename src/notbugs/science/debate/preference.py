"""Preference (Fowl et al. 2021): images perturbed towards y + 1 but labelled y. Do fits read object or perturbation?

In training both agree: the object and the features of class y + 1 that the perturbation adds are always found together,
labelled y. On an untouched test image they disagree. Its object says y; its own features of class y, which training had
on images labelled y − 1 alone, say y − 1. So the share of test images called y − 1 is what the fit took from the
perturbation. Controls are D itself, and images moved as far in a random direction, labelled y.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from notbugs.attacks.norms import NormName, norm_of
from notbugs.attacks.pgd import usual_step_size
from notbugs.data.images import ImageData, Images, make_generator
from notbugs.evaluation.accuracy import called_by, shifted_labels
from notbugs.evaluation.results import STILL_Y_SHARE
from notbugs.evaluation.statements import Chart, Position, Series, Verdict
from notbugs.runtime.config import Seeds
from notbugs.science.common.lab import Answer, Lab, require_images
from notbugs.science.common.question import Question, QuestionSettings
from notbugs.science.common.shares import share_table, wilson_share
from notbugs.science.common.training import StandardTraining
from notbugs.science.debate._shared import (
    fits,
    gaps,
    in_points,
    in_words,
    judged,
    near,
    on_shifted,
    on_y,
    sub_sample,
    targeted,
)

LEARNT = 0.10
"""Points that y − 1 must be called oftener than after random noise: what a few hundred test images tell from 0."""


class PreferenceSettings(QuestionSettings):
    """How far images are pushed, and how they are learnt."""

    norm: NormName = "l2"
    """Of the ball around each image."""
    eps: tuple[float, ...] = Field(strict=False, min_length=1)
    """Its radii, rising, pixel units."""
    num_steps: int = Field(ge=1)
    """Gradient steps, of 2.5·eps/num_steps each."""
    fit: StandardTraining
    """How D, the perturbed images and their controls are learnt, with the pipeline's architecture."""
    seeds: Seeds = (0, 1)
    """One fit for each, on each of these."""
    max_examples: int | None = Field(default=None, ge=10)
    """At most so many training images of D; null takes all."""

    @field_validator("eps")
    @classmethod
    def _rise(cls, eps: tuple[float, ...]) -> tuple[float, ...]:
        if not all(earlier < later < float("inf") for earlier, later in pairwise((0.0, *eps))):
            raise ValueError("a rising list of finite radii above 0")
        return eps

    def check_data(self, data: Mapping[str, Images]) -> None:
        """Raises: UnfitError for fewer images than classes."""
        require_images("max_examples", self.max_examples, len(data["train"].labels.unique()))


def preference(lab: Lab, settings: PreferenceSettings) -> Answer:
    """What fits on images that are perturbed towards y + 1 and labelled y call untouched ones, by eps.

    On digits about 20 s. Expected: accuracy on y falls with eps, and y − 1 is called instead.
    """
    test = lab.data["test"].data()
    data = sub_sample(lab.data["train"], settings.max_examples, make_generator(lab.seed, "preference", "images"))
    parts: dict[str, Callable[[Lab], Tensor]] = {}
    for eps in settings.eps:
        parts[f"preference-images-{eps:g}"] = partial(_perturbed, data=data, settings=settings, eps=eps)
    made = dict(zip(settings.eps, lab.load_or_make_all(parts, "preference, radii"), strict=True))
    learnt: dict[str, ImageData] = {"D": data}
    for eps, images in made.items():
        noise = as_far(data.images, images, make_generator(lab.seed, "preference", "noise", f"{eps:g}"))
        learnt |= {f"{eps:g}": _labelled(data, images), f"{eps:g}-noise": _labelled(data, noise)}
    called = fits(lab, learnt, settings.fit, settings.seeds, "preference", test)
    masks = {name: _answers(classes, test) for name, classes in called.items()}
    table = share_table(masks)
    names = [f"{eps:g}" for eps in settings.eps]
    prefers = gaps({name: (masks[name]["before"], masks[name]["on_y"]) for name in names})
    more = gaps({name: (masks[name]["before"], masks[f"{name}-noise"]["before"]) for name in names})
    before = called_by(lab.models["robust"], data.images) == data.labels
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        images = learnt[name].images
        still = (called_by(lab.models["robust"], images) == data.labels)[before]
        hit = called_by(lab.models["standard"], images) == shifted_labels(data.labels, len(data.class_names))
        rows[name] = {"success": wilson_share(hit), "still_y": wilson_share(still) if len(still) else None}
        rows[name] |= {"fit": table[name], "noise": table[f"{name}-noise"]}
        rows[name] |= {"prefers": prefers[name], "more": more[name]}
    metrics: dict[str, Any] = {"norm": norm_of(settings.norm).title or settings.norm, "num_images": len(data)}
    metrics |= {"chance": round(1 / len(test.class_names), 6), "still_y_share": STILL_Y_SHARE, "D": table["D"]}
    metrics |= {"judged": _judged(rows), "eps": rows}
    told = "; ".join(
        f"eps {name}: {in_words(row['fit']['on_y'])} and {in_words(row['fit']['before'])}" for name, row in rows.items()
    )
    says = f"of images perturbed towards y + 1 and labelled y, fits call untouched ones y and y − 1: {told}"
    return Answer(metrics, (says,), charts=[_chart(metrics)], verdicts=_verdicts(metrics))


def _perturbed(lab: Lab, *, data: ImageData, settings: PreferenceSettings, eps: float) -> Tensor:
    """The images of one radius, D_det's: (N, C, H, W)."""
    attack = {"norm": settings.norm, "eps": eps, "num_steps": settings.num_steps, "label": "source"}
    attack["step_size"] = usual_step_size(eps, settings.num_steps)
    draw = make_generator(lab.seed, "preference", f"{eps:g}")
    return targeted(lab.models["standard"], data, "deterministic_target", attack, draw).images


def as_far(images: Tensor, moved: Tensor, generator: torch.Generator) -> Tensor:
    """Images moved as far in L2 as `moved`, (N, C, H, W) both, in random directions; then clipped to [0, 1]."""
    lengths = (moved - images).flatten(1).norm(dim=1)  # (N,)
    noise = torch.randn(images.shape, generator=generator)
    noise *= (lengths / noise.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    return (images + noise).clamp(0, 1)


def _labelled(data: ImageData, images: Tensor) -> ImageData:
    return ImageData(images, data.labels, data.class_names)


def _answers(called: list[Tensor], test: ImageData) -> dict[str, list[Tensor]]:
    """Which test images each fit calls y, y − 1 and y + 1."""
    before = (test.labels - 1) % len(test.class_names)
    return {
        "on_y": on_y(called, test),
        "before": [classes == before for classes in called],
        "after": on_shifted(called, test),
    }


def _judged(rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The largest eps that leaves the object: the robust model still calls STILL_Y_SHARE of the images y."""
    still = [name for name, row in rows.items() if row["still_y"] and row["still_y"]["value"] >= STILL_Y_SHARE]
    return still[-1] if still else None


def _verdicts(metrics: Mapping[str, Any]) -> list[Verdict]:
    """Of the judged eps: whether y is called less than by chance, or less than y − 1; and whether y − 1 is learnt."""
    titles = {
        "below_chance": "Perturbed images, rightly labelled, teach less than chance",
        "prefers": "Fits prefer the perturbation to the object",
        "learnt": "Fits learn the perturbation beside the object",
    }
    row, chance = metrics["eps"].get(metrics["judged"]), metrics["chance"]
    fitted = metrics["D"]["on_y"]
    basis = f"one source model, {fitted['num_seeds']} fits on each, {fitted['n']} test images"
    if row is None:
        still = ", ".join(f"eps {name}: {in_words(one['still_y'])}" for name, one in metrics["eps"].items())
        why = f"At no eps the robust model still calls {100 * STILL_Y_SHARE:g}% of the images y: objects have changed."
        return [judged(key, title, f"{still}.", basis, holds=False, why_open=why) for key, title in titles.items()]
    fit, noise = row["fit"], row["noise"]
    unlearnt = f"Noise of the same length leaves nothing above chance ({chance:.1%})."
    told = (
        f"Eps {metrics['judged']}, where the robust model still calls {in_words(row['still_y'])} of the images y. "
        f"Fits call untouched ones y: {in_words(fit['on_y'])}, y − 1: {in_words(fit['before'])}"
    )
    beside = f"after noise {in_words(noise['on_y'])} and {in_words(noise['before'])}, after D {in_words(fitted)} y"
    others = "; ".join(
        f"eps {name} (robust model: {in_words(one['still_y'])} y): y {in_words(one['fit']['on_y'])}, y − 1 "
        f"{in_words(one['fit']['before'])}"
        for name, one in metrics["eps"].items()
        if one is not row
    )
    sentences = {
        "below_chance": f"{told}; {beside}. Threshold: y, with its interval, below chance ({chance:.1%}).",
        "prefers": f"{told}; y − 1 less y: {in_points(row['prefers'])}. Threshold: an interval above 0.",
        "learnt": f"{told}; {beside}. More y − 1: {in_points(row['more'])}. Threshold: {100 * LEARNT:g} points.",
    }
    holds = {
        "below_chance": fit["on_y"]["high"] < chance,
        "prefers": row["prefers"]["low"] > 0,
        "learnt": row["more"]["value"] >= LEARNT and row["more"]["low"] > 0,
    }
    edges = {
        "below_chance": near({**fit["on_y"], "mean": fit["on_y"]["high"]}, chance),
        "prefers": near({**row["prefers"], "value": row["prefers"]["low"]}, 0),
        "learnt": near(row["more"], LEARNT),
    }
    why = "" if noise["on_y"]["low"] > chance else unlearnt
    return [
        judged(
            key,
            title,
            sentences[key],
            basis,
            holds=holds[key],
            why_open=why,
            on_edge=edges[key],
            elsewhere="" if key == "learnt" else f"At other eps: {others}." if others else "",
        )
        for key, title in titles.items()
    ]


def _chart(metrics: Mapping[str, Any]) -> Chart:
    rows = metrics["eps"]
    series = [
        Series.of_shares("perturbed: y", {name: row["fit"]["on_y"] for name, row in rows.items()}),
        Series.of_shares("perturbed: y − 1", {name: row["fit"]["before"] for name, row in rows.items()}),
        Series.of_shares("noise as long: y", {name: row["noise"]["on_y"] for name, row in rows.items()}),
        Series.of_shares("perturbed images, still y", {name: row["still_y"] for name, row in rows.items()}),
    ]
    caption = (
        "Untouched test images, called by fits on images that were perturbed towards y + 1, or moved at random, and "
        "labelled y; and the perturbed images that the robust model still calls y; whiskers: 95% intervals."
    )
    marks = {"D: y": metrics["D"]["on_y"]["mean"], "chance": metrics["chance"]}
    return Chart("eps", caption, f"{metrics['norm']} eps, pixel units", "share of the images", series, marks=marks)


QUESTION = Question(
    settings=PreferenceSettings,
    study=preference,
    inputs=("data/train", "data/test", "models/train/standard", "models/train/robust"),
    title="Object or perturbation",
    says="Of images perturbed towards y + 1 but labelled y, do fits learn the object or the perturbation?",
    position=Position(
        who="Fowl et al. 2021",
        claim="Adversarial examples with their right labels are strong poisons: networks prefer the perturbation.",
        reported="Fits on images perturbed towards y + 1 within L-infinity 8/255 and labelled y fall below the 10% of "
        "chance on clean images (CIFAR-10).",
        source="https://arxiv.org/abs/2106.10807",
        mind="Fits that call clean images y as often as after random noise of the same length, and y − 1 less than 10 "
        "points more often.",
    ),
)
