"""Randomised smoothing against the closed form: a linear classifier's smoothed radius is its distance."""

import pytest
import torch
from linear_model import linear
from scipy.stats import binom, norm

from notbugs.evaluation.certificate import (
    ABSTAIN,
    certified_radius,
    certify,
    clopper_pearson_low,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_linear_classifiers_radius_is_its_distance():
    """P(f(x + noise) = c) = Φ(distance/sigma), so the radius is the distance to the plane, whatever sigma."""
    w, bias, sigma = torch.linspace(-1, 1, 16), 0.1, 0.25
    x = torch.rand(12, 1, 4, 4, generator=generator())
    score = x.flatten(1) @ w + bias
    distance = (score.abs() / w.norm()).double()
    settings = {"sigma": sigma, "num_estimate": 20000, "alpha": 0.001, "batch_size": 5000}
    found = certify(linear(w, bias), x, **settings, generator=generator(1))
    committed = found.called != ABSTAIN
    assert int(committed.sum()) >= 8
    assert torch.equal(found.called[committed], (score > 0).long()[committed])
    assert (found.radius <= distance + 1e-9).all()  # each is wrong with probability 0.001
    measurable = committed & (distance < 2 * sigma)
    assert int(measurable.sum()) >= 4
    for radius, exact in zip(found.radius[measurable], distance[measurable], strict=True):
        p = norm.cdf(float(exact) / sigma)
        # Four standard errors of the estimate, and as much again for the confidence bound.
        error = 8 * (p * (1 - p) / 20000) ** 0.5 / norm.pdf(float(exact) / sigma) * sigma
        assert float(radius) == pytest.approx(float(exact), abs=float(error))


def test_it_abstains_on_the_boundary():
    found = certify(
        linear(torch.ones(16), -8.0), torch.full((1, 1, 4, 4), 0.5), num_estimate=500, generator=generator(2)
    )
    assert found.called.tolist() == [ABSTAIN]
    assert found.radius.tolist() == [0.0]


@pytest.mark.parametrize(("hits", "n"), [(1, 10), (7, 10), (99, 100), (1000, 1000)])
def test_clopper_pearson_by_its_definition(hits, n):
    """At the bound p, seeing so many hits or more has probability alpha."""
    low = clopper_pearson_low(hits, n, 0.05)
    assert binom.sf(hits - 1, n, low) == pytest.approx(0.05)


def test_radius_by_hand():
    assert clopper_pearson_low(0, 10, 0.05) == 0.0
    assert certified_radius(5, 10, 0.5, 0.001) == 0.0
    p = 0.001 ** (1 / 1000)  # all of 1,000 hits
    assert certified_radius(1000, 1000, 0.5, 0.001) == pytest.approx(0.5 * norm.ppf(p))
    with pytest.raises(ValueError, match="need 0 <= hits <= n and n >= 1, not 11 of 10"):
        clopper_pearson_low(11, 10, 0.05)


def test_the_batch_size_does_not_matter():
    x = torch.rand(2, 1, 4, 4, generator=generator())
    model = linear(torch.linspace(-1, 1, 16), 0.1)
    found = [
        certify(model, x, num_select=40, num_estimate=80, batch_size=size, generator=generator(4)) for size in (8, 1000)
    ]
    assert torch.equal(found[0].called, found[1].called)
    assert torch.equal(found[0].radius, found[1].radius)  # multiples of 16 numbers come from one stream
