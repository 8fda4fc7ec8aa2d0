"""How params.yaml names a recipe and its scalars; `arguments()` gives them to the functions that compute."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from notbugs.attacks.course import Schedule
from notbugs.attacks.losses import USUAL_LOSS, LossName
from notbugs.attacks.norms import NormName
from notbugs.construction.beginnings import Start
from notbugs.construction.targeting import RULES, TABLES, TARGETS, read_labels, target_labels
from notbugs.data.images import Images, make_generator
from notbugs.data.store import Dtype
from notbugs.runtime.config import Seeds, Settings

_FIRST = ("model", "source_seeds", "num_steps", "step_size")
"""What manifests begin with, in this order."""
COLOUR = re.compile(r"#[0-9A-Fa-f]{6}")
ANOTHER_SET = ("recipe", "start", "target", "label")
"""Deviations that make another set than the paper's: what it says of its set is not said of that one."""


def in_words(deviations: Mapping[str, Any]) -> str:
    """Options as a line of print: "start = noise, momentum = 0.75"."""
    return ", ".join(
        f"{name} = {value if isinstance(value, str) else json.dumps(value)}" for name, value in deviations.items()
    )


def _is_a_title(title: str) -> str:
    fits = 1 <= len(title) <= 40 and title.isprintable() and title == title.strip()
    is_plain = not set("[]$") & set(title) and not title.startswith(("_", "D, ")) and not title.endswith(", still y")
    if not fits or not is_plain:  # tables and figures give these a meaning
        raise ValueError(
            "a text of 1 to 40 characters in one line, without [, ] and $, that does not begin with _ or 'D, ' "
            "nor end with ', still y'"
        )
    return title


def _is_a_colour(colour: str) -> str:
    if not COLOUR.fullmatch(colour):
        raise ValueError("#rrggbb")
    return colour


class ConstructSettings(Settings):
    """What every recipe's settings have: an entry of the section `construct`. A recipe of one's own derives from it."""

    model: str = ""
    """Which source model is used, unless `from` names some: an entry of `train`; a dataset is made from the model of
    each of its seeds."""
    ensemble: tuple[str, ...] | None = Field(default=None, alias="from", strict=False, min_length=1)
    """In place of `model`: source models that are attacked together, each NAME/SEED, or NAME for all its seeds; one
    dataset is made, of the lowest of their seeds."""
    source_seeds: Seeds | None = None
    """Seeds of `train.<model>` from whose models a dataset is made, one each; null takes all of them."""
    batch_size: int = Field(default=500, ge=1)
    """Images worked on at a time; does not change the results beyond rounding."""
    shard_size: int = Field(default=2000, ge=1)
    """Images in a file, at most 128 MiB: what a process makes at a time, and what is kept when it is killed."""
    dtype: Dtype = "float32"
    """Stored precision of the images; uint8 is not offered, its rounding is larger than the effect."""
    recipe: str
    """A built-in recipe, or package.module:attribute of one's own."""
    title: Annotated[str, AfterValidator(_is_a_title)] | None = Field(default=None, exclude=True)
    """What figures, tables and verdicts call it; null takes its name in the results. No number depends on it."""
    colour: Annotated[str, AfterValidator(_is_a_colour)] | None = Field(default=None, exclude=True)
    """Its colour in figures, #rrggbb; null takes one that follows from its recipe."""
    papers: ClassVar[bool] = False
    """Whether the recipe is one of the paper's."""

    @property
    def deviations(self) -> dict[str, Any]:
        """What is not as in the paper, by name in params.yaml; scalars belong to a preset and do not count."""
        found: dict[str, Any] = {} if self.papers else {"recipe": self.recipe}
        if self.ensemble is not None:
            found["from"] = list(self.ensemble)
        written = self.model_dump(mode="json")
        return found | {name: written[name] for name in type(self).model_fields if name in self.options & set(written)}

    def check_files(self, root: Path, data: Images | None) -> None:
        """Look into the files that the recipe reads, as far as can be told before it runs.

        Args:
            root: of the project, which the files' names are relative to.
            data: D; None before it is made.
        Raises: RecipeError, to be read after the key of its entry and a dot.
        """

    @property
    def looks(self) -> int:
        """Forward and backward passes an image, by which the engine is chosen."""
        return int(getattr(self, "num_steps", 1)) * max(1, int(getattr(self, "views", 0)))

    @property
    def files(self) -> tuple[str, ...]:
        """Files that the recipe reads, as they are named: part of what a dataset is made from."""
        return ()

    def located(self, root: Path) -> Self:
        """The same with `files` where they are, if they are named relative to the project's folder."""
        return self

    def scalars(self) -> dict[str, Any]:
        """The arguments of `building.set_up`: the recipe's name and its own numbers."""
        return self.model_dump(exclude=set(ConstructSettings.model_fields) - {"recipe"})

    def arguments(self) -> dict[str, Any]:
        """The arguments of `building.construct`."""
        return {**self.scalars(), "batch_size": self.batch_size, "dtype": self.dtype}

    @model_serializer(mode="wrap")
    def _written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """In the order and by the names of params.yaml."""
        found = super()._written(dump)
        if found.pop("ensemble", None):
            found["from"] = list(self.ensemble or ())
            del found["model"]
        return {**{name: found[name] for name in _FIRST if name in found}, **found}


