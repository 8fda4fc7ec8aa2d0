"""The engine against the network it was made from."""

import copy
import shutil
import time

import pytest
import torch
from torch import Tensor, nn

from notbugs.attacks import engine as engine_module
from notbugs.attacks import pgd
from notbugs.attacks.engine import Engine, can_compile, frozen, multiply_adds, pays_to_compile
from notbugs.attacks.pgd import _next_size
from notbugs.runtime.devices import TRAITS, Traits
from notbugs.runtime.errors import ConfigError


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


class Viewing(nn.Module):
    """Flattens by `view`, which channels-last images do not allow."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.convolution(x).view(-1, 4 * 64))


def test_channels_last_is_tried_and_taken_back():
    model, x = Viewing().eval(), torch.rand(20, 3, 8, 8)
    engine = Engine(model, x[:4])
    assert not engine.channels_last
    assert Engine(nn.Sequential(model.convolution, nn.Flatten(), model.head), x[:4]).channels_last
    labels = torch.arange(20) % 5
    arguments = {"eps": 0.5, "step_size": 0.1, "num_steps": 3}
    torch.testing.assert_close(
        pgd(engine, x, labels, **arguments).x_adv, pgd(model, x, labels, **arguments).x_adv, rtol=0, atol=1e-5
    )


def test_an_engine_never_writes_on_the_callers_tensor():
    class Writing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x.sub_(0.5).div_(0.25)
            return x.flatten(1)[:, :3]

    x = torch.rand(20, 3, 2, 2)
    before = x.clone()
    engine = Engine(Writing(), x[:4])
    with torch.no_grad():
        logits = engine(x)
    assert torch.equal(x, before)
    torch.testing.assert_close(logits, ((x - 0.5) / 0.25).flatten(1)[:, :3])
    pgd(engine, x, torch.arange(20) % 3, eps=0.1, step_size=0.1, num_steps=2)
    assert torch.equal(x, before)


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
    monkeypatch.setitem(TRAITS, "cpu", Traits(compiling_pays=1e13))
    enough = 1e13 / multiply_adds(standard_model, image)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    below, above = int(enough * 0.99 / 100), int(enough * 1.01 / 100)
    assert not pays_to_compile("auto", standard_model, image, num_looks=100 * below)
    assert pays_to_compile("auto", standard_model, image, num_looks=100 * above)
    assert not pays_to_compile("plain", standard_model, image, num_looks=100 * above)
    assert pays_to_compile("compiled", standard_model, image, num_looks=1)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert not pays_to_compile("auto", standard_model, image, num_looks=100 * above)
    with pytest.raises(ConfigError, match=r"engine = 'compiled': it needs a C\+\+ compiler; allowed: auto, plain"):
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
    assert _next_size(left, size, by_halves=False) == on_cpu
    assert _next_size(left, size, by_halves=True) == on_cuda


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


# half precision, on the CPU in bfloat16: the branches that a GPU takes


def test_half_precision_finds_what_full_finds(standard_model, digits):
    images, labels = digits[1].images[:300], digits[1].labels[:300]
    arguments = {"eps": 0.5, "step_size": 0.1, "num_steps": 10}
    plain = pgd(standard_model, images, labels, **arguments)
    engine = Engine(standard_model, images[:4], half=torch.bfloat16)
    weights = [module.weight.dtype for module in engine.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert weights
    assert set(weights) == {torch.bfloat16}
    found = pgd(engine, images, labels, **arguments)
    assert found.x_adv.dtype == torch.float32
    assert float((found.x_adv - images).flatten(1).norm(dim=1).max()) <= 0.5 + 1e-5
    with torch.no_grad():
        fooled = standard_model(found.x_adv).argmax(dim=1) != labels
    assert int((fooled != plain.success).sum()) <= 6
    assert 100 < int(plain.success.sum()) < 300
    with torch.no_grad():
        expected = standard_model.representation(images)
        torch.testing.assert_close(engine.representation(images), expected, rtol=0, atol=0.05 * float(expected.max()))


class Delicate(nn.Module):
    """Its logits are what two large numbers differ by; bfloat16 keeps neither."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            self.head.weight.mul_(0.001).add_(1.0)
            self.head.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(x.flatten(1))
        return logits - logits.mean(dim=1, keepdim=True)


