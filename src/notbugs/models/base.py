"""What every classifier of the project has in common."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

LARGE = 128
"""Height or width from which the networks made for ImageNet keep their own stem, pixels."""


def is_large(image_shape: tuple[int, int, int]) -> bool:
    """Whether images (C, H, W) are met with ImageNet's stem: a convolution and max-pooling that quarter their sides."""
    return max(image_shape[1:]) >= LARGE


def first_convolution(image_shape: tuple[int, int, int], width: int) -> nn.Conv2d:
    """3x3 of stride 1 for small images, 7x7 of stride 2 for large ones."""
    if is_large(image_shape):
        return nn.Conv2d(image_shape[0], width, 7, stride=2, padding=3, bias=False)
    return nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False)


def stem(image_shape: tuple[int, int, int], width: int) -> list[nn.Module]:
    """The first convolution with BatchNorm and ReLU."""
    return [first_convolution(image_shape, width), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]


def convolution(channels: int, out: int, stride: int = 1) -> list[nn.Module]:
    """A 3x3 convolution with BatchNorm and ReLU."""
    return [nn.Conv2d(channels, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]


def averaged(*layers: nn.Module) -> nn.Sequential:
    """The layers, and the average over pixels of what they give, flat."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def initialise_(model: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """Draw the convolutions as He et al. 2015 have it: variance 2 / (inputs, or outputs, of a unit)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode=mode, nonlinearity="relu")


class Normalise(nn.Module):
    """(x - mean) / std per channel, with mean and std as buffers, so that eps stays in [0, 1] pixel units."""

    mean: Tensor
    std: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(1, num_channels, 1, 1))
        self.register_buffer("std", torch.ones(1, num_channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> same shape."""
        return (x - self.mean) / self.std


class Classifier(nn.Module):
    """Normalisation, a body ending in a flat representation, and one linear layer.

    Args:
        body: (N, C, H, W) normalised -> (N, num_features).
        num_features: size of the representation.
    """

    attack_loss: ClassVar[str] = "cross_entropy"
    """Name of the loss that targeted attacks on it minimise."""

    def __init__(self, body: nn.Module, num_channels: int, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.normalise = Normalise(num_channels)
        self.body = body
        self.head = nn.Linear(num_features, num_classes)
        self.description: Any = None

    def representation(self, x: Tensor) -> Tensor:
        """Penultimate activations g(x): (N, C, H, W) in [0, 1] -> (N, num_features)."""
        features: Tensor = self.body(self.normalise(x))
        return features

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (N, C, H, W) in [0, 1] -> (N, num_classes)."""
        logits: Tensor = self.head(self.representation(x))
        return logits
