"""PGD against known optima, an independent loop, and a peer; and what it must leave as it found it."""

import copy
import itertools
import math
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks import LOSSES, AttackSettings, Loss, pgd
from notbugs.runtime.config import validate
from notbugs.runtime.devices import TRAITS, Traits
from notbugs.runtime.errors import ConfigError
from scaled import Scaled

ORDERS = {"l2": 2.0, "linf": math.inf, "l1": 1.0}


class Linear(nn.Module):
    """Two classes: logits (−s/2, s/2) with s = w·x + b, so class 1 plays y = +1 and class 0 plays y = −1."""

    def __init__(self, weight: Tensor, bias: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        score = x.flatten(1) @ self.weight + self.bias
        return torch.stack([-score / 2, score / 2], dim=1)


class Recorder(nn.Module):
    """Passes on to a model and keeps every batch that it was shown."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(x.detach().clone())
        return self.model(x)


def draw(*shape: int, seed: int = 0, low: float = 0.0, high: float = 1.0) -> Tensor:
    values = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return low + (high - low) * values


def weights(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(12, generator=torch.Generator().manual_seed(3), dtype=torch.float64).to(dtype)


def distances(a: Tensor, b: Tensor, norm: str) -> Tensor:
    return torch.linalg.vector_norm((a.double() - b.double()).flatten(1), ord=ORDERS[norm], dim=1)


def iterates_by_hand(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, norm: str, eps: float, step_size: float, num_steps: int
) -> list[Tensor]:
    """Every iterate of untargeted PGD on the cross-entropy, one example and one pixel formula at a time."""
    model = copy.deepcopy(model).eval()
    x, seen = inputs.clone(), [inputs.clone()]
    for _ in range(num_steps):
        moved = []
        for image, origin, label in zip(x, inputs, labels, strict=True):
            leaf = image.clone().requires_grad_()
            (-functional.log_softmax(model(leaf[None]), dim=1)[0, label]).backward()
            gradient = leaf.grad
            if norm == "l2":
                delta = image + step_size * gradient / gradient.square().sum().sqrt() - origin
                length = delta.square().sum().sqrt()
                delta = delta * min(1.0, eps / float(length))
            elif norm == "l1":
                delta = sparse_step(image, gradient, origin, eps, step_size)
            else:
                delta = (image + step_size * gradient.sign() - origin).clamp(-eps, eps)
            moved.append((origin + delta).clamp(0, 1))
        x = torch.stack(moved)
        seen.append(x)
    return seen


def sparse_step(image: Tensor, gradient: Tensor, origin: Tensor, eps: float, step_size: float) -> Tensor:
    """δ after the steepest step in L1, of the one pixel that is best and can move, and the projection within [0, 1]."""
    best = max(
        (abs(float(slope)), place)
        for place, (slope, value) in enumerate(zip(gradient.flatten(), image.flatten(), strict=True))
        if not (slope > 0 and value >= 1) and not (slope < 0 and value <= 0)
    )[1]
    y = image.flatten().clone()
    y[best] += step_size * gradient.flatten()[best].sign()
    delta, origin = y - origin.flatten(), origin.flatten()
    low, high = 0.0, float(delta.abs().max())
    for _ in range(100):
        middle = (low + high) / 2
        shrunk = (origin + delta.sign() * (delta.abs() - middle).clamp(min=0)).clamp(0, 1) - origin
        low, high = (middle, high) if shrunk.abs().sum() > eps else (low, middle)
    inside = (origin + delta).clamp(0, 1) - origin
    return (inside if inside.abs().sum() <= eps else shrunk).view_as(image)


# Known optima on a linear model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
@pytest.mark.parametrize("random_start", [False, True])
def test_reaches_the_optimum_of_a_linear_model(dtype, loss, norm, random_start):
    w, eps = weights(dtype), 0.15
    inputs = draw(6, 3, 2, 2, low=0.3, high=0.7).to(dtype)  # far enough from 0 and 1 that clipping does not bite
    labels = torch.tensor([0, 1, 1, 0, 1, 0])
    y = (2 * labels - 1).to(dtype)[:, None]
    largest = torch.where(w.abs() == w.abs().max(), w.sign(), 0)
    direction = {"l2": w / w.norm(), "linf": w.sign(), "l1": largest}[norm]
    expected = inputs - (eps * y * direction).view_as(inputs)
    arguments = {"norm": norm, "loss": loss, "eps": eps, "step_size": 0.04, "num_steps": 100}
    arguments |= {"random_start": random_start, "generator": torch.Generator().manual_seed(0)}
    found = pgd(Linear(w), inputs, labels, **arguments)
    aimed = pgd(Linear(w), inputs, 1 - labels, targeted=True, **arguments)
    assert found.x_adv.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found.x_adv, expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(aimed.x_adv, expected, rtol=0, atol=tolerance)


def test_linf_optimum_where_clipping_bites():
    w, eps = weights(), 0.4
    inputs, labels = draw(5, 3, 2, 2), torch.tensor([0, 1, 0, 1, 1])
    y = (2 * labels - 1).double()[:, None]
    expected = (inputs - (eps * y * w.sign()).view_as(inputs)).clamp(0, 1)
    found = pgd(Linear(w), inputs, labels, norm="linf", eps=eps, step_size=0.1, num_steps=8)
    torch.testing.assert_close(found.x_adv, expected, rtol=0, atol=1e-12)


def test_l1_optimum_where_clipping_bites():
    """The pixels of the largest weights are moved as far as they go, the next one by what is left of the radius."""
    w, eps = weights(), 1.3
    inputs, labels = draw(5, 3, 2, 2), torch.tensor([0, 1, 0, 1, 1])
    y = (2 * labels - 1).double()[:, None]
    rises = -y * w.sign() > 0  # (N, d)
    room = torch.where(rises, 1 - inputs.flatten(1), inputs.flatten(1))
    order = w.abs().argsort(descending=True)
    before = room[:, order].cumsum(dim=1) - room[:, order]
    moved = torch.minimum((eps - before).clamp(min=0), room[:, order])
    expected = (moved * w.abs()[order]).sum(dim=1)
    assert (moved > 0).sum(dim=1).min() > 1
    found = pgd(Linear(w), inputs, labels, norm="l1", eps=eps, step_size=0.02, num_steps=400, iterate="best").x_adv
    gained = ((inputs - found).flatten(1) * y * w).sum(dim=1)
    torch.testing.assert_close(gained, expected, rtol=0.01, atol=0)
    assert (gained <= expected + 1e-9).all()


def test_success_is_what_the_linear_model_says():
    """Each example has margin m = |w·x|: L2 PGD fools it exactly if eps·‖w‖ > m."""
    w = torch.ones(4)
    inputs = torch.full((3, 1, 2, 2), 0.5) + torch.tensor([0.01, 0.05, 0.10]).view(3, 1, 1, 1)
    model = Linear(w, bias=-2.0)  # margins 0.04, 0.2, 0.4; ‖w‖ = 2
    labels = torch.ones(3, dtype=torch.int64)
    found = pgd(model, inputs, labels, eps=0.15, step_size=0.05, num_steps=10)
    assert found.success.tolist() == [True, True, False]
    aimed = pgd(model, inputs, 1 - labels, eps=0.15, step_size=0.05, num_steps=10, targeted=True)
    assert aimed.success.tolist() == [True, True, False]


def test_a_confident_model_is_attacked_all_the_same():
    """Logit gap 60: the gradient is of size 1e-25, and must still give steps of full length."""
    w = torch.full((4,), 60.0)
    inputs, labels = torch.full((1, 1, 2, 2), 0.75), torch.tensor([1])
    model = Linear(w, bias=-120.0)
    found = pgd(model, inputs, labels, eps=0.6, step_size=0.15, num_steps=10)
    torch.testing.assert_close(found.x_adv, inputs - 0.3, rtol=0, atol=1e-5)
    assert found.success.all()


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
@pytest.mark.parametrize("iterate", ["last", "best", pytest.param("first_success", marks=pytest.mark.slow)])
def test_confident_networks_are_no_more_robust(standard_model, digits, iterate, norm, targeted):
    """From k = 30 on the softmax of most images rounds to one-hot, and its cross-entropy to 0."""
    images, labels = digits[1].images[:100], digits[1].labels[:100]
    eps = {"l2": 0.5, "linf": 0.12, "l1": 2.0}[norm] * (2 if targeted else 1)
    shares = []
    for factor in (1, 30, 1000):
        found = pgd(
            Scaled(standard_model, factor),
            images,
            (labels + 1) % 10 if targeted else labels,
            norm=norm,
            eps=eps,
            step_size=eps / 8,
            num_steps=20,
            targeted=targeted,
            iterate=iterate,
        )
        shares.append(float(found.success.double().mean()))
    assert 0.4 < shares[0] < 0.99
    assert min(shares) > shares[0] - (0.15 if norm == "l1" else 0.1)  # its last iterate changes from step to step


def test_the_best_of_confident_iterates_is_not_the_first(standard_model, digits):
    """Their cross-entropies are all 0."""
    images, labels = digits[1].images[:20], digits[1].labels[:20]
    model = Scaled(standard_model, 1000)
    found = pgd(model, images, labels, eps=0.1, step_size=0.02, num_steps=10, iterate="best").x_adv
    assert (distances(found, images, "l2") > 0.05).all()
    with torch.no_grad():
        before, after = (LOSSES["margin"].function(model(x), labels) for x in (images, found))
    assert (after > before).all()


# In the ball and in [0, 1], always


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(
    norm=st.sampled_from(["l2", "linf", "l1"]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    eps=st.floats(0, 5),
    step_size=st.floats(1e-4, 10),
    num_steps=st.integers(1, 4),
    loss=st.sampled_from(["cross_entropy", "margin"]),
    targeted=st.booleans(),
    restarts=st.integers(0, 2),
    iterate=st.sampled_from(["last", "best", "first_success"]),
    outside=st.booleans(),
)
def test_stays_in_the_ball_and_in_the_box(busy_model, norm, dtype, eps, restarts, outside, **options):
    inputs = draw(4, 2, 6, 6).to(dtype)
    inputs[0], inputs[1] = 0.0, 1.0
    found = pgd(
        busy_model.to(dtype),
        inputs,
        torch.tensor([0, 1, 2, 3]),
        norm=norm,
        eps=eps,
        random_start=restarts > 0,
        num_restarts=max(restarts, 1),
        generator=torch.Generator().manual_seed(0),
        start=1 - inputs if outside else None,
        **options,
    )
    assert found.x_adv.shape == inputs.shape
    assert found.x_adv.dtype == dtype
    assert found.success.shape == (4,)
    assert found.success.dtype == torch.bool
    assert float(found.x_adv.min()) >= 0.0
    assert float(found.x_adv.max()) <= 1.0
    assert (distances(found.x_adv, inputs, norm) <= eps * (1 + 1e-6) + 2e-6).all()


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
@pytest.mark.parametrize("random_start", [False, True])
@pytest.mark.parametrize("iterate", ["last", "best", "first_success"])
@pytest.mark.parametrize("step_size", [0.0, 0.3])
def test_radius_zero_returns_the_input_exactly(busy_model, norm, random_start, iterate, step_size):
    inputs = draw(4, 2, 6, 6)
    found = pgd(
        busy_model,
        inputs,
        torch.tensor([0, 1, 2, 3]),
        norm=norm,
        eps=0.0,
        step_size=step_size,
        num_steps=3,
        random_start=random_start,
        iterate=iterate,
    )
    assert torch.equal(found.x_adv, inputs)


def test_box_is_bounded_by_the_image_range_alone():
    w = weights().abs()
    inputs, labels = draw(3, 3, 2, 2), torch.ones(3, dtype=torch.int64)
    found = pgd(Linear(w), inputs, labels, norm="box", eps=math.inf, step_size=0.5, num_steps=200)
    torch.testing.assert_close(found.x_adv, torch.zeros_like(inputs), rtol=0, atol=1e-12)


# What is left as it was found


def snapshot(model: nn.Module) -> tuple:
    return (
        [(name, module.training) for name, module in model.named_modules()],
        [(name, p.requires_grad, None if p.grad is None else p.grad.clone()) for name, p in model.named_parameters()],
        {name: value.clone() for name, value in model.state_dict().items()},
    )


def assert_as_found(before: tuple, after: tuple) -> None:
    assert before[0] == after[0]
    for (name, needs, grad), (_, needs_now, grad_now) in zip(before[1], after[1], strict=True):
        assert needs == needs_now, name
        assert (grad is None and grad_now is None) or torch.equal(grad, grad_now), name
    assert all(torch.equal(value, after[2][name]) for name, value in before[2].items())


@pytest.mark.parametrize("iterate", ["last", "best", "first_success"])
def test_leaves_the_model_as_it_was(busy_model, iterate):
    for number, parameter in enumerate(busy_model.parameters()):
        parameter.grad = torch.full_like(parameter, 0.5) if number % 2 else None
    before = snapshot(busy_model)
    assert {training for _, training in before[0]} == {True, False}
    assert {needs for _, needs, _ in before[1]} == {True, False}
    pgd(busy_model, draw(4, 2, 6, 6), torch.arange(4), eps=0.5, step_size=0.2, num_steps=3, iterate=iterate)
    assert_as_found(before, snapshot(busy_model))


def test_leaves_the_model_as_it_was_when_the_loss_fails(busy_model):
    def broken(logits: Tensor, labels: Tensor) -> Tensor:
        raise RuntimeError("no loss today")

    before = snapshot(busy_model)
    with pytest.raises(RuntimeError, match="no loss today"):
        pgd(busy_model, draw(4, 2, 6, 6), torch.arange(4), eps=0.5, step_size=0.2, num_steps=3, loss=broken)
    assert_as_found(before, snapshot(busy_model))


def test_leaves_the_arguments_as_they_were_and_gives_no_graph(busy_model):
    inputs = draw(4, 2, 6, 6).requires_grad_()
    start = draw(4, 2, 6, 6, seed=1)
    copies = inputs.detach().clone(), start.clone()
    for iterate in ("last", "best", "first_success"):
        found = pgd(
            busy_model,
            inputs,
            torch.arange(4),
            eps=9.0,
            step_size=0.2,
            num_steps=2,
            start=start,
            iterate=iterate,
        )
        assert not found.x_adv.requires_grad
    assert inputs.grad is None
    assert torch.equal(inputs.detach(), copies[0])
    assert torch.equal(start, copies[1])


def test_dropout_and_batch_statistics_play_no_part(busy_model):
    """A model in train mode is attacked as the same model in eval mode."""
    arguments = {"eps": 0.5, "step_size": 0.2, "num_steps": 4}
    inputs, labels = draw(4, 2, 6, 6), torch.arange(4)
    training = pgd(busy_model, inputs, labels, **arguments).x_adv
    evaluating = pgd(copy.deepcopy(busy_model).eval(), inputs, labels, **arguments).x_adv
    assert torch.equal(training, evaluating)


def test_works_where_gradients_are_off(busy_model):
    arguments = {"eps": 0.5, "step_size": 0.2, "num_steps": 4}
    expected = pgd(busy_model, draw(4, 2, 6, 6), torch.arange(4), **arguments).x_adv
    with torch.no_grad():
        found = pgd(busy_model, draw(4, 2, 6, 6), torch.arange(4), **arguments).x_adv
    assert torch.equal(found, expected)


def test_works_on_any_module():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    inputs = draw(2, 3, 2, 2).float()
    labels = model(inputs).argmax(dim=1)
    found = pgd(model, inputs, labels, eps=10.0, step_size=0.5, num_steps=20, loss="margin", iterate="best")
    others = model(found.x_adv).argmax(dim=1)
    assert torch.equal(found.success, others != labels)
    before, after = (
        LOSSES["margin"].function(model(inputs), labels),
        LOSSES["margin"].function(model(found.x_adv), labels),
    )
    assert (after > before).all()


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
@pytest.mark.parametrize("iterate", ["last", "first_success"])
def test_result_does_not_depend_on_the_batch(busy_model, norm, iterate):
    inputs, labels = draw(6, 2, 6, 6), torch.tensor([0, 1, 2, 3, 0, 1])
    arguments = {"norm": norm, "eps": 0.3, "step_size": 0.1, "num_steps": 5, "iterate": iterate}
    together = pgd(busy_model, inputs, labels, **arguments)
    for i in range(6):
        alone = pgd(busy_model, inputs[i : i + 1], labels[i : i + 1], **arguments)
        torch.testing.assert_close(alone.x_adv[0], together.x_adv[i], rtol=0, atol=1e-9)
        assert alone.success[0] == together.success[i]


def test_no_examples_give_no_examples(busy_model):
    none = torch.zeros(0, 2, 6, 6, dtype=torch.float64)
    for random_start in (False, True):
        found = pgd(
            busy_model.eval(),
            none,
            torch.zeros(0, dtype=torch.int64),
            eps=1.0,
            step_size=0.1,
            num_steps=2,
            random_start=random_start,
        )
        assert found.x_adv.shape == none.shape
        assert found.success.shape == (0,)


# Iterates, restarts, starts


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize(("eps", "step_size"), [(0.8, 0.9), (0.5, 0.1)])
def test_iterates_agree_with_a_plain_loop(busy_model, norm, eps, step_size):
    model, labels = busy_model.eval(), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    inputs = draw(8, 2, 6, 6)
    arguments = {"norm": norm, "eps": eps, "step_size": step_size, "num_steps": 6}
    seen = torch.stack(iterates_by_hand(model, inputs, labels, **arguments))  # (steps + 1, N, C, H, W)
    with torch.no_grad():
        logits = torch.stack([model(x) for x in seen])  # (steps + 1, N, K)
    losses = torch.stack([functional.cross_entropy(z, labels, reduction="none") for z in logits])
    fooled = logits.argmax(dim=2) != labels  # (steps + 1, N)
    rows = torch.arange(8)
    first = torch.where(fooled.any(dim=0), fooled.int().argmax(dim=0), torch.tensor(6))
    expected = {
        "last": (seen[-1], fooled[-1]),
        "best": (seen[losses.argmax(dim=0), rows], fooled[losses.argmax(dim=0), rows]),
        "first_success": (seen[first, rows], fooled.any(dim=0)),
    }
    for iterate, (x_adv, success) in expected.items():
        found = pgd(model, inputs, labels, iterate=iterate, **arguments)
        torch.testing.assert_close(found.x_adv, x_adv, rtol=0, atol=1e-9)
        assert torch.equal(found.success, success), iterate
    if step_size > eps and norm == "linf":
        assert (losses.argmax(dim=0) < 6).any()  # the three do differ here


def test_iterates_differ_where_steps_overshoot():
    """Climbing −(x − 0.6)² in steps of 0.25 from 0.5: 0.5, 0.75, 0.5, ...; the start is the best."""
    model = nn.Flatten()

    def near(outputs: Tensor, labels: Tensor) -> Tensor:
        return -((outputs[:, 0] - 0.6) ** 2)

    inputs = torch.tensor([0.5, 0.0]).view(1, 2, 1, 1)
    arguments = {"eps": 1.0, "step_size": 0.25, "loss": near}
    for num_steps, last in ((1, 0.75), (2, 0.5), (3, 0.75)):
        found = pgd(model, inputs, torch.tensor([0]), num_steps=num_steps, **arguments).x_adv
        assert found.flatten().tolist() == [last, 0.0]
        best = pgd(model, inputs, torch.tensor([0]), num_steps=num_steps, iterate="best", **arguments).x_adv
        assert best.flatten().tolist() == [0.5, 0.0]


def test_first_success_works_no_longer_on_what_succeeded():
    w = torch.ones(4)
    inputs = torch.full((3, 1, 2, 2), 0.5) + torch.tensor([-0.01, 0.03, 0.20]).view(3, 1, 1, 1)
    model = Recorder(Linear(w, bias=-2.0))
    labels = torch.ones(
        3, dtype=torch.int64
    )  # the first is fooled untouched, the second after one step, the third never
    arguments = {"eps": 0.2, "step_size": 0.1, "num_steps": 3, "check": False}
    found = pgd(model, inputs, labels, iterate="first_success", **arguments)
    assert [len(batch) for batch in model.seen] == [3, 2, 1, 1]
    assert found.success.tolist() == [True, True, False]
    moved = distances(found.x_adv, inputs, "l2")
    torch.testing.assert_close(moved, torch.tensor([0.0, 0.1, 0.2]).double(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("iterate", ["last", "best", "first_success"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_restarts_are_never_worse(busy_model, norm, iterate):
    model, inputs, labels = busy_model.eval(), draw(16, 2, 6, 6), torch.arange(16) % 4
    results = []
    for restarts in (1, 2, 5):
        found = pgd(
            model,
            inputs,
            labels,
            norm=norm,
            eps=0.3 if norm == "l2" else 0.03,
            step_size=0.05 if norm == "l2" else 0.01,
            num_steps=3,
            random_start=True,
            num_restarts=restarts,
            iterate=iterate,
            generator=torch.Generator().manual_seed(1),
        )
        with torch.no_grad():
            logits = model(found.x_adv)
        assert torch.equal(found.success, logits.argmax(dim=1) != labels)
        results.append((found.success, functional.cross_entropy(logits, labels, reduction="none")))
    for (success, loss), (more_success, more_loss) in itertools.pairwise(results):
        assert (more_success | ~success).all()
        same = success == more_success
        assert (more_loss[same] >= loss[same] - 1e-12).all()
    assert (results[-1][1] > results[0][1] + 1e-6).any()  # and some are better


@pytest.mark.parametrize("own", [False, True])
def test_restarts_leave_alone_what_is_fooled(standard_model, digits, own):
    """The second try of `first_success` sees the images that withstood the first one, and from the same starts."""
    images, labels = digits[1].images[:40], digits[1].labels[:40]
    arguments = {"eps": 0.4, "step_size": 0.1, "num_steps": 3, "random_start": True, "check": False}

    def generators() -> torch.Generator | list[torch.Generator]:
        made = [torch.Generator().manual_seed(seed) for seed in range(40)]
        return made if own else made[0]

    recorder = Recorder(standard_model)
    once = pgd(recorder, images, labels, iterate="first_success", generator=generators(), **arguments)
    looks, left = len(recorder.seen), int((~once.success).sum())
    assert 0 < left < 40
    recorder.seen.clear()
    thrice = pgd(recorder, images, labels, iterate="first_success", num_restarts=3, generator=generators(), **arguments)
    assert len(recorder.seen[looks]) == left  # the first look of the second try
    assert torch.equal(thrice.x_adv[once.success], once.x_adv[once.success])
    every = torch.zeros(40, dtype=torch.bool)
    drawn = generators()
    for _ in range(3):  # three tries of all images, from the same stream
        every |= pgd(standard_model, images, labels, iterate="first_success", generator=drawn, **arguments).success
    if own:
        assert torch.equal(thrice.success, every)
    else:
        assert int((thrice.success != every).sum()) == 0


def test_generator_decides_the_random_start(busy_model):
    inputs, labels = draw(4, 2, 6, 6), torch.arange(4)
    first, again, other = (
        pgd(
            busy_model,
            inputs,
            labels,
            eps=0.5,
            step_size=0.01,
            num_steps=1,
            random_start=True,
            generator=torch.Generator().manual_seed(seed),
        ).x_adv
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert (distances(first, other, "l2") > 0.01).all()


def test_begins_where_it_is_told():
    model = Recorder(Linear(weights()))
    inputs, start = draw(2, 3, 2, 2, low=0.4, high=0.6), draw(2, 3, 2, 2, seed=1, low=0.4, high=0.6)
    pgd(model, inputs, torch.tensor([0, 1]), eps=5.0, step_size=0.1, num_steps=1, start=start, check=False)
    torch.testing.assert_close(model.seen[0], start)


# Losses of one's own


def test_a_loss_of_ones_own_is_climbed():
    w = weights()

    def third_logit_first(outputs: Tensor, aims: Tensor) -> Tensor:
        return (outputs * aims).sum(dim=1)

    model = nn.Flatten()
    inputs = draw(2, 3, 2, 2, low=0.4, high=0.6)
    aims = torch.stack([w, -w])
    for loss in (third_logit_first, Loss(third_logit_first)):
        found = pgd(model, inputs, aims, eps=0.2, step_size=0.05, num_steps=20, loss=loss)
        expected = inputs + 0.2 * (aims / w.norm()).view_as(inputs)
        torch.testing.assert_close(found.x_adv, expected, rtol=0, atol=1e-9)
        assert found.success.tolist() == [False, False]  # there is no label to miss


def test_representation_distance_never_computes_the_head(standard_model, digits):
    images = digits[1].images[:4]
    target = standard_model.representation(images.flip(0)).detach()
    calls = []
    handle = standard_model.head.register_forward_hook(lambda *_: calls.append(1))
    arguments = {"norm": "box", "eps": math.inf, "step_size": 0.1, "num_steps": 20, "targeted": True}
    found = pgd(standard_model, images, target, loss="representation_distance", **arguments)
    handle.remove()
    assert not calls
    assert not found.success.any()
    before = (standard_model.representation(images) - target).norm(dim=1)
    after = (standard_model.representation(found.x_adv) - target).norm(dim=1)
    assert (after < 0.5 * before).all()


# Errors


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -0.1}, r"eps must be >= 0, not -0\.1"),
        ({"eps": math.nan}, "eps must be >= 0, not nan"),
        ({"eps": math.inf, "random_start": True}, "a random start needs a finite eps >= 0, not inf"),
        ({"norm": "box", "eps": math.inf, "random_start": True}, "a random start needs a finite eps >= 0, not inf"),
        ({"norm": "box", "eps": -1.0, "random_start": True}, r"a random start needs a finite eps >= 0, not -1\.0"),
        ({"num_steps": 0}, "num_steps must be >= 1, not 0"),
        ({"step_size": 0.0}, r"step_size must be > 0, not 0\.0"),
        ({"step_size": -1.0}, r"step_size must be > 0, not -1\.0"),
        ({"step_size": math.nan}, "step_size must be > 0, not nan"),
        ({"step_size": math.inf}, "step_size must be finite"),
        ({"norm": "box", "eps": math.inf, "step_size": None}, r"step_size must be finite; .* it must be given"),
        ({"norm": "l3"}, r"norm = 'l3': must be box \(no ball\), or one of l2, linf, l1 or package\.module:attribute"),
        ({"norm": nn.Linear}, r"must be .* a subclass of notbugs\.attacks\.Ball, not the class Linear"),
        ({"loss": "margn"}, r"loss = 'margn': must be one of cross_entropy, .*, margin, .*; did you mean margin\?"),
        ({"loss": 3}, r"loss = 3: must be a function \(logits \(N, K\), labels \(N,\)\) -> \(N,\), .* not a int"),
        ({"num_restarts": 0}, "num_restarts must be 1, or more with random_start, not 0"),
        ({"num_restarts": 2}, "num_restarts must be 1, or more with random_start, not 2"),
        ({"iterate": "first"}, "iterate must be last, best or first_success, not 'first'"),
        (
            {"iterate": "first_success", "loss": "representation_distance"},
            "first_success needs a loss that reads logits",
        ),
        ({"iterate": "first_success", "labels": torch.zeros(2, 2)}, r"first_success needs class labels \(2,\)"),
        ({"loss": lambda logits, labels: logits.sum()}, r"one value an example, \(2,\), not \(\)"),
        ({"loss": lambda logits, labels: 3.0}, r"one value an example, \(2,\), not a float"),
        ({"loss": lambda logits, labels: logits.detach()[:, 0]}, "the loss has no gradient with respect to the logits"),
        ({"loss": lambda logits, labels: torch.ones(2, requires_grad=True)}, "the loss has no gradient with respect"),
    ],
)
def test_impossible_arguments_are_refused(change, message):
    arguments = {"eps": 0.1, "step_size": 0.1, "num_steps": 2, "labels": torch.tensor([0, 1]), **change}
    labels = arguments.pop("labels")
    with pytest.raises(ValueError, match=message):
        pgd(Linear(weights()), draw(2, 3, 2, 2), labels, **arguments)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_no_step_size_is_the_usual_one(busy_model, norm):
    inputs, labels = draw(4, 2, 6, 6), torch.arange(4)
    found = pgd(busy_model, inputs, labels, norm=norm, eps=0.3, num_steps=5)
    told = pgd(busy_model, inputs, labels, norm=norm, eps=0.3, num_steps=5, step_size=2.5 * 0.3 / 5)
    assert torch.equal(found.x_adv, told.x_adv)
    twenty = pgd(busy_model, inputs, labels, norm=norm, eps=0.3, num_steps=20)
    assert torch.equal(pgd(busy_model, inputs, labels, norm=norm, eps=0.3).x_adv, twenty.x_adv)


def test_settings_become_arguments(busy_model):
    settings = AttackSettings(eps=0.3, num_steps=3, random_start=True, num_restarts=2)
    inputs, labels = draw(4, 2, 6, 6), torch.arange(4)
    found, told = (
        pgd(busy_model, inputs, labels, generator=torch.Generator().manual_seed(0), **arguments).x_adv
        for arguments in (
            settings.arguments(),
            {"eps": 0.3, "num_steps": 3, "step_size": 0.25, "random_start": True, "num_restarts": 2},
        )
    )
    assert torch.equal(found, told)


def test_attack_settings():
    assert AttackSettings(eps=0.5, num_steps=20).step == pytest.approx(0.0625)
    assert AttackSettings(eps=0.5, num_steps=20, step_size=0.1).step == 0.1
    assert AttackSettings(eps=0, num_steps=1).step == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": -0.5}, r"attack\.eps = -0\.5: must be greater than or equal to 0"),
        ({"eps": math.nan}, r"attack\.eps = nan: must be a finite number"),
        ({"num_steps": 0}, r"attack\.num_steps = 0: must be greater than or equal to 1"),
        ({"step_size": 0.0}, r"attack\.step_size = 0\.0: must be greater than 0"),
        ({"norm": "l3"}, r"attack\.norm = 'l3': must be one of l2, linf, l1 or package\.module:attribute of your own"),
        ({"norm": "box"}, r"attack\.norm = 'box': must be one of l2, linf, l1 or package"),
        ({"loss": "margn"}, r"attack\.loss = 'margn': must be one of .*; did you mean margin\?"),
        ({"loss": "representation_distance"}, r"attack\.loss = 'repr.*': must be a loss that reads logits, such as"),
        ({"num_restarts": 3}, r"attack\.num_restarts = 3: must be 1 where random_start is false"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        validate({"eps": 0.5, "num_steps": 3, **change}, "attack", AttackSettings)


# Peers and devices


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.3), ("l2", 0.5), ("linf", 0.08)])
@pytest.mark.parametrize("which", ["standard", pytest.param("robust", marks=pytest.mark.slow)])
def test_agrees_with_foolbox(norm, eps, which, standard_model, robust_model, digits):
    """The same PGD (normalised gradient, projection, clipping, last iterate) of another library.

    They are not equal bit by bit: rounding grows over the steps, so a few examples of 360 may differ.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its imports of SciPy are out of date
        foolbox = pytest.importorskip("foolbox")
    model = standard_model if which == "standard" else robust_model
    data, steps = digits[1], 20
    attacks = {"l2": foolbox.attacks.L2PGD, "linf": foolbox.attacks.LinfPGD}
    peer = attacks[norm](abs_stepsize=2.5 * eps / steps, steps=steps, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    theirs, _, fooled = peer(wrapped, data.images, data.labels, epsilons=eps)
    ours = pgd(model, data.images, data.labels, norm=norm, eps=eps, step_size=2.5 * eps / steps, num_steps=steps)
    differ = int((fooled != ours.success).sum())
    assert differ <= 4, f"{differ} of {len(data)}"
    assert 0.02 < float(ours.success.double().mean()) < 0.999  # the comparison says something
    assert float((theirs - ours.x_adv).abs().flatten(1).amax(dim=1).median()) < 1e-3


@pytest.mark.parametrize("which", [pytest.param("standard", marks=pytest.mark.slow), "robust"])
def test_l1_agrees_with_foolboxs_sparse_descent(which, standard_model, robust_model, digits):
    """The same sparse step; foolbox clips what it projected, which leaves some of the radius unused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        foolbox = pytest.importorskip("foolbox")
    model, data, eps, steps = (standard_model if which == "standard" else robust_model), digits[1], 2.0, 40
    peer = foolbox.attacks.SparseL1DescentAttack(abs_stepsize=2.5 * eps / steps, steps=steps, random_start=False)
    wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    theirs, _, fooled = peer(wrapped, data.images, data.labels, epsilons=eps)
    ours = pgd(model, data.images, data.labels, norm="l1", eps=eps, num_steps=steps)
    longest = float((theirs - data.images).flatten(1).abs().sum(dim=1).max())
    assert longest <= eps * 1.05  # its threshold counts an entry too many
    shares = [float(success.double().mean()) for success in (ours.success, fooled)]
    assert 0.1 < shares[0] < 0.99
    assert shares[1] - 0.01 <= shares[0] <= shares[1] + 0.04


@pytest.mark.parametrize("norm", ["l2", "linf", "l1", "box"])
@pytest.mark.parametrize("iterate", ["last", "best", "first_success"])
@pytest.mark.parametrize("runs_ahead", [False, True])
def test_a_gradient_that_is_one_number_for_all_pixels(monkeypatch, norm, iterate, runs_ahead):
    """torch gives it as one number in memory, on which nothing can be written."""
    monkeypatch.setitem(TRAITS, "cpu", Traits(runs_ahead=runs_ahead))

    class Total(nn.Module):
        def forward(self, x):
            total = x.flatten(1).sum(dim=1, keepdim=True)
            return torch.cat([total, 8 - total], dim=1)

    inputs, labels = torch.full((3, 1, 4, 4), 0.4), torch.tensor([0, 1, 1])
    found = pgd(Total(), inputs, labels, norm=norm, eps=0.2, step_size=0.05, num_steps=4, iterate=iterate)
    moved = (found.x_adv - inputs).flatten(1).sum(dim=1)
    assert moved[0] < 0 or iterate == "first_success"  # called 1 as it is
    assert bool((moved[1:] > 0).all()) or iterate == "first_success"
    assert torch.isfinite(found.x_adv).all()


@pytest.mark.cuda
@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
@pytest.mark.parametrize("iterate", ["last", "best", "first_success"])
def test_cuda_agrees_with_the_cpu(busy_model, norm, iterate):
    inputs, labels = draw(6, 2, 6, 6), torch.tensor([0, 1, 2, 3, 0, 1])
    arguments = {"norm": norm, "eps": 0.3, "step_size": 0.1, "num_steps": 5, "iterate": iterate, "random_start": True}
    expected = pgd(busy_model, inputs, labels, generator=torch.Generator().manual_seed(0), **arguments)
    found = pgd(
        busy_model.cuda(), inputs.cuda(), labels.cuda(), generator=torch.Generator().manual_seed(0), **arguments
    )
    assert found.x_adv.is_cuda
    assert found.success.is_cuda
    torch.testing.assert_close(found.x_adv.cpu(), expected.x_adv, rtol=0, atol=1e-8)
    assert torch.equal(found.success.cpu(), expected.success)
