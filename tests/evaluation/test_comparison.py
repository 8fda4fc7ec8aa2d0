"""Estimates over source models, fits and images: against hand-made numbers, published ones, and by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notbugs.evaluation.comparison import (
    Estimate,
    Run,
    accuracy,
    difference,
    joined_interval,
    nested_mean,
    power,
    shares_of_variance,
    t_half_width,
    units_for_power,
)
from notbugs.evaluation.intervals import Z_95, wilson_interval

N = 400


def right(count: int, n: int = N) -> np.ndarray:
    return np.arange(n) < count


def run(source: int | None, seed: int, count: int, n: int = N) -> Run:
    return Run(source, seed, count / n, right(count, n))


def test_the_mean_is_over_fits_then_over_sources():
    runs = [run(0, 0, 100), run(0, 1, 120), run(0, 2, 140), run(1, 0, 200)]
    assert nested_mean(runs) == pytest.approx((120 + 200) / 2 / N)


def test_an_accuracy_s_interval_joins_images_and_source_models():
    found = accuracy([run(s, k, 200 + 20 * s + 4 * k) for s in range(3) for k in range(2)], N)
    assert found.value == pytest.approx(222 / N)
    low, high = wilson_interval(222, N)
    reach = 4.302653 * (20 / N) / math.sqrt(3)
    assert found.low == pytest.approx(found.value - math.hypot(found.value - low, reach), abs=1e-6)
    assert found.high == pytest.approx(found.value + math.hypot(high - found.value, reach), abs=1e-6)
    assert str(found.basis) == "3 source models, 2 fits of each, 400 test images"
    assert found.basis.caution == ""


def test_one_source_model_speaks_of_its_fits_and_one_model_of_the_images():
    fits = accuracy([run(7, k, 200 + 20 * k) for k in range(3)], N)
    assert (fits.basis.units, fits.basis.num_units) == ("fits", 3)
    assert fits.basis.unit_std == pytest.approx(20 / N)
    assert "one source model" in fits.basis.caution
    one = accuracy([run(7, 0, 200)], N)
    assert (one.low, one.high) == pytest.approx(wilson_interval(200, N))
    assert "test images alone" in one.basis.caution
    assert str(accuracy([run(None, k, 200) for k in range(3)], N).basis) == "3 source models, 400 test images"


def test_variance_components_by_hand():
    """Source means 100, 120, 140 of N, fits ± 6 around each: variances 400 and 72."""
    runs = [run(s, k, 100 + 20 * s + (6 if k else -6)) for s in range(3) for k in range(2)]
    basis = accuracy(runs, N).basis
    fit = 72 / N**2 / 6
    assert basis.fit_error**2 == pytest.approx(fit)
    assert basis.source_error**2 == pytest.approx(400 / N**2 / 3 - fit)
    shares = shares_of_variance(basis)
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["source models"] > shares["fits"]


def test_a_paired_difference_by_hand():
    """Each fit wins 40 images and loses none; the source models' differences are equal."""
    first = [run(s, k, 240) for s in range(3) for k in range(2)]
    second = [run(s, k, 200) for s in range(3) for k in range(2)]
    found = difference(first, second, N)
    assert found.value == pytest.approx(0.1)
    # Bonett & Price 2012: b = 40, c = 0; p₁ = 41/402, p₂ = 1/402, around the difference itself.
    p, q = 41 / 402, 1 / 402
    half = Z_95 * math.sqrt((p + q - (p - q) ** 2) / 402)
    assert (found.low, found.high) == pytest.approx((0.1 - half, 0.1 + half))
    assert found.basis.paired


def test_pairs_share_source_and_fit_whatever_their_order():
    """Source models that are good for both cancel: unpaired, the spread of ±60 images would drown 8."""
    first = [run(s, k, 200 + 60 * s + 8) for s in range(3) for k in range(2)]
    second = [run(s, k, 200 + 60 * s) for s in range(3) for k in range(2)]
    found = difference(first, second[::-1], N)
    assert found.value == pytest.approx(8 / N)
    assert found.basis.unit_std == pytest.approx(0.0)
    assert found.low > 0
    assert accuracy(first, N).minus(accuracy(second, N)).low < 0


def test_fits_are_paired_with_source_models_by_the_source_s_seed():
    fits = [run(s, k, 200 + 60 * s) for s in range(3) for k in range(2)]
    models = [run(None, s, 180 + 60 * s) for s in range(3)]
    found = difference(fits, models, N)
    assert (found.value, found.basis.unit_std) == pytest.approx((20 / N, 0.0))
    assert difference(models, fits, N).value == pytest.approx(-20 / N)
    single = [run(0, k, 200 + 60 * k) for k in range(3)]  # one source: by the fit's own seed
    assert difference(single, models, N).basis.unit_std == pytest.approx(0.0)


