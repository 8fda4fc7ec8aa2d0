"""The search space: what is accepted, what is refused and with which words, and the points of a grid."""

from typing import Any

import pytest
from sweep_tools import PARAMS

from notbugs.construction.settings import ConstructSettings
from notbugs.runtime import registry
from notbugs.runtime.errors import ConfigError
from notbugs.sweeps.points import Point, changes, grid, resolve
from notbugs.sweeps.settings import Range, changed_params, sweep_settings

GOOD = {"kinds": ["rand"], "eps": [0.5, 1], "num_steps": [1, 3]}


def checked(**changed: Any) -> Any:
    study = {key: value for key, value in (GOOD | changed).items() if value != "absent"}
    return sweep_settings({**PARAMS, "sweep": {"s": study}}, "s")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"eps": []}, r"sweep.s.eps = \[\]: must be a list of at least one number > 0"),
        ({"eps": "absent"}, "sweep.s.eps: missing; D_rand needs at least one number > 0"),
        ({"eps": [0.5, 0]}, r"sweep.s.eps = \[0.5, 0\]: must be a list of at least one number > 0"),
        ({"eps": [-1.0]}, r"sweep.s.eps = \[-1.0\]: must be"),
        ({"eps": [float("nan")]}, "sweep.s.eps"),
        ({"eps": [0.5, 0.5]}, "each once"),
        ({"num_steps": [0]}, "whole number >= 1"),
        ({"num_steps": [1.5]}, "whole number >= 1"),
        ({"num_steps": "absent"}, "sweep.s.num_steps: missing"),
        ({"kinds": []}, "sweep.s.kinds"),
        ({"kinds": ["nonrobust"]}, "there is no construct.nonrobust"),
        ({"kinds": ["rand", "rand"]}, "without repetitions"),
        ({"epss": [1.0]}, "unknown key; did you mean eps"),
        ({"eps": {"low": 0.1, "high": 1.0}}, "sweep.s.eps: must be a list where sampler is grid"),
        ({"eps": {"low": 1.0, "high": 0.5}, "sampler": "tpe", "trials": 3}, "0 < low <= high"),
        ({"num_steps": {"low": 1, "high": 2.5}, "sampler": "tpe", "trials": 3}, "whole numbers"),
        ({"sampler": "tpe"}, "sweep.s.trials = None: must be given where sampler is tpe"),
        ({"trials": 4}, "null where sampler is grid"),
        ({"pruner": "median"}, "none unless sampler is tpe or random"),
        (
            {"pruner": "median", "sampler": "tpe", "trials": 3, "objectives": ["accuracy", "adversarial_accuracy"]},
            "the only objective is accuracy",
        ),
        ({"objectives": ["speed"]}, "one or two of accuracy, adversarial_accuracy"),
        ({"objectives": []}, "one or two of"),
        ({"seeds": []}, "sweep.s.seeds"),
    ],
)
def test_what_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        checked(**changed)
    assert "\n" not in str(error.value)


class StillSettings(ConstructSettings):
    """Of a recipe without steps."""


class Still:
    settings = StillSettings

    @staticmethod
    def set_up(model: Any, data: Any, *, generator: Any) -> None:
        """Makes nothing."""


def test_a_recipe_without_steps_has_none_to_vary(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{__name__}:Still"
    monkeypatch.setattr(registry, "_allowed", {name})
    params = changed_params(PARAMS, {"construct.rand": {"recipe": name, "model": "standard"}, "sweep": {"s": GOOD}})
    message = rf"sweep\.s\.kinds: rand: its recipe {name} has no num_steps and no step_size to vary"
    with pytest.raises(ConfigError, match=message):
        sweep_settings(params, "s")


def test_source_eps_needs_a_robust_model() -> None:
    params = changed_params(PARAMS, {"train.robust.attack": None, "sweep": {"s": {**GOOD, "source_eps": [0.5]}}})
    with pytest.raises(ConfigError, match=r"sweep.s.source_eps: needs train.robust.attack"):
        sweep_settings(params, "s")


@pytest.mark.parametrize("name", ["worker", "a b", "../up", "é"])
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="a study's name"):
        sweep_settings({**PARAMS, "sweep": {name: GOOD}}, name)


def test_unknown_study() -> None:
    with pytest.raises(ConfigError, match=r"sweep.x: not in params.yaml; sweep has: small"):
        sweep_settings(PARAMS, "x")


def test_what_is_accepted() -> None:
    settings = checked(eps={"low": 0.1, "high": 2, "log": True}, sampler="tpe", trials=3, source_eps=[0, 0.5])
    assert settings.eps == Range(low=0.1, high=2.0, log=True)
    assert settings.source_eps == (0.0, 0.5)
    assert settings.seeds == (0, 1)


def test_grid_of_a_ball_and_of_an_inversion() -> None:
    settings = checked(kinds=["rand", "robust"], source_eps=[0, 0.25])
    found = grid(PARAMS, settings)
    assert len(found) == 2 * 2 * 2 + 2 * 2
    assert found[0] == {"kind": "rand", "eps": 0.5, "num_steps": 1, "source_eps": 0.0}
    assert found[-1] == {"kind": "robust", "num_steps": 3, "source_eps": 0.25}


def test_step_size_reaches_the_sphere_and_keeps_an_inversion_s_path() -> None:
    assert resolve(PARAMS, {"kind": "det", "eps": 0.8, "num_steps": 5}) == Point("det", 0.8, 5, 0.4)
    assert resolve(PARAMS, {"kind": "robust", "num_steps": 8}) == Point("robust", None, 8, 0.05)
    assert resolve(PARAMS, {"kind": "det", "eps": 0.8, "num_steps": 5, "step_size": 0.1}).step_size == 0.1


def test_changes_name_what_a_point_sets() -> None:
    assert changes(PARAMS, Point("det", 0.8, 5, 0.4), (0, 1)) == {
        "construct.det.eps": 0.8,
        "construct.det.num_steps": 5,
        "construct.det.step_size": 0.4,
        "fit.det.seeds": [0, 1],
    }
    assert changes(PARAMS, Point("robust", None, 8, 0.05, 0.25), (0,)) == {
        "construct.robust.num_steps": 8,
        "construct.robust.step_size": 0.05,
        "construct.robust.model": "robust",
        "train.robust.attack.eps": 0.25,
        "train.robust.attack.step_size": 0.15,
        "fit.robust.seeds": [0],
    }
    assert changes(PARAMS, Point("rand", 0.5, 1, 1.25, 0.0), (0,))["construct.rand.model"] == "standard"
