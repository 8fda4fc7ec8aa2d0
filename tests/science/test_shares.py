"""Shares with intervals: over images, over seeds, with the spread of a whole table."""

import math

import pytest
import torch
from scipy.stats import t as student

from notbugs.evaluation.intervals import wilson_interval
from notbugs.science.common.shares import nested, pooled_spread, share, share_table


def mask(right: int, n: int = 100) -> torch.Tensor:
    return torch.arange(n) < right


def test_one_seed_has_the_wilson_interval():
    found = share([mask(80)])
    assert found is not None
    assert (found["low"], found["high"]) == pytest.approx(wilson_interval(80, 100), abs=1e-6)
    assert (found["mean"], found["std"], found["n"], found["num_seeds"]) == (0.8, None, 100, 1)


def test_seeds_widen_the_interval_by_students_t():
    found = share([mask(70), mask(80), mask(90)])
    assert found is not None
    low, high = wilson_interval(80, 100)
    reach = student.ppf(0.975, 2) * 0.1 / math.sqrt(3)
    assert found["std"] == pytest.approx(0.1)
    assert found["low"] == pytest.approx(0.8 - math.hypot(0.8 - low, reach), abs=1e-5)
    assert found["high"] == 1.0  # a share
    assert math.hypot(high - 0.8, reach) > 0.2


def test_nothing_to_count_is_none():
    assert share([]) is None
    assert share([mask(3), torch.zeros(0, dtype=torch.bool)]) is None


def test_the_spread_is_pooled_over_rows():
    rows = {"a": {"x": [mask(10), mask(12)]}, "b": {"x": [mask(50), mask(56)]}, "c": {"x": [mask(70)]}}
    spread = pooled_spread(row["x"] for row in rows.values())
    assert spread is not None
    assert spread.std == pytest.approx(math.sqrt((0.0002 + 0.0018) / 2))
    assert spread.freedom == 2
    found = share_table(rows)
    reach = student.ppf(0.975, 2) * spread.std / math.sqrt(2)
    low = wilson_interval(11, 100)[0]
    assert found["a"]["x"]["low"] == pytest.approx(0.11 - math.hypot(0.11 - low, reach), abs=1e-5)
    assert found["a"]["x"]["std"] == pytest.approx(math.sqrt(0.0002), abs=1e-6)
    assert pooled_spread([[mask(1)], [mask(2)]]) is None


def test_nesting():
    assert nested({"a.b.c": 1, "a.b.d": 2, "e": 3}) == {"a": {"b": {"c": 1, "d": 2}}, "e": 3}
