"""Maximum likelihood and robust classification of two Gaussians, in closed form.

| symbol     | meaning                                                                      |
|------------|------------------------------------------------------------------------------|
| mu, Sigma  | μ*, Σ*: x ~ N(y·μ*, Σ*), y = ±1 with equal chance                            |
| r          | y·x − μ, a class's example seen from its mean                                |
| ℓ          | ½[d log 2π + log det Σ + rᵀΣ⁻¹r], the negative log likelihood of N(y·μ, Σ)   |
| eps        | budget of the adversary: E‖δ‖² <= eps², on average over the examples         |
| lam        | λ, the budget's price: the adversary maximises ℓ(x + δ) − (λ/2)‖δ‖²          |
| Sigma_r    | Σ_r, the covariance that robust learning finds                               |

Everything is float64. Source: Ilyas et al. 2019, section 4 and appendix E.
"""

import math
from dataclasses import dataclass

import torch
from pydantic import Field, field_validator
from torch import Tensor

from notbugs.runtime.config import Settings
from notbugs.runtime.errors import UserError


class GaussianError(UserError):
    """A covariance, mean or budget for which there is no answer."""


class GaussianSettings(Settings):
    """Section `gaussian`: the theory of two Gaussians, in the plane and in a random high-dimensional case."""

    mu: tuple[float, float] = Field(default=(2.0, 1.5), strict=False)
    """μ* in the plane: the classes' means are ±μ*."""
    variances: tuple[float, float] = Field(default=(4.0, 0.25), strict=False)
    """Eigenvalues of Σ* in the plane, > 0."""
    angle: float = Field(default=60.0, allow_inf_nan=False)
    """Direction of the first eigenvector, degrees from the first axis."""
    eps: tuple[float, ...] = Field(default=(1.0, 5.0, 10.0), strict=False, min_length=1, max_length=6)
    """Budgets that are drawn and checked, each > 0."""
    dimension: int = Field(default=20, ge=2, le=1000)
    """d of the random case."""
    num_samples: int = Field(default=100_000, ge=1000)
    """Examples of the Monte Carlo checks."""
    num_minimax: int = Field(default=400, ge=20)
    """Examples of the direct minimax optimisation; more than twice `dimension`."""
    num_covariances: int = Field(default=200, ge=1)
    """Random covariances of the same trace that are set beside the identity."""

    @field_validator("variances", "eps")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 < value < math.inf for value in values):
            raise ValueError("numbers > 0")
        return values

    @field_validator("num_minimax")
    @classmethod
    def _enough(cls, num_minimax: int, info: object) -> int:
        dimension = getattr(info, "data", {}).get("dimension", 0)
        if num_minimax <= 2 * dimension:
            raise ValueError(f"more than twice dimension, which is {dimension}")
        return num_minimax


@dataclass(frozen=True)
class TwoGaussians:
    """N(y·mu, Sigma), y = ±1: the truth, or what a learner takes for it.

    Attributes:
        mu: (d,) float64. Sigma: (d, d) float64, symmetric and positive definite.
    Raises: GaussianError if the shapes do not fit or the covariance is singular or not one.
    """

    mu: Tensor
    Sigma: Tensor

    def __post_init__(self) -> None:
        size = len(self.mu)
        if self.mu.ndim != 1 or self.Sigma.shape != (size, size):
            raise GaussianError(f"Sigma must be ({size}, {size}) for a mean of {size}, not {tuple(self.Sigma.shape)}")
        if not bool(torch.isfinite(self.mu).all()):
            raise GaussianError("mu must be finite")
        eigenvalues(self.Sigma)

    @property
    def direction(self) -> Tensor:
        """w = Σ⁻¹μ: the classifier is sign(wᵀx), and w the gradient of its logit (to a factor 2), (d,)."""
        return torch.linalg.solve(self.Sigma, self.mu)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """x (N, d) and y (N,) = ±1."""
        y = (torch.rand(count, generator=generator) < 0.5).double() * 2 - 1
        noise = torch.randn(count, len(self.mu), generator=generator, dtype=torch.float64)
        return y[:, None] * self.mu + noise @ torch.linalg.cholesky(self.Sigma).T, y


def eigenvalues(Sigma: Tensor) -> Tensor:
    """Eigenvalues of a covariance, ascending, (d,).

    Raises: GaussianError if it is not finite, not symmetric, or singular (or negative) to within rounding.
    """
    if not bool(torch.isfinite(Sigma).all()) or not torch.allclose(Sigma, Sigma.T, rtol=1e-9, atol=1e-12):
        raise GaussianError("a covariance must be finite and symmetric")
    values = torch.linalg.eigvalsh(Sigma)
    if not float(values[0]) > 1e-12 * float(values[-1].abs()):
        raise GaussianError(f"the covariance is singular: its smallest eigenvalue is {float(values[0]):.3g}, not > 0")
    return values