class _Steps(ConstructSettings):
    papers = True
    num_steps: int = Field(ge=1)
    """Gradient steps."""
    step_size: float = Field(gt=0, allow_inf_nan=False)
    """Length of a step on the normalised gradient, pixel units."""


class InvertSettings(_Steps):
    """D_R and D_NR: images with the representation of x, found from another image x'."""

    options: ClassVar[frozenset[str]] = frozenset(
        {"start", "schedule", "momentum", "straight_through", "normalise_distance"}
    )
    recipe: Literal["invert"]
    """argmin over z in [0, 1] of ‖g(z) − g(x)‖₂."""
    start: Literal["another_image", "noise"] = "another_image"
    """A uniformly random other image of D, or uniform noise in [0, 1]."""
    schedule: Schedule = "constant"
    """Length of the steps: all the same, or falling linearly to 0."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Share of the gathered gradient that is kept at each step, as in MI-FGSM."""
    straight_through: bool = False
    """Look for the gradient through last ReLUs that let all pass: the authors' fake ReLU."""
    normalise_distance: bool = False
    """Report distances over ‖g(x)‖₂, as the authors' code does; the images are the same."""


class TargetSettings(_Steps):
    """D_rand and D_det: images pushed towards another class, and labelled as that class."""

    options: ClassVar[frozenset[str]] = frozenset(
        {"start", "target", "label", "loss", "views", "schedule", "momentum", "straight_through"}
    )
    recipe: Literal["random_target", "deterministic_target"]
    """t uniform over all classes, or t = (y + 1) mod C."""
    norm: NormName = "l2"
    """Norm of the perturbation: l2, linf, l1, or package.module:attribute of your own."""
    eps: float = Field(gt=0, allow_inf_nan=False)
    """Radius of the perturbation ball, pixel units on [0, 1]."""
    start: Start = "x"
    """What is perturbed: x, a uniformly random other image of D, or uniform noise in [0, 1]. The ball lies around it;
    t and y stay those of x."""
    target: str | tuple[int, ...] | None = None
    """Where images are pushed, if not where the recipe pushes them: random; next (y + 1); permutation (a cycle through
    all classes, drawn); a list whose entry y is the target of class y; or a file with a label for each image of D, .npy
    or .csv with a column `label`."""
    label: Literal["target", "source"] = "target"
    """Which label is given: t, or y of x untouched."""
    loss: LossName = USUAL_LOSS
    """What is descended towards t: cross_entropy, margin, or package.module:function of your own."""
    views: int = Field(default=0, ge=0)
    """Random flips and shifts of the image that each gradient is averaged over; 0 takes that of the image itself."""
    schedule: Schedule = "constant"
    """Length of the steps: all the same, or falling linearly to 0."""
    momentum: float = Field(default=0.0, ge=0, lt=1)
    """Share of the gathered gradient that is kept at each step, as in MI-FGSM."""
    straight_through: bool = False
    """Look for the gradient through last ReLUs that let all pass: the authors' fake ReLU."""

    @field_validator("target", mode="before")
    @classmethod
    def _is_a_target(cls, value: Any, info: ValidationInfo) -> Any:
        """One clear message for what may be a word, a list or a file."""
        if value is None or (isinstance(value, str) and (value in RULES or Path(value).suffix in TABLES)):
            if value == "random" and info.data.get("recipe") == "deterministic_target":
                raise ValueError("next, permutation, a list or a file; recipe random_target has random ones")
            return value
        whole = isinstance(value, list | tuple) and all(type(entry) is int for entry in value)
        if whole and len(value) >= 2 and sorted(value) == list(range(len(value))):
            return tuple(value)
        raise ValueError(TARGETS)

    @property
    def files(self) -> tuple[str, ...]:
        """The file of targets, if there is one."""
        return (self.target,) if isinstance(self.target, str) and self.target not in RULES else ()

    def located(self, root: Path) -> Self:
        """The same with the file of targets where it is."""
        return self.model_copy(update={"target": str(root / self.files[0])}) if self.files else self

    @property
    def deviations(self) -> dict[str, Any]:
        """What is not as in the paper: L2, and the recipe's own targets, are."""
        found = super().deviations
        own_rule = {"random_target": "random", "deterministic_target": "next"}[self.recipe]
        if found.get("target") == own_rule:
            del found["target"]
        return found | ({"norm": self.norm} if self.norm != "l2" else {})

    def check_files(self, root: Path, data: Images | None) -> None:
        """Whether the targets fit D; before there is one, whether their file can be read."""
        target = self.located(root).target
        if target is not None and data is not None:
            target_labels(target, data.labels, len(data.class_names), make_generator(0))
        elif self.files:
            read_labels(Path(str(target)))
