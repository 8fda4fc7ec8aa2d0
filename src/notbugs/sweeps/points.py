"""The points of a study's space, and what they change in params.yaml.

A trial is an ordinary run of the stages with the point written into params.yaml: `changes` says what is written,
both for the trial itself and for `notbugs sweep apply`, so the two cannot differ.
"""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from notbugs.sweeps.axes import Scalar, cell, changed_params
from notbugs.sweeps.settings import SweepSettings, dimensions, has_ball, recipe_fields


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
        axes: dotted key of params.yaml -> value; construct.<kind>.eps, num_steps and step_size stand above, too.
    """

    kind: str
    eps: float | None
    num_steps: int | None
    step_size: float | None
    source_eps: float | None = None
    axes: Mapping[str, Scalar] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        eps = "" if self.eps is None else f" eps {self.eps:g},"
        steps = (
            ""
            if self.num_steps is None or self.step_size is None
            else f" {self.num_steps} steps of {self.step_size:.3g}"
        )
        source = "" if self.source_eps is None else f", source eps {self.source_eps:g}"
        return f"{self.kind}:{eps}{steps}{source}" + "".join(f", {leaf} {cell(self.axes[leaf])}" for leaf in self.axes)

    def title(self, *, with_step_size: bool = False) -> str:
        """A name for lists, without commas: "det eps 1.1 steps 60".

        Args:
            with_step_size: where it is varied, and does not follow from the rest.
        """
        parts = {
            "eps": self.eps,
            "steps": self.num_steps,
            "of": self.step_size if with_step_size else None,
            "source eps": self.source_eps,
        }
        words = [f"{name} {value:g}" for name, value in parts.items() if value is not None]
        return " ".join([self.kind, *words, *(f"{leaf} {cell(value)}" for leaf, value in self.axes.items())])

    @property
    def facts(self) -> dict[str, Any]:
        """What is kept of it; nothing of axes where there are none."""
        return {key: value for key, value in asdict(self).items() if key != "axes" or value}


def grid(params: Mapping[str, Any], settings: SweepSettings) -> list[dict[str, Any]]:
    """Every choice of a grid, as Optuna holds them: a value for each dimension that the kind has."""
    choices: list[dict[str, Any]] = []
    for kind in settings.kinds:
        names = dimensions(params, settings, kind)
        spaces = {**settings.spaces, **settings.axes}
        values = [space for space in (spaces[name] for name in names) if isinstance(space, tuple)]
        choices += [{"kind": kind, **dict(zip(names, row, strict=True))} for row in itertools.product(*values)]
    return choices


def resolve(params: Mapping[str, Any], choice: Mapping[str, Any]) -> Point:
    """The point of a choice, with the step size that follows from it if it holds none.

    What neither the short form nor an axis varies is as `construct.<kind>` has it. Where the short form varies eps or
    steps, the step size in a ball is 2.5·eps/num_steps, so that few steps can still reach the sphere (Madry et al.
    2018); that of inversions is (num_steps·step_size of `construct.<kind>`)/num_steps, the same length of path.
    """
    kind, axes = choice["kind"], {leaf: value for leaf, value in choice.items() if "." in leaf}
    section = changed_params(params, axes)["construct"][kind] if axes else params["construct"][kind]
    own = {**_defaults(params, kind), **section}
    ball = has_ball(params, kind)
    eps = float(choice.get("eps", own.get("eps"))) if ball else None
    num_steps = choice.get("num_steps", own.get("num_steps"))
    step_size = choice.get("step_size")
    if step_size is None and not choice.keys() & {"eps", "num_steps"}:
        step_size = own.get("step_size")
    elif step_size is None:
        path = 2.5 * eps if eps is not None else float(own["num_steps"]) * float(own["step_size"])
        step_size = path / int(num_steps)
    source_eps = choice.get("source_eps")
    return Point(
        kind,
        eps,
        None if num_steps is None else int(num_steps),
        None if step_size is None else float(step_size),
        None if source_eps is None else float(source_eps),
        axes,
    )


def changes(params: Mapping[str, Any], point: Point, seeds: tuple[int, ...] | list[int]) -> dict[str, Any]:
    """Dotted keys of params.yaml -> what they are at this point; the rest stays as it is.

    A source model of another eps is trained like `train.robust`, with the step of its inner attack in
    proportion to eps.
    """
    own = f"construct.{point.kind}"
    scalars = {"eps": point.eps, "num_steps": point.num_steps, "step_size": point.step_size}
    changed: dict[str, Any] = dict(point.axes)
    changed |= {f"{own}.{name}": value for name, value in scalars.items() if value is not None}
    if point.source_eps is not None:
        changed[f"{own}.model"] = "robust" if point.source_eps else "standard"
    if point.source_eps:
        attack = params["train"]["robust"]["attack"]
        changed["train.robust.attack.eps"] = point.source_eps
        if attack.get("step_size") is not None and point.source_eps != attack["eps"]:
            changed["train.robust.attack.step_size"] = attack["step_size"] * point.source_eps / attack["eps"]
    changed[f"fit.{point.kind}.seeds"] = list(seeds)
    return changed


def _defaults(params: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """What the settings of a kind's recipe are where params.yaml leaves them out."""
    fields = recipe_fields(params, kind).items()
    return {name: field.default for name, field in fields if not field.is_required()}
