"""The closed forms of `gaussian` beside what needs no formula: sampling, and direct minimax optimisation."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from notbugs.science.gaussian.theory import (
    GaussianError,
    RobustGaussians,
    TwoGaussians,
    accuracy,
    excess_loss,
    expected_loss,
    maximum_likelihood,
    negative_log_likelihood,
    perturbation,
    robust_parameters,
)


@dataclass(frozen=True)
class Sampled:
    """A number in closed form and the mean of a sample.

    Attributes:
        name: what it is. closed_form, measured: the two. standard_error: of the sample's mean.
    """

    name: str
    closed_form: float
    measured: float
    standard_error: float

    @property
    def z(self) -> float:
        """Their difference in standard errors; 0 where both are the same and nothing varies."""
        gap = self.measured - self.closed_form
        if self.standard_error > 0:
            return gap / self.standard_error
        return 0.0 if gap == 0 else math.copysign(math.inf, gap)


def monte_carlo(truth: TwoGaussians, eps: float, count: int, generator: torch.Generator) -> list[Sampled]:
    """Every closed form against the mean over `count` drawn examples.

    Args:
        truth: what is drawn from.
        eps: budget of the robust parameters.
        count: examples.
        generator: of the examples.
    """
    x, y = truth.draw(count, generator)
    learnt, robust = maximum_likelihood(x, y), robust_parameters(truth, eps)
    z = y[:, None] * x  # (N, d)
    r = z - truth.mu
    delta = perturbation(r, robust.Sigma, robust.lam)
    C = 2 / float(torch.linalg.eigvalsh(truth.Sigma)[0])
    likelihood = negative_log_likelihood(r, truth.Sigma)
    attacked = negative_log_likelihood(r + perturbation(r, truth.Sigma, C), truth.Sigma)
    adversarial = negative_log_likelihood(r + delta, robust.Sigma)
    spread = torch.diagonal(truth.Sigma)
    scale = torch.sqrt((torch.outer(spread, spread) + truth.Sigma**2) / count)  # of the entries of a covariance
    return [
        _check("squared perturbation", eps**2, (delta**2).sum(dim=1)),
        _check("loss of maximum likelihood", expected_loss(truth, truth), likelihood),
        _check("excess loss of maximum likelihood", excess_loss(truth.Sigma, C), attacked - likelihood),
        _check("adversarial loss of the robust parameters", _robust_loss(robust, truth), adversarial),
        _share("accuracy of maximum likelihood", accuracy(truth, truth), z @ truth.direction > 0),
        _share("accuracy of the robust parameters", accuracy(robust, truth), z @ robust.direction > 0),
        _worst("estimated mean", truth.mu, learnt.mu, torch.sqrt(spread / count)),
        _worst("estimated covariance", truth.Sigma, learnt.Sigma, scale),
    ]


def _check(name: str, closed_form: float, sample: Tensor) -> Sampled:
    return Sampled(name, closed_form, float(sample.mean()), float(sample.std()) / math.sqrt(len(sample)))


def _share(name: str, closed_form: float, right: Tensor) -> Sampled:
    """The standard error is the closed form's own, so that it is not 0 where all of the sample is right."""
    error = math.sqrt(closed_form * (1 - closed_form) / len(right))
    return Sampled(name, closed_form, float(right.double().mean()), error)


def _worst(name: str, closed_form: Tensor, measured: Tensor, scale: Tensor) -> Sampled:
    """The entry that lies furthest off, in its standard errors."""
    place = int(((measured - closed_form) / scale).abs().argmax())
    return Sampled(name, *(float(values.flatten()[place]) for values in (closed_form, measured, scale)))