def test_half_precision_that_changes_the_logits_is_refused():
    model, images = Delicate(), torch.rand(8, 1, 2, 2)
    engine = Engine(model, images, half=torch.bfloat16)
    assert engine.half_dtype is None
    assert next(engine.parameters()).dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(engine(images), model(images))


def test_an_engine_in_half_precision_follows_the_network(busy_model):
    model, inputs = busy_model.float(), torch.rand(4, 2, 6, 6)
    engine = Engine(model, inputs, half=torch.bfloat16)
    assert engine.half_dtype == torch.bfloat16
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.3)
    engine.refresh()
    with frozen(model), torch.no_grad():
        expected = model(inputs)
        torch.testing.assert_close(engine(inputs), expected, rtol=0, atol=0.05 * float(expected.abs().max()))


def test_float64_images_are_never_attacked_in_half_precision(busy_model):
    engine = Engine(busy_model, torch.rand(4, 2, 6, 6, dtype=torch.float64), half=torch.bfloat16)
    assert engine.half_dtype is None


# compiling


def test_a_compiler_that_fails_is_tried_once(monkeypatch, capfd, standard_model, digits):
    def broken(graph, inputs):
        raise RuntimeError("no\nassembler")

    monkeypatch.setattr(engine_module, "COMPILER", broken)
    images, labels = digits[1].images[:50], digits[1].labels[:50]
    engine = Engine(standard_model, images[:4], compiled=True)
    arguments = {"eps": 0.5, "step_size": 0.1, "num_steps": 3}
    found = pgd(engine, images, labels, **arguments)
    expected = pgd(Engine(standard_model, images[:4]), images, labels, **arguments)
    torch.testing.assert_close(found.x_adv, expected.x_adv, rtol=0, atol=1e-5)
    said = capfd.readouterr().err
    assert said.count("engine: torch.compile failed") == 1
    assert "no assembler" in said
    assert said.strip().endswith("goes on without")


def test_every_size_and_mode_is_compiled(monkeypatch, standard_model, digits):
    """Five sizes with and without gradients are ten versions of a network: more than torch keeps by itself."""
    torch._dynamo.reset()
    made = []

    def counting(graph, inputs):
        made.append(len(inputs[-1]) if inputs else 0)
        return graph.forward

    monkeypatch.setattr(engine_module, "COMPILER", counting)
    engine = Engine(standard_model, digits[1].images[:4], compiled=True)
    sizes = (64, 32, 16, 8, 4)
    for size in sizes:
        images = digits[1].images[:size]
        with torch.no_grad():
            engine(images)
        engine(images.clone().requires_grad_()).sum().backward()
    before = len(made)
    assert before >= 2 * len(sizes)
    for size in sizes:  # all of them are kept
        engine(digits[1].images[:size].clone().requires_grad_()).sum().backward()
    assert len(made) == before


@pytest.mark.parametrize(
    ("compiler", "triton", "possible"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_compiling_for_cuda_needs_triton_and_a_c_compiler(monkeypatch, compiler, triton, possible):
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}" if compiler else None)
    monkeypatch.setattr(engine_module.importlib.util, "find_spec", lambda name: object() if triton else None)
    assert can_compile(torch.device("cuda")) == possible


@pytest.mark.cuda
def test_half_precision_keeps_the_gradients_direction(standard_model, digits):
    model = copy.deepcopy(standard_model).cuda()
    images, labels = digits[1].images[:300].cuda(), digits[1].labels[:300].cuda()
    arguments = {"eps": 0.5, "step_size": 0.1, "num_steps": 10}
    plain = pgd(model, images, labels, **arguments)
    found = pgd(Engine(model, images[:4]), images, labels, **arguments)
    assert int((found.success != plain.success).sum()) <= 3
