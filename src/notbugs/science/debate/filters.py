"""Filters and corruptions (Gilmer & Hendrycks, Distill 2019; Yin et al. 2019): which frequencies do models live on?

Every model of the pipeline is asked for y of D's test images behind low-pass and high-pass filters and under common
corruptions of five severities. Models lose from different accuracies, so what counts is which share of their accuracy
above chance they keep. Fits on D's high frequencies alone show whether these suffice.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from notbugs.data.images import ImageData, Images, by_parts, make_generator
from notbugs.evaluation.accuracy import batches, called_by
from notbugs.evaluation.comparison import Estimate
from notbugs.evaluation.statements import Chart, Position, Series, Verdict, reproduced_if
from notbugs.models.base import Classifier
from notbugs.runtime.config import Radii, Seeds
from notbugs.science.common.lab import Answer, Lab, require_images
from notbugs.science.common.question import Question, QuestionSettings
from notbugs.science.common.shares import Interval, share_table
from notbugs.science.common.training import StudyTraining
from notbugs.science.debate._corruptions import CORRUPTIONS, NOISES, SEVERITIES, SMOOTH, corrupted, high_pass, low_pass
from notbugs.science.debate._shared import fits, in_words, kept, on_y, sub_sample

MODELS = {
    "D": ("trained", "standard"),
    "D, robust": ("trained", "robust"),
    "D_R": ("fitted", "robust"),
    "D_NR": ("fitted", "nonrobust"),
    "D_rand": ("fitted", "rand"),
    "D_det": ("fitted", "det"),
}
"""Name in the paper -> where the lab has its models."""
ROBUST, BRITTLE = ("D, robust", "D_R"), ("D", "D_NR", "D_rand", "D_det")
GROUPS = {"low-pass": ("low_pass",), "noise": NOISES, "fog and contrast": SMOOTH}
"""What the claims are about -> the tests that it is the mean of, over all radii or severities."""
MARGIN = 0.10
"""A tenth of the accuracy above chance: models that differ by less are not said to live on other frequencies."""
HALF = 0.5
"""Share of D's accuracy above chance that its high frequencies must teach: Yin et al. report 50% top-1 on ImageNet,
where networks of their time reached three quarters."""
VISIBLE = 0.10
"""Share of D's contrast beyond which what passes a high-pass filter is not called hard to see."""
Asked = dict[str, dict[str, Tensor]]
"""Test -> name of the models -> which images they get right, (levels, models, N) bool."""
PART = 1000
"""Images that are corrupted at a time, each part by a generator of its own; fixed, so that memory does not grow."""


class FiltersSettings(QuestionSettings):
    """Behind which filters models are asked, and how D's frequencies are learnt."""

    radii: Annotated[Radii, Field(min_length=1)]
    """Of the low-pass and the high-pass filters, in fractions of Nyquist's frequency; from √2 on all passes."""
    train_radius: float = Field(gt=0, lt=math.sqrt(2))
    """Fits learn D beyond this radius alone, and D within it."""
    max_test: int | None = Field(default=None, ge=10)
    """At most so many test images; null takes all."""
    fit: StudyTraining
    """How filtered D is learnt, with the pipeline's architecture."""
    seeds: Seeds = (0, 1)
    """One fit for each, on D, its high and its low frequencies."""

    def check_data(self, data: Mapping[str, Images]) -> None:
        """Raises: UnfitError for more test images than D has."""
        require_images("max_test", self.max_test, len(data["test"].class_names), len(data["test"]))


