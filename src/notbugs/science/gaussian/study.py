"""What is said of two Gaussians, as numbers: budgets, checks, stretched covariances, aligned gradients; in the plane
and in a random high-dimensional case."""

import math
from typing import Any

import torch
from torch import Tensor

from notbugs.data.images import make_generator
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.gaussian.checks import minimax, monte_carlo
from notbugs.science.gaussian.theory import (
    GaussianSettings,
    TwoGaussians,
    accuracy,
    adversarial_loss,
    alignment,
    eigenvalues,
    excess_loss,
    maximum_likelihood,
    robust_parameters,
    spent_budget,
    worst_alignment,
)

MEAN_LENGTH = 2.0
"""‖μ*‖ of the random case."""
SPREAD = 1.0
"""Its variances lie between 10^-SPREAD and 10^SPREAD, uniform on that scale."""
BALL = 1.0
"""Radius of the ball of every example in the accuracies, beside the clean ones."""
PENALTY = 2.0
"""C of the excess loss, in units of 1/σ_min of the most stretched covariance."""
STRETCHES = 21
"""Points of the curve of the excess loss."""
NUM_POINTS = 150
"""Examples of the plane that are kept for the figure."""


def gaussian(lab: Lab, settings: GaussianSettings) -> Answer:
    """Both cases, with the alignment drawn against eps; all numbers are plain floats, ready for JSON.

    Takes about 10 s. Expected: direct optimisation agrees with the closed form to better than 1e-3, sampling within
    four standard errors.
    """
    plane = plane_case(settings)
    random = random_case(settings.dimension, make_generator(lab.seed, "gaussian", "case"))
    found = {
        "plane": {
            "mu": plane.mu.tolist(),
            "sigma": plane.Sigma.tolist(),
            "points": _points(plane, lab.seed),
            **_case(plane, settings, lab.seed, "plane"),
        },
        "random": _case(random, settings, lab.seed, "random"),
    }
    errors: list[float] = []
    for name, case in found.items():
        errors += [budget["minimax"]["covariance_error"] for budget in case["budgets"]]
        for step, (eps, of_mu, worst) in enumerate(zip(*case["alignment"].values(), strict=True)):
            lab.draw(step, {f"{name}/eps": eps, f"{name}/alignment": of_mu, f"{name}/worst_alignment": worst})
    largest = max(case["largest_z"] for case in found.values())
    sampled = f"against sampling {largest:.1f} standard errors"
    return Answer(found, (f"closed form against direct optimisation {max(errors):.1e} off at most, {sampled}",))


def plane_case(settings: GaussianSettings) -> TwoGaussians:
    """The two Gaussians of the figure."""
    turn = math.radians(settings.angle)
    basis = torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]], dtype=torch.float64)
    Sigma = (basis * torch.tensor(settings.variances, dtype=torch.float64)) @ basis.T
    return TwoGaussians(torch.tensor(settings.mu, dtype=torch.float64), (Sigma + Sigma.T) / 2)


def random_case(dimension: int, generator: torch.Generator) -> TwoGaussians:
    """A random mean of length MEAN_LENGTH, and a covariance with random eigenvectors and eigenvalues."""
    mu = torch.randn(dimension, generator=generator, dtype=torch.float64)
    return TwoGaussians(mu * (MEAN_LENGTH / mu.norm()), random_covariance(dimension, generator))


def random_covariance(dimension: int, generator: torch.Generator) -> Tensor:
    """Eigenvectors uniform, log-eigenvalues uniform: (d, d)."""
    basis = torch.linalg.qr(torch.randn(dimension, dimension, generator=generator, dtype=torch.float64))[0]
    values = 10 ** (SPREAD * (2 * torch.rand(dimension, generator=generator, dtype=torch.float64) - 1))
    Sigma = (basis * values) @ basis.T
    return (Sigma + Sigma.T) / 2


