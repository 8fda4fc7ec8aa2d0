"""Smallest perturbations: the known distance to a linear boundary, and the curve they give."""

import math

import pytest
import torch
from linear_model import linear
from torch import nn

from notbugs.data.images import ImageData
from notbugs.evaluation.accuracy import predict
from notbugs.evaluation.minimum_norm import accuracy_curve, minimum_norms, smallest


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize(("norm", "attack", "dual"), [("l2", "ddn", 2), ("linf", "fmn", 1), ("l1", "fmn", math.inf)])
def test_distance_to_a_linear_boundary(norm, attack, dual):
    w = torch.linspace(-1, 1, 16)
    x = (0.5 + 0.05 * torch.randn(20, 1, 4, 4, generator=generator())).clamp(0.3, 0.7)
    score = x.flatten(1) @ w + 0.2
    data = ImageData(x, (score > 0).long(), ("a", "b"))
    expected = (score.abs() / w.norm(p=dual)).double()
    found = minimum_norms(linear(w, 0.2), data, attack, norm=norm, num_steps=60, batch_size=7, generator=generator())
    assert found.dtype == torch.float64
    there = found.isfinite()
    assert int(there.sum()) >= 19  # FMN stops for good where a step ends exactly on the boundary
    assert float((found / expected).min()) > 0.999
    assert float((found / expected)[there].max()) < 1.05


def test_wrong_untouched_is_0_and_not_found_is_infinite():
    class Constant(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, 0.0]]).repeat(len(x), 1) + 0 * x.flatten(1).sum(1, keepdim=True)

    data = ImageData(torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1]), ("a", "b"))
    found = minimum_norms(Constant(), data, "ddn", norm="l2", num_steps=5, generator=generator())
    assert found.tolist() == [math.inf, 0.0]


def test_the_curve_meets_clean_accuracy_and_falls(robust_model, digits):
    data = digits[1].select(torch.arange(60))
    norms = minimum_norms(robust_model, data, "ddn", norm="l2", num_steps=30, generator=generator())
    clean = float((predict(robust_model, data.images).argmax(dim=1) == data.labels).double().mean())
    curve = accuracy_curve(norms, [0.0, 0.25, 0.5, 1.0, 10.0])
    assert curve[0] == clean
    assert curve == sorted(curve, reverse=True)
    assert curve[-1] == 0.0
    assert len(norms[norms > 0].unique()) > 40  # bisection leaves none at DDN's own radii


def test_smallest_and_curve_by_hand():
    norms = smallest([torch.tensor([0.5, math.inf, 0.0]), torch.tensor([0.7, 0.2, math.inf])])
    assert norms.tolist() == [0.5, pytest.approx(0.2), 0.0]
    assert accuracy_curve(norms, [0.0, 0.3, 0.5]) == [pytest.approx(2 / 3), pytest.approx(1 / 3), 0.0]