def filters(lab: Lab, settings: FiltersSettings) -> Answer:
    """What every model keeps behind filters and under corruptions, and what D's high frequencies teach.

    On digits about 20 s. Expected: models of non-robust features lose more to noise and low-pass filters, the
    adversarially trained one more to fog and contrast.
    """
    test = sub_sample(lab.data["test"], settings.max_test, make_generator(lab.seed, "filters", "test"))
    chance, grey = 1 / len(test.class_names), channel_means(lab.data["train"])
    tests = {"filters": {"clean": (1.0,), "low_pass": settings.radii, "high_pass": settings.radii}}
    for name, kind in CORRUPTIONS.items():
        tests.setdefault(kind.group, {})[name] = tuple(range(1, SEVERITIES + 1))
    parts: dict[str, Callable[[Lab], Asked]] = {}
    for group, members in tests.items():
        parts[f"asked-{group}"] = partial(_asked, tests=members, test=test, grey=grey)
    right: dict[str, dict[str, Tensor]] = {}
    for masks in lab.load_or_make_all(parts, "filters, models"):
        right |= masks
    levels = {name: levels for members in tests.values() for name, levels in members.items()}
    accuracy = {name: _accuracies(masks, levels[name]) for name, masks in right.items()}
    groups = {name: _kept_of(right, members, chance) for name, members in GROUPS.items()}
    learnt = _learnt(lab, settings, test, chance)
    metrics = {"chance": round(chance, 6), "radii": list(settings.radii), "train_radius": settings.train_radius}
    metrics |= {"num_test": len(test), "accuracy": accuracy, "kept": groups, "learnt": learnt}
    verdicts = [_brittle(name, groups[name]) for name in ("low-pass", "noise")]
    verdicts += [_smooth(groups["fog and contrast"]), _high_frequencies(settings.train_radius, learnt)]
    lost = ", ".join(f"{name} {in_words(one)}" for name, one in groups["low-pass"].items() if one)
    says = f"kept of the accuracy above chance behind low-pass filters: {lost}"
    return Answer(metrics, (says,), charts=_charts(metrics), verdicts=verdicts)


def channel_means(data: Images) -> Tensor:
    """Mean of each channel over D, (C, 1, 1): the grey that high-passed images are shown on; it says nothing of y."""
    total = sum((part.images.double().sum(dim=(0, 2, 3)) for part in by_parts(data)), torch.zeros(1))
    _, height, width = data.image_shape
    return (total / (len(data) * height * width)).float().view(-1, 1, 1)


def _asked(lab: Lab, *, tests: Mapping[str, Sequence[float]], test: ImageData, grey: Tensor) -> Asked:
    """What each model gets right under some tests, each at several levels."""
    models = {label: [lab.load(file) for file in _files(lab, label)] for label in MODELS}
    found: Asked = {}
    for name, levels in tests.items():
        each = [_asked_at(lab, models, name, level, test, grey) for level in levels]
        found[name] = {label: torch.stack([masks[label] for masks in each]) for label in models}
    return found


def _asked_at(
    lab: Lab, models: Mapping[str, Sequence[Classifier]], name: str, level: float, test: ImageData, grey: Tensor
) -> dict[str, Tensor]:
    """Name of the models -> (models, N) bool."""
    parts: dict[str, list[Tensor]] = {label: [] for label in models}
    for rows in batches(len(test), PART):
        part = test.select(rows)
        images = _tested(lab, part.images, name, level, grey, rows.start)
        for label, seeds in models.items():
            parts[label].append(torch.stack([called_by(model, images) == part.labels for model in seeds]))
    return {label: torch.cat(masks, dim=1) for label, masks in parts.items()}


def _files(lab: Lab, label: str) -> list[Path]:
    place, name = MODELS[label]
    return list(getattr(lab, place)[name])


def _tested(lab: Lab, images: Tensor, name: str, level: float, grey: Tensor, first: int) -> Tensor:
    """The images of a part as a test shows them; filtered ones are not clipped."""
    if name == "clean":
        return images
    if name == "low_pass":
        return low_pass(images, level)
    if name == "high_pass":
        return grey + high_pass(images, level)
    return corrupted(images, name, int(level), make_generator(lab.seed, "filters", name, int(level), first))


def _accuracies(masks: Mapping[str, Tensor], levels: Sequence[float]) -> dict[str, Any]:
    """Model -> its accuracy at each level, and their mean, with intervals."""
    columns: dict[str, dict[str, list[Tensor]]] = {}
    for label, right in masks.items():  # (levels, models, N)
        columns[label] = {f"{level:g}": list(one) for level, one in zip(levels, right, strict=True)}
        columns[label]["mean"] = list(right.double().mean(dim=0))
    return dict(share_table(columns))


