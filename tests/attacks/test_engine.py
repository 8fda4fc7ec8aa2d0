"""The engine against the network it was made from."""

import copy
import shutil
import time

import pytest
import torch
from torch import Tensor, nn

from notbugs.attacks import pgd
from notbugs.attacks.engine import COMPILING_PAYS, Engine, frozen, multiply_adds, pays_to_compile
from notbugs.attacks.pgd import _next_size
from notbugs.errors import ConfigError


@pytest.mark.parametrize(
    "arguments",
    [
        {"norm": "l2", "eps": 0.5},
        {"norm": "linf", "eps": 0.05},
        {"norm": "l2", "eps": 0.5, "targeted": True},
        {"norm": "l2", "eps": 0.5, "iterate": "best"},
    ],
)
def test_an_attack_on_the_engine_is_an_attack_on_the_network(arguments, standard_model, digits):
    """Equal to rounding after ten steps: 99 in 100 images within 1e-4, at most 1 in 300 called otherwise."""
    images, labels = digits[1].images[:300], digits[1].labels[:300]
    aims = (labels + 1) % 10 if arguments.get("targeted") else labels
    step = {"step_size": arguments["eps"] / 4, "num_steps": 10}
    plain = pgd(standard_model, images, aims, **step, **arguments)
    found = pgd(Engine(standard_model, images[:4]), images, aims, **step, **arguments)
    assert found.x_adv.is_contiguous()
    largest = (found.x_adv - plain.x_adv).abs().flatten(1).amax(dim=1)
    assert float(largest.quantile(0.99)) <= 1e-4
    assert int((found.success != plain.success).sum()) <= 1
    assert 0 < int(plain.success.sum()) < 300  # the comparison says something


def test_logits_and_representation_are_the_networks(standard_model, digits):
    images = digits[1].images
    engine = Engine(standard_model, images[:4])
    with torch.no_grad():
        torch.testing.assert_close(engine(images), standard_model(images), rtol=0, atol=1e-5)
        expected = standard_model.representation(images)
        torch.testing.assert_close(engine.representation(images), expected, rtol=0, atol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in engine.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in standard_model.modules())


def test_refresh_follows_the_network(busy_model):
    inputs = torch.rand(4, 2, 6, 6, dtype=torch.float64)
    engine = Engine(busy_model, inputs)
    with torch.no_grad():
        for parameter in busy_model.parameters():
            parameter.mul_(1.3)
    with frozen(busy_model), torch.no_grad():
        assert not torch.allclose(engine(inputs), busy_model(inputs))
        engine.refresh()
        torch.testing.assert_close(engine(inputs), busy_model(inputs))


def test_an_engine_never_trains_and_leaves_the_network_alone(busy_model):
    before = {name: value.clone() for name, value in busy_model.state_dict().items()}
    needs = [parameter.requires_grad for parameter in busy_model.parameters()]
    modes = [module.training for module in busy_model.modules()]
    engine = Engine(busy_model, torch.rand(4, 2, 6, 6, dtype=torch.float64)).train()
    assert not any(module.training for module in engine.network.modules() if not isinstance(module, nn.Identity))
    assert not any(parameter.requires_grad for parameter in engine.parameters())
    assert needs == [parameter.requires_grad for parameter in busy_model.parameters()]
    assert modes == [module.training for module in busy_model.modules()]
    assert all(torch.equal(value, before[name]) for name, value in busy_model.state_dict().items())