def _case(truth: TwoGaussians, settings: GaussianSettings, seed: int, name: str) -> dict[str, Any]:
    checks = [
        {"eps": eps, **vars(check), "z": check.z}
        for eps in sorted(settings.eps)
        for check in monte_carlo(truth, eps, settings.num_samples, make_generator(seed, "gaussian", name, "sample"))
    ]
    x, y = truth.draw(settings.num_minimax, make_generator(seed, "gaussian", name, "minimax"))
    return {
        "dimension": len(truth.mu),
        "condition": _condition(truth.Sigma),
        "clean_accuracy": accuracy(truth, truth),
        "ball_accuracy": accuracy(truth, truth, BALL),
        "budgets": [_budget(truth, eps, x, y) for eps in sorted(settings.eps)],
        "monte_carlo": checks,
        "largest_z": max(abs(check["z"]) for check in checks),
        "stretch": _stretch(truth, settings.num_covariances, make_generator(seed, "gaussian", name, "stretch")),
        "alignment": _alignments(truth, settings.eps),
    }


def _condition(Sigma: Tensor) -> float:
    values = eigenvalues(Sigma)
    return float(values[-1] / values[0])


def _budget(truth: TwoGaussians, eps: float, x: Tensor, y: Tensor) -> dict[str, Any]:
    """One budget: the closed form for the truth, and for the sample (x, y) beside direct optimisation."""
    robust = robust_parameters(truth, eps)
    sample = maximum_likelihood(x, y)
    closed, (found, loss) = robust_parameters(sample, eps), minimax(x, y, eps)
    return {
        "eps": eps,
        "lam": robust.lam,
        "budget_error": abs(spent_budget(truth.Sigma, robust.lam) / eps**2 - 1),
        "minimax": {
            "covariance_error": _relative(found.Sigma, closed.Sigma),
            "mean_error": _relative(found.mu, closed.mu),
            "loss_error": abs(loss / adversarial_loss(closed, sample, eps) - 1),
        },
        "sigma_r": robust.Sigma.tolist() if len(truth.mu) == 2 else None,
        "condition": _condition(robust.Sigma),
        "adversarial_loss": {
            "maximum_likelihood": adversarial_loss(truth, truth, eps),
            "robust": adversarial_loss(robust, truth, eps),
        },
        "clean_accuracy": accuracy(robust, truth),
        "ball_accuracy": accuracy(robust, truth, BALL),
    }


def _relative(found: Tensor, closed: Tensor) -> float:
    return float((found - closed).abs().max() / closed.abs().max())


def _stretch(truth: TwoGaussians, num_covariances: int, generator: torch.Generator) -> dict[str, Any]:
    """Excess loss from the identity (t = 0) to Σ* (t = 1), at the trace of Σ*, and of random covariances."""
    size, trace = len(truth.mu), float(torch.trace(truth.Sigma))
    ball = torch.eye(size, dtype=torch.float64) * (trace / size)
    others = [random_covariance(size, generator) for _ in range(num_covariances)]
    others = [other * (trace / float(torch.trace(other))) for other in others]
    C = PENALTY / min(float(eigenvalues(Sigma)[0]) for Sigma in (truth.Sigma, *others))
    steps = [step / (STRETCHES - 1) for step in range(STRETCHES)]
    excess = [excess_loss((1 - t) * ball + t * truth.Sigma, C) for t in steps]
    least = min(excess_loss(other, C) for other in others)
    return {"C": C, "t": steps, "excess": excess, "num_random": num_covariances, "least_of_random": least}


def _alignments(truth: TwoGaussians, budgets: tuple[float, ...]) -> dict[str, Any]:
    """Alignment of the gradient with the inter-class direction, of μ* and at the worst μ, against eps (0: ML)."""
    largest = max(budgets)
    eps = sorted({largest * 10 ** (-step / 8) for step in range(25)} | set(budgets))
    learnt = [truth.Sigma, *(robust_parameters(truth, budget).Sigma for budget in eps)]
    return {
        "eps": [0.0, *eps],
        "of_mu": [alignment(truth.mu, Sigma) for Sigma in learnt],
        "worst": [worst_alignment(Sigma) for Sigma in learnt],
    }


def _points(plane: TwoGaussians, seed: int) -> list[list[float]]:
    x, y = plane.draw(NUM_POINTS, make_generator(seed, "gaussian", "points"))
    return [[round(float(a), 4), round(float(b), 4), int(label)] for (a, b), label in zip(x, y, strict=True)]
