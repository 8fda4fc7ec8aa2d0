"""How a study trains its own models, and attacks them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
from pydantic import AfterValidator, Field, field_validator
from torch import Tensor, nn

from notbugs.attacks import AttackSettings
from notbugs.data.images import Images, make_generator
from notbugs.evaluation.accuracy import adversarially_correct, called_by
from notbugs.models import ModelSettings, create_model, set_normalisation
from notbugs.models.base import Classifier
from notbugs.science.common.lab import Lab
from notbugs.training.loop import train
from notbugs.training.settings import TrainSettings


class StudyTraining(TrainSettings):
    """Settings of one training; the seeds are the study's, and nothing is chosen on validation."""

    @field_validator("seeds")
    @classmethod
    def _are_the_studys(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if seeds != (0,):
            raise ValueError("left out: the section's own seeds are used")
        return seeds

    @field_validator("early_stopping")
    @classmethod
    def _has_no_validation(cls, early_stopping: int | None) -> int | None:
        if early_stopping is not None:
            raise ValueError("null: these trainings run to their end")
        return early_stopping


def _without_attack(training: StudyTraining) -> StudyTraining:
    if training.attack is not None:
        raise ValueError("without an attack: this is standard training")
    return training


def _rising_from_zero(eps: tuple[float, ...]) -> tuple[float, ...]:
    if eps[0] != 0 or any(later <= earlier for earlier, later in pairwise(eps)):
        raise ValueError("a rising list of radii that begins with 0 (standard training)")
    return eps


StandardTraining = Annotated[StudyTraining, AfterValidator(_without_attack)]
"""Of one standard training."""
RISING_FROM_ZERO = AfterValidator(_rising_from_zero)
"""Of a list of training radii, pixel units; 0, the first, is standard training."""


class Attack(AttackSettings):
    """An attack that a study measures with."""

    eps: float = Field(gt=0, allow_inf_nan=False)
    """Radius of the perturbation ball, pixel units on [0, 1]."""


def trained(
    lab: Lab,
    architecture: ModelSettings,
    data: Images,
    settings: TrainSettings | None,
    stream: Sequence[str | int],
    description: str = "train",
) -> Classifier:
    """A classifier from scratch, in eval mode; without settings it stays untrained.

    Models of one stream and seed begin alike and see the rows in the same order, on whatever they learn.
    """
    weights = make_generator(lab.seed, *stream, "weights")
    model = create_model(
        image_shape=data.image_shape, class_names=data.class_names, **architecture.arguments(), generator=weights
    ).to(lab.device)
    set_normalisation(model, data)
    if settings is not None:
        order = make_generator(lab.seed, *stream, "batches")
        train(model, data, **settings.arguments(), generator=order, progress=lab.progress, description=description)
    return model.eval()


def clean_and_attacked(
    model: nn.Module, data: Images, attack: AttackSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Which images a model gets right, untouched and attacked, (N,) bool each; generator: of random starts."""
    withstood = adversarially_correct(model, data, **attack.arguments(), generator=generator)
    return called_by(model, data) == data.labels, withstood
