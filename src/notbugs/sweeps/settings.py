"""What a sweep searches: one entry of the section `sweep` of params.yaml is one study; and the points of its space.

A trial is an ordinary run of the stages with the point written into params.yaml: `changes` says what is written,
both for the trial itself and for `notbugs sweep apply`, so the two cannot differ.
"""

import copy
import itertools
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from notbugs.construction.building import kind_of
from notbugs.runtime.config import Settings, dataset_name, validate
from notbugs.runtime.errors import ConfigError, UserError

STORAGE_VARIABLE = "NOTBUGS_SWEEP_STORAGE"
"""Environment variable: the database's URL, so that a password need not stand on a command line."""
SUBCOMMANDS = ("run", "worker", "apply", "figures", "status")
"""Names that `notbugs sweep` keeps for itself."""
OBJECTIVES: dict[str, tuple[str, Literal["maximize", "minimize"]]] = {
    "accuracy": ("validation_accuracy", "maximize"),
    "adversarial_accuracy": ("validation_adversarial_accuracy", "maximize"),
    "accuracy_shifted": ("validation_accuracy_shifted", "minimize"),
    "still_y": ("still_y", "maximize"),
    "work": ("work", "minimize"),
}
"""Objective -> what is measured for it, and the direction; what is chosen is chosen on validation."""


class SweepError(UserError):
    """A sweep cannot be run as it is asked for."""


class Range(Settings):
    """All numbers between two bounds, both included; `validate_range` makes it."""

    low: float = Field(gt=0, allow_inf_nan=False)
    """Lower bound."""
    high: float = Field(gt=0, allow_inf_nan=False)
    """Upper bound."""
    log: bool = False
    """Search on a logarithmic scale."""


