"""A network of your own.

model:
  architecture: lab.networks:wide
  kwargs: {channels: 32}
"""

from torch import nn


def wide(image_shape: tuple[int, int, int], num_classes: int, channels: int = 64) -> nn.Module:
    """One wide convolution: normalised images (N, C, H, W) -> logits (N, K)."""
    convolution = nn.Conv2d(image_shape[0], channels, 3, padding=1, bias=False)
    body = [convolution, nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*body, nn.Linear(channels, num_classes))