def maximum_likelihood(x: Tensor, y: Tensor) -> TwoGaussians:
    """The maximum-likelihood parameters of examples: the mean and the covariance (over N) of y·x.

    Args:
        x: (N, d). y: (N,) of ±1, both present.
    Raises: GaussianError if a class is missing, or the examples span no full space.
    """
    for label in (-1, 1):
        if not bool((y == label).any()):
            raise GaussianError(f"class {label:+d} is missing: both classes must have examples")
    z = y[:, None] * x  # (N, d)
    mu = z.mean(dim=0)
    return TwoGaussians(mu, (z - mu).T @ (z - mu) / len(z))


def robust_covariance(Sigma: Tensor, lam: float) -> Tensor:
    """Σ_r = ½Σ* + (1/λ)I + √(Σ*/λ + ¼Σ*²), (d, d): Σ* blended towards the identity.

    From the dual of the adversary: max over δ of ℓ − (λ/2)‖δ‖² is ½[log det Σ + rᵀ(Σ − I/λ)⁻¹r] + const, whose
    expectation is least where (Σ − I/λ)² = ΣΣ*. Source: Ilyas et al. 2019, theorem 2.

    Raises: GaussianError for a singular Sigma or lam <= 0.
    """
    if not 0 < lam < math.inf:
        raise GaussianError(f"lam must be > 0, not {lam}")
    eigenvalues(Sigma)
    values, vectors = torch.linalg.eigh(Sigma)
    return (vectors * _robust_eigenvalues(values, lam)) @ vectors.T


def _robust_eigenvalues(values: Tensor, lam: float) -> Tensor:
    return values / 2 + 1 / lam + torch.sqrt(values / lam + values**2 / 4)


def spent_budget(Sigma: Tensor, lam: float) -> float:
    """E‖δ‖² of the adversary at price λ against Σ_r(λ): λ⁻² tr Σ_r⁻¹; falls from ∞ to 0 as λ grows.

    δ = (λΣ_r − I)⁻¹ r, so with rᵢ the eigenvalues of Σ_r, E‖δ‖² = Σ sᵢ/(λrᵢ − 1)², and (λrᵢ − 1)² = λ²rᵢsᵢ.
    """
    return float((1 / _robust_eigenvalues(eigenvalues(Sigma), lam)).sum()) / lam**2


def solve_lam(Sigma: Tensor, eps: float) -> float:
    """The λ at which the adversary spends exactly the budget: E‖δ‖² = eps² (relative error of λ below 1e-12).

    Raises: GaussianError for a singular Sigma or eps <= 0.
    """
    from scipy.optimize import brentq

    if not 0 < eps < math.inf:
        raise GaussianError(f"eps must be > 0, not {eps}")
    values = eigenvalues(Sigma)

    def excess(log_lam: float) -> float:
        lam = math.exp(log_lam)
        spent = float((1 / _robust_eigenvalues(values, lam)).sum()) / lam**2
        return math.log(spent) - 2 * math.log(eps)

    return math.exp(brentq(excess, *_bracket(values, eps), xtol=1e-14, rtol=1e-14))


def _bracket(values: Tensor, eps: float) -> tuple[float, float]:
    """log λ below and above the solution: λ⁻² tr Σ_r⁻¹ is below d/λ and below λ⁻² tr Σ*⁻¹, and above d/(λ(2 + λs))
    with s the largest eigenvalue."""
    size, largest = len(values), float(values[-1])
    above = size / eps**2
    ratio = size / eps**2  # λ(2 + λs) = d/eps² has its root below the solution
    below = ratio / (1 + math.sqrt(1 + largest * ratio))
    return math.log(below) - 1e-6, math.log(above) + 1e-6


@dataclass(frozen=True)
class RobustGaussians(TwoGaussians):
    """What robust learning with an averaged budget finds: μ_r = μ*, Σ_r, and the price λ."""

    lam: float


def robust_parameters(truth: TwoGaussians, eps: float) -> RobustGaussians:
    """argmin over (μ, Σ) of the maximum over δ with E‖δ‖² <= eps² of E ℓ(y·(x + δ); μ, Σ).

    Raises: GaussianError for eps <= 0.
    """
    lam = solve_lam(truth.Sigma, eps)
    return RobustGaussians(truth.mu, robust_covariance(truth.Sigma, lam), lam)


def perturbation(r: Tensor, Sigma: Tensor, lam: float) -> Tensor:
    """The δ that maximises ℓ(x + δ) − (λ/2)‖δ‖², turned to class +1: δ = (λΣ − I)⁻¹ r, (N, d).

    Raises: GaussianError unless λ > 1/σ_min(Σ); below, the maximum is infinite.
    """
    if not lam * float(eigenvalues(Sigma)[0]) > 1:
        raise GaussianError(f"lam = {lam}: must be above 1/σ_min = {1 / float(eigenvalues(Sigma)[0]):.6g}")
    return torch.linalg.solve(lam * Sigma - torch.eye(len(Sigma), dtype=Sigma.dtype), r.T).T


