"""Mistakes (Wallace, Distill 2019): what a model teaches by its wrong labels, and by its labels of foreign images.

A weak source is stopped early. The training images that it calls by a wrong class, unperturbed, each with that class as
its label, are all that a fit learns: no label is right. Two controls learn the same images: their labels shuffled among
the images of a true class, which keeps the confusions of classes and drops what the single image says; and a wrong
label drawn at random.

Then images that are not D's, made by formula, are labelled by D's standard model, and a fit on them is asked for y of
D's test images. A control learns them with their labels shuffled.
"""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor

from notbugs.data.images import ImageData, Images, Shape, make_generator
from notbugs.evaluation.accuracy import called_by
from notbugs.evaluation.statements import Chart, Position, Series, Verdict
from notbugs.runtime.config import Seeds
from notbugs.science.common.lab import Answer, Lab, UnfitError, require_images
from notbugs.science.common.question import Question, QuestionSettings
from notbugs.science.common.shares import Share, share, share_table, shares
from notbugs.science.common.training import StandardTraining, trained
from notbugs.science.debate._shared import Masks, fits, gaps, in_points, in_words, judged, near, on_y

BEYOND = 0.10
"""Points that a fit must know more than chance, and than its control: what a few hundred test images tell from 0, and
a fourth of the 39.7 reported above chance."""
LEAST = 10
"""Mistakes a class, on average, below which nothing is fitted on them."""
NUM_WAVES = 4
"""Waves that are added up to a foreign image."""
SHORTEST = 4.0
"""Shortest wave, pixels."""
CONTRAST = 4.0
"""How steeply the sum of waves becomes black and white."""
Kind = Literal["noise", "waves"]
KINDS: dict[str, str] = {"noise": "uniform noise", "waves": "sums of waves"}


class MistakesSettings(QuestionSettings):
    """How the weak source is made, and how what models say is learnt."""

    weak: StandardTraining
    """How the weak source is trained: stopped so early that it is often wrong on its own training images."""
    folds: int = Field(default=1, ge=1)
    """1: the source is asked about the images that it learnt. k: D is cut in k, and each part asked of a source that
    learnt the others."""
    fit: StandardTraining
    """How its mistakes are learnt, with the pipeline's architecture."""
    foreign: tuple[Kind, ...] = Field(default=("noise", "waves"), strict=False)
    """Images that are not D's: noise, uniform in [0, 1]; waves, the sum of a few in any direction."""
    num_foreign: int | None = Field(default=None, ge=10)
    """Foreign images of each kind; null takes as many as D has for training."""
    foreign_fit: StandardTraining
    """How they are learnt."""
    seeds: Seeds = (0, 1, 2)
    """One weak source and one fit of each kind for each."""

    @field_validator("foreign")
    @classmethod
    def _differ(cls, foreign: tuple[Kind, ...]) -> tuple[Kind, ...]:
        if len(set(foreign)) < len(foreign):
            raise ValueError("a list of different kinds")
        return foreign

    def check_data(self, data: Mapping[str, Images]) -> None:
        """Raises: UnfitError for fewer images than parts, or than classes."""
        count = len(data["train"])
        if self.folds > count // 2:
            raise UnfitError("folds", self.folds, f"at most {count // 2}, half of D's training images")
        require_images("num_foreign", self.num_foreign, len(data["train"].class_names))


class Taught(NamedTuple):
    """What one weak source calls D's images, and what was learnt from its mistakes.

    Attributes:
        asked: training images, (N,). weak: test images, by the source of each part, (folds, M).
        fits: on the mistakes, and on each control, of the test images, (M,); without any if there are too few.
    """

    asked: Tensor
    weak: Tensor
    fits: dict[str, Tensor]


CONTROLS = {"shuffled": "labels shuffled within a class", "random": "random wrong labels"}


