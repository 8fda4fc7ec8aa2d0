"""Networks as others release them: their names of the weights, and what they compute, written from the papers."""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional


def _conv(channels: int, out: int, size: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, size, stride, padding=size // 2, bias=False)


class Residual(nn.Module):
    """A block of a CIFAR ResNet: kernel sizes (3, 3), or (1, 3, 1) with four times as many channels at the end."""

    def __init__(self, channels: int, planes: int, stride: int, sizes: tuple[int, ...]) -> None:
        super().__init__()
        out = planes * (4 if len(sizes) == 3 else 1)
        widths = [channels, *[planes] * (len(sizes) - 1), out]
        self.sizes = sizes
        for number, size in enumerate(sizes):
            step = stride if number == sizes.index(3) else 1
            setattr(self, f"conv{number + 1}", _conv(widths[number], widths[number + 1], size, step))
            setattr(self, f"bn{number + 1}", nn.BatchNorm2d(widths[number + 1]))
        changes = stride != 1 or channels != out
        self.shortcut = (
            nn.Sequential(_conv(channels, out, 1, stride), nn.BatchNorm2d(out)) if changes else nn.Sequential()
        )

    def forward(self, x: Tensor) -> Tensor:
        found = x
        for number in range(len(self.sizes)):
            found = functional.relu(found) if number else found
            found = getattr(self, f"bn{number + 1}")(getattr(self, f"conv{number + 1}")(found))
        return functional.relu(found + self.shortcut(x))


class ReleasedResNet(nn.Module):
    """conv1, bn1, layer1 to layer4, linear."""

    def __init__(self, depths: tuple[int, ...], sizes: tuple[int, ...], width: int, classes: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv(3, width, 3), nn.BatchNorm2d(width)
        channels = width
        for group, depth in enumerate(depths):
            blocks = []
            for number in range(depth):
                blocks.append(Residual(channels, width * 2**group, 2 if group and not number else 1, sizes))
                channels = width * 2**group * (4 if len(sizes) == 3 else 1)
            setattr(self, f"layer{group + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(x.mean(dim=(2, 3)))


class Before(nn.Module):
    """A pre-activation block; its shortcut is called `shortcut` or, in Wide ResNets, `convShortcut`."""

    def __init__(self, channels: int, out: int, stride: int, *, bare: bool, wide: bool) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(channels), _conv(channels, out, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(out), _conv(out, out, 3)
        self.bare = bare
        if stride != 1 or channels != out:
            shortcut = _conv(channels, out, 1, stride)
            if wide:
                self.convShortcut = shortcut
            else:
                self.shortcut = nn.Sequential(shortcut)

    def forward(self, x: Tensor) -> Tensor:
        active = functional.relu(self.bn1(x))
        found = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        shortcut = getattr(self, "convShortcut", getattr(self, "shortcut", None))
        return found + (x if shortcut is None else shortcut(x if self.bare else active))


class ReleasedPreAct(nn.Module):
    """conv1, layer1 to layer4, bn unless it is bare, linear."""

    def __init__(self, width: int, classes: int, *, bare: bool) -> None:
        super().__init__()
        self.conv1 = _conv(3, width, 3)
        channels = width
        for group in range(4):
            out = width * 2**group
            first = Before(channels, out, 2 if group else 1, bare=bare, wide=False)
            setattr(self, f"layer{group + 1}", nn.Sequential(first, Before(out, out, 1, bare=bare, wide=False)))
            channels = out
        if not bare:
            self.bn = nn.BatchNorm2d(channels)
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.conv1(x)))))
        if hasattr(self, "bn"):
            x = functional.relu(self.bn(x))
        return self.linear(x.mean(dim=(2, 3)))


class ReleasedWide(nn.Module):
    """conv1, block1 to block3, each with its blocks under `layer`, bn1, fc; sub_block1 is not used."""

    def __init__(self, width: int, classes: int, depth: int = 4) -> None:
        super().__init__()
        self.conv1 = _conv(3, 16, 3)
        channels = 16
        for group in range(3):
            out, blocks = width * 2**group, []
            for number in range(depth):
                blocks.append(Before(channels, out, 2 if group and not number else 1, bare=False, wide=True))
                channels = out
            setattr(self, f"block{group + 1}", nn.ModuleDict({"layer": nn.Sequential(*blocks)}))
        self.sub_block1 = nn.ModuleDict({"layer": nn.Sequential(Before(16, width, 1, bare=False, wide=True))})
        self.bn1, self.fc = nn.BatchNorm2d(channels), nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        for block in (self.block1, self.block2, self.block3):
            x = block["layer"](x)
        return self.fc(functional.relu(self.bn1(x)).mean(dim=(2, 3)))


def lived_in(network: nn.Module) -> nn.Module:
    """The network with statistics in its BatchNorms, in eval mode: no weight is what it was made with."""
    generator = torch.Generator().manual_seed(0)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(0.5 + noise if tensor.ndim <= 1 else tensor + 0.1 * (noise - 0.5))
    return network.eval()


MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])


def logits_of(network: nn.Module, x: Tensor) -> Tensor:
    """Of the network behind the normalisation that it was released with."""
    with torch.no_grad():
        return network((x - MEAN.view(1, 3, 1, 1)) / STD.view(1, 3, 1, 1))


def of_robustness(network: nn.Module, **extras: object) -> dict[str, object]:
    """A checkpoint as MadryLab/robustness saves it: each weight twice, and the optimizer's state."""
    state: OrderedDict[str, Tensor] = OrderedDict()
    state["module.normalizer.new_mean"], state["module.normalizer.new_std"] = MEAN[:, None, None], STD[:, None, None]
    for place in ("model", "attacker.model"):
        for name, tensor in network.state_dict().items():
            state[f"module.{place}.{name}"] = tensor
    state["module.attacker.normalize.new_mean"] = MEAN[:, None, None]
    state["module.attacker.normalize.new_std"] = STD[:, None, None]
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    return {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "schedule": schedule.state_dict(),
        "epoch": 150,
        "amp": None,
        "adv_prec1": torch.tensor(53.0),
        **extras,
    }
