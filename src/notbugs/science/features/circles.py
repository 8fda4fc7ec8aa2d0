"""Concentric circles: single features may be useless where a combination of them is useful.

Two rings around the origin, the inner one of class +1. Raw coordinates say nothing of the class, the radius does, and
no feature is more useful than the posterior p(y = 1|x) itself, scaled: E[y·f] = E[E[y|x]·f] is largest, over f of mean
0 and variance 1, for f ∝ E[y|x] − E[y]. Source: a reviewer of the paper; scikit-learn's make_circles.
"""

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from notbugs.runtime.config import Settings
from notbugs.science.features.usefulness import Usefulness, scale


class CirclesSettings(Settings):
    """Two noisy rings in the plane."""

    num_points: int = Field(default=2000, ge=100)
    """Points of both rings together."""
    factor: float = Field(default=0.5, gt=0, lt=1)
    """Radius of the inner ring; the outer one's is 1."""
    noise: float = Field(default=0.15, gt=0, le=1)
    """Standard deviation of the Gaussian noise of each coordinate."""


@dataclass(frozen=True)
class Circles:
    """Points, their class, and the features of each.

    Attributes:
        points: (N, 2) float64. y: (N,) of ±1.
        features: name -> (N,), unscaled.
    """

    points: Tensor
    y: Tensor
    features: dict[str, Tensor]

    def usefulness(self) -> dict[str, Usefulness]:
        """|E[y·f]| of each feature, scaled on these points, sign chosen so that it is at least 0.

        The classes are equally large, so only the scale's estimate adds to the interval, beside the mean's.
        """
        found = {}
        for name, raw in self.features.items():
            values = scale(raw[:, None]).values[:, 0]
            signed = values * self.y
            mean = signed.mean()
            influence = signed - mean - mean * (values**2 - 1) / 2
            found[name] = Usefulness(float(mean.abs()), float(influence.std()) / len(raw) ** 0.5)
        return found


def circles(settings: CirclesSettings, generator: torch.Generator) -> Circles:
    """Draw the rings; the seed of scikit-learn's generator is drawn from `generator`."""
    from sklearn.datasets import make_circles

    seed = int(torch.randint(2**31 - 1, (1,), generator=generator))
    count = settings.num_points - settings.num_points % 2
    points, inner = make_circles(count, noise=settings.noise, factor=settings.factor, random_state=seed)
    x = torch.from_numpy(points)
    y = torch.from_numpy(inner).double() * 2 - 1
    radius = x.norm(dim=1)
    features = {
        "first coordinate": x[:, 0],
        "second coordinate": x[:, 1],
        "radius": radius,
        "squared radius": radius**2,
        "p(y|x)": posterior(radius, settings),
    }
    return Circles(x, y, features)


def posterior(radius: Tensor, settings: CirclesSettings) -> Tensor:
    """p(y = +1|x) from the distance to the origin, (N,) -> (N,).

    A ring of radius ϱ with isotropic noise σ has at distance r a density ∝ exp(−(r² + ϱ²)/2σ²)·I₀(rϱ/σ²).
    """
    variance = settings.noise**2

    def log_density(ring: float) -> Tensor:
        bent = radius * ring / variance
        return torch.special.i0e(bent).log() + bent - (radius**2 + ring**2) / (2 * variance)

    return torch.sigmoid(log_density(settings.factor) - log_density(1.0))
