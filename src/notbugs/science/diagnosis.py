"""Why a constructed dataset teaches what it does, or nothing: the causes that replications ran into, each measured.

`measure` takes the numbers of a dataset, `causes` names what is wrong in the order of the pipeline: the dataset itself,
its source model, its perturbations, the fit on it. A later cause is often but the effect of an earlier one.

Source: MadryLab/constructed-datasets, issues 3 and 11 ("D_rand works, D_det sits at chance, why?").
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from notbugs.attacks.norms import norm_of
from notbugs.data.batches import augment
from notbugs.data.images import Images
from notbugs.evaluation.accuracy import called_by
from notbugs.evaluation.learnt import chance_loss, has_learnt
from notbugs.evaluation.results import STILL_Y_SHARE
from notbugs.runtime.config import Settings

RIGHT_ON_D = 0.97
"""Share of D's own images that a standard source model must know; replications train it to all of them."""
SUCCESS = 0.8
"""Share of the images that must be called as they are labelled."""
AT_THE_RADIUS = 0.9
"""Share of eps that the median perturbation must reach."""
BEYOND_THE_RADIUS = 1.02
"""Share of eps that no attack's perturbation reaches; rounding to 8 bits adds less than 1% at eps 0.5 on CIFAR-10."""
SURVIVES = 0.8
"""Share of the successes that must survive the crops and flips of the fit."""
ON_OTHERS = 0.5
"""Share of the images that must persuade models of other seeds."""
WHOLE = 0.95
"""Share of the pixels within (0, 1) that are 255ths, from which images count as rounded; by chance 14% are."""
NEAR = 0.07
"""Distance from a whole number of 255ths: more than what rounding to float16 moves a pixel by."""
DRAWS = 4
"""Crops and flips of each image."""


class DiagnosisSettings(Settings):
    """How closely constructed datasets are looked at."""

    max_examples: int | None = Field(default=2000, ge=50)
    """At most so many images of each dataset, the first ones; null takes all."""


@dataclass(frozen=True)
class Fit:
    """How fits on the dataset are trained, and went.

    Attributes:
        crop_padding, flip: their augmentation.
        losses: of each fit the training loss after each epoch.
        on_y, on_shifted: their mean accuracy on validation images; None where nobody measured it.
    """

    crop_padding: int = 0
    flip: bool = False
    losses: Sequence[Sequence[float]] = ()
    on_y: float | None = None
    on_shifted: float | None = None


@dataclass(frozen=True)
class Subject:
    """A constructed dataset with all that is asked about it.

    Attributes:
        made: the dataset. base: D, row by row. recorded: the labels that it was made with, (N,).
        source: what it was made from. adversarial: whether that was trained adversarially.
        others: models of the source's kind from other seeds. judge: a robust model.
        norm, eps: of the ball around each image of D; None where there is none.
        aim: where images were pushed, (N,), if they are not labelled so; None for their labels.
        fit: of the fits on it; None where there are none.
        shifted: whether the labels are y + 1, as D_det's.
    """

    made: Images
    base: Images
    recorded: Tensor
    source: nn.Module
    judge: nn.Module
    adversarial: bool = False
    others: Sequence[nn.Module] = ()
    norm: str = "l2"
    eps: float | None = None
    aim: Tensor | None = None
    fit: Fit | None = None
    shifted: bool = False


@dataclass(frozen=True)
class Numbers:
    """What was measured; shares are fractions, and None is what could not be.

    Attributes:
        num_examples: images looked at. chance: 1/C.
        as_recorded: share of the labels that are those the dataset was made with.
        in_255ths: share of the pixels within (0, 1) that are whole 255ths.
        source_accuracy: of the source model on D's images.
        success: share that the source calls by its label, or where it was pushed (`aim`).
        moved: share that the source calls otherwise than the image of D.
        success_of_moved: success among these.
        success_other_seeds: the mean over other models; success_augmented: under the fit's crops and flips.
        norm_share: median ‖δ‖ over eps.
        still_y: share that the robust model still calls y, of what it called y before.
        label_is_y: share labelled y.
        probe: label from a linear probe, neighbour: from 1-NN, on held-out images; of δ, and of the image itself.
        loss: last training loss, mean over fits; chance_loss: ln C.
        left_at: epoch at which each fit's loss left ln C; None for one that did not.
        on_y, on_shifted: accuracy of the fits on validation images.
    """

    num_examples: int
    chance: float
    as_recorded: float
    in_255ths: float | None
    source_accuracy: float
    success: float
    moved: float
    success_of_moved: float | None
    success_other_seeds: float | None
    success_augmented: float | None
    norm_share: float | None
    still_y: float | None
    label_is_y: float
    probe_delta: float
    probe_image: float
    neighbour_delta: float
    neighbour_image: float
    loss: float | None = None
    chance_loss: float = 0.0
    left_at: list[int | None] = field(default_factory=list)
    on_y: float | None = None
    on_shifted: float | None = None


