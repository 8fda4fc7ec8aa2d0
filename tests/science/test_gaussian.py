"""The closed forms of two Gaussians against sampling, against direct minimax optimisation, and at the extremes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from notbugs.data.images import make_generator
from notbugs.runtime.errors import UserError
from notbugs.science.gaussian.checks import minimax, monte_carlo
from notbugs.science.gaussian.theory import (
    GaussianError,
    GaussianSettings,
    TwoGaussians,
    accuracy,
    adversarial_loss,
    alignment,
    excess_loss,
    expected_loss,
    maximum_likelihood,
    robust_covariance,
    robust_parameters,
    solve_lam,
    spent_budget,
    worst_alignment,
)

PLANE = TwoGaussians(torch.tensor([2.0, 1.0]).double(), torch.tensor([[3.0, 1.2], [1.2, 0.8]]).double())


def random_case(dimension: int, seed: int) -> TwoGaussians:
    generator = make_generator(seed, "case")
    basis = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64))[0]
    values = 10 ** (torch.rand(dimension, generator=generator, dtype=torch.float64) * 2 - 1)
    Sigma = (basis * values) @ basis.T
    return TwoGaussians(torch.randn(dimension, generator=generator, dtype=torch.float64), (Sigma + Sigma.T) / 2)


@pytest.mark.parametrize("truth", [PLANE, random_case(12, 0)], ids=["plane", "12 dimensions"])
@pytest.mark.parametrize("eps", [0.3, 1.0, 5.0])
def test_closed_forms_are_within_four_standard_errors_of_a_sample(truth: TwoGaussians, eps: float) -> None:
    for check in monte_carlo(truth, eps, 100_000, make_generator(1, "sample", str(eps))):
        assert abs(check.z) < 4, check


@pytest.mark.parametrize("eps", [1.0, 5.0, 10.0])
@pytest.mark.parametrize("truth", [PLANE, random_case(6, 3)], ids=["plane", "6 dimensions"])
def test_direct_minimax_optimisation_finds_the_closed_form(truth: TwoGaussians, eps: float) -> None:
    """On a finite sample the closed form holds with the sample's own moments."""
    x, y = truth.draw(300, make_generator(2, "minimax"))
    sample = maximum_likelihood(x, y)
    closed, (found, loss) = robust_parameters(sample, eps), minimax(x, y, eps)
    scale = float(closed.Sigma.abs().max())
    assert float((found.Sigma - closed.Sigma).abs().max()) < 1e-3 * scale
    assert float((found.mu - closed.mu).abs().max()) < 1e-3 * float(closed.mu.abs().max())
    assert loss == pytest.approx(adversarial_loss(closed, sample, eps), rel=1e-6)


@given(eps=st.floats(1e-3, 1e3), seed=st.integers(0, 20), dimension=st.integers(1, 12))
def test_lam_spends_exactly_the_budget(eps: float, seed: int, dimension: int) -> None:
    Sigma = random_case(dimension, seed).Sigma
    lam = solve_lam(Sigma, eps)
    assert spent_budget(Sigma, lam) == pytest.approx(eps**2, rel=1e-6)
    assert spent_budget(Sigma, lam * (1 + 1e-6)) < eps**2 < spent_budget(Sigma, lam * (1 - 1e-6))


def test_lam_of_a_multiple_of_the_identity_is_known() -> None:
    """For Σ* = I: E‖δ‖² = d/(λ²r) = eps² gives r = d/(λeps)², and r solves (r − 1/λ)² = r."""
    lam = solve_lam(torch.eye(5).double(), 2.0)
    r = 5 / (lam * 2.0) ** 2
    assert (r - 1 / lam) ** 2 == pytest.approx(r, rel=1e-10)


@pytest.mark.parametrize("eps", [0.5, 3.0])
def test_no_other_covariance_has_a_smaller_adversarial_loss(eps: float) -> None:
    best = robust_parameters(PLANE, eps)
    least = adversarial_loss(best, PLANE, eps)
    assert least < adversarial_loss(PLANE, PLANE, eps)
    generator = make_generator(0, "others")
    for _ in range(50):
        step = torch.randn(2, 2, generator=generator, dtype=torch.float64) * 0.05
        other = TwoGaussians(best.mu, best.Sigma + (step + step.T) * best.Sigma.norm() / 2)
        assert adversarial_loss(other, PLANE, eps) > least
    moved = TwoGaussians(best.mu + 0.1, best.Sigma)
    assert adversarial_loss(moved, PLANE, eps) > least


