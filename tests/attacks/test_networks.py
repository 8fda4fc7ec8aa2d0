"""Networks as people write them: by every way in the plain network's number, or one line that says why not.

Every case wraps the same small classifier, so what it must come to is known.
"""

import copy
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file, save_model
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks import pgd
from notbugs.attacks.engine import Engine, frozen
from notbugs.attacks.modules import UnsteadyError, all_modules, check_steady, in_train_mode
from notbugs.cli import main
from notbugs.data.images import ImageData
from notbugs.data.store import load_dataset, save_dataset
from notbugs.evaluation.accuracy import adversarially_correct, predict
from notbugs.evaluation.suite import audit

EPS = 0.5
ATTACK = {"eps": EPS, "num_steps": 10}
SETTINGS = {"eps": (EPS,), "headline_eps": EPS, "num_steps": 10, "headline_num_steps": 20}


class Plain(nn.Module):
    """Convolution, BatchNorm, convolution, and a head that flattens by `reshape`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.head = nn.Linear(128, 10)

    def features(self, x: Tensor) -> Tensor:
        return functional.relu(self.second(functional.relu(self.norm(self.first(x - 0.3)))))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).reshape(-1, 128))


class Viewing(Plain):
    """Flattens by `view`, which channels-last images do not allow."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).view(-1, 128))


class InPlace(Plain):
    """Normalises the images that it was given, in place."""

    def forward(self, x: Tensor) -> Tensor:
        x -= 0.1
        x += 0.1
        x.mul_(2)
        return super().forward(x / 2)


class Hidden(nn.Module):
    """Keeps its layers in a plain list and a plain mapping, where neither `eval` nor `parameters` finds them."""

    def __init__(self, plain: Plain) -> None:
        super().__init__()
        self.layers = [plain.first, plain.norm, nn.ReLU()]
        self.rest = {"second": plain.second, "more": (nn.ReLU(), nn.Flatten(), plain.head)}

    def forward(self, x: Tensor) -> Tensor:
        x = x - 0.3
        for layer in (*self.layers, self.rest["second"], *self.rest["more"]):
            x = layer(x)
        return x


class Stubborn(Plain):
    """Its own `train` leaves the BatchNorm in train mode."""

    def train(self, mode: bool = True) -> "Stubborn":
        super().train(mode)
        self.norm.training = True
        return self


class Forever(Plain):
    """Computes with the batch's statistics in every mode, and says so nowhere."""

    def forward(self, x: Tensor) -> Tensor:
        self.norm.train()
        return super().forward(x)


class Functional(Plain):
    """The same without a module."""

    def features(self, x: Tensor) -> Tensor:
        x = functional.batch_norm(self.first(x - 0.3), None, None, training=True)
        return functional.relu(self.second(functional.relu(x)))


class Numpy(Plain):
    """Leaves torch on the way."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.from_numpy(np.array(x.numpy())))


class Detached(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class Constant(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.arange(10.0).repeat(len(x), 1)


class Rooted(Plain):
    """The same function, but its derivative is no number where a pixel is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sqrt() ** 2)


class Double(Plain):
    """Computes in float64."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.double())


class Numberless(Plain):
    """Gives NaN for whatever differs from a digit's sixteenths."""

    def forward(self, x: Tensor) -> Tensor:
        odd = ((x * 16 - (x * 16).round()).abs() > 1e-3).flatten(1).any(dim=1, keepdim=True)
        return super().forward(x).masked_fill(odd, torch.nan)


class Saturated(Plain):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 1000


def weight_normed(plain: Plain) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and in use
        for name in ("first", "second", "head"):
            torch.nn.utils.weight_norm(getattr(plain, name))
    return plain


def parametrised(plain: Plain) -> nn.Module:
    for name in ("first", "second", "head"):
        torch.nn.utils.parametrizations.weight_norm(getattr(plain, name))
    return plain


def whole_weight_normed(plain: Plain) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.nn.utils.weight_norm(plain.second, dim=None)
    return plain


def scripted(plain: Plain) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated, and in use
        return torch.jit.script(plain)


def traced(plain: Plain) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.trace(plain.eval(), torch.rand(4, 1, 8, 8))


def thawed(plain: Plain) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.freeze(torch.jit.script(plain.eval()))


def of_inference(plain: Plain) -> nn.Module:
    with torch.inference_mode():
        return filled(Plain(), plain)


def filled(network: nn.Module, plain: Plain) -> nn.Module:
    network.load_state_dict(plain.state_dict())
    return network


