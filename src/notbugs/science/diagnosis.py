"""Why a constructed dataset teaches what it does, or nothing: each link between its source and the fits, measured.

What is wrong by these numbers is said by `causes`.

Source: MadryLab/constructed-datasets, issues 3 and 11 ("D_rand works, D_det sits at chance, why?").
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from notbugs.attacks.norms import norm_of
from notbugs.data.batches import augment
from notbugs.data.images import Images, stratified_subset
from notbugs.evaluation.accuracy import called_by
from notbugs.evaluation.learnt import chance_loss, has_learnt
from notbugs.runtime.config import Settings

NEAR = 0.07
"""Distance from a whole number of 255ths: more than what rounding to float16 moves a pixel by."""
DRAWS = 4
"""Crops and flips of each image."""


class DiagnosisSettings(Settings):
    """How closely constructed datasets are looked at."""

    max_examples: int | None = Field(default=2000, ge=50)
    """At most so many images of each dataset, drawn by class; null takes all."""


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
        left_at: epoch at which each fit's loss left ln C; None for one that did not. epochs: of the longest fit.
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
    epochs: int | None = None
    on_y: float | None = None
    on_shifted: float | None = None


def measure(subject: Subject, generator: torch.Generator, *, max_examples: int | None = None) -> Numbers:
    """Look at images of a dataset, of all classes of D.

    Args:
        generator: draws the images, the crops and flips, and the halves of the probes.
        max_examples: at most so many; None takes all. D may be sorted by class, so they are drawn class by class.
    """
    count = len(subject.made) if max_examples is None else min(max_examples, len(subject.made))
    rows = stratified_subset(subject.base.labels, count, generator)
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
        "epochs": max(map(len, fit.losses)),
        "on_y": fit.on_y,
        "on_shifted": fit.on_shifted,
    }
