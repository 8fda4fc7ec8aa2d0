"""The attacks' losses: values, signs, and gradients that are right and finite."""

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck
from torch.nn import functional

from notbugs.attacks import AttackSettings
from notbugs.attacks.losses import (
    LOSSES,
    NO_NUMBER,
    LossError,
    called,
    cross_entropy,
    fools,
    log_odds,
    margin,
    representation_distance,
)
from notbugs.evaluation.accuracy import adversarially_correct
from notbugs.evaluation.levels import SuiteSettings
from notbugs.models import create_model
from notbugs.runtime import registry
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.testing import check_loss
from notbugs.training.loop import train
from notbugs.training.settings import TrainSettings


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_values_by_hand():
    logits = torch.tensor([[0.0, math.log(3.0), -1.0], [2.0, 0.5, 1.0]], dtype=torch.float64)
    labels = torch.tensor([1, 2])
    total = [1 + 3 + math.exp(-1), math.exp(2) + math.exp(0.5) + math.e]
    expected = torch.tensor([math.log(total[0] / 3), math.log(total[1] / math.e)], dtype=torch.float64)
    torch.testing.assert_close(cross_entropy(logits, labels), expected)
    torch.testing.assert_close(margin(logits, labels), torch.tensor([-math.log(3.0), 1.0]).double())
    distance = representation_distance(torch.tensor([[3.0, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, 4.0], [1.0, 1.0]]))
    torch.testing.assert_close(distance, torch.tensor([5.0, 0.0]))


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_gradients_of_logit_losses(loss):
    logits = draw(6, 5).requires_grad_()
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    assert gradcheck(lambda z: loss(z, labels), (logits,))


def test_gradient_of_the_representation_distance():
    representation, targets = draw(4, 7).requires_grad_(), draw(4, 7, seed=1)
    assert gradcheck(lambda z: representation_distance(z, targets), (representation,))


def test_representation_distance_zero_has_zero_gradient():
    target = draw(2, 3).float()
    representation = target.clone()
    representation[1, 0] += 2.0
    representation.requires_grad_()
    (gradient,) = torch.autograd.grad(representation_distance(representation, target).sum(), representation)
    torch.testing.assert_close(gradient, torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))


@pytest.mark.parametrize("name", sorted(LOSSES))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(signs=st.lists(st.sampled_from([-1e4, 0.0, 1e4]), min_size=4, max_size=4), label=st.integers(0, 3))
def test_gradients_are_finite_at_extreme_outputs(name, dtype, signs, label):
    outputs = torch.tensor([signs], dtype=dtype, requires_grad=True)
    loss = LOSSES[name]
    targets = torch.tensor([label]) if loss.reads == "logits" else torch.full((1, 4), 1e4, dtype=dtype)
    value = loss.function(outputs, targets)
    (gradient,) = torch.autograd.grad(value.sum(), outputs)
    assert value.shape == (1,)
    assert value.dtype == dtype
    assert value.isfinite().all()
    assert gradient.isfinite().all()


@given(st.integers(2, 8), st.integers(0, 2**31), st.floats(0.01, 1e3))
def test_margin_is_positive_exactly_where_the_label_loses(num_classes, seed, scale):
    logits = draw(16, num_classes, seed=seed) * scale
    labels = torch.randint(0, num_classes, (16,), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(margin(logits, labels) > 0, logits.argmax(dim=1) != labels)


def test_margin_ignores_the_label_among_the_others():
    assert margin(torch.tensor([[9.0, 4.0, 1.0]]), torch.tensor([0])).item() == -5.0


def test_only_the_representation_distance_reads_the_representation():
    reads = {name: LOSSES[name].reads for name in LOSSES}
    assert reads == {
        "cross_entropy": "logits",
        "log_probability": "logits",
        "margin": "logits",
        "representation_distance": "representation",
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 30.0, 1e3, 1e30])
def test_slope_of_the_cross_entropy_points_where_its_exact_derivative_does(dtype, scale):
    """−1 at the label and, over the others, their softmax: (softmax − onehot)/(1 − p), which 1 − p = 0 does not end."""
    logits, labels = (draw(6, 5) * scale).to(dtype), torch.tensor([0, 1, 2, 3, 4, 0])
    slope = LOSSES["cross_entropy"].slope(logits, labels)
    exact = torch.zeros(6, 5, dtype=torch.float64)
    for row, label in enumerate(labels.tolist()):
        others = [k for k in range(5) if k != label]
        exact[row, others] = logits[row, others].double().softmax(dim=0)
        exact[row, label] = -1
    torch.testing.assert_close(slope.double(), exact, rtol=1e-5 if dtype == torch.float32 else 1e-12, atol=1e-7)


def test_slope_of_the_cross_entropy_is_its_derivative_to_a_factor():
    logits, labels = draw(6, 5).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 0])
    (derivative,) = torch.autograd.grad(cross_entropy(logits, labels).sum(), logits)
    p = logits.detach().softmax(dim=1).gather(1, labels[:, None])
    torch.testing.assert_close(LOSSES["cross_entropy"].slope(logits.detach(), labels), derivative / (1 - p))


def test_log_odds_rise_with_the_cross_entropy_and_do_not_saturate():
    logits, labels = draw(64, 5) * 5, torch.arange(64) % 5
    torch.testing.assert_close(cross_entropy(logits, labels), functional.softplus(log_odds(logits, labels)))
    sure = torch.tensor([[500.0, 0.0], [600.0, 0.0]])
    zero = torch.tensor([0, 0])
    assert cross_entropy(sure, zero).tolist() == [0.0, 0.0]
    assert log_odds(sure, zero).tolist() == [-500.0, -600.0]
    assert gradcheck(lambda z: log_odds(z, labels[:6]), (draw(6, 5).requires_grad_(),))


