"""How params.yaml says that a classifier is trained, or which file its weights come from."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BeforeValidator,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from notbugs.attacks import AttackSettings
from notbugs.models import ModelSettings
from notbugs.runtime.config import Seeds, Settings, settings
from notbugs.runtime.errors import ConfigError


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


def _listed(files: Any) -> Any:
    return (files,) if isinstance(files, str) else files


_Files = Annotated[tuple[str, ...], Field(strict=False, min_length=1), BeforeValidator(_listed)]
_Channels = Annotated[tuple[FiniteFloat, ...], Field(strict=False, min_length=1)]
"""A number, or one a channel."""


class GivenSettings(ModelSettings):
    """Models that are not trained here: an entry of `train` with `from`.

    The keys of `ModelSettings` say which network weights alone are put into; without them it is the section `model`.
    """

    files: _Files = Field(alias="from")
    """File of the weights, relative to the project; of several files each is the model of a seed. One of our own, its
    .json beside it; or weights alone: .safetensors, or what torch.save wrote."""
    seeds: tuple[int, ...] = Field(default=(), strict=False)
    """By which the models are named; 0, 1, ... if left out."""
    mean: _Channels | None = None
    """Only of weights alone: what is subtracted from an image first; null: nothing."""
    std: _Channels | None = None
    """Only of weights alone: what an image is divided by then; null: 1."""
    attack: AttackSettings | None = None
    """What the models were trained against, for those who read the results; null for standard training."""
    validation_attack: AttackSettings | None = None
    """Attack of the adversarial accuracy that is measured; null leaves it out."""
    early_stopping: ClassVar[None] = None

    @field_validator("files")
    @classmethod
    def _differ(cls, files: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(files)) < len(files):
            raise ValueError("a list of different files: one model twice has no spread")
        return files

    @field_validator("seeds")
    @classmethod
    def _is_one_a_file(cls, seeds: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        count = len(info.data.get("files", seeds))
        if seeds and not len(seeds) == len(set(seeds)) == count:
            raise ValueError(f"a list of {count} different seeds, one for each file of `from`")
        return seeds or tuple(range(count))

    @property
    def network(self) -> dict[str, Any] | None:
        """What `models.description_of` is told of the network; None if the entry names none."""
        if not self.model_fields_set & set(ModelSettings.model_fields):
            return None
        return {name: getattr(self, name) for name in ModelSettings.model_fields}

    def file(self, seed: int) -> str:
        """The file of a seed's model, as it is named."""
        return self.files[self.seeds.index(seed)]

    @model_serializer(mode="wrap")
    def _written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """By the names of params.yaml, and no network that is not named."""
        found = super()._written(dump)
        if self.network is None:
            found = {name: value for name, value in found.items() if name not in ModelSettings.model_fields}
        return {"from": list(found.pop("files")), **found}


def train_settings(params: Mapping[str, Any], key: str) -> TrainSettings | GivenSettings:
    """An entry of the section `train`.

    Args:
        key: dotted, such as "train.robust".
    Raises: ConfigError naming the key, the value and what is allowed.
    """
    section = params.get("train")
    entry = section.get(key.partition(".")[2]) if isinstance(section, Mapping) else None
    if not isinstance(entry, Mapping) or "from" not in entry:
        return settings(params, key, TrainSettings)
    found = settings(params, key, GivenSettings)
    if key in ("train.standard", "train.robust") and "seeds" not in entry:  # dvc.yaml names it
        raise ConfigError(f"params.yaml: {key}.seeds: missing; stages depend on it: must be {list(found.seeds)}, say")
    if found.network is not None and "architecture" not in entry:
        raise ConfigError(f"params.yaml: {key}.architecture: missing; it must be given beside other keys of a network")
    return found
