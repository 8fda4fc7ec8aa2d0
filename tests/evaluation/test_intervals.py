"""Intervals against textbook values and SciPy."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm

from notbugs.evaluation.intervals import wilson_interval


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_interval_of_the_textbook(successes, n, low, high):
    """Newcombe 1998, table I, method 3."""
    found = wilson_interval(successes, n)
    assert found == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 100_000), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_interval_agrees_with_scipy(n, share, confidence):
    successes = round(share * n)
    expected = binomtest(successes, n).proportion_ci(confidence, method="wilson")
    found = wilson_interval(successes, n, z=float(norm.ppf((1 + confidence) / 2)))
    assert found == (pytest.approx(expected.low, abs=1e-12), pytest.approx(expected.high, abs=1e-12))


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_wilson_interval_holds_the_share_and_mirrors(n, share):
    low, high = wilson_interval(share * n, n)
    assert 0 <= low <= share + 1e-12
    assert share - 1e-12 <= high <= 1
    assert low < high
    mirrored = wilson_interval(n - share * n, n)
    assert mirrored == (pytest.approx(1 - high, abs=1e-9), pytest.approx(1 - low, abs=1e-9))


@pytest.mark.parametrize("n", [1, 7, 12, 359, 360, 1222, 10**6])
def test_wilson_interval_at_the_extremes_ends_exactly_there(n):
    z = 1.959963984540054
    low, high = wilson_interval(0, n)
    assert (low, high) == (0.0, pytest.approx(z * z / (n + z * z)))
    assert wilson_interval(n, n) == (pytest.approx(1 - high), 1.0)
    assert wilson_interval(1e-9, n)[1] > 0


@pytest.mark.parametrize(("successes", "n"), [(-1, 5), (6, 5), (0, 0), (0, -3), (math.nan, 5)])
def test_impossible_counts_are_refused(successes, n):
    with pytest.raises(ValueError, match=f"need 0 <= successes <= n and n >= 1, not {successes} of {n}"):
        wilson_interval(successes, n)