def test_what_is_no_number_is_called_nothing_and_fools_nobody():
    nan, inf = math.nan, math.inf
    logits = torch.tensor([[0.0, 1.0], [nan, 1.0], [0.0, inf], [-inf, -inf], [-inf, 2.0], [nan, nan]])
    assert called(logits).tolist() == [1, NO_NUMBER, NO_NUMBER, NO_NUMBER, 1, NO_NUMBER]
    assert fools(logits, torch.zeros(6, dtype=torch.int64)).tolist() == [True, False, False, False, True, False]


# Losses by name


@pytest.mark.parametrize("name", ["cross_entropy", "margin", "lab.losses:soft_margin", "lab.losses:true"])
def test_losses_pass(own, name):
    registry.allow([name])
    check_loss(name)


@pytest.mark.parametrize("which", ["attack", "validation", "training"])
def test_a_loss_of_ones_own_is_climbed_wherever_it_is_named(own, which, robust_model, digits):
    """The two margins make the label lose; climbing the label's own logit makes it win."""
    registry.allow(["lab.losses:negative", "lab.losses:soft_margin"])
    data = digits[1].select(torch.arange(60))
    found = {}
    for loss in ("margin", "lab.losses:soft_margin", "lab.losses:negative"):
        settings = AttackSettings(eps=0.6, num_steps=10, loss=loss)
        if which == "attack":
            stood = adversarially_correct(robust_model, data, **settings.arguments())
            found[loss] = float(stood.double().mean())
        else:
            attack = {"attack" if which == "training" else "validation_attack": settings}
            model = copy.deepcopy(robust_model)
            config = TrainSettings(epochs=1, batch_size=20, lr=1e-6, **attack)
            records = train(model, data, **config.arguments(), generator=generator(), validation=data)
            key = "train_loss" if which == "training" else "validation_adversarial_accuracy"
            found[loss] = -records[-1][key] if which == "training" else records[-1][key]
    assert found["margin"] == pytest.approx(found["lab.losses:soft_margin"], abs=0.1)
    assert found["lab.losses:negative"] > found["margin"] + 0.1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("table", r"must give one value an example, \(\d+,\), not \(\d+, 10\)"),
        ("number", r"must give one value an example, \(\d+,\), not a float"),
        ("detached", "has no gradient with respect to the logits: it leaves torch, or detaches"),
    ],
)
def test_a_loss_that_cannot_be_climbed_is_one_line(own, name, message, standard_model, digits):
    registry.allow([f"lab.losses:{name}"])
    data = digits[1].select(torch.arange(10))
    settings = AttackSettings(eps=0.6, num_steps=2, loss=f"lab.losses:{name}")
    with pytest.raises(LossError, match=rf"^loss lab\.losses:{name} {message}$"):
        adversarially_correct(standard_model, data, **settings.arguments())
    model = create_model("small_cnn", (1, 8, 8), data.class_names, width=4, generator=generator())
    config = TrainSettings(epochs=1, batch_size=10, lr=0.1, attack=settings)
    with pytest.raises(LossError, match=rf"^loss lab\.losses:{name} {message}$"):
        train(model, data, **config.arguments(), generator=generator())
    with pytest.raises(AssertionError, match=r"^loss: (must give one value|has no gradient)"):
        check_loss(f"lab.losses:{name}")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "lab.losses:soft_margins",
            r"must be something that is .*losses\.py has no soft_margins; did you mean soft_margin\?",
        ),
        ("lab.losses:torch", r"must be a function \(logits \(N, K\), labels \(N,\)\) -> \(N,\), or a .*, not a module"),
        ("lab.losses:of_features", "must be a loss that reads logits, such as cross_entropy or margin"),
    ],
)
def test_what_is_no_loss_is_one_line(own, name, message):
    registry.allow([name])
    with pytest.raises(ConfigError, match=rf"^params\.yaml: attack\.loss = '{name}': {message}") as raised:
        validate({"eps": 0.5, "num_steps": 3, "loss": name}, "attack", AttackSettings)
    assert "\n" not in str(raised.value)


def test_the_usual_loss_is_not_written_down():
    """What is stored of settings is as it was before there was a choice."""
    usual, other = (AttackSettings(eps=0.5, num_steps=3, loss=loss) for loss in ("cross_entropy", "margin"))
    assert set(usual.model_dump()) == {"norm", "eps", "num_steps", "step_size", "random_start", "num_restarts"}
    assert other.model_dump(mode="json")["loss"] == "margin"
    config = TrainSettings(epochs=1, lr=0.1, attack=usual, validation_attack=other)
    assert "loss" not in config.model_dump_json(include={"attack"})
    assert config.arguments()["validation_attack"]["loss"] == "margin"
    suite = SuiteSettings(eps=(0.5,), headline_eps=0.5)
    assert set(suite.arguments()) == set(SuiteSettings.model_fields) - {"loss", "suite_seeds", "check_seeds"}
    assert set(suite.transfer()) == {"norm", "eps", "num_steps", "batch_size"}
    assert SuiteSettings(eps=(0.5,), headline_eps=0.5, loss="margin").transfer()["loss"] == "margin"
    assert TrainSettings.model_validate(config.model_dump()) == config