@dataclass(frozen=True)
class Cause:
    """What is wrong: `key` names it, `says` tells it with its numbers, `change` the setting that mends it."""

    key: str
    says: str
    change: str


def measure(subject: Subject, generator: torch.Generator, *, max_examples: int | None = None) -> Numbers:
    """Look at the first images of a dataset.

    Args:
        generator: of the crops and flips, and of the halves of the probes.
    """
    count = len(subject.made) if max_examples is None else min(max_examples, len(subject.made))
    rows = slice(0, count)
    made, base, recorded = subject.made.select(rows), subject.base.select(rows), subject.recorded[rows]
    new, old, true = made.images, base.images, base.labels
    labels = made.labels if subject.aim is None else subject.aim[rows]
    before, after = called_by(subject.source, old), called_by(subject.source, new)
    moved, hits = after != before, after == labels
    judged, still = called_by(subject.judge, old) == true, called_by(subject.judge, new) == true
    others = [called_by(model, new) == labels for model in subject.others]
    delta = (new - old).flatten(1)
    halves = torch.randperm(count, generator=generator).chunk(2)
    return Numbers(
        num_examples=count,
        chance=1 / len(base.class_names),
        as_recorded=_share(made.labels == recorded),
        in_255ths=_in_255ths(new),
        source_accuracy=_share(before == true),
        success=_share(hits),
        moved=_share(moved),
        success_of_moved=_share(hits[moved]) if moved.any() else None,
        success_other_seeds=_share(torch.stack(others)) if others else None,
        success_augmented=_augmented(subject, new, labels, generator),
        norm_share=None
        if subject.eps is None
        else float(norm_of(subject.norm).length(new - old).median()) / subject.eps,
        still_y=_share(still[judged]) if judged.any() else None,
        label_is_y=_share(made.labels == true),
        probe_delta=_read(_probe(), delta, labels, halves),
        probe_image=_read(_probe(), new.flatten(1), labels, halves),
        neighbour_delta=_read(_neighbour(), delta, labels, halves),
        neighbour_image=_read(_neighbour(), new.flatten(1), labels, halves),
        chance_loss=chance_loss(len(base.class_names)),
        **_of_fits(subject.fit, len(base.class_names)),
    )


def _share(mask: Tensor) -> float:
    return float(mask.double().mean())


def _in_255ths(images: Tensor) -> float | None:
    inner = images[(images > 0) & (images < 1)] * 255
    return _share((inner - inner.round()).abs() < NEAR) if len(inner) else None


def _augmented(subject: Subject, images: Tensor, labels: Tensor, generator: torch.Generator) -> float | None:
    """Success under the crops and flips of the fit; None where it has none."""
    fit = subject.fit
    if fit is None or not (fit.crop_padding or fit.flip):
        return None
    seen = [augment(images, fit.crop_padding, fit.flip, generator) for _ in range(DRAWS)]
    return _share(torch.stack([called_by(subject.source, view) == labels for view in seen]))


def _probe() -> Any:
    from sklearn.linear_model import RidgeClassifier

    return RidgeClassifier(alpha=1.0)


def _neighbour() -> Any:
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(1)


def _read(reader: Any, points: Tensor, labels: Tensor, halves: Sequence[Tensor]) -> float:
    """Accuracy on the second half of a classifier that learnt the first; points: (N, d)."""
    learnt, held_out = ((points[half].numpy(), labels[half].numpy()) for half in halves)
    if len(set(learnt[1].tolist())) < 2:
        return float((held_out[1] == learnt[1][0]).mean())
    return float(reader.fit(*learnt).score(*held_out))