def test_a_vanishing_budget_gives_maximum_likelihood_and_a_large_one_the_identity() -> None:
    assert torch.allclose(robust_parameters(PLANE, 1e-6).Sigma, PLANE.Sigma, rtol=1e-4)
    assert adversarial_loss(PLANE, PLANE, 1e-7) == pytest.approx(expected_loss(PLANE, PLANE), rel=1e-5)
    wide = robust_parameters(PLANE, 1e4).Sigma
    assert float(wide[0, 1] / wide[0, 0]) == pytest.approx(0, abs=1e-3)
    assert float(wide[1, 1] / wide[0, 0]) == pytest.approx(1, abs=1e-3)


def test_excess_loss_is_least_at_the_identity_for_a_fixed_trace() -> None:
    C, base = 30.0, excess_loss(torch.eye(6).double(), 30.0)
    assert base == pytest.approx(6 * ((30 / 29) ** 2 - 1) / 2)
    for seed in range(30):
        Sigma = random_case(6, seed).Sigma
        Sigma = Sigma * 6 / torch.trace(Sigma)
        stretched = [excess_loss((1 - t) * torch.eye(6).double() + t * Sigma, C) for t in (0.0, 0.2, 0.5, 0.8)]
        assert stretched == sorted(stretched)
        assert stretched[1] > base


def test_worst_alignment_is_the_least_of_all_directions() -> None:
    turns = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
    least = min(alignment(torch.stack([turn.cos(), turn.sin()]), PLANE.Sigma) for turn in turns)
    assert worst_alignment(PLANE.Sigma) == pytest.approx(least, abs=1e-6)


@given(seed=st.integers(0, 50))
def test_worst_alignment_rises_with_the_budget(seed: int) -> None:
    truth = random_case(8, seed)
    values = [worst_alignment(robust_parameters(truth, eps).Sigma) for eps in (0.1, 0.5, 1.0, 5.0, 20.0)]
    assert worst_alignment(truth.Sigma) < values[0]
    assert values == sorted(values)


def test_the_robust_classifier_trades_accuracy_for_robustness() -> None:
    robust = robust_parameters(PLANE, 5.0)
    assert accuracy(PLANE, PLANE) > accuracy(robust, PLANE)
    assert accuracy(robust, PLANE, 1.0) > accuracy(PLANE, PLANE, 1.0)


@pytest.mark.parametrize("eps", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_must_be_positive(eps: float) -> None:
    x, y = PLANE.draw(50, make_generator(0))
    for call in (
        lambda: solve_lam(PLANE.Sigma, eps),
        lambda: robust_parameters(PLANE, eps),
        lambda: adversarial_loss(PLANE, PLANE, eps),
        lambda: minimax(x, y, eps),
    ):
        with pytest.raises(GaussianError, match=r"eps must be > 0, not"):
            call()


def test_a_singular_covariance_is_refused() -> None:
    singular = torch.ones(2, 2).double()
    for call in (
        lambda: TwoGaussians(torch.ones(2).double(), singular),
        lambda: robust_covariance(singular, 1.0),
        lambda: solve_lam(singular, 1.0),
        lambda: excess_loss(singular, 100.0),
        lambda: worst_alignment(singular),
    ):
        with pytest.raises(UserError, match=r"covariance is singular: its smallest eigenvalue is .*, not > 0"):
            call()
    with pytest.raises(GaussianError, match="finite and symmetric"):
        TwoGaussians(torch.ones(2).double(), torch.tensor([[1.0, 0.0], [0.5, 1.0]]).double())
    with pytest.raises(GaussianError, match=r"Sigma must be \(3, 3\)"):
        TwoGaussians(torch.ones(3).double(), torch.eye(2).double())


def test_a_missing_class_is_named() -> None:
    x = torch.randn(20, 2, generator=make_generator(0), dtype=torch.float64)
    with pytest.raises(GaussianError, match=r"class -1 is missing"):
        maximum_likelihood(x, torch.ones(20))
    with pytest.raises(GaussianError, match="singular"):
        maximum_likelihood(x[:, [0, 0]], torch.tensor([1.0, -1.0] * 10))


def test_a_penalty_too_small_for_a_finite_maximum_is_refused() -> None:
    with pytest.raises(GaussianError, match=r"C = 0.5: must be above 1/σ_min = 1"):
        excess_loss(torch.eye(2).double(), 0.5)
    with pytest.raises(GaussianError, match=r"mu is 0"):
        alignment(torch.zeros(2).double(), torch.eye(2).double())


@pytest.mark.parametrize(
    "values", [{"eps": (1.0, 0.0)}, {"variances": (1.0, 0.0)}, {"num_minimax": 40, "dimension": 30}]
)
def test_settings_refuse_the_impossible(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GaussianSettings(**values)
