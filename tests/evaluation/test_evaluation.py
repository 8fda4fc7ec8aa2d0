"""Accuracies against a plain loop."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from notbugs.data.images import ImageData
from notbugs.evaluation.accuracy import (
    MANY_STEPS,
    Outcome,
    adversarially_correct,
    batches,
    curve_attacks,
    evaluate,
    measure,
    model_device,
    outcomes,
    predict,
    shifted_labels,
    usual_radii,
)
from notbugs.evaluation.intervals import wilson_interval
from notbugs.evaluation.levels import SuiteSettings
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Table(nn.Module):
    """Calls the class whose number is the first pixel times ten."""

    def forward(self, x: Tensor) -> Tensor:
        called = (x[:, 0, 0, 0] * 10).round().long()
        return functional.one_hot(called, 10).float() + 0 * x.sum()


# Small parts


@given(st.integers(0, 50), st.integers(1, 20))
def test_batches_cover_everything_once(count, size):
    found = [list(range(count))[batch] for batch in batches(count, size)]
    assert [i for part in found for i in part] == list(range(count))
    assert all(0 < len(part) <= size for part in found)


def test_shifted_labels_wrap_around():
    assert shifted_labels(torch.tensor([0, 3, 9]), 10).tolist() == [1, 4, 0]


def test_measure_by_hand():
    found = measure(Outcome("true", "pgd20", "l2", 0.5, torch.tensor([True, False, True, True])))
    low, high = wilson_interval(3, 4)
    assert (found.labels, found.attack, found.norm, found.eps) == ("true", "pgd20", "l2", 0.5)
    assert (found.accuracy, found.low, found.high, found.n) == (0.75, low, high, 4)


def test_predict_uses_eval_mode_and_leaves_the_model_as_it_was(busy_model):
    images = torch.rand(5, 2, 6, 6, generator=generator()).double()
    modes = [module.training for module in busy_model.modules()]
    buffers = [value.clone() for value in busy_model.buffers()]
    logits = predict(busy_model, images, batch_size=2)
    assert [module.training for module in busy_model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(buffers, busy_model.buffers(), strict=True))
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    torch.testing.assert_close(logits, busy_model.eval()(images).detach().float())


def test_model_device():
    assert model_device(nn.Linear(1, 1, device="meta")).type == "meta"
    assert model_device(nn.BatchNorm1d(1, affine=False, device="meta")).type == "meta"
    assert model_device(nn.Flatten()).type == "cpu"


# Accuracy and adversarial accuracy


def plain_pgd_accuracy(model: nn.Module, data: ImageData, eps: float, num_steps: int) -> Tensor:
    """Which examples no iterate of L2 PGD fools, by the plainest loop over whole batches."""
    x, step = data.images.clone(), 2.5 * eps / num_steps
    correct = torch.ones(len(data), dtype=torch.bool)
    for turn in range(num_steps + 1):
        x.requires_grad_()
        logits = model(x)
        correct &= logits.argmax(dim=1) == data.labels
        if turn == num_steps:
            break
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, data.labels, reduction="sum"), x)
        length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        delta = x.detach() + step * gradient / length - data.images
        length = delta.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        delta = torch.where(length > eps, delta * eps / length, delta)
        x = (data.images + delta).clamp(0, 1)
    return correct


@pytest.mark.parametrize("which", ["standard", "robust"])
def test_adversarial_accuracy_agrees_with_a_plain_loop(which, standard_model, robust_model, digits):
    model = standard_model if which == "standard" else robust_model
    for eps in (0.2, 0.5):
        found = adversarially_correct(model, digits[1], eps=eps)
        expected = plain_pgd_accuracy(model, digits[1], eps, 20)
        assert int((found != expected).sum()) <= 3  # of 360: rounding
        assert 0 < int(expected.sum()) < len(expected)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["standard", "robust"])
def test_many_steps_agree_with_a_plain_loop(which, standard_model, robust_model, digits):
    """To within one image in 300 of PGD-100, and to rounding of PGD-10 and PGD-100 together."""
    model, eps = (standard_model, 0.4) if which == "standard" else (robust_model, 0.8)
    found = adversarially_correct(model, digits[1], eps=eps, num_steps=100)
    fine, coarse = (plain_pgd_accuracy(model, digits[1], eps, num_steps) for num_steps in (100, 10))
    assert 0 < int(fine.sum()) < len(fine)
    assert abs(int(found.sum()) - int(fine.sum())) <= len(fine) / 300
    assert int((found != (fine & coarse)).sum()) <= 1


def test_long_steps_come_before_many_short_ones():
    """Between the image and class 1 lies a hollow, out of which short steps do not climb."""

    class Hollow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            pixel = x.flatten(1)[:, 0]
            score = torch.where(pixel < 0.5, -0.1 - (pixel - 0.45).abs(), 1 + 0 * pixel)
            return torch.stack([torch.zeros_like(score), score], dim=1)

    data = ImageData(torch.full((1, 1, 1, 1), 0.4), torch.tensor([0]), ("a", "b"))
    for num_steps, withstands in ((MANY_STEPS - 1, True), (MANY_STEPS, False)):
        assert adversarially_correct(Hollow(), data, eps=0.8, num_steps=num_steps).tolist() == [withstands]


@pytest.mark.parametrize("change", [{"num_steps": 10}, {"num_steps": MANY_STEPS, "random_start": True}], ids=str)
@pytest.mark.parametrize("attack_norm", ["l2", "linf"])
def test_adversarial_accuracy_does_not_depend_on_the_batches(attack_norm, change, robust_model, digits):
    data = digits[1].select(torch.arange(24))
    attack = {"norm": attack_norm, "eps": 0.5 if attack_norm == "l2" else 0.1, **change}
    found = [
        adversarially_correct(robust_model, data, **attack, batch_size=size, generator=generator())
        for size in (24, 7, 1)
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("random_start", [False, True])
def test_an_image_that_is_wrong_untouched_never_withstands(random_start, standard_model, digits):
    wrong = ImageData(digits[1].images, shifted_labels(digits[1].labels, 10), digits[1].class_names)
    clean = predict(standard_model, wrong.images).argmax(dim=1) == wrong.labels
    attack = {"eps": 0.001, "num_steps": 1, "random_start": random_start}
    assert torch.equal(adversarially_correct(standard_model, wrong, **attack, generator=generator()), clean)
    mixed = ImageData(torch.full((2, 1, 1, 1), 0.36), torch.tensor([3, 4]), tuple("abcdefghij"))
    attack = {"eps": 0.02, "num_steps": 1, "random_start": random_start}
    for seed in range(20):  # a random start may turn the wrong "4" into a right "3" and the other way round
        withstood = adversarially_correct(Table(), mixed, **attack, generator=generator(seed))
        assert not withstood[0]


def test_an_image_is_fooled_if_any_iterate_fools():
    """Class 1 wins only within 0.15 of 0.6: from 0.4, steps of 0.25 go to 0.65 and back."""

    class Narrow(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            score = 0.15**2 - (x.flatten(1)[:, 0] - 0.6) ** 2
            return torch.stack([torch.zeros_like(score), score], dim=1)

    data = ImageData(torch.full((1, 1, 1, 1), 0.4), torch.tensor([0]), ("a", "b"))
    assert adversarially_correct(Narrow(), data, eps=1.0, num_steps=2, step_size=0.25).tolist() == [False]


def test_evaluate_gives_every_measurement(robust_model, digits):
    radii = [0.5, 0.25, 1.0]
    rows, per_class = evaluate(
        robust_model, digits[1], eps=radii, headline_eps=0.75, num_steps=10, headline_num_steps=30
    )
    assert [(row.labels, row.attack, row.eps) for row in rows] == [
        ("true", "clean", 0.0),
        ("shifted", "clean", 0.0),
        *(("true", "pgd10", eps) for eps in (0.25, 0.5, 0.75, 1.0)),
        ("true", "pgd30", 0.75),
    ]
    called = robust_model(digits[1].images).argmax(dim=1)
    right = called == digits[1].labels
    assert rows[0].accuracy == pytest.approx(float(right.double().mean()))
    assert rows[1].accuracy == pytest.approx(float((called == (digits[1].labels + 1) % 10).double().mean()))
    for row in rows:
        assert (row.n, row.norm) == (len(digits[1]), "l2")
        assert (row.low, row.high) == wilson_interval(round(row.accuracy * row.n), row.n)
    falling = [rows[0].accuracy, *(row.accuracy for row in rows[2:6])]
    assert falling == sorted(falling, reverse=True)
    assert falling[0] - falling[-1] > 0.2
    for label, name in enumerate(digits[1].class_names):
        members = digits[1].labels == label
        assert per_class[name] == (pytest.approx(float(right[members].double().mean())), int(members.sum()))


def test_evaluate_by_hand():
    images = (torch.tensor([0, 1, 2, 3]) / 10).view(4, 1, 1, 1)
    data = ImageData(images, torch.tensor([0, 0, 2, 4]), tuple("abcdefghij"))
    rows, per_class = evaluate(Table(), data, eps=(0.01,), headline_eps=0.01, num_steps=1, headline_num_steps=2)
    assert [row.accuracy for row in rows] == [0.5, 0.25, 0.5, 0.5]  # called 0, 1, 2, 3; shifted labels 1, 1, 3, 5
    assert per_class == {"a": (0.5, 2), "c": (1.0, 1), "e": (0.0, 1)}  # classes without images are left out


def test_equal_step_numbers_are_measured_once():
    assert curve_attacks(0.5, (0.25, 0.5), 20, 20) == [(0.25, 20), (0.5, 20)]


def test_the_headline_is_on_the_curve_and_has_steps_of_its_own():
    assert curve_attacks(0.2, (0.1,), 20, 100) == [(0.1, 20), (0.2, 20), (0.2, 100)]
    assert usual_radii(0.5) == (0.125, 0.25, 0.5, 0.75)
    assert [eps for eps, _ in curve_attacks(0.5, None, 20, 100)] == [*usual_radii(0.5), 0.5]


def test_attacks_take_the_step_size_of_the_paper(robust_model, digits):
    """2.5·eps/num_steps, from the image itself."""
    data = digits[1].select(slice(0, 100))
    found = outcomes(robust_model, data, norm="linf", eps=(0.1,), headline_eps=0.1, headline_num_steps=10)
    assert [(outcome.attack, outcome.norm) for outcome in found[2:]] == [("pgd20", "linf"), ("pgd10", "linf")]
    for outcome, steps in zip(found[2:], (20, 10), strict=True):
        arguments = {"norm": "linf", "eps": 0.1, "num_steps": steps, "step_size": 2.5 * 0.1 / steps}
        assert torch.equal(outcome.correct, adversarially_correct(robust_model, data, **arguments))
    assert 0 < int(found[2].correct.sum()) < 100


def test_it_works_from_a_notebook_with_no_more_than_a_radius(robust_model, digits):
    rows, _ = evaluate(robust_model, digits[1].select(slice(0, 40)), headline_eps=0.5)
    names = [(row.attack, row.eps) for row in rows if row.labels == "true"]
    assert names == [("clean", 0.0), *(("pgd20", eps) for eps in (0.125, 0.25, 0.5, 0.75)), ("pgd100", 0.5)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": []}, r"evaluate\.eps = \[\]"),
        ({"eps": [0.5, -1.0]}, r"evaluate\.eps.* = \[0\.5, -1\.0\]: must be a list of radii, each > 0"),
        ({"eps": [0.0]}, "must be a list of radii, each > 0"),
        ({"eps": [math.nan]}, "must be a list of radii, each > 0"),
        ({"headline_eps": 0.0}, r"evaluate\.headline_eps = 0\.0: must be greater than 0"),
        ({"num_steps": 0}, r"evaluate\.num_steps = 0: must be greater than or equal to 1"),
        ({"batch_size": 0}, r"evaluate\.batch_size = 0: must be greater than or equal to 1"),
        ({"step": 3}, r"evaluate\.step: unknown key"),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        validate({"eps": [0.5], "headline_eps": 0.5, **change}, "evaluate", SuiteSettings)


@pytest.mark.cuda
def test_evaluate_on_cuda_agrees_with_the_cpu(standard_model, digits):
    import copy

    data = digits[1].select(torch.arange(100))
    config = {"eps": (0.25,), "headline_eps": 0.25, "num_steps": 5, "headline_num_steps": 5}
    expected = evaluate(standard_model, data, **config)
    found = evaluate(copy.deepcopy(standard_model).cuda(), data, **config)
    assert found[1] == expected[1]
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert ours.accuracy == pytest.approx(theirs.accuracy, abs=0.02)
