"""A point of the search space, and what it changes in params.yaml.

A trial is an ordinary run of the stages with the point written into params.yaml: `changes` says what is written,
both for the trial itself and for `notbugs sweep apply`, so the two cannot differ.
"""

import copy
import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from notbugs.sweeps.settings import SweepSettings, has_ball


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

    def as_dict(self) -> dict[str, Any]:
        """The attributes by name."""
        return asdict(self)

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