def mistakes(lab: Lab, settings: MistakesSettings) -> Answer:
    """What fits know of y from wrong labels alone, and from labels of foreign images.

    On digits about 30 s. Expected: far above chance and the controls, in both.
    """
    test, train = lab.data["test"].data(), lab.data["train"].data()
    parts = {f"mistakes-seed-{seed}": partial(_taught, settings=settings, seed=seed) for seed in settings.seeds}
    taught = [Taught(*found) for found in lab.load_or_make_all(parts, "mistakes: weak sources")]
    wrong = [one.asked != train.labels for one in taught]
    enough = all(one.fits for one in taught)
    metrics: dict[str, Any] = {"chance": round(1 / len(test.class_names), 6), "num_classes": len(test.class_names)}
    metrics |= {
        "num_train": len(train),
        "num_test": len(test),
        "folds": settings.folds,
        "mistakes": [int(mask.sum()) for mask in wrong],
    }
    metrics["classes_given"] = [len(one.asked[mask].unique()) for one, mask in zip(taught, wrong, strict=True)]
    metrics["weak"] = {
        "train": shares([~mask for mask in wrong]),
        "test": shares([calls == test.labels for one in taught for calls in one.weak]),
        "fit_agrees": share([calls == one.fits["mistakes"] for one in taught for calls in one.weak if enough]),
    }
    metrics["converged"] = int((called_by(lab.models["standard"], train.images) != train.labels).sum())
    learnt = {name: on_y([one.fits[name] for one in taught], test) for name in ("mistakes", *CONTROLS) if enough}
    metrics["fits"] = _pooled(learnt)
    metrics["more"] = gaps({name: (learnt["mistakes"], learnt[name]) for name in CONTROLS if enough})
    metrics["foreign"] = _of_foreign(lab, settings, test)
    verdicts = [_on_mistakes(metrics), *(_on_foreign(kind, metrics) for kind in settings.foreign)]
    known = {
        "mistakes": metrics["fits"].get("mistakes"),
        **{kind: row["fit"] for kind, row in metrics["foreign"].items()},
    }
    told = "; ".join(f"{name} {in_words(found)}" for name, found in known.items())
    says = f"accuracy on y, taught by a model's labels of {told}"
    return Answer(metrics, (says,), charts=[_chart(metrics)], verdicts=verdicts)


def _pooled(learnt: Mapping[str, Masks]) -> dict[str, Share | None]:
    table = share_table({name: {"on_y": one} for name, one in learnt.items()})
    return {name: row["on_y"] for name, row in table.items()}


def _taught(lab: Lab, *, settings: MistakesSettings, seed: int) -> Taught:
    """A weak source, and fits on its mistakes and on their controls, of one initialisation and order."""
    train, test = lab.data["train"].data(), lab.data["test"].data()
    draw = make_generator(lab.seed, "mistakes", seed)
    asked, weak = torch.empty_like(train.labels), []
    for number, rows in enumerate(torch.randperm(len(train), generator=draw).tensor_split(settings.folds)):
        learns = torch.ones(len(train), dtype=torch.bool)
        learns[rows] = settings.folds == 1
        stream, description = ("mistakes", "weak", seed), f"mistakes: weak source {number}, seed {seed}"
        model = trained(lab, lab.architecture, train.select(learns), settings.weak, stream, description)
        asked[rows] = called_by(model, train.images[rows])
        weak.append(called_by(model, test.images))
    errs, found = asked != train.labels, {}
    if int(errs.sum()) >= LEAST * len(train.class_names):
        for name, labels in wrong_labels(train.labels[errs], asked[errs], len(train.class_names), draw).items():
            data = ImageData(train.images[errs], labels, train.class_names)
            stream, description = ("mistakes", "fit", seed), f"mistakes: fit on {name}, seed {seed}"
            model = trained(lab, lab.architecture, data, settings.fit, stream, description)
            found[name] = called_by(model, test.images)
    return Taught(asked, torch.stack(weak), found)


