"""Projections onto norm balls, steepest directions and random starts, against their definitions."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from notbugs.attacks.projections import (
    NORMS,
    Ball,
    project_l2,
    project_linf,
    random_l2,
    random_linf,
    steepest_l2,
)

PROJECTIONS = {"l2": project_l2, "linf": project_linf}
ORDERS = {"l2": 2.0, "linf": math.inf}
DUAL_ORDERS = {"l2": 2.0, "linf": 1.0}

norms = st.sampled_from(["l2", "linf"])
dtypes = st.sampled_from([torch.float32, torch.float64])
shapes = st.lists(st.integers(1, 5), min_size=1, max_size=3).map(tuple)


def norm_of(delta: Tensor, order: float) -> Tensor:
    """Per-example norm, (N,), in float64."""
    return torch.linalg.vector_norm(delta.double().flatten(1), ord=order, dim=1)


def draw(shape: tuple[int, ...], count: int, scale: float, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn((count, *shape), generator=generator, dtype=torch.float64)
    return (values * scale).to(dtype)


@given(norms, shapes, st.integers(0, 4), st.integers(-30, 30), st.floats(1e-6, 1e3), dtypes)
def test_projection_is_feasible_and_idempotent(norm, shape, count, exponent, eps, dtype):
    delta = draw(shape, count, 10.0**exponent, dtype)
    project = PROJECTIONS[norm]
    projected = project(delta, eps)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-13
    assert projected.shape == delta.shape
    assert projected.dtype == dtype
    assert (norm_of(projected, ORDERS[norm]) <= eps * (1 + tolerance)).all()
    torch.testing.assert_close(project(projected, eps), projected, rtol=tolerance, atol=0)


@given(norms, shapes, st.integers(-30, 30), dtypes)
def test_projection_keeps_what_lies_inside(norm, shape, exponent, dtype):
    delta = draw(shape, 3, 10.0**exponent, dtype)
    eps = 1.01 * float(norm_of(delta, ORDERS[norm]).max())
    assert torch.equal(PROJECTIONS[norm](delta, eps), delta)
    assert torch.equal(PROJECTIONS[norm](delta, math.inf), delta)


@given(norms, shapes, st.integers(-12, 12), st.floats(1e-3, 0.9))
def test_projection_meets_the_optimality_condition(norm, shape, exponent, fraction):
    """p is nearest to x exactly if ⟨x − p, q⟩ <= ⟨x − p, p⟩ on the ball: ⟨x − p, p⟩ = eps·‖x − p‖_dual."""
    delta = draw(shape, 3, 10.0**exponent, torch.float64)
    eps = fraction * float(norm_of(delta, ORDERS[norm]).min())
    projected = PROJECTIONS[norm](delta, eps)
    product = ((delta - projected) * projected).flatten(1).sum(dim=1)
    expected = eps * norm_of(delta - projected, DUAL_ORDERS[norm])
    torch.testing.assert_close(product, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_projection_is_the_nearest_point_by_brute_force(norm):
    point, eps = torch.tensor([[1.3, -0.4]], dtype=torch.float64), 0.7
    axis = torch.linspace(-eps, eps, 701, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    grid = grid[norm_of(grid, ORDERS[norm]) <= eps]
    distance = float((PROJECTIONS[norm](point, eps) - point).norm())
    least = float((grid - point).norm(dim=1).min())
    assert distance <= least + 1e-12  # nothing on the grid is nearer
    assert least <= distance + 0.002  # and the projection is no nearer than the ball allows


def test_projections_by_hand():
    delta = torch.tensor([[3.0, 4.0], [0.3, 0.4], [-6.0, 8.0]])
    torch.testing.assert_close(project_l2(delta, 1.0), torch.tensor([[0.6, 0.8], [0.3, 0.4], [-0.6, 0.8]]))
    assert torch.equal(project_linf(delta, 3.5), torch.tensor([[3.0, 3.5], [0.3, 0.4], [-3.5, 3.5]]))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_radius_zero_gives_exactly_zero(norm):
    delta = draw((2, 3), 4, 1e-25, torch.float32)
    assert torch.equal(PROJECTIONS[norm](delta, 0.0), torch.zeros_like(delta))


@pytest.mark.parametrize("project", [project_l2, project_linf])
@pytest.mark.parametrize("eps", [-1e-9, -math.inf, math.nan])
def test_impossible_radius_is_refused(project, eps):
    with pytest.raises(ValueError, match=rf"eps must be >= 0, not {eps}"):
        project(torch.zeros(1, 2), eps)


def test_box_leaves_delta_alone():
    delta = draw((2, 2), 3, 1e6, torch.float32)
    x = 0.5 + delta.clamp(-0.5, 0.5)
    moved = x.clone()
    NORMS["box"](torch.zeros_like(x), 0.1).project_(moved)
    assert torch.equal(moved, x)


@given(shapes, st.integers(-37, 37), dtypes)
def test_steepest_l2_has_length_one_whatever_the_scale(shape, exponent, dtype):
    """A network that is sure of itself has gradients of 1e-20 and less: they still give whole steps."""
    gradient = draw(shape, 3, 10.0**exponent, dtype)
    step = steepest_l2(gradient)
    assert step.dtype == dtype
    torch.testing.assert_close(norm_of(step, 2), torch.ones(3).double(), rtol=1e-5, atol=0)
    scaled = gradient.double() / 10.0**exponent
    cosine = (step.double() * scaled).flatten(1).sum(dim=1) / norm_of(scaled, 2)
    torch.testing.assert_close(cosine, torch.ones(3).double(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_steepest_directions_of_zero_are_zero(dtype):
    zero = torch.zeros(2, 1, 3, dtype=dtype)
    assert torch.equal(steepest_l2(zero), zero)
    for ball in NORMS.values():
        assert torch.equal(climbed(ball, zero, 0.25), zero + 0.5)


def climbed(ball: type[Ball], gradient: Tensor, step_size: float) -> Tensor:
    """Where a step from the grey image leads."""
    x = torch.full_like(gradient, 0.5)
    ball(x.clone(), 0.5).climb_(x, gradient.clone(), step_size)
    return x


def test_steps_in_linf_go_by_the_sign():
    gradient = torch.tensor([[1e-30, -2.0, 0.0]])
    assert torch.equal(climbed(NORMS["linf"], gradient, 0.25), torch.tensor([[0.75, 0.25, 0.5]]))


@given(norms, shapes, st.integers(-30, 30))
def test_a_norm_measures_its_own_steps_and_holds_every_image(norm, shape, exponent):
    gradient = draw(shape, 3, 10.0**exponent, torch.float64)
    moved = climbed(NORMS[norm], gradient, 0.25) - 0.5
    torch.testing.assert_close(NORMS[norm].length(moved), torch.full((3,), 0.25).double(), rtol=1e-5, atol=0)
    corner = torch.ones(1, *shape)
    torch.testing.assert_close(
        NORMS[norm].length(corner), torch.tensor([NORMS[norm].largest_radius(corner[0])]).double()
    )


@given(norms, shapes, st.integers(0, 4), st.floats(0, 1e3), dtypes)
def test_random_points_lie_in_the_ball(norm, shape, count, eps, dtype):
    like = torch.zeros((count, *shape), dtype=dtype)
    noise = NORMS[norm].random(like, eps, torch.Generator().manual_seed(1))
    assert noise.shape == like.shape
    assert noise.dtype == dtype
    assert (norm_of(noise, ORDERS[norm]) <= eps * (1 + 1e-5)).all()


def test_random_l2_is_uniform():
    """(r/eps)^d is uniform on [0, 1], and every direction has mean 0 and variance 1/d."""
    count, dimension, eps = 20_000, 3, 2.0
    noise = random_l2(torch.zeros(count, dimension), eps, torch.Generator().manual_seed(2)).double()
    radius = noise.norm(dim=1)
    share = (radius / eps) ** dimension
    for level in (0.1, 0.5, 0.9):
        error = abs(float((share <= level).double().mean()) - level)
        assert error <= 4 * math.sqrt(level * (1 - level) / count)
    direction = noise / radius[:, None]
    assert (direction.mean(dim=0).abs() <= 4 / math.sqrt(dimension * count)).all()
    spread = math.sqrt(4 / 45)  # standard deviation of u_i² on the unit sphere of R³
    assert ((direction**2).mean(dim=0) - 1 / 3).abs().max() <= 4 * spread / math.sqrt(count)


def test_random_linf_is_uniform():
    count, eps = 20_000, 0.3
    noise = random_linf(torch.zeros(count, 2), eps, torch.Generator().manual_seed(2)).double()
    for level, column in itertools.product((0.1, 0.5, 0.9), (0, 1)):
        below = float((noise[:, column] <= (2 * level - 1) * eps).double().mean())
        assert abs(below - level) <= 4 * math.sqrt(level * (1 - level) / count)


@pytest.mark.parametrize("norm", sorted(NORMS))
def test_generator_decides_the_random_point(norm):
    like = torch.zeros(3, 4)
    first, again, other = (NORMS[norm].random(like, 1.0, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
