"""Folding against the network it came from, and what must not be folded."""

import copy

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from notbugs.attacks.folding import Fold, find_folds, fold_, refold_
from notbugs.models import create_model


def settle(model: nn.Module) -> nn.Module:
    """Give the BatchNorms statistics and weights that are not the initial ones; eval mode."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
            for tensor, low, high in (
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
            ):
                if tensor is not None:
                    tensor.data.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))
    return model.eval()


def folded(model: nn.Module) -> tuple[nn.Module, list[Fold]]:
    network = copy.deepcopy(model)
    folds = find_folds(network)
    fold_(network, folds)
    refold_(network, model, folds)
    return network, folds


class Branching(nn.Module):
    """Cannot be traced: its path depends on the data. Only the inside of `stem` can."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.stem(x).mean(dim=(2, 3))
        return self.head(z) if z.sum() > -1e9 else self.head(-z)


class ReadTwice(nn.Module):
    """The convolution's output goes into the BatchNorm and past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

    def forward(self, x: Tensor) -> Tensor:
        z = self.conv(x)
        return (self.norm(z) + z).mean(dim=(2, 3))


class Shared(nn.Module):
    """One convolution, two BatchNorms."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(self.first(self.conv(x)))).mean(dim=(2, 3))


NETWORKS = {
    "resnet18": (lambda: create_model("resnet18", (3, 32, 32), tuple("abc"), width=8,
                                      generator=torch.Generator().manual_seed(0)), 20),
    "torchvision mobilenet": (lambda: torchvision.models.mobilenet_v2(num_classes=5), 52),
    "branching": (Branching, 1),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 6), nn.BatchNorm1d(6)), 1),
    "transposed": (lambda: nn.Sequential(nn.ConvTranspose2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()), 1),
    "no affine": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten()), 1),
    "densenet": (lambda: torchvision.models.densenet121(num_classes=5), None),
    "read twice": (ReadTwice, 0),
    "shared": (Shared, 0),
    "batch statistics": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten()), 0),
    "parametrised": (lambda: nn.Sequential(weight_norm(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.Flatten()), 0),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_folded_network_is_the_same_function(name):
    build, expected = NETWORKS[name]
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        model = settle(build())
    x = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    network, folds = folded(model)
    if expected is not None:
        assert len(folds) == expected
    else:
        assert len(folds) > 50  # DenseNet normalises before it convolves: half of its BatchNorms stay
    with torch.no_grad():
        before, after = model(x), network(x)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5 * float(before.abs().max()))
    kept = sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert kept + len([f for f in folds if "2d" in type(model.get_submodule(f.norm)).__name__]) == sum(
        isinstance(module, nn.BatchNorm2d) for module in model.modules()
    )


def test_refolding_follows_the_weights():
    model = settle(Branching())
    network, folds = folded(model)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.mul_(1.25) if tensor.is_floating_point() else None
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert not torch.allclose(network(x), model(x), atol=1e-3)
        refold_(network, model, folds)
        torch.testing.assert_close(network(x), model(x), rtol=1e-5, atol=1e-5)


def test_a_module_with_a_hook_is_left_alone():
    model = settle(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)))
    assert find_folds(model) == [Fold("0", "1")]
    model[0].register_forward_hook(lambda *_: None)
    assert find_folds(model) == []


def test_a_layer_that_shares_its_weight_is_left_alone():
    """Folded into one of the two, the BatchNorm would change the other."""
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    assert find_folds(settle(model)) == [Fold("2", "3")]
    model[2].weight = model[0].weight
    assert find_folds(model) == []
