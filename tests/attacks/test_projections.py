"""Projections onto norm balls, steepest directions and random starts, against their definitions."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from notbugs.attacks import NORMS, Ball
from notbugs.attacks.norms import Box, L1Ball
from notbugs.attacks.projections import (
    project_l1,
    project_l2,
    project_linf,
    random_l1,
    random_l2,
    random_linf,
    steepest_l1,
    steepest_l2,
)

PROJECTIONS = {"l2": project_l2, "linf": project_linf, "l1": project_l1}
ORDERS = {"l2": 2.0, "linf": math.inf, "l1": 1.0}
DUAL_ORDERS = {"l2": 2.0, "linf": 1.0, "l1": math.inf}

norms = st.sampled_from(["l2", "linf", "l1"])
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


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
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
    torch.testing.assert_close(project_l1(delta, 3.0), torch.tensor([[1.0, 2.0], [0.3, 0.4], [-0.5, 2.5]]))
    room = torch.tensor([[5.0, 1.5], [0.1, 5.0], [0.0, 5.0]])
    torch.testing.assert_close(project_l1(delta, 3.0, room), torch.tensor([[1.5, 1.5], [0.1, 0.4], [0.0, 3.0]]))


def in_a_box_by_bisection(delta: Tensor, eps: float, room: Tensor) -> Tensor:
    """The projection onto the L1 ball within a box, one example at a time, θ by halving."""
    found = []
    for one, most in zip(delta.abs(), room, strict=True):
        low, high = 0.0, float(one.max())
        if float(torch.minimum(one, most).sum()) <= eps:
            high = 0.0
        for _ in range(200):
            middle = (low + high) / 2
            if float(torch.minimum((one - middle).clamp(min=0), most).sum()) > eps:
                low = middle
            else:
                high = middle
        found.append(torch.minimum((one - high).clamp(min=0), most))
    return torch.stack(found) * delta.sign()


@given(st.integers(1, 40), st.integers(0, 4), st.integers(-6, 6), st.floats(0, 20), st.integers(0, 99))
def test_l1_projection_in_a_box_is_the_one_by_bisection(width, count, exponent, eps, seed):
    delta = draw((width,), count, 2.0**exponent, torch.float64, seed)
    room = draw((width,), count, 1.0, torch.float64, seed + 100).abs().clamp(max=1)
    expected = in_a_box_by_bisection(delta, eps, room) if count else delta
    torch.testing.assert_close(project_l1(delta, eps, room), expected, rtol=0, atol=1e-10)


def test_l1_projection_in_a_box_by_brute_force():
    """Clipping the projection onto the ball alone gives a feasible point that is farther away."""
    centre, y, eps = torch.tensor([[0.9, 0.4]]).double(), torch.tensor([[1.7, 0.9]]).double(), 0.45
    axis = torch.linspace(0, 1, 1001, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    grid = grid[norm_of(grid - centre, 1) <= eps + 1e-12]
    least = float((grid - y).norm(dim=1).min())
    x = y.clone()
    NORMS["l1"](centre, eps).project_(x)
    distance = float((x - y).norm())
    assert distance <= least + 1e-12
    assert least <= distance + 0.002
    clipped = (centre + project_l1(y - centre, eps)).clamp(0, 1)
    assert float((clipped - y).norm()) > distance + 0.1


def test_l1_projection_agrees_with_autoattacks():
    from pyautoattack.autopgd_base import L1_projection

    centre = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    delta = draw((3, 16, 16), 8, 0.3, torch.float32)
    for eps in (0.5, 12.0, 200.0):
        x = centre + delta
        NORMS["l1"](centre, eps).project_(x)
        theirs = centre + delta + L1_projection(centre, delta.clone(), eps)
        torch.testing.assert_close(x, theirs, rtol=0, atol=1e-5)
        assert float(norm_of(x - centre, 1).max()) <= eps * (1 + 1e-6)


@pytest.mark.parametrize("side", [2, 64, 224])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_l1_ball_is_kept_in_single_precision(side, scale):
    """Thresholds far larger than what they leave, and 150,000 pixels whose rounding adds up."""
    centre = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    x = centre + draw((3, side, side), 2, scale, torch.float32)
    NORMS["l1"](centre, 12.0).project_(x)
    assert float(norm_of(x - centre, 1).max()) <= 12 * (1 + 1e-5)
    assert float(x.min()) >= 0
    assert float(x.max()) <= 1


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_radius_zero_gives_exactly_zero(norm):
    delta = draw((2, 3), 4, 1e-25, torch.float32)
    assert torch.equal(PROJECTIONS[norm](delta, 0.0), torch.zeros_like(delta))


@pytest.mark.parametrize("project", [project_l2, project_linf, project_l1])
@pytest.mark.parametrize("eps", [-1e-9, -math.inf, math.nan])
def test_impossible_radius_is_refused(project, eps):
    with pytest.raises(ValueError, match=rf"eps must be >= 0, not {eps}"):
        project(torch.zeros(1, 2), eps)


def test_box_leaves_delta_alone():
    delta = draw((2, 2), 3, 1e6, torch.float32)
    x = 0.5 + delta.clamp(-0.5, 0.5)
    moved = x.clone()
    Box(torch.zeros_like(x), 0.1).project_(moved)
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
    assert torch.equal(steepest_l1(zero), zero)
    for ball in (Box, *(NORMS[name] for name in NORMS)):
        assert torch.equal(ball.steepest(zero), zero)
        assert torch.equal(climbed(ball, zero, 0.25), zero + 0.5)


def climbed(ball: type[Ball], gradient: Tensor, step_size: float) -> Tensor:
    """Where a step from the grey image leads."""
    x = torch.full_like(gradient, 0.5)
    ball(x.clone(), 0.5).climb_(x, gradient.clone(), step_size)
    return x


def test_steps_in_linf_go_by_the_sign():
    gradient = torch.tensor([[1e-30, -2.0, 0.0]])
    assert torch.equal(climbed(NORMS["linf"], gradient, 0.25), torch.tensor([[0.75, 0.25, 0.5]]))


class Alone(L1Ball):
    """Moves one pixel at a time."""

    quantile = 1.0


@given(st.sampled_from([NORMS["l2"], NORMS["linf"], Alone]), shapes, st.integers(-30, 30))
def test_a_step_gains_the_dual_length(ball, shape, exponent):
    """⟨g, steepest(g)⟩ = ‖g‖*, and no direction of length 1 gains more."""
    gradient = draw(shape, 3, 10.0**exponent, torch.float64)
    step = ball.steepest(gradient)
    dual = ball.dual_length(gradient)
    torch.testing.assert_close((gradient * step).flatten(1).sum(dim=1), dual, rtol=1e-9, atol=0)
    other = draw(shape, 3, 1.0, torch.float64, seed=5)
    gain = (gradient * other).flatten(1).sum(dim=1) / ball.length(other)
    assert (gain <= dual * (1 + 1e-9)).all()


def test_dual_lengths_are_those_of_the_dual_norms():
    gradient = draw((3, 5), 4, 1.0, torch.float64)
    for name, order in DUAL_ORDERS.items():
        torch.testing.assert_close(NORMS[name].dual_length(gradient), norm_of(gradient, order))
        torch.testing.assert_close(NORMS[name].length(gradient), norm_of(gradient, ORDERS[name]))


@pytest.mark.parametrize("quantile", [0.0, 0.5, 0.9, 0.99, 1.0])
@pytest.mark.parametrize("width", [1, 2, 64, 100, 101, 3072])
def test_steps_in_l1_move_what_numpys_quantile_leaves(quantile, width):
    gradient = draw((width,), 3, 1e-20, torch.float64)
    step = steepest_l1(gradient, quantile)
    sizes = gradient.abs().numpy()
    moves = torch.from_numpy(sizes >= np.quantile(sizes, quantile, axis=1, keepdims=True))
    assert torch.equal(step != 0, moves)
    assert torch.equal(step.sign(), gradient.sign() * moves)
    torch.testing.assert_close(norm_of(step, 1), torch.ones(3).double())
    assert (step.abs().amax(dim=1) * moves.sum(dim=1) - 1).abs().max() < 1e-12  # all by as much


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_steps_in_l1_leave_alone_what_cannot_move(direction):
    """The largest entry pushes a white pixel further up, the next a black one further down: the third moves."""
    x, gradient = torch.tensor([[1.0, 0.0, 0.5, 0.5]]), direction * torch.tensor([[9.0, -8.0, 2.0, 1.0]])
    NORMS["l1"](x.clone(), 1.0).climb_(x, gradient, direction * 0.25)
    assert torch.equal(x, torch.tensor([[1.0, 0.0, 0.75, 0.5]]))


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


def test_random_l1_is_uniform():
    """(r/eps)^d is uniform on [0, 1], signs are fair, and an entry's share s of r has P(s > t) = (1 − t)^(d − 1)."""
    count, dimension, eps = 20_000, 3, 2.0
    noise = random_l1(torch.zeros(count, dimension), eps, torch.Generator().manual_seed(2)).double()
    radius = noise.abs().sum(dim=1)
    share = (radius / eps) ** dimension
    for level in (0.1, 0.5, 0.9):
        error = abs(float((share <= level).double().mean()) - level)
        assert error <= 4 * math.sqrt(level * (1 - level) / count)
        expected = (1 - level) ** (dimension - 1)
        above = ((noise.abs() / radius[:, None]) > level).double().mean(dim=0)
        assert (above - expected).abs().max() <= 4 * math.sqrt(expected * (1 - expected) / count)
    assert ((noise > 0).double().mean(dim=0) - 0.5).abs().max() <= 4 * math.sqrt(0.25 / count)
    assert abs(float(((noise[:, 0] > 0) == (noise[:, 1] > 0)).double().mean()) - 0.5) <= 4 * math.sqrt(0.25 / count)


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