def _of_fits(fit: Fit | None, num_classes: int) -> dict[str, Any]:
    if fit is None or not fit.losses:
        return {}
    left = []
    for losses in fit.losses:
        learnt = [epoch for epoch, loss in enumerate(losses, start=1) if has_learnt(loss, num_classes)]
        left.append(learnt[0] if learnt else None)
    return {
        "loss": sum(losses[-1] for losses in fit.losses) / len(fit.losses),
        "left_at": left,
        "on_y": fit.on_y,
        "on_shifted": fit.on_shifted,
    }


def causes(name: str, subject: Subject, found: Numbers) -> list[Cause]:
    """What is wrong with a dataset, and what to change, the first cause first; empty where nothing is.

    Args:
        name: its entry in params.yaml.
        subject: of which its settings are read, not its images.
    """
    checks: tuple[Callable[[str, Subject, Numbers], Cause | None], ...] = (
        _labels,
        _changed_images,
        _source,
        _perturbation,
        _augmentation,
        _other_seeds,
        _visible,
        _not_learnt,
        _reads_the_object,
    )
    return list(filter(None, (check(name, subject, found) for check in checks)))


def _labels(name: str, subject: Subject, found: Numbers) -> Cause | None:
    agree = found.success_of_moved
    unrelated = found.moved >= 1 / 2 and agree is not None and agree <= 2 * found.chance and subject.eps is not None
    if found.as_recorded == 1 and not unrelated:
        return None
    told = (
        f"the source calls {_percent(found.moved)} of the images otherwise than before, and of these "
        f"{_percent(agree)} by their label (chance {_percent(found.chance)})"
    )
    if found.as_recorded < 1:
        told = f"{_percent(1 - found.as_recorded)} of the labels are not those it was made with; {told}"
    return Cause(
        "labels", f"the labels do not belong to the images: {told}", f"make it anew: dvc repro -f construct@{name}"
    )


def _changed_images(name: str, subject: Subject, found: Numbers) -> Cause | None:
    beyond = found.norm_share is not None and found.norm_share > BEYOND_THE_RADIUS
    rounded = found.in_255ths is not None and found.in_255ths >= WHOLE
    if not (beyond or rounded):
        return None
    change = f"make it anew and store it as float32 or float16: dvc repro -f construct@{name}"
    if beyond:
        how = "JPEG or another lossy format" if rounded else "something"
        told = f"the median ‖δ‖ is {found.norm_share:.2f} eps, which the attack cannot reach"
        return Cause("compressed", f"{how} changed the images after they were made: {told}", change)
    told = f"{_percent(found.in_255ths)} of the pixels within (0, 1) are whole 255ths"
    return Cause("rounded", f"the images went through 8 bits: {told}", change)


def _source(name: str, subject: Subject, found: Numbers) -> Cause | None:
    if subject.adversarial or found.source_accuracy >= RIGHT_ON_D:
        return None
    told = f"it is right on {_percent(found.source_accuracy)} of the images of D that it learnt from"
    change = f"train it to {_percent(RIGHT_ON_D)} and more: raise epochs or lr of its entry of train"
    return Cause("undertrained_source", f"the source model is undertrained: {told}", change)


def _perturbation(name: str, subject: Subject, found: Numbers) -> Cause | None:
    if found.success >= SUCCESS or subject.eps is None or found.norm_share is None:
        return None
    told = f"the source calls {_percent(found.success)} of the images by their label"
    if found.norm_share < AT_THE_RADIUS:
        told += f", and the median ‖δ‖ is {found.norm_share:.2f} eps only"
        change = f"raise construct.{name}.num_steps or step_size: together they must reach beyond eps {subject.eps:g}"
        return Cause("short_attack", f"the attack ends before the edge of the ball: {told}", change)
    change = f"raise construct.{name}.eps above {subject.eps:g}, as far as images are still y; then num_steps"
    return Cause("small_eps", f"eps is too small: {told}, at {found.norm_share:.2f} eps", change)