def of_class(kind: type[Plain]) -> Callable[[Plain], nn.Module]:
    return lambda plain: filled(kind(), plain)


SAME: dict[str, Callable[[Plain], nn.Module]] = {
    "view": of_class(Viewing),
    "in place": of_class(InPlace),
    "plain list": Hidden,
    "stubborn": of_class(Stubborn),
    "weight_norm": weight_normed,
    "weight_norm parametrised": parametrised,
    "weight_norm of the whole": whole_weight_normed,
    "scripted": scripted,
    "traced": traced,
    "frozen script": thawed,
    "square root": of_class(Rooted),
    "of inference mode": of_inference,
    "float64": lambda plain: filled(Double(), plain).double(),
}
UNSTEADY = {"forever in train mode": of_class(Forever), "functional": of_class(Functional)}
HIDING: dict[str, Callable[[Plain], nn.Module]] = {
    "numpy": of_class(Numpy),
    "detached": of_class(Detached),
    "constant": lambda _: Constant(),
}
RARE = ("weight_norm parametrised", "weight_norm of the whole", "traced", "frozen script")
"""Which differ from their neighbours by little: left to the slow tests."""
QUICK = ("plain list", "scripted", "float64", "numpy")
"""Whose number the command gives in the quick tests; the functions behind it give all of them there."""


@pytest.fixture(scope="module")
def plain(digits: tuple[ImageData, ImageData]) -> Plain:
    """The classifier, trained for some seconds: about 95% right."""
    data, generator = digits[0], torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        network = Plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for _ in range(4):
        for rows in torch.randperm(len(data), generator=generator).split(64):
            loss = functional.cross_entropy(network(data.images[rows]), data.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network


@pytest.fixture(scope="module")
def few(digits: tuple[ImageData, ImageData]) -> ImageData:
    return digits[1].select(torch.arange(24))


@pytest.fixture(scope="module")
def expected(plain: Plain, few: ImageData) -> dict[str, object]:
    """What the plain network comes to."""
    return numbers_of(plain, few)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def numbers_of(network: nn.Module, data: ImageData) -> dict[str, object]:
    x_adv, success = pgd(network, data.images, data.labels, eps=EPS, step_size=EPS / 4, num_steps=10)
    assert x_adv.isfinite().all()
    assert float((x_adv - data.images).flatten(1).norm(dim=1).max()) <= EPS * (1 + 1e-5)
    withstood = adversarially_correct(network, data, **ATTACK)
    found = audit(network, data, **SETTINGS, generator=generator())
    return {
        "pgd": success.tolist(),
        "adversarially_correct": withstood.tolist(),
        **{f"audit {o.labels} {o.attack}": int(o.correct.sum()) for o in found.outcomes},
        "failed": {check.check for check in found.checks if not check.passed},
    }


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=pytest.mark.slow) if case in RARE else case for case in SAME]
)
def test_the_same_numbers_as_of_the_plain_network(case, plain, few, expected):
    before = few.images.clone()
    network = SAME[case](copy.deepcopy(plain))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [in_train_mode(module) for module in all_modules(network)]
    found = numbers_of(network, few)
    assert torch.equal(few.images, before)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert [in_train_mode(module) for module in all_modules(network)] == modes
    assert found["failed"] == expected["failed"] == set()
    assert found["audit true clean"] == expected["audit true clean"] > 20
    assert 0 < sum(expected["adversarially_correct"]) < 20
    for name in ("pgd", "adversarially_correct"):
        assert sum(a != b for a, b in zip(found[name], expected[name], strict=True)) <= 1, name  # rounding
    for name, value in expected.items():
        if name.startswith("audit"):
            assert abs(found[name] - value) <= 1, name


@pytest.mark.parametrize("case", UNSTEADY)
def test_a_network_that_computes_with_its_batch_is_refused(case, plain, few):
    network = UNSTEADY[case](copy.deepcopy(plain))
    state = {name: value.clone() for name, value in network.state_dict().items()}
    message = "its logits of one image change with the other images of the batch"
    for measure in (
        lambda: pgd(network, few.images, few.labels, eps=EPS, step_size=0.1, num_steps=2),
        lambda: adversarially_correct(network, few, **ATTACK),
        lambda: audit(network, few, **SETTINGS, generator=generator()),
        lambda: Engine(network, few.images[:4]),
    ):
        with pytest.raises(UnsteadyError, match=message):
            measure()
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_what_draws_random_numbers_is_no_batch_statistic(few):
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + torch.rand_like(x)).flatten(1)

    check_steady(Noisy(), few.images)