def _kept_of(
    right: Mapping[str, Mapping[str, Tensor]], tests: Sequence[str], chance: float
) -> dict[str, Interval | None]:
    """Model -> share of its accuracy above chance that it keeps, in the mean of some tests."""
    rows = {}
    for label in MODELS:
        after = torch.stack([right[name][label].double().mean(dim=0) for name in tests]).mean(dim=0)  # (models, N)
        rows[label] = list(after), list(right["clean"][label][0])
    return kept(rows, chance)


def _learnt(lab: Lab, settings: FiltersSettings, test: ImageData, chance: float) -> dict[str, Any]:
    """What fits on D, on its high and on its low frequencies call right, each on test images filtered alike."""
    train, radius = lab.data["train"].select(slice(None)), settings.train_radius
    sharp, smooth = high_pass(train.images, radius), low_pass(train.images, radius)
    scale = 0.5 / max(float(sharp.abs().max()), 1e-6)  # of D alone: nothing of D is clipped, which would let through
    contrast = (train.images - train.images.mean(dim=(2, 3), keepdim=True)).square().sum()
    learnt: dict[str, Images] = {"all": train, "high": _shown(train, 0.5 + scale * sharp), "low": _shown(train, smooth)}
    asked = {"all": test, "high": _shown(test, 0.5 + scale * high_pass(test.images, radius))}
    asked["low"] = _shown(test, low_pass(test.images, radius))
    called = fits(lab, learnt, settings.fit, settings.seeds, "filters", asked)
    right = {name: on_y(classes, test) for name, classes in called.items()}
    table = share_table({name: {"on_y": masks} for name, masks in right.items()})
    of_all = kept({name: (right[name], right["all"]) for name in ("high", "low")}, chance)
    seen = round(float(sharp.square().sum() / contrast), 6)
    return {"contrast": seen, "kept": of_all, "accuracy": {name: row["on_y"] for name, row in table.items()}}


def _shown(data: ImageData, images: Tensor) -> ImageData:
    return ImageData(images.clamp(0, 1), data.labels, data.class_names)


def _mean(rows: Mapping[str, Interval | None], labels: Sequence[str]) -> Estimate | None:
    """Mean of what models keep, their errors taken as independent; None if none of them is above chance."""
    known = [one for one in (rows[label] for label in labels) if one is not None]
    if not known:
        return None
    value, count = sum(one["value"] for one in known) / len(known), len(known)
    down, up = (math.hypot(*(one["value"] - one[end] for one in known)) / count for end in ("low", "high"))
    return Estimate(value, value - down, value + up)


def _compared(key: str, title: str, first: tuple[str, Estimate | None], second: tuple[str, Estimate | None]) -> Verdict:
    """Reproduced if the first keep MARGIN more than the second, the interval above 0.

    Inconclusive where both lose less than MARGIN, or both keep less: nothing could differ by it.
    """
    (name, more), (other, less) = first, second
    if more is None or less is None:
        return Verdict(key, title, "", "inconclusive", "Inconclusive: the models on one side are at chance untouched.")
    gap = more.minus(less)
    sentence = (
        f"Kept of the accuracy above chance by {name}: {more}, by {other}: {less}; {gap.points}. "
        f"Threshold: {100 * MARGIN:g} points."
    )
    basis = "intervals over test images and models; those of several kinds are joined as if independent"
    if min(more.value, less.value) > 1 - MARGIN:
        return Verdict(key, title, "", "inconclusive", f"Too little is lost to tell. {sentence}", basis)
    if max(more.value, less.value) < MARGIN:
        return Verdict(key, title, "", "inconclusive", f"Too much is lost to tell. {sentence}", basis)
    return Verdict(key, title, "", reproduced_if(gap.reaches(MARGIN)), sentence, basis)


def _brittle(group: str, rows: Mapping[str, Interval | None]) -> Verdict:
    robust, brittle = _mean(rows, ROBUST), _mean(rows, BRITTLE)
    title = f"Models of non-robust features lose more: {group}"
    key, sides = group.replace("-", "_"), [" and ".join(ROBUST), f"{', '.join(BRITTLE[:-1])} and {BRITTLE[-1]}"]
    found = _compared(key, title, (sides[0], robust), (sides[1], brittle))
    others = {label: one for label in BRITTLE if (one := rows[label]) and robust and one["value"] >= robust.value}
    told = ", ".join(f"{label} {in_words(one)}" for label, one in others.items())
    return replace(found, sentence=f"{found.sentence} Not so by itself: {told}.") if others else found


