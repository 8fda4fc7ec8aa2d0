"""What a sweep searches: one entry of the section `sweep` of params.yaml is one study."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from notbugs.construction.building import kind_of
from notbugs.runtime.config import Settings, dataset_name, validate
from notbugs.runtime.errors import ConfigError, UserError
from notbugs.sweeps.axes import Axis, Span, changed_params, ends, first, read_axis

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


RUNG_PRUNERS = ("successive_halving", "hyperband")
"""Pruners that compare fits at rungs of epochs, so `reduction_factor` and `min_epochs` are theirs."""


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

    options: ClassVar[frozenset[str]] = frozenset({"eps", "num_steps", "axes", "reduction_factor", "min_epochs"})
    kinds: tuple[str, ...] = Field(strict=False, min_length=1)
    """Which datasets are made: entries of `construct` and `fit`, whose other settings hold for every trial."""
    eps: tuple[float, ...] | Range = ()
    """Radii of the ball, pixel units on [0, 1]; kinds made by inversion have no ball and leave this out."""
    num_steps: tuple[int, ...] | Range = ()
    """Gradient steps of the construction; a study of axes alone may leave them out."""
    step_size: tuple[float, ...] | Range | None = None
    """Step sizes; null takes 2.5·eps/num_steps (inversions: the path length of `construct` over num_steps)."""
    source_eps: tuple[float, ...] | Range | None = None
    """Radii of the source model's own adversarial training, 0 for the standard model; null takes the pipeline's
    source model."""
    axes: dict[str, Axis] = Field(default_factory=dict)
    """Any other leaf of params.yaml that a trial reads, by its dotted key -> its values: a list, or
    {low, high, log, step}."""
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
    reduction_factor: int = Field(default=3, ge=2)
    """Of successive_halving and hyperband: at each rung one of so many goes on, for so many times the epochs."""
    min_epochs: int | None = Field(default=None, ge=1)
    """Of the same: epochs before the first rung; null takes epochs/reduction_factor²."""
    retries: int = Field(default=1, ge=0)
    """How often a point is tried again after an error; lost workers do not count."""
    keep_datasets: bool = False
    """Keep each constructed dataset under .notbugs/sweeps/datasets."""

    @field_validator("eps", "num_steps", "step_size", "source_eps", mode="before")
    @classmethod
    def _is_a_space(cls, value: Any, info: ValidationInfo) -> Any:
        """One clear message for what may be a list or a range."""
        name = str(info.field_name)
        if name in ("eps", "num_steps") and value in (None, ()):
            return ()
        if isinstance(value, Range | None):
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

    @field_validator("reduction_factor", "min_epochs")
    @classmethod
    def _have_rungs(cls, value: int | None, info: ValidationInfo) -> int | None:
        default = cls.model_fields[str(info.field_name)].default
        if value != default and info.data.get("pruner") not in RUNG_PRUNERS:
            raise ValueError(f"left out unless pruner is {' or '.join(RUNG_PRUNERS)}")
        return value

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
    _check_space(section, key, params)
    axes = {leaf: read_axis(params, leaf, axis, key) for leaf, axis in section.axes.items()}
    section = section.model_copy(update={"axes": axes})
    _check_axes(section, key, params)
    _check_rungs(section, key, params)
    return section


def read_study(params: Mapping[str, Any], key: str) -> SweepSettings:
    """The study of a dotted key, such as "sweep.small": `sweep_settings`."""
    return sweep_settings(params, key.partition(".")[2])


def _check_space(section: SweepSettings, key: str, params: Mapping[str, Any]) -> None:
    if section.num_steps == () and not section.axes:
        raise ConfigError(f"params.yaml: {key}.num_steps: missing; it must be given, or axes")
    for kind in section.kinds:
        lacking = {"num_steps", "step_size"} - set(recipe_fields(params, kind))
        if lacking and not (section.num_steps == section.eps == () and section.step_size is None):
            recipe, what = params["construct"][kind]["recipe"], " and no ".join(sorted(lacking))
            raise ConfigError(f"params.yaml: {key}.kinds: {kind}: its recipe {recipe} has no {what} to vary")
    balls = [kind for kind in section.kinds if has_ball(params, kind)]
    if balls and section.eps == () and not section.axes:
        raise ConfigError(f"params.yaml: {key}.eps: missing; {dataset_name(balls[0])} needs at least one number > 0")
    if section.sampler == "grid":
        ranges = [name for name, space in section.spaces.items() if isinstance(space, Range)]
        ranges += [f"axes.{leaf}" for leaf, axis in section.axes.items() if isinstance(axis, Span)]
        if ranges:
            raise ConfigError(f"params.yaml: {key}.{ranges[0]}: must be a list where sampler is grid")
    if section.source_eps is not None and "from" in params["train"]["robust"]:
        raise ConfigError(f"params.yaml: {key}.source_eps: must be null where train.robust takes its models from files")
    if section.source_eps is not None and not (params["train"]["robust"].get("attack") or {}).get("eps"):
        raise ConfigError(f"params.yaml: {key}.source_eps: needs train.robust.attack with an eps > 0 to start from")
    ensembles = [kind for kind in section.kinds if params["construct"][kind].get("from")]
    if section.source_eps is not None and ensembles:
        raise ConfigError(
            f"params.yaml: {key}.source_eps: {ensembles[0]} is made from an ensemble, which has no one eps"
        )


def _check_axes(section: SweepSettings, key: str, params: Mapping[str, Any]) -> None:
    """Refuse a leaf that no kind's trial reads, and one that the short form sets too."""
    for leaf in section.axes:
        within = [other for other in section.axes if leaf.startswith(f"{other}.")]
        if within:
            raise ConfigError(
                f"params.yaml: {key}.axes.{leaf}: {key}.axes.{within[0]} sets it, too; leave one of them out"
            )
        reading = [kind for kind in section.kinds if reads(params, section, kind, leaf)]
        if not reading:
            kinds = ", ".join(section.kinds)
            raise ConfigError(f"params.yaml: {key}.axes.{leaf}: no trial of kinds {kinds} reads it")
        for kind in reading:
            for name in section.spaces:
                if name in dimensions(params, section, kind) and leaf in _set_by(name, kind):
                    raise ConfigError(
                        f"params.yaml: {key}.axes.{leaf}: {key}.{name} sets it, too; leave one of them out"
                    )