class Secretive(nn.Module):
    """Traced, its BatchNorm seems to be all that reads the convolution; run on numbers, it is not."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.inside[1].running_mean.fill_(3.0)

    def forward(self, x: Tensor) -> Tensor:
        z = self.inside[0](x) if float(x.sum()) >= 0 else x
        return (self.inside[1](z) + z).mean(dim=(2, 3))


def test_a_fold_that_changes_the_logits_is_taken_back():
    model = Secretive().eval()
    x = torch.rand(2, 3, 8, 8)
    engine = Engine(model, x)
    with torch.no_grad():
        torch.testing.assert_close(engine(x), model(x))


def test_without_representation_it_says_so():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(AttributeError, match="Sequential has no representation"):
        Engine(model, torch.rand(1, 3, 2, 2)).representation(torch.rand(1, 3, 2, 2))


def test_multiply_adds_by_hand():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 64, 10))
    assert multiply_adds(model, torch.rand(1, 3, 8, 8)) == 3 * 4 * 9 * 64 + 4 * 64 * 10


def test_auto_follows_the_amount_of_work(monkeypatch, standard_model, digits):
    image = digits[1].images[:1]
    assert not pays_to_compile("auto", standard_model, image, num_looks=10**12)
    monkeypatch.setitem(COMPILING_PAYS, "cpu", 1e13)
    enough = COMPILING_PAYS["cpu"] / multiply_adds(standard_model, image)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    below, above = int(enough * 0.99 / 100), int(enough * 1.01 / 100)
    assert not pays_to_compile("auto", standard_model, image, num_looks=100 * below)
    assert pays_to_compile("auto", standard_model, image, num_looks=100 * above)
    assert not pays_to_compile("plain", standard_model, image, num_looks=100 * above)
    assert pays_to_compile("compiled", standard_model, image, num_looks=1)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not pays_to_compile("auto", standard_model, image, num_looks=100 * above)
    with pytest.raises(ConfigError, match=r"engine = 'compiled': no C\+\+ compiler was found; allowed: auto, plain"):
        pays_to_compile("compiled", standard_model, image, num_looks=1)


@pytest.mark.parametrize(
    ("left", "size", "on_cpu", "on_cuda"),
    [
        (0, 64, 0, 0),
        (64, 64, 64, 64),
        (33, 64, 33, 64),
        (32, 64, 32, 32),
        (3, 100, 3, 3),
        (1, 500, 1, 1),
    ],
)
def test_batches_shrink_at_once_on_the_cpu_and_by_halves_on_cuda(left, size, on_cpu, on_cuda):
    assert _next_size(left, size, is_cuda=False) == on_cpu
    assert _next_size(left, size, is_cuda=True) == on_cuda


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("iterate", ["last", "best", "first_success"])
def test_threads_find_what_one_finds(two_threads, standard_model, digits, iterate):
    images, labels = digits[1].images[:101], digits[1].labels[:101]
    arguments = {"eps": 0.5, "step_size": 0.1, "num_steps": 10, "iterate": iterate, "random_start": True}
    found = {}
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        engine = Engine(standard_model, images[:4])
        found[num_threads] = pgd(engine, images, labels, generator=torch.Generator().manual_seed(1), **arguments)
        assert torch.get_num_threads() == num_threads
    torch.testing.assert_close(found[1].x_adv, found[2].x_adv, rtol=0, atol=1e-4)
    assert torch.equal(found[1].success, found[2].success)


class Forgetful(nn.Module):
    """Keeps on itself what it saw, as networks with hooks do: two threads in one of it would mix their images up."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        self.seen = x.flatten(1)
        time.sleep(0.001)
        return self.head(self.seen)


def test_threads_do_not_share_what_a_network_keeps(two_threads):
    model, images = Forgetful(), torch.rand(64, 1, 2, 2)
    labels = torch.arange(64) % 3
    arguments = {"eps": 0.5, "step_size": 0.1, "num_steps": 5}
    plain = pgd(model, images, labels, **arguments)
    torch.testing.assert_close(pgd(Engine(model, images[:2]), images, labels, **arguments).x_adv, plain.x_adv)


def test_an_error_in_one_thread_ends_the_others(two_threads):
    class Failing(nn.Module):
        def forward(self, x):
            if x.shape[0] > 4 and bool((x > 0.9).any()):
                raise RuntimeError("no more")
            time.sleep(0.01)
            return x.flatten(1)

    images = torch.zeros(64, 1, 2, 2)
    images[0] = 0.95  # in the first part
    engine = Engine(Failing(), images[1:3])
    started = time.monotonic()
    with pytest.raises(RuntimeError, match="no more"):
        pgd(engine, images, torch.zeros(64, dtype=torch.int64), eps=0.1, step_size=0.01, num_steps=1000)
    assert time.monotonic() - started < 5  # a thousand steps are ten seconds and more
    engine(images[1:])  # and it still works


@pytest.mark.cuda
def test_half_precision_keeps_the_gradients_direction(standard_model, digits):
    model = copy.deepcopy(standard_model).cuda()
    images, labels = digits[1].images[:300].cuda(), digits[1].labels[:300].cuda()
    arguments = {"eps": 0.5, "step_size": 0.1, "num_steps": 10}
    plain = pgd(model, images, labels, **arguments)
    found = pgd(Engine(model, images[:4]), images, labels, **arguments)
    assert int((found.success != plain.success).sum()) <= 3
