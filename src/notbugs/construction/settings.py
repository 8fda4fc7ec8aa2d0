"""How params.yaml names a recipe and its scalars; `arguments()` gives them to the functions that compute."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from notbugs.attacks.norms import NormName
from notbugs.data.store import Dtype
from notbugs.runtime.config import Seeds, Settings, validate
from notbugs.runtime.errors import ConfigError


class _RecipeSettings(Settings):
    model: str
    """Which source model is used: an entry of `train`."""
    source_seeds: Seeds | None = None
    """Seeds of `train.<model>` from whose models a dataset is made, one each; null takes all of them."""
    num_steps: int = Field(ge=1)
    """Gradient steps."""
    step_size: float = Field(gt=0, allow_inf_nan=False)
    """Length of a step on the normalised gradient, pixel units."""
    batch_size: int = Field(default=500, ge=1)
    """Images worked on at a time; does not change the results beyond rounding."""
    shard_size: int = Field(default=2000, ge=1)
    """Images in a file, at most 128 MiB: what a process makes at a time, and what is kept when it is killed."""
    dtype: Dtype = "float32"
    """Stored precision of the images; uint8 is not offered, its rounding is larger than the effect."""

    def scalars(self) -> dict[str, Any]:
        """The arguments of `building.set_up`: the recipe's name and its own numbers."""
        return self.model_dump(exclude={"model", "source_seeds", "batch_size", "shard_size", "dtype"})

    def arguments(self) -> dict[str, Any]:
        """The arguments of `building.construct`."""
        return {**self.scalars(), "batch_size": self.batch_size, "dtype": self.dtype}


class InvertSettings(_RecipeSettings):
    """D_R and D_NR: images with the representation of x, found from another image x'."""

    recipe: Literal["invert"]
    """argmin over z in [0, 1] of ‖g(z) − g(x)‖₂."""


class TargetSettings(_RecipeSettings):
    """D_rand and D_det: images pushed towards another class, and labelled as that class."""

    recipe: Literal["random_target", "deterministic_target"]
    """t uniform over all classes, or t = (y + 1) mod C."""
    norm: NormName = "l2"
    """Norm of the perturbation: l2, linf, l1, or package.module:attribute of your own."""
    eps: float = Field(gt=0, allow_inf_nan=False)
    """Radius of the perturbation ball, pixel units on [0, 1]."""


ConstructSettings = InvertSettings | TargetSettings
RECIPE_SETTINGS: dict[str, type[InvertSettings] | type[TargetSettings]] = {
    "invert": InvertSettings,
    "random_target": TargetSettings,
    "deterministic_target": TargetSettings,
}


def construct_settings(section: Any, key: str) -> ConstructSettings:
    """Validate one entry of the section `construct`.

    Raises: ConfigError naming the key, the value and what is allowed.
    """
    recipe = section.get("recipe") if isinstance(section, Mapping) else None
    if not isinstance(recipe, str) or recipe not in RECIPE_SETTINGS:
        raise ConfigError(f"params.yaml: {key}.recipe = {recipe!r}: must be one of {', '.join(RECIPE_SETTINGS)}")
    return validate(section, key, RECIPE_SETTINGS[recipe])