@pytest.mark.parametrize("case", HIDING)
def test_a_network_without_a_gradient_fails_the_check_for_it(case, plain, few):
    network = HIDING[case](copy.deepcopy(plain))
    found = numbers_of(network, few)
    assert "gradients_not_zero" in found["failed"]
    assert found["audit true clean"] == found["audit true pgd20"]


def test_hidden_modules_are_frozen_and_given_back(plain):
    network = Hidden(copy.deepcopy(plain))
    norm, weight = network.layers[1], network.layers[0].weight
    with frozen(network):
        assert not norm.training
        assert not weight.requires_grad
    assert norm.training
    assert weight.requires_grad


# What is no number


def test_logits_that_are_no_numbers_fool_nobody_and_are_named(plain, few):
    """Whoever leaves the sixteenths gets NaN: no attack succeeds, and the check says for how many images."""
    network = filled(Numberless(), plain)
    clean = predict(network, few.images).argmax(dim=1) == few.labels
    assert torch.equal(adversarially_correct(network, few, **ATTACK), clean)
    found = pgd(network, few.images, few.labels, eps=EPS, step_size=EPS / 4, num_steps=10)
    assert not found.success[clean].any()
    audited = audit(network, few, **SETTINGS, generator=generator())
    assert torch.equal(audited.outcomes[-1].correct, clean)
    assert audited.norms["ddn10"][clean].isinf().all()
    checks = {check.check: check for check in audited.checks}
    assert checks["logits_finite"].value == 1.0
    assert not checks["logits_finite"].passed


def test_an_image_whose_own_logits_are_no_numbers_is_wrong_with_and_without_attack(plain, few):
    evaluating = copy.deepcopy(plain).eval()

    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return evaluating(x) * torch.nan

    for random_start in (False, True):
        attack = {"eps": EPS, "num_steps": 3, "random_start": random_start}
        assert not adversarially_correct(Broken(), few, **attack, generator=generator()).any()
    assert not audit(Broken(), few, **SETTINGS, generator=generator()).outcomes[0].correct.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("iterate", ["last", "best", "first_success"])
@pytest.mark.parametrize("norm", ["l2", "linf", "box"])
def test_a_derivative_that_is_no_number_leaves_the_image_in_the_ball(norm, iterate, dtype):
    """√x₀ + x₁ from x₀ = 0, where the derivative is infinite, with a pixel that has none at all."""

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            first, second, third = x.flatten(1).unbind(1)
            lost = third * torch.where(third > 2, third, torch.nan).nan_to_num() + 0 * (third - third).sqrt()
            score = first.sqrt() + second - 1 + lost.nan_to_num()
            return torch.stack([torch.zeros_like(score), score], dim=1)

    inputs = torch.tensor([[0.0, 0.2, 0.5]], dtype=dtype).view(1, 3, 1, 1)
    arguments = {"norm": norm, "eps": 0.3, "step_size": 0.1, "num_steps": 20, "iterate": iterate}
    found = pgd(Odd(), inputs, torch.tensor([0]), **arguments).x_adv
    assert found.isfinite().all()
    assert float(found[0, 0]) > 0.05  # it left 0
    assert float(found[0, 2]) == 0.5
    if norm != "box":
        length = (found - inputs).flatten().norm(p=2 if norm == "l2" else torch.inf)
        assert float(length) <= 0.3 * (1 + 1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_zero_gradient_gives_no_step(norm, dtype):
    class Flat(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(1)[:, :2] * 0

    inputs = torch.full((2, 1, 2, 2), 0.5, dtype=dtype)
    found = pgd(Flat(), inputs, torch.tensor([0, 0]), norm=norm, eps=0.3, step_size=0.1, num_steps=3)
    assert torch.equal(found.x_adv, inputs)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.full((2, 1, 8, 8), 1.01), r"inputs must lie in \[0, 1\], not \[1\.01, 1\.01\]; normalisation belongs"),
        (torch.full((2, 1, 8, 8), -0.5), r"not \[-0\.5, -0\.5\]"),
        (torch.full((2, 1, 8, 8), torch.nan), r"not \[nan, nan\]"),
    ],
)
def test_images_outside_the_unit_box_are_refused(inputs, message, plain):
    for network in (plain, Engine(plain, torch.rand(2, 1, 8, 8))):
        with pytest.raises(ValueError, match=message):
            pgd(network, inputs, torch.tensor([0, 1]), eps=0.5, step_size=0.1, num_steps=2)


# Modes of torch


