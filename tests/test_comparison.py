"""Paired comparison and spread over seeds against published and hand-made numbers."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notbugs.comparison import Paired, over_seeds, paired, t_half_width


def test_pairs_are_counted():
    found = paired([True, True, False, False, True], [True, False, True, False, False])
    assert (found.only_first, found.only_second, found.n) == (2, 1, 5)
    assert found.difference == pytest.approx(0.2)


def test_mcnemar_exact_by_hand():
    # 1 against 5 of 6 fair coins: 2·(1 + 6)/64.
    assert Paired(5, 1, 20).p_value == pytest.approx(2 * 7 / 64)
    assert Paired(1, 5, 20).p_value == pytest.approx(2 * 7 / 64)
    assert Paired(3, 3, 20).p_value == 1.0
    assert Paired(0, 0, 20).p_value == 1.0
    assert Paired(10, 0, 100).p_value == pytest.approx(2 / 1024)


def test_interval_by_hand():
    low, high = Paired(12, 5, 98).interval
    p, q, n = 13 / 100, 6 / 100, 100
    half = 1.959963984540054 * math.sqrt((p + q - (p - q) ** 2) / n)
    assert (low, high) == pytest.approx((0.07 - half, 0.07 + half))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_swapping_the_models_turns_the_sign(pairs):
    first, second = zip(*pairs, strict=True)
    there, back = paired(first, second), paired(second, first)
    assert there.difference == -back.difference
    assert there.p_value == pytest.approx(back.p_value)
    assert there.interval == pytest.approx((-back.interval[1], -back.interval[0]))
    assert there.difference == pytest.approx((sum(first) - sum(second)) / len(pairs))


def test_different_images_are_refused():
    with pytest.raises(ValueError, match="need the same images for both, at least one, not 1 and 2"):
        paired([True], [True, False])
    with pytest.raises(ValueError, match="not 0 and 0"):
        paired([], [])


def test_over_seeds_by_hand():
    mean, std, half = over_seeds([0.5, 0.6, 0.7])
    assert (mean, std) == pytest.approx((0.6, 0.1))
    assert half == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)  # t with 2 degrees of freedom
    mean, std, half = over_seeds([0.4])
    assert mean == 0.4
    assert math.isnan(std)
    assert half == 0.0
    assert t_half_width(0.02, 50) == pytest.approx(2.009575 * 0.02 / math.sqrt(50), rel=1e-6)
    with pytest.raises(ValueError, match="no values"):
        over_seeds([])