def _smooth(rows: Mapping[str, Interval | None]) -> Verdict:
    title = "The adversarially trained model loses more to fog and contrast"
    return _compared("smooth", title, ("D", _mean(rows, ["D"])), ("D, robust", _mean(rows, ["D, robust"])))


def _high_frequencies(radius: float, learnt: Mapping[str, Any]) -> Verdict:
    """Reproduced if D's high frequencies teach at least HALF of D's accuracy above chance.

    Inconclusive where more than VISIBLE of D's contrast passes, or D itself teaches nothing.
    """
    key, title = "high_frequencies", "What is hard to see of D suffices: its high frequencies alone teach y"
    accuracy, of_all = learnt["accuracy"], learnt["kept"]["high"]
    sentence = (
        f"Beyond {radius:g} of Nyquist's frequency lie {100 * learnt['contrast']:.1f}% of D's contrast. Fits on them "
        f"call y {in_words(accuracy['high'])}, fits on D {in_words(accuracy['all'])}, on the rest of D "
        f"{in_words(accuracy['low'])}."
    )
    if of_all is None:
        return Verdict(key, title, "", "inconclusive", f"Fits on D are at chance. {sentence}")
    sentence += f" Of the accuracy above chance they reach {in_words(of_all)}. Threshold: {100 * HALF:g}%."
    basis = f"{accuracy['high']['num_seeds']} fits on each, {accuracy['high']['n']} test images filtered alike"
    if learnt["contrast"] > VISIBLE:
        return Verdict(key, title, "", "inconclusive", f"More than {100 * VISIBLE:g}% pass. {sentence}", basis)
    return Verdict(key, title, "", reproduced_if(of_all["value"] >= HALF), sentence, basis)


def _charts(metrics: Mapping[str, Any]) -> list[Chart]:
    accuracy, marks = metrics["accuracy"], {"chance": metrics["chance"]}
    lines = []
    for label in MODELS:
        found = {radius: accuracy["low_pass"][label][f"{radius:g}"] for radius in metrics["radii"]}
        lines.append(Series.of_shares(label, {**found, math.sqrt(2): accuracy["clean"][label]["1"]}))
    caption = "Accuracy on y behind low-pass filters; from √2 on all frequencies pass; whiskers: 95% intervals."
    smooth = Chart("low-pass", caption, "radius, fraction of Nyquist", "test accuracy on y", lines, marks=marks)
    bars = []
    for label in MODELS:
        bars.append(Series.of_shares(label, {group: rows[label] for group, rows in metrics["kept"].items()}))
    caption = (
        "Share of its accuracy above chance that each model keeps: in the mean of all radii of the low-pass filter, of "
        "three noises of five severities, and of fog and contrast; whiskers: 95% intervals."
    )
    return [smooth, Chart("kept", caption, "test images behind", "share kept", bars, "bars", percent=False)]


QUESTION = Question(
    settings=FiltersSettings,
    study=filters,
    inputs=(
        *("data/train", "data/test", "models/train"),
        *("models/fit/robust", "models/fit/nonrobust", "models/fit/rand", "models/fit/det"),
    ),
    title="Frequencies and common corruptions",
    says="Which frequencies do models of robust and of non-robust features live on?",
    position=Position(
        who="Gilmer & Hendrycks 2019",
        claim="Non-robust features are one kind of superficial statistics, such as high frequencies; robustness is "
        "more than to small perturbations.",
        reported="Trained and tested behind an extreme high-pass filter, models reach 50% top-1 on ImageNet-1K (Yin et "
        "al. 2019, who also find that adversarial training improves robustness to high-frequency corruptions and "
        "lowers it to low-frequency ones, such as fog and contrast).",
        source="https://distill.pub/2019/advex-bugs-discussion/response-1/",
        mind="Models of non-robust features that keep as much as robust ones, within 10 points, behind low-pass "
        "filters and under noise.",
    ),
)