@pytest.mark.parametrize("mode", ["inference_mode", "no_grad", "autocast", "double by default", "deterministic"])
def test_the_mode_of_torch_plays_no_part(mode, plain, few, expected):
    before = torch.get_default_dtype()
    if mode == "autocast":
        context = torch.autocast("cpu", torch.bfloat16)
    else:
        context = torch.inference_mode() if mode == "inference_mode" else torch.no_grad()
    try:
        torch.set_default_dtype(torch.float64 if mode == "double by default" else before)
        torch.use_deterministic_algorithms(mode == "deterministic")
        with context:
            images = few.images.clone()  # in inference mode a tensor of its kind
            found = numbers_of(plain, ImageData(images, few.labels.clone(), few.class_names))
    finally:
        torch.set_default_dtype(before)
        torch.use_deterministic_algorithms(False)
    assert found == expected
    assert all(parameter.requires_grad for parameter in plain.parameters())


# `notbugs evaluate --model module:factory`


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: ImageData, plain: Plain) -> Path:
    save_dataset(
        tmp_path / "test", few, pd.DataFrame({"index": range(len(few))}), name="D", source="digits", settings={}
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluated(network: nn.Module, monkeypatch: pytest.MonkeyPatch, *more: str) -> tuple[int, str]:
    module = type(sys)("given")
    module.make = lambda: network  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "given", module)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # the tests' own number stays
    arguments = ["evaluate", "--model", "given:make", "--data", "test", "--eps", str(EPS), "--out", "found.json"]
    done = CliRunner().invoke(main, [*arguments, *more])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.mark.parametrize(
    "case",
    [
        "plain",
        *QUICK,
        *(pytest.param(case, marks=pytest.mark.slow) for case in {**SAME, **HIDING} if case not in QUICK),
    ],
)
def test_the_command_gives_the_number_or_names_the_check(case, plain, folder, monkeypatch):
    network = {**SAME, **HIDING}.get(case, lambda same: same)(copy.deepcopy(plain))
    code, text = evaluated(network, monkeypatch)
    assert code == 0, text
    found = json.loads((folder / "found.json").read_text())
    accuracy = {row["attack"]: row["accuracy"] for row in found["accuracies"] if row["labels"] == "true"}
    failed = {check["check"] for check in found["checks"] if not check["passed"]}
    if case in HIDING:
        assert "gradients_not_zero" in failed
        assert "FAIL" in text
        return
    assert failed == set()
    data = load_dataset(folder / "test").data()
    clean = float((predict(plain, data.images).argmax(dim=1) == data.labels).double().mean())
    assert accuracy["clean"] == pytest.approx(clean)
    assert 0 < accuracy["worst"] < clean - 0.1


@pytest.mark.parametrize("case", UNSTEADY)
def test_the_command_refuses_in_one_line(case, plain, folder, monkeypatch):
    code, text = evaluated(UNSTEADY[case](copy.deepcopy(plain)), monkeypatch)
    assert code == 1
    assert len(text.strip().splitlines()) == 1
    assert text.startswith("error: --model given:make: ")
    assert "change with the other images of the batch" in text


def test_the_command_says_that_logits_are_no_numbers(plain, folder, monkeypatch):
    code, text = evaluated(filled(Numberless(), plain), monkeypatch)
    assert code == 0, text
    assert "logits that are no numbers on or near 100.0% of the images" in " ".join(text.split())


class Tied(Plain):
    """Two convolutions share their weight; the second one is followed by a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Conv2d(8, 8, 3, padding=1, stride=2, bias=False)
        self.third.weight = self.second.weight
        self.norm_of_third = nn.BatchNorm2d(8)

    def features(self, x: Tensor) -> Tensor:
        first = functional.relu(self.norm(self.first(x - 0.3)))
        return functional.relu(self.second(first) + self.norm_of_third(self.third(first)))


@pytest.mark.parametrize("how", [save_model, lambda network, path: save_file(untied(network), path)])
def test_tied_weights_are_loaded_whichever_way_they_were_saved(how, folder, monkeypatch, few):
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(3)
        network, fresh = Tied(), Tied()
    how(network, folder / "tied.safetensors")
    expected = predict(network, few.images)
    code, text = evaluated(fresh, monkeypatch, "--weights", "tied.safetensors")
    assert code == 0, text
    assert torch.equal(predict(fresh, few.images), expected)
    engine = Engine(network, few.images[:4])
    torch.testing.assert_close(predict(engine, few.images), expected, rtol=0, atol=1e-4)


def untied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}