class SweepSettings(Settings):
    """One study: the space, how it is searched, and what is sought."""

    kinds: tuple[str, ...] = Field(strict=False, min_length=1)
    """Which datasets are made: entries of `construct` and `fit`, whose other settings hold for every trial."""
    eps: tuple[float, ...] | Range = ()
    """Radii of the ball, pixel units on [0, 1]; kinds made by inversion have no ball and leave this out."""
    num_steps: tuple[int, ...] | Range
    """Gradient steps of the construction."""
    step_size: tuple[float, ...] | Range | None = None
    """Step sizes; null takes 2.5·eps/num_steps (inversions: the path length of `construct` over num_steps)."""
    source_eps: tuple[float, ...] | Range | None = None
    """Radii of the source model's own adversarial training, 0 for the standard model; null takes the pipeline's
    source model."""
    seeds: tuple[int, ...] = Field(default=(0, 1), strict=False, min_length=1)
    """Fits of each point, each from the source model of the same seed where there is one. One alone has no spread."""
    sampler: Literal["grid", "tpe", "random"] = "grid"
    """Every point of the space; or points chosen by a tree-structured Parzen estimator, or at random."""
    trials: int | None = Field(default=None, ge=1)
    """Points tried by tpe and random."""
    objectives: tuple[str, ...] = Field(default=("accuracy",), strict=False)
    """One or two of accuracy, adversarial_accuracy, accuracy_shifted, still_y, work."""
    pruner: Literal["none", "median", "successive_halving", "hyperband"] = "none"
    """Stops fits that are behind, by their validation accuracy."""
    retries: int = Field(default=1, ge=0)
    """How often a point is tried again after an error; lost workers do not count."""
    keep_datasets: bool = False
    """Keep each constructed dataset under .notbugs/sweeps/datasets."""

    @field_validator("eps", "num_steps", "step_size", "source_eps", mode="before")
    @classmethod
    def _is_a_space(cls, value: Any, info: ValidationInfo) -> Any:
        """One clear message for what may be a list or a range."""
        name = str(info.field_name)
        if isinstance(value, Range | None) or (name == "eps" and value == ()):
            return value
        if isinstance(value, Mapping):
            return validate_range(value, name)
        whole, least = name == "num_steps", 0 if name == "source_eps" else None
        what = "whole number >= 1" if whole else "number >= 0" if least == 0 else "number > 0"
        given = value if isinstance(value, list | tuple) else []
        if given and all(_fits(item, whole, least) for item in given) and len(set(given)) == len(given):
            return tuple(given) if whole else tuple(float(item) for item in given)
        raise ValueError(f"a list of at least one {what}, each once, or {{low, high}}")

    @field_validator("kinds", "seeds")
    @classmethod
    def _differ(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            raise ValueError("a list without repetitions")
        return values

    @field_validator("trials")
    @classmethod
    def _given_for_samplers(cls, trials: int | None, info: ValidationInfo) -> int | None:
        sampler = info.data.get("sampler")
        if sampler == "grid" and trials is not None:
            raise ValueError("null where sampler is grid: every point is tried")
        if sampler in ("tpe", "random") and trials is None:
            raise ValueError(f"given where sampler is {sampler}")
        return trials

    @field_validator("objectives")
    @classmethod
    def _are_known(cls, objectives: tuple[str, ...]) -> tuple[str, ...]:
        known = all(name in OBJECTIVES for name in objectives)
        if not known or len(objectives) not in (1, 2) or len(set(objectives)) != len(objectives):
            raise ValueError(f"one or two of {', '.join(OBJECTIVES)}")
        return objectives

    @field_validator("pruner")
    @classmethod
    def _can_prune(cls, pruner: str, info: ValidationInfo) -> str:
        if pruner != "none" and (info.data.get("sampler") == "grid" or info.data.get("objectives") != ("accuracy",)):
            raise ValueError("none unless sampler is tpe or random and the only objective is accuracy")
        return pruner

    @property
    def spaces(self) -> dict[str, tuple[float, ...] | tuple[int, ...] | Range | None]:
        """The dimensions besides the kind, by name."""
        return {name: getattr(self, name) for name in ("eps", "num_steps", "step_size", "source_eps")}


def validate_range(value: Mapping[str, Any], name: str) -> Range:
    """A {low, high} of whole numbers for num_steps, of any for the rest.

    Raises: ValueError saying what is allowed.
    """
    low: Any = value.get("low")
    high: Any = value.get("high")
    log = value.get("log", False)
    whole = name == "num_steps"
    known = set(value) <= {"low", "high", "log"} and isinstance(log, bool)
    if known and _fits(low, whole, None) and _fits(high, whole, None) and low <= high:
        return Range(low=float(low), high=float(high), log=log)
    kind = "whole numbers" if whole else "numbers"
    raise ValueError(f"a list, or {{low, high}} with {kind} 0 < low <= high (and log: true or false)")


def _fits(item: Any, whole: bool, least: float | None) -> bool:
    if isinstance(item, bool) or not isinstance(item, int if whole else int | float) or not math.isfinite(item):
        return False
    return item >= least if least is not None else item > 0


def sweep_settings(params: Mapping[str, Any], name: str) -> SweepSettings:
    """The study `name` of params.yaml, checked against the sections that it builds on.

    Raises: ConfigError naming the key, the value and what is allowed.
    """
    studies = params.get("sweep")
    if not isinstance(studies, Mapping) or not studies:
        raise ConfigError("params.yaml: sweep: must map at least one study to its settings")
    if name not in studies:
        raise ConfigError(f"sweep.{name}: not in params.yaml; sweep has: {', '.join(map(str, studies))}")
    key = f"sweep.{name}"
    if name in SUBCOMMANDS or not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
        raise ConfigError(
            f"params.yaml: {key}: a study's name has letters, digits, - and _, and is none of {', '.join(SUBCOMMANDS)}"
        )
    section = validate(studies[name], key, SweepSettings)
    for kind in section.kinds:
        for other in ("construct", "fit"):
            if kind not in (params.get(other) or {}):
                raise ConfigError(f"params.yaml: {key}.kinds: {kind}: there is no {other}.{kind} to start from")
        if "from" in params["construct"][kind]:
            raise ConfigError(f"params.yaml: {key}.kinds: {kind}: made from an ensemble, which no study varies yet")
    _check_space(section, key, params)
    return section


def read_study(params: Mapping[str, Any], key: str) -> SweepSettings:
    """The study of a dotted key, such as "sweep.small": `sweep_settings`."""
    return sweep_settings(params, key.partition(".")[2])


def _check_space(section: SweepSettings, key: str, params: Mapping[str, Any]) -> None:
    for kind in section.kinds:
        lacking = {"num_steps", "step_size"} - set(_fields(params, kind))
        if lacking:
            recipe, what = params["construct"][kind]["recipe"], " and no ".join(sorted(lacking))
            raise ConfigError(f"params.yaml: {key}.kinds: {kind}: its recipe {recipe} has no {what} to vary")
    balls = [kind for kind in section.kinds if has_ball(params, kind)]
    if balls and section.eps == ():
        raise ConfigError(f"params.yaml: {key}.eps: missing; {dataset_name(balls[0])} needs at least one number > 0")
    if section.sampler == "grid":
        ranges = [name for name, space in section.spaces.items() if isinstance(space, Range)]
        if ranges:
            raise ConfigError(f"params.yaml: {key}.{ranges[0]}: must be a list where sampler is grid")
    if section.source_eps is not None and "from" in params["train"]["robust"]:
        raise ConfigError(f"params.yaml: {key}.source_eps: must be null where train.robust takes its models from files")
    if section.source_eps is not None and not (params["train"]["robust"].get("attack") or {}).get("eps"):
        raise ConfigError(f"params.yaml: {key}.source_eps: needs train.robust.attack with an eps > 0 to start from")


def has_ball(params: Mapping[str, Any], kind: str) -> bool:
    """Whether images of this kind stay within eps of what they begin as: the recipe in params.yaml has an eps."""
    return "eps" in _fields(params, kind)


def _fields(params: Mapping[str, Any], kind: str) -> Collection[str]:
    """Names of the settings that the recipe of a kind has."""
    return kind_of(params["construct"][kind], f"construct.{kind}").settings.model_fields


@dataclass(frozen=True)
class Point:
    """One choice of everything that a sweep varies.

    Attributes:
        kind: the dataset, such as "det".
        eps: radius of the ball; None for inversions, which have none.
        num_steps: gradient steps of the construction.
        step_size: length of a step.
        source_eps: radius of the source model's adversarial training, 0 for the standard model; None for the
            pipeline's own source model.
    """

    kind: str
    eps: float | None
    num_steps: int
    step_size: float
    source_eps: float | None = None

    def __str__(self) -> str:
        eps = "" if self.eps is None else f" eps {self.eps:g},"
        source = "" if self.source_eps is None else f", source eps {self.source_eps:g}"
        return f"{self.kind}:{eps} {self.num_steps} steps of {self.step_size:.3g}{source}"


def grid(params: Mapping[str, Any], settings: SweepSettings) -> list[dict[str, Any]]:
    """Every choice of a grid, as Optuna holds them: a value for each dimension that the kind has."""
    choices: list[dict[str, Any]] = []
    for kind in settings.kinds:
        spaces = {name: settings.spaces[name] for name in dimensions(params, settings, kind)}
        values = [space for space in spaces.values() if isinstance(space, tuple)]
        choices += [{"kind": kind, **dict(zip(spaces, row, strict=True))} for row in itertools.product(*values)]
    return choices


def dimensions(params: Mapping[str, Any], settings: SweepSettings, kind: str) -> list[str]:
    """Names of what is varied for one kind."""
    named = [name for name, space in settings.spaces.items() if space not in (None, ())]
    return [name for name in named if name != "eps" or has_ball(params, kind)]


def resolve(params: Mapping[str, Any], choice: Mapping[str, Any]) -> Point:
    """The point of a choice, with the step size that follows from it if it holds none.

    Step size in a ball: 2.5·eps/num_steps, so that few steps can still reach the sphere (Madry et al. 2018).
    Inversions: (num_steps·step_size of `construct.<kind>`)/num_steps, the same length of path.
    """
    kind, num_steps = choice["kind"], int(choice["num_steps"])
    eps = float(choice["eps"]) if has_ball(params, kind) else None
    step_size = choice.get("step_size")
    if step_size is None:
        own = params["construct"][kind]
        path = 2.5 * eps if eps is not None else float(own["num_steps"]) * float(own["step_size"])
        step_size = path / num_steps
    source_eps = choice.get("source_eps")
    return Point(kind, eps, num_steps, float(step_size), None if source_eps is None else float(source_eps))


def changes(params: Mapping[str, Any], point: Point, seeds: tuple[int, ...] | list[int]) -> dict[str, Any]:
    """Dotted keys of params.yaml -> what they are at this point; the rest stays as it is.

    A source model of another eps is trained like `train.robust`, with the step of its inner attack in
    proportion to eps.
    """
    own = f"construct.{point.kind}"
    changed: dict[str, Any] = {} if point.eps is None else {f"{own}.eps": point.eps}
    changed |= {f"{own}.num_steps": point.num_steps, f"{own}.step_size": point.step_size}
    if point.source_eps is not None:
        changed[f"{own}.model"] = "robust" if point.source_eps else "standard"
    if point.source_eps:
        attack = params["train"]["robust"]["attack"]
        changed["train.robust.attack.eps"] = point.source_eps
        if attack.get("step_size") is not None and point.source_eps != attack["eps"]:
            changed["train.robust.attack.step_size"] = attack["step_size"] * point.source_eps / attack["eps"]
    changed[f"fit.{point.kind}.seeds"] = list(seeds)
    return changed


def changed_params(params: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of params with dotted keys set."""
    new: dict[str, Any] = copy.deepcopy(dict(params))
    for key, value in changed.items():
        *parents, last = key.split(".")
        section = new
        for part in parents:
            section = section[part]
        section[last] = value
    return new
