import math

from notbugs.runtime.nested import flatten, numbers


def test_nested_values_become_dotted() -> None:
    nested = {"fit": {"rand": {"lr": 0.1, "seeds": [0, 1]}}, "seed": 3}
    assert flatten(nested) == {"fit.rand.lr": 0.1, "fit.rand.seeds": [0, 1], "seed": 3}
    values = {"a": {"b": 1, "c": math.nan, "d": None}, "e": "0.5", "f": [1], "g": math.inf, "h": True}
    assert numbers(values) == {"a.b": 1.0, "h": 1.0}