def wrong_labels(labels: Tensor, called: Tensor, num_classes: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Wrong labels of the same images: those of the source, and the two controls.

    Args:
        labels: y, (N,). called: what the source calls them, nowhere y, (N,).
    Returns: "mistakes", "shuffled", "random" -> (N,) int64, nowhere y.
    """
    shuffled = called.clone()
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        shuffled[rows] = called[rows[torch.randperm(len(rows), generator=generator)]]
    steps = torch.randint(1, num_classes, labels.shape, generator=generator)
    return {"mistakes": called, "shuffled": shuffled, "random": (labels + steps) % num_classes}


def foreign_images(kind: str, count: int, shape: Shape, generator: torch.Generator) -> Tensor:
    """Images by formula, nothing of D in them, (count, C, H, W) in [0, 1].

    noise: uniform. waves: sigmoid(CONTRAST · Σ a·cos(2π(u·column + v·row) + φ)) over NUM_WAVES waves; u and v uniform
    within ±1/SHORTEST cycles a pixel, amplitude a in [0, 1] and phase φ drawn for each channel.
    """
    channels, height, width = shape
    if kind == "noise":
        return torch.rand(count, *shape, generator=generator)
    total = torch.zeros(count, *shape)
    for _ in range(NUM_WAVES):
        across, down = ((2 * torch.rand(2, count, generator=generator) - 1) / SHORTEST).unbind()
        amplitude, phase = torch.rand(2, count, channels, 1, 1, generator=generator)
        turns = across[:, None, None] * torch.arange(width) + down[:, None, None] * torch.arange(height)[:, None]
        total += amplitude * torch.cos(2 * math.pi * (turns[:, None] + phase))
    return torch.sigmoid(CONTRAST * total)


def _of_foreign(lab: Lab, settings: MistakesSettings, test: ImageData) -> dict[str, dict[str, Any]]:
    """Kind -> what a fit on such images knows of y, and one on the same with their labels shuffled."""
    data = lab.data["train"]
    rows: dict[str, dict[str, Any]] = {}
    learnt: dict[str, ImageData] = {}
    for kind in settings.foreign:
        draw = make_generator(lab.seed, "mistakes", kind)
        count = len(data) if settings.num_foreign is None else settings.num_foreign
        images = foreign_images(kind, count, data.image_shape, draw)
        labels = called_by(lab.models["standard"], images)
        shuffled = labels[torch.randperm(count, generator=draw)]
        learnt[kind] = ImageData(images, labels, test.class_names)
        learnt[f"{kind}-shuffled"] = ImageData(images, shuffled, test.class_names)
        given = torch.bincount(labels, minlength=len(test.class_names))
        most = round(int(given.max()) / count, 6)
        rows[kind] = {"num_images": count, "classes_given": int((given > 0).sum()), "most_given": most}
    called = fits(lab, learnt, settings.foreign_fit, settings.seeds, "mistakes", test)
    right = {name: on_y(classes, test) for name, classes in called.items()}
    table = _pooled(right)
    more = gaps({kind: (right[kind], right[f"{kind}-shuffled"]) for kind in rows})
    for name, row in rows.items():
        row |= {"fit": table[name], "shuffled": table[f"{name}-shuffled"], "more": more[name]}
    return rows


def _beyond(found: Mapping[str, Any], more: Iterable[Mapping[str, Any]], chance: float) -> dict[str, Any]:
    """Whether a fit lies BEYOND chance and its controls, all intervals above them; and whether that hangs on little."""
    over = {end: found[key] - chance for end, key in (("value", "mean"), ("low", "low"), ("high", "high"))}
    rows = [over, *more]
    short = [near(row, BEYOND) for row in rows if row["value"] < BEYOND]
    holds = not short and all(row["low"] > 0 for row in rows)
    return {"holds": holds, "on_edge": all(short) if short else any(near(row, BEYOND) for row in rows)}


def _on_mistakes(metrics: Mapping[str, Any]) -> Verdict:
    key, title = "mistakes", "A weak model's plain mistakes teach y"
    counts, chance, learnt = metrics["mistakes"], metrics["chance"], metrics["fits"]
    told = f"{min(counts)} to {max(counts)} mistakes of each source on {metrics['num_train']} images"
    basis = f"{len(counts)} weak sources, a fit on the mistakes of each, {metrics['num_test']} test images"
    if not learnt:
        why = f"Fewer than {LEAST * metrics['num_classes']} mistakes, {LEAST} a class."
        return judged(key, title, f"{told}.", basis, holds=False, why_open=why)
    more = metrics["more"]
    controls = [f"{label} {in_words(learnt[name])}: {in_points(more[name])}" for name, label in CONTROLS.items()]
    sentence = (
        f"{told}. Fits on these alone: on y {in_words(learnt['mistakes'])}, chance {chance:.1%}; with "
        f"{'; '.join(controls)}. Threshold: {100 * BEYOND:g} points more than each."
    )
    why = "Of two classes a wrong label has no choice." if metrics["num_classes"] == 2 else ""
    return judged(key, title, sentence, basis, why_open=why, **_beyond(learnt["mistakes"], more.values(), chance))


def _on_foreign(kind: str, metrics: Mapping[str, Any]) -> Verdict:
    row, chance = metrics["foreign"][kind], metrics["chance"]
    sentence = (
        f"{row['num_images']} images, called {row['classes_given']} of {metrics['num_classes']} classes. Fits on them: "
        f"on y {in_words(row['fit'])}, chance {chance:.1%}; labels shuffled {in_words(row['shuffled'])}: "
        f"{in_points(row['more'])}. Threshold: {100 * BEYOND:g} points more than each."
    )
    title = f"A model's labels of {KINDS[kind]} teach y"
    basis = f"one source model, {row['fit']['num_seeds']} fits, {row['fit']['n']} test images"
    why = "The source gives them all one class." if row["classes_given"] < 2 else ""
    return judged(f"foreign_{kind}", title, sentence, basis, why_open=why, **_beyond(row["fit"], [row["more"]], chance))


def _chart(metrics: Mapping[str, Any]) -> Chart:
    learnt = {"mistakes": {"fit": metrics["fits"]["mistakes"], **metrics["fits"]}} if metrics["fits"] else {}
    learnt |= {KINDS[kind]: row for kind, row in metrics["foreign"].items()}
    labels = {"fit": "the model's labels", "shuffled": "these, shuffled", "random": "random wrong labels"}
    series = [
        Series.of_shares(label, {name: row[key] for name, row in learnt.items() if key in row})
        for key, label in labels.items()
    ]
    caption = (
        "Accuracy on y of fits on the training images that a weak source calls wrongly (shuffled: among those of a "
        "class) and on images made by formula that D's standard model labels; whiskers: 95% intervals."
    )
    marks = {"chance": metrics["chance"]}
    drawn = [one for one in series if one.x]
    return Chart("accuracy", caption, "images that are learnt", "test accuracy on y", drawn, "bars", marks=marks)


QUESTION = Question(
    settings=MistakesSettings,
    study=mistakes,
    inputs=("data/train", "data/test", "models/train/standard"),
    title="Learning from a model's mistakes",
    says="Does a model teach y by its plain mistakes, without any perturbation, and by its labels of foreign images?",
    position=Position(
        who="Wallace 2019",
        claim="Learning from adversarial examples is learning from errors: a model's labels leak what it knows.",
        reported="18,768 training images that a ResNet-18 of two epochs calls wrongly teach another one 49.7% "
        "(CIFAR-10); FashionMNIST images with the labels of an MNIST model teach 91% on MNIST.",
        source="https://distill.pub/2019/advex-bugs-discussion/response-6/",
        mind="Fits on a model's mistakes, or on foreign images with its labels, less than 10 points above chance, or "
        "above fits on the same images with other labels.",
    ),
)
