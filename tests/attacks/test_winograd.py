"""Convolutions with fewer multiplications against those of torch."""

import copy

import pytest
import torch
from torch import nn

from notbugs.attacks import pgd
from notbugs.attacks.engine import Engine
from notbugs.attacks.winograd import NARROWEST, WinogradConv2d, suits, use_winograd_


@pytest.fixture
def wide_model():
    """A small network whose second convolution is wide, on images of (3, 8, 8).

    It is smooth: at a kink, which a ReLU has, rounding decides for some images where an attack goes on.
    """
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, NARROWEST, 3, padding=1, stride=2),
        nn.BatchNorm2d(NARROWEST),
        nn.SiLU(inplace=True),
        nn.Conv2d(NARROWEST, NARROWEST, 3, padding=1, bias=False),
        nn.BatchNorm2d(NARROWEST),
        nn.SiLU(inplace=True),
        nn.Flatten(),
        nn.Linear(16 * NARROWEST, 5),
    ]
    return nn.Sequential(*layers).eval()


def _wide(**changes) -> nn.Conv2d:
    settings = {"in_channels": NARROWEST, "out_channels": NARROWEST, "kernel_size": 3, "padding": 1, **changes}
    return nn.Conv2d(**settings).requires_grad_(False)


def _winograd(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, WinogradConv2d)]


@pytest.mark.parametrize("sides", [(4, 4), (8, 8), (7, 7), (6, 5), (5, 12)], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
def test_values_and_gradient_are_a_convolutions(sides, bias):
    """No further from float64 than twice the direct convolution in float32 is."""
    torch.manual_seed(1)
    conv = _wide(out_channels=NARROWEST + 32, bias=bias)
    inputs, slopes = torch.randn(3, NARROWEST, *sides), torch.randn(3, NARROWEST + 32, *sides)

    def both(module: nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        x = inputs.to(dtype, memory_format=torch.channels_last).requires_grad_()
        outputs = module(x)
        (gradient,) = torch.autograd.grad(outputs, x, slopes.to(dtype))
        return outputs.detach(), gradient

    exact = both(copy.deepcopy(conv).double(), torch.float64)
    direct, found = both(conv, torch.float32), both(WinogradConv2d(conv), torch.float32)
    for truth, usual, value in zip(exact, direct, found, strict=True):
        assert value.shape == usual.shape
        assert value.is_contiguous(memory_format=torch.channels_last)
        allowed = 2 * float((usual - truth).abs().max())
        assert 0 < allowed < 1e-4
        assert float((value - truth).abs().max()) <= allowed


def test_the_engine_uses_it_and_attacks_alike(wide_model):
    torch.manual_seed(2)
    images, labels = torch.rand(40, 3, 8, 8), torch.arange(40) % 5
    engine = Engine(wide_model, images[:4])
    assert len(_winograd(engine.network)) == 1
    assert not _winograd(wide_model)
    with torch.no_grad():
        torch.testing.assert_close(engine(images), wide_model(images), rtol=0, atol=1e-5)
    settings = {"norm": "l2", "eps": 0.5, "step_size": 0.1, "num_steps": 10}
    found, plain = pgd(engine, images, labels, **settings), pgd(wide_model, images, labels, **settings)
    torch.testing.assert_close(found.x_adv, plain.x_adv, rtol=0, atol=1e-4)
    assert torch.equal(found.success, plain.success)


def test_it_follows_the_network(wide_model):
    images = torch.rand(4, 3, 8, 8)
    engine = Engine(wide_model, images)
    with torch.no_grad():
        for parameter in wide_model.parameters():
            parameter.mul_(1.3)
        assert not torch.allclose(engine(images), wide_model(images))
        engine.refresh()
        torch.testing.assert_close(engine(images), wide_model(images))


def test_a_network_that_learns_is_convolved_directly(wide_model):
    assert not _winograd(Engine(wide_model, torch.rand(4, 3, 8, 8), learning=True).network)


def test_copies_share_the_filters(wide_model):
    use_winograd_(wide_model.requires_grad_(False), torch.rand(1, 3, 8, 8))
    (one,), (other,) = _winograd(wide_model), _winograd(copy.deepcopy(wide_model))
    assert one is not other
    assert one._filters is other._filters


def test_small_images_are_convolved_directly(wide_model):
    assert not _winograd(Engine(wide_model[:6], torch.rand(2, 3, 4, 4)).network)
    small = torch.rand(2, NARROWEST, 3, 3)
    conv = _wide()
    assert torch.equal(WinogradConv2d(conv)(small), conv(small))


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel_size": 1},
        {"kernel_size": 5},
        {"kernel_size": (3, 1)},
        {"stride": 2},
        {"dilation": 2},
        {"padding": 0},
        {"padding": (1, 0)},
        {"groups": 2},
        {"padding_mode": "circular"},
        {"in_channels": NARROWEST // 2},
        {"out_channels": NARROWEST // 2},
        {"dtype": torch.float64},
    ],
    ids=str,
)
def test_what_does_not_suit(changes):
    assert suits(_wide())
    assert suits(_wide(padding="same"))
    assert not suits(_wide(**changes))


def test_hooks_and_subclasses_stay():
    class Other(nn.Conv2d):
        pass

    hooked = _wide()
    hooked.register_forward_hook(lambda *_: None)
    assert not suits(hooked)
    assert not suits(Other(NARROWEST, NARROWEST, 3, padding=1))