def _set_by(name: str, kind: str) -> tuple[str, ...]:
    """The leaves that a dimension of the short form sets."""
    own = f"construct.{kind}"
    if name == "source_eps":
        return f"{own}.model", "train.robust.attack.eps", "train.robust.attack.step_size"
    return f"{own}.{name}", f"{own}.step_size"


def reads(params: Mapping[str, Any], settings: SweepSettings, kind: str, leaf: str) -> bool:
    """Whether a trial of this kind depends on a leaf: of its own sections, its source models' or the judge's."""
    section, _, rest = leaf.partition(".")
    entry = rest.partition(".")[0]
    if section == "train":
        return entry == "robust" or entry in source_names(params, settings, kind)
    return section in ("model", "evaluate") or entry == kind


def source_names(params: Mapping[str, Any], settings: SweepSettings, kind: str) -> tuple[str, ...]:
    """The entries of `train` that datasets of a kind are made from, at one point or another."""
    if settings.source_eps is not None:
        return "standard", "robust"
    own = params["construct"][kind]
    if own.get("from"):
        return tuple(member.partition("/")[0] for member in own["from"])
    return tuple(map(str, ends(settings.axes.get(f"construct.{kind}.model", (own["model"],)))))


def _check_rungs(section: SweepSettings, key: str, params: Mapping[str, Any]) -> None:
    if section.min_epochs is not None and section.min_epochs > most_epochs(params, section):
        most = most_epochs(params, section)
        raise ConfigError(
            f"params.yaml: {key}.min_epochs = {section.min_epochs}: must be at most {most}, the fits' epochs"
        )


def most_epochs(params: Mapping[str, Any], settings: SweepSettings) -> int:
    """Epochs of the longest fit of a study."""
    axes = {kind: settings.axes.get(f"fit.{kind}.epochs") for kind in settings.kinds}
    own = {kind: (params["fit"][kind]["epochs"],) for kind in settings.kinds}
    return max(int(count) for kind in settings.kinds for count in ends(axes[kind] or own[kind]) if count is not None)


def at_first(params: Mapping[str, Any], settings: SweepSettings) -> dict[str, Any]:
    """params.yaml with every axis at its first value: what a study is does not depend on what they are now."""
    return changed_params(params, {leaf: first(axis) for leaf, axis in settings.axes.items()})


def has_ball(params: Mapping[str, Any], kind: str) -> bool:
    """Whether images of this kind stay within eps of what they begin as: the recipe in params.yaml has an eps."""
    return "eps" in recipe_fields(params, kind)


def recipe_fields(params: Mapping[str, Any], kind: str) -> Mapping[str, FieldInfo]:
    """The settings that the recipe of a kind has, by name."""
    return kind_of(params["construct"][kind], f"construct.{kind}").settings.model_fields


def dimensions(params: Mapping[str, Any], settings: SweepSettings, kind: str) -> list[str]:
    """Names of what is varied for one kind."""
    named = [name for name, space in settings.spaces.items() if space not in (None, ())]
    own = [leaf for leaf in settings.axes if reads(params, settings, kind, leaf)]
    return [name for name in named if name != "eps" or has_ball(params, kind)] + own
