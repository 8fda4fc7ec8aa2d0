"""How params.yaml says that a classifier is trained."""

from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from notbugs.attacks import AttackSettings
from notbugs.runtime.config import Seeds, Settings


class TrainSettings(Settings):
    """How a classifier is trained."""

    seeds: Seeds = (0,)
    """One model is trained for each; of a fit, for each source model's dataset."""
    epochs: int = Field(ge=1)
    """Passes over the data."""
    batch_size: int = Field(default=128, ge=2)
    """Images a step."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: float = Field(gt=0, allow_inf_nan=False)
    """Learning rate; the highest one of a one-cycle schedule."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Of SGD."""
    nesterov: bool = False
    """Nesterov's form of SGD's momentum."""
    weight_decay: float = Field(default=5e-4, ge=0, allow_inf_nan=False)
    """L2 penalty (SGD) or decoupled decay (AdamW)."""
    schedule: Literal["step", "one_cycle", "constant"] = "step"
    """step divides lr by 10 at each milestone; one_cycle rises to lr and falls to 0."""
    milestones: tuple[int, ...] = Field(default=(), strict=False)
    """Epochs at which the step schedule divides the learning rate by 10."""
    crop_padding: int = Field(default=0, ge=0)
    """Random crops after padding with this many black pixels; 0 for none."""
    flip: bool = False
    """Random horizontal flips."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Weight of the uniform distribution in the labels."""
    early_stopping: int | None = Field(default=None, ge=1)
    """Stop after this many measured epochs without a better validation accuracy (adversarial accuracy, if
    trained adversarially), and keep the best epoch's weights; null trains to the end."""
    measure_every: int = Field(default=1, ge=1)
    """Validation is measured after every so many epochs, and after the last."""
    attack: AttackSettings | None = None
    """The inner attack of adversarial training; null for standard training."""
    validation_attack: AttackSettings | None = None
    """Attack of the adversarial accuracy in the learning curves; null leaves it out."""

    @field_validator("nesterov")
    @classmethod
    def _has_momentum(cls, nesterov: bool, info: ValidationInfo) -> bool:
        if nesterov and info.data.get("momentum") == 0:
            raise ValueError("false where momentum is 0")
        return nesterov

    @field_validator("milestones")
    @classmethod
    def _is_for_steps(cls, milestones: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        if milestones and info.data.get("schedule") != "step":
            raise ValueError(f"empty where schedule is {info.data.get('schedule')}")
        return milestones

    @field_validator("validation_attack")
    @classmethod
    def _serves_early_stopping(
        cls, validation_attack: AttackSettings | None, info: ValidationInfo
    ) -> AttackSettings | None:
        if validation_attack is None and info.data.get("attack") and info.data.get("early_stopping"):
            raise ValueError("given where early_stopping and attack are: the best epoch is chosen by it")
        return validation_attack

    def arguments(self) -> dict[str, Any]:
        """The arguments of `loop.train` that these settings decide."""
        return self.model_dump(include=set(TrainSettings.model_fields) - {"seeds"})


class FitSettings(TrainSettings):
    """How a classifier is fitted on a constructed dataset."""

    still_y: bool = True
    """Fit a second time on only the images that the robust model and 1-NN still call y."""
    baseline: bool = False
    """Fit D itself too, by the same recipe, from the same initialisations and in the same order: what this
    construction, and each other of the same recipe, is to be compared with."""