def negative_log_likelihood(r: Tensor, Sigma: Tensor) -> Tensor:
    """ℓ of each example, r: (N, d) -> (N,)."""
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(Sigma), r.T, upper=False)  # (d, N)
    return (len(Sigma) * math.log(2 * math.pi) + torch.logdet(Sigma) + (half**2).sum(dim=0)) / 2


def expected_loss(learnt: TwoGaussians, truth: TwoGaussians) -> float:
    """E ℓ without an adversary: ½[d log 2π + log det Σ + tr Σ⁻¹S], S = Σ* + (μ − μ*)(μ − μ*)ᵀ."""
    size = len(truth.mu)
    quadratic = torch.trace(torch.linalg.solve(learnt.Sigma, _second_moment(learnt, truth)))
    return float(size * math.log(2 * math.pi) + torch.logdet(learnt.Sigma) + quadratic) / 2


def adversarial_loss(learnt: TwoGaussians, truth: TwoGaussians, eps: float) -> float:
    """max over δ with E‖δ‖² <= eps² of E ℓ(y·(x + δ)), for any learnt parameters.

    By duality: min over λ > 1/σ_min of ½[d log 2π + log det Σ + tr (Σ − I/λ)⁻¹S + λ·eps²].

    Raises: GaussianError for eps <= 0.
    """
    from scipy.optimize import brentq

    if not 0 < eps < math.inf:
        raise GaussianError(f"eps must be > 0, not {eps}")
    values, vectors = torch.linalg.eigh(learnt.Sigma)
    moments = torch.einsum("ij,ik,kj->j", vectors, _second_moment(learnt, truth), vectors)  # (d,) along eigenvectors

    def excess(t: float) -> float:  # λ = (1 + e^t)/σ_min
        lam = (1 + math.exp(t)) / float(values[0])
        return float((moments / (lam * values - 1) ** 2).sum()) - eps**2

    lam = (1 + math.exp(brentq(excess, -30, 30 + math.log1p(1 / eps), xtol=1e-13))) / float(values[0])
    quadratic = float((moments / (values - 1 / lam)).sum()) + lam * eps**2
    return (len(values) * math.log(2 * math.pi) + float(values.log().sum()) + quadratic) / 2


def _second_moment(learnt: TwoGaussians, truth: TwoGaussians) -> Tensor:
    shift = truth.mu - learnt.mu
    return truth.Sigma + torch.outer(shift, shift)


def excess_loss(Sigma: Tensor, C: float) -> float:
    """What an adversary with penalty (C/2)‖δ‖² adds to the loss of the maximum-likelihood parameters.

    L_adv − L = ½{tr[(I + (CΣ* − I)⁻¹)²] − d}; at fixed trace it is least for Σ* ∝ I. The paper's theorem 1 leaves
    out the ½ and writes the penalty as C‖δ‖.

    Raises: GaussianError unless C > 1/σ_min(Σ*).
    """
    values = eigenvalues(Sigma)
    if not float(values[0]) * C > 1:
        raise GaussianError(f"C = {C}: must be above 1/σ_min = {1 / float(values[0]):.6g}")
    return float(((1 + 1 / (C * values - 1)) ** 2 - 1).sum()) / 2


def alignment(mu: Tensor, Sigma: Tensor) -> float:
    """Cosine of the angle between the logit's gradient Σ⁻¹μ and the inter-class direction μ.

    Raises: GaussianError for mu = 0.
    """
    if not float(mu.norm()) > 0:
        raise GaussianError("mu is 0: there is no direction between the classes")
    gradient = torch.linalg.solve(Sigma, mu)
    return float(gradient @ mu / (gradient.norm() * mu.norm()))


def worst_alignment(Sigma: Tensor) -> float:
    """The least alignment over all μ: 2√κ/(1 + κ), κ the condition number of Σ (Kantorovich's inequality)."""
    values = eigenvalues(Sigma)
    kappa = float(values[-1] / values[0])
    return 2 * math.sqrt(kappa) / (1 + kappa)


def accuracy(learnt: TwoGaussians, truth: TwoGaussians, radius: float = 0.0) -> float:
    """P(sign(wᵀ(x + δ)) = y) for the worst ‖δ‖₂ <= radius of every example: Φ((wᵀμ* − radius·‖w‖)/√(wᵀΣ*w))."""
    w = learnt.direction
    margin = w @ truth.mu - radius * w.norm()
    return float(torch.special.ndtr(margin / torch.sqrt(w @ truth.Sigma @ w)))
