"""Schedules, momentum and views of an attack, against known optima and a loop by hand."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks import pgd
from notbugs.attacks.course import Course, draw_views, seen
from notbugs.attacks.engine import Engine

STILL = (1, 1, 0)
"""The view of an 8×8 image that is the image itself: its margin is 1."""


class Linear(nn.Module):
    """Two classes: logits (−s/2, s/2) with s = w·x."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight.flatten()
        return torch.stack([-score / 2, score / 2], dim=1)


def weights() -> Tensor:
    """(1, 8, 8)."""
    return torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def centred(count: int = 2) -> Tensor:
    return torch.full((count, 1, 8, 8), 0.5, dtype=torch.float64)


def moved(course: Course | None, *, norm: str = "l2", num_steps: int = 5, targeted: bool = False) -> Tensor:
    """Where two images of classes 0 and 1 are after steps of 0.01 that no ball stops, from their beginning."""
    labels = torch.tensor([0, 1])
    found = pgd(
        Linear(weights()),
        centred(),
        1 - labels if targeted else labels,
        norm=norm,  # type: ignore[arg-type]
        eps=10.0,
        step_size=0.01,
        num_steps=num_steps,
        targeted=targeted,
        course=course,
    )
    return found.x_adv - centred()


def views(*each: tuple[int, int, int], num_steps: int = 5) -> Tensor:
    """The same views at every step of two images, (2, num_steps, k, 3)."""
    return torch.tensor(each, dtype=torch.int16).expand(2, num_steps, len(each), 3)


UP = torch.tensor([1.0, -1.0], dtype=torch.float64).view(2, 1, 1, 1)
"""Class 0 climbs s, class 1 falls."""


@pytest.mark.parametrize("targeted", [False, True])
def test_a_linear_schedule_goes_half_as_far(targeted: bool) -> None:
    """Steps of 1, 4/5, ..., 1/5 of 0.01 sum to (n + 1)/2 of them."""
    w = weights()
    expected = UP * 0.01 * (5 + 1) / 2 * w / w.norm()
    torch.testing.assert_close(moved(Course("linear"), targeted=targeted), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(moved(None), UP * 0.05 * w / w.norm(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_plain_course_is_none(norm: str) -> None:
    assert torch.equal(moved(Course(), norm=norm), moved(None, norm=norm))


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_momentum_is_the_loop_of_its_authors(norm: str) -> None:
    """g ← μ·g + ∇/‖∇‖₁; x ← x + step·g/‖g‖₂, or step·sign(g)."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 3)).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    inputs, labels = torch.rand(4, 1, 8, 8, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    arguments = {"norm": norm, "eps": 5.0, "step_size": 0.05, "num_steps": 6}
    found = pgd(model, inputs, labels, **arguments, course=Course(momentum=0.9)).x_adv
    x, gathered = inputs.clone(), torch.zeros_like(inputs)
    for _ in range(6):
        leaf = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(functional.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        gathered = 0.9 * gathered + gradient / gradient.abs().sum(dim=(1, 2, 3), keepdim=True)
        step = gathered.sign() if norm == "linf" else gathered / gathered.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        x = (x + 0.05 * step).clamp(0, 1)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-9)
    plain = pgd(model, inputs, labels, **arguments).x_adv
    assert float((plain - x).abs().max()) > 0.01


def test_a_mirrored_view_is_climbed_by_the_mirrored_weights() -> None:
    w = weights()
    found = moved(Course(views=views((1, 1, 1))))
    torch.testing.assert_close(found, UP * 0.05 * w.flip(2) / w.norm(), rtol=0, atol=1e-12)


def test_a_moved_view_is_climbed_by_the_weights_moved_back() -> None:
    """A crop from row 2 on shows x one pixel higher, so pixel h has the weight of h − 1, and row 0 none."""
    w, back = weights(), torch.zeros_like(weights())
    back[:, 1:] = w[:, :-1]
    found = moved(Course(views=views((2, 1, 0))))
    torch.testing.assert_close(found, UP * 0.05 * back / back.norm(), rtol=0, atol=1e-12)


def test_the_gradient_is_averaged_over_the_views() -> None:
    w = weights()
    mean = (2 * w + w.flip(2)) / 3
    found = moved(Course(views=views(STILL, STILL, (1, 1, 1))))
    torch.testing.assert_close(found, UP * 0.05 * mean / mean.norm(), rtol=0, atol=1e-12)
    assert torch.equal(moved(Course(views=views(STILL))), moved(None))


def test_each_example_has_its_own_views() -> None:
    w = weights()
    each = torch.cat([views(STILL)[:1], views((1, 1, 1))[:1]])
    found = moved(Course(views=each))
    torch.testing.assert_close(found[0], 0.05 * w / w.norm(), rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1], -0.05 * w.flip(2) / w.norm(), rtol=0, atol=1e-12)


def test_an_engine_in_parts_takes_the_views_of_its_rows() -> None:
    """Two threads share a batch: each part has its own examples' views."""
    generators = [torch.Generator().manual_seed(number) for number in range(32)]
    course = Course("linear", 0.5, draw_views(2, 4, (1, 8, 8), generators))
    inputs = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32) % 2
    model = Linear(weights().float())
    arguments = {"eps": 0.5, "step_size": 0.1, "num_steps": 4, "course": course}
    alone = pgd(model, inputs, labels, **arguments).x_adv
    torch.set_num_threads(2)
    together = pgd(Engine(model, inputs[:8]), inputs, labels, **arguments).x_adv
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_views_are_drawn_an_example_at_a_time() -> None:
    def drawn(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    both = draw_views(3, 50, (3, 32, 40), [drawn(0), drawn(1)])
    assert both.shape == (2, 50, 3, 3)
    assert torch.equal(draw_views(3, 50, (3, 32, 40), [drawn(1)])[0], both[1])
    assert not torch.equal(both[0], both[1])
    for place in (0, 1):  # moved by up to an eighth of the shorter side, 4 pixels either way
        assert both[..., place].unique().tolist() == list(range(9))
    assert both[..., 2].unique().tolist() == [0, 1]


def test_what_a_view_shows() -> None:
    x = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(seen(x, torch.tensor([STILL])), x)
    assert torch.equal(seen(x, torch.tensor([(1, 1, 1)])), x.flip(3))
    shown = seen(x, torch.tensor([(0, 2, 0)]))  # one lower, one to the left; what comes in is black
    assert torch.equal(shown[0, 0, 1:, :-1], x[0, 0, :-1, 1:])
    assert not shown[0, 0, 0].any()
    assert not shown[0, 0, :, -1].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"course": Course("linear"), "iterate": "best"}, "a course is for the last iterate, not 'best'"),
        ({"course": Course(views=views(STILL, num_steps=4))}, r"views must be \(2, 5, k, 3\), not \(2, 4, 1, 3\)"),
    ],
)
def test_a_course_that_does_not_fit_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pgd(Linear(weights()), centred(), torch.tensor([0, 1]), eps=1.0, num_steps=5, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"momentum": 1.0}, r"momentum must be >= 0 and < 1, not 1\.0"),
        ({"momentum": -0.1}, r"momentum must be >= 0 and < 1, not -0\.1"),
        ({"schedule": "cosine"}, "schedule must be constant or linear, not 'cosine'"),
    ],
)
def test_an_impossible_course_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Course(**arguments)  # type: ignore[arg-type]