def test_only_shared_pairs_count():
    first, second = [run(s, 0, 240) for s in (0, 1, 2)], [run(s, 0, 200) for s in (1, 2, 3)]
    assert difference(first, second, N).basis.num_sources == 2


def test_nothing_shared_is_compared_unpaired():
    found = difference([run(0, 0, 240), run(1, 0, 250)], [run(5, 0, 200), run(6, 0, 190)], N)
    assert not found.basis.paired
    assert found.value == pytest.approx(50 / N)


def test_without_examples_the_images_part_is_newcombe_s():
    first, second = [Run(0, 0, 0.8)], [Run(0, 0, 0.6)]
    found = difference(first, second, N)
    apart = Estimate(0.8, *wilson_interval(320, N)).minus(Estimate(0.6, *wilson_interval(240, N)))
    assert (found.low, found.high) == pytest.approx((apart.low, apart.high))
    assert not found.basis.paired


def test_newcombes_difference_of_his_paper():
    # Newcombe 1998, table II, example (a): 56/70 − 48/80 by method 10 is 0.2000 [0.0524, 0.3339].
    first, second = (Estimate(k / n, *wilson_interval(k, n)) for k, n in ((56, 70), (48, 80)))
    gap = first.minus(second)
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)
    assert gap.points == "+20.0 points [+5.2, +33.4]"
    assert gap.reaches(0.2)
    assert not gap.reaches(0.21)
    assert not Estimate(0.2, -0.01, 0.4).reaches(0.1)


def test_the_interval_covers_the_truth_in_95_of_100_experiments():
    """Four source models of sd 3 points, two fits of sd 2 points each, 300 images that are of unequal difficulty."""
    generator, n, truth, covered = np.random.default_rng(0), 300, 0.10, 0
    for _ in range(400):
        difficulty = generator.uniform(size=n)
        sides: list[list[Run]] = [[], []]
        for source in range(4):
            shift = generator.normal(0, 0.03)
            for seed in range(2):
                levels = (0.4 + truth + shift + generator.normal(0, 0.02), 0.4)
                for side, level in zip(sides, levels, strict=True):
                    mask = difficulty < level
                    side.append(Run(source, seed, float(mask.mean()), mask))
        found = difference(*sides, n)
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 400 <= 1.0


def basis_of(std: float, sources: int = 3):
    offsets = np.linspace(-1, 1, sources)
    offsets *= std / offsets.std(ddof=1)
    second = [Run(s, 0, 0.4, right(160)) for s in range(sources)]
    first = [Run(s, 0, 0.5 + offset, right(200)) for s, offset in enumerate(offsets)]
    return difference(first, second, N).basis


def test_power_is_that_of_telling_the_margin_from_0_by_simulation():
    basis, generator = basis_of(0.04, 4), np.random.default_rng(1)
    hits, reached, repeats = 0, 0, 4000
    for _ in range(repeats):
        found = 0.1 + generator.normal(0, basis.image_error) + generator.normal(0, 0.04, 4)
        half = math.hypot(Z_95 * basis.image_error, t_half_width(float(found.std(ddof=1)), 4))
        estimate = Estimate(found.mean(), found.mean() - half, found.mean() + half)
        hits += estimate.low > 0
        reached += estimate.reaches(0.1)
    assert power(0.1, basis) == pytest.approx(hits / repeats, abs=0.03)
    assert reached / repeats < 0.55  # what a verdict asks is more, and power does not speak of it


def test_power_rises_with_source_models_and_with_the_margin():
    basis = basis_of(0.06)
    by_units = [power(0.1, basis, count) for count in (2, 3, 5, 10, 30)]
    assert by_units == sorted(by_units)
    assert power(0.2, basis) > power(0.1, basis)
    needed = units_for_power(0.1, basis)
    assert needed is not None
    assert power(0.1, basis, needed) >= 0.9 > power(0.1, basis, needed - 1)
    assert units_for_power(0.001, basis) is None  # the images alone do not tell so little


def test_power_without_spread_is_that_of_a_normal_test():
    basis = basis_of(0.0)
    expected = 0.5 * (1 + math.erf((0.05 / basis.image_error - Z_95) / math.sqrt(2)))
    assert power(0.05, basis) == pytest.approx(expected)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=6))
def test_swapping_the_models_turns_the_sign(counts):
    first, second = ([run(0, k, pair[side], 50) for k, pair in enumerate(counts)] for side in (0, 1))
    there, back = difference(first, second, 50), difference(second, first, 50)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))


def test_t_half_width_by_hand():
    assert t_half_width(0.1, 3) == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert t_half_width(0.02, 50) == pytest.approx(2.009575 * 0.02 / math.sqrt(50), rel=1e-6)
    assert t_half_width(math.nan, 1) == 0.0
    assert joined_interval(0.5, N, math.nan, 1) == pytest.approx(wilson_interval(200, N))


def test_no_models_are_an_error():
    with pytest.raises(ValueError, match="no values"):
        accuracy([], N)