def _robust_loss(robust: RobustGaussians, truth: TwoGaussians) -> float:
    """½[d log 2π + log det Σ_r + tr (Σ_r − I/λ)⁻¹Σ* + λE‖δ‖²]: the closed form without solving for λ again."""
    size = len(truth.mu)
    shrunk = robust.Sigma - torch.eye(size, dtype=torch.float64) / robust.lam
    delta = torch.linalg.inv(robust.lam * robust.Sigma - torch.eye(size, dtype=torch.float64))
    quadratic = torch.trace(torch.linalg.solve(shrunk, truth.Sigma)) + robust.lam * torch.trace(
        delta @ truth.Sigma @ delta
    )
    return float(size * math.log(2 * math.pi) + torch.logdet(robust.Sigma) + quadratic) / 2


def minimax(x: Tensor, y: Tensor, eps: float, *, num_steps: int = 200) -> tuple[TwoGaussians, float]:
    """min over (μ, Σ) of the max over δ₁…δ_N with mean ‖δᵢ‖² <= eps² of the mean of ℓ(yᵢ(xᵢ + δᵢ); μ, Σ).

    Outside, L-BFGS on μ and the Cholesky factor of Σ⁻¹; inside, ascent on all δᵢ under their one budget. No closed
    form is used but ℓ itself.

    Args:
        x: (N, d). y: (N,) of ±1.
        eps: the averaged budget.
        num_steps: of L-BFGS.
    Returns: the parameters at which it ended, and the loss there under its adversary.
    Raises: GaussianError if a class is missing, the examples span no full space, or eps <= 0.
    """
    if not 0 < eps < math.inf:
        raise GaussianError(f"eps must be > 0, not {eps}")
    from scipy.optimize import minimize

    begin = maximum_likelihood(x, y)
    z, size = y[:, None] * x, x.shape[1]
    delta = torch.zeros_like(z)

    def loss(numbers: Any) -> tuple[float, Any]:
        """The inner maximum and its gradient with respect to μ and the factor (that of the δ at the maximum)."""
        nonlocal delta
        point = torch.from_numpy(numbers.copy()).requires_grad_()
        mu, low = point[:size], torch.tril(point[size:].reshape(size, size))
        delta = _ascend(z - mu.detach(), low.detach(), eps, delta)
        spread = ((z + delta - mu) @ low) ** 2  # (N, d)
        log_det = torch.diagonal(low).abs().log().sum()
        value = size / 2 * math.log(2 * math.pi) - log_det + spread.sum(dim=1).mean() / 2
        (slope,) = torch.autograd.grad(value, point)
        return float(value.detach()), slope.numpy()

    # Wide enough for the budget: where 1/σ_min is above the adversary's price, the ascent is slow.
    wide = begin.Sigma + eps**2 / size * torch.eye(size, dtype=torch.float64)
    start = torch.cat([begin.mu, torch.linalg.cholesky(torch.linalg.inv(wide)).flatten()])
    options = {"maxiter": num_steps, "ftol": 1e-15, "gtol": 1e-9}
    found = minimize(loss, start.numpy(), jac=True, method="L-BFGS-B", options=options)
    end = torch.from_numpy(found.x)
    low = torch.tril(end[size:].reshape(size, size))
    return TwoGaussians(end[:size], torch.linalg.inv(low @ low.T)), float(found.fun)


def _ascend(r: Tensor, low: Tensor, eps: float, delta: Tensor, *, max_steps: int = 2000) -> Tensor:
    """argmax over δ with mean ‖δᵢ‖² <= eps² of Σ (rᵢ + δᵢ)ᵀA(rᵢ + δᵢ), A = low·lowᵀ; (N, d).

    δ ← the point of the budget's sphere furthest along the gradient A(r + δ): for a convex function each such step
    climbs, and the maximum lies on the sphere.
    """
    A, radius = low @ low.T, eps * math.sqrt(len(r))
    for _ in range(max_steps):
        gradient = (r + delta) @ A
        new = gradient * (radius / gradient.norm())
        moved = float((new - delta).norm())
        delta = new
        if moved <= 1e-10 * radius:
            break
    return delta