def _augmentation(name: str, subject: Subject, found: Numbers) -> Cause | None:
    if found.success_augmented is None or found.success_augmented >= SURVIVES * found.success:
        return None
    told = (
        f"success on the source falls from {_percent(found.success)} to {_percent(found.success_augmented)} "
        "under its crops and flips"
    )
    change = f"set fit.{name}.crop_padding = 0 and fit.{name}.flip = false; or construct.{name}.views = 4"
    return Cause("augmentation", f"the fit's augmentation destroys the perturbation: {told}", change)


def _other_seeds(name: str, subject: Subject, found: Numbers) -> Cause | None:
    share = found.success_other_seeds
    if share is None or share >= ON_OTHERS or found.success < SUCCESS:
        return None
    told = f"{_percent(found.success)} of the images persuade the source, {_percent(share)} models of other seeds"
    change = f"name several seeds in construct.{name}.from, attacked together; or train the source longer"
    return Cause("one_model_only", f"the perturbation is one model's own: {told}", change)


def _visible(name: str, subject: Subject, found: Numbers) -> Cause | None:
    if subject.eps is None or found.still_y is None or found.still_y >= STILL_Y_SHARE:
        return None
    told = f"the robust model still calls {_percent(found.still_y)} of the images y that it called y before"
    change = f"lower construct.{name}.eps below {subject.eps:g}: what fits learn here may be visible"
    return Cause("visible", f"the perturbation changes what is seen: {told}", change)


def _not_learnt(name: str, subject: Subject, found: Numbers) -> Cause | None:
    stuck = sum(epoch is None for epoch in found.left_at)
    if not stuck:
        return None
    told = f"the training loss of {stuck} of {len(found.left_at)} has not left ln C = {found.chance_loss:.3f}"
    if found.loss is not None:
        told += f" (mean at the end {found.loss:.3f})"
    change = f"raise fit.{name}.epochs; then fit.{name}.lr, or set fit.{name}.optimizer = adamw"
    return Cause("not_learnt_yet", f"the fits have not learnt yet: {told}", change)


def _reads_the_object(name: str, subject: Subject, found: Numbers) -> Cause | None:
    on_y, shifted = found.on_y, found.on_shifted
    if not subject.shifted or on_y is None or shifted is None or on_y >= shifted:
        return None
    told = f"they call {_percent(on_y)} of untouched images y, and {_percent(shifted)} y + 1"
    change = f"strengthen the perturbation: construct.{name}.from (several seeds), views, or eps"
    return Cause("reads_the_object", f"the fits read the object and learnt the shift of its label: {told}", change)


def lines(name: str, found: Numbers, wrong: Sequence[Cause]) -> Iterator[str]:
    """A diagnosis in print: the numbers, then what is wrong and what to change, the first cause first."""
    yield (
        f"{name}: {found.num_examples} images; success {_percent(found.success)} on the source, "
        f"{_percent(found.success_other_seeds)} on other seeds, "
        f"{_percent(found.success_augmented)} under the fit's augmentation; the source is right on "
        f"{_percent(found.source_accuracy)} of D"
    )
    reached = "no ball" if found.norm_share is None else f"median ‖δ‖ {found.norm_share:.2f} eps"
    yield f"  {reached}; still y {_percent(found.still_y)} by the robust model; labelled y {_percent(found.label_is_y)}"
    yield (
        f"  label read by a linear probe from δ {_percent(found.probe_delta)}, from the image "
        f"{_percent(found.probe_image)}; by 1-NN {_percent(found.neighbour_delta)}, {_percent(found.neighbour_image)} "
        f"(chance {_percent(found.chance)})"
    )
    if found.loss is not None:
        left = ", ".join("not yet" if epoch is None else str(epoch) for epoch in found.left_at)
        yield (
            f"  fits: training loss {found.loss:.3f} at the end, left ln C = {found.chance_loss:.3f} in epoch {left}; "
            f"validation accuracy on y {_percent(found.on_y)}, on y + 1 {_percent(found.on_shifted)}"
        )
    for number, cause in enumerate(wrong, start=1):
        yield f"  {number}. {cause.says}"
        yield f"     {cause.change}"
    if not wrong:
        yield "  nothing is wrong by these measures"


def as_json(found: Numbers, wrong: Sequence[Cause]) -> dict[str, Any]:
    """A diagnosis for a metrics file."""
    numbers = {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(found).items()}
    return {**numbers, "causes": [asdict(cause) for cause in wrong]}


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
