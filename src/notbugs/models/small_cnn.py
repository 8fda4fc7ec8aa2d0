"""A small convolutional network for small images."""

from torch import nn

from notbugs.models.base import Classifier


class SmallCNN(Classifier):
    """Three 3x3 convolutions of width, 2·width, 4·width channels, then global average pooling.

    The average pooling makes the representation a bottleneck (4·width numbers). Without it 64 pixels can be
    read back from the representation, and D_R would be D itself.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, width: int) -> None:
        channels, height, _ = image_shape
        widths = (width, 2 * width, 4 * width)
        strides = (1, 2, 1) if height <= 16 else (1, 2, 2)
        layers: list[nn.Module] = []
        previous = channels
        for out, stride in zip(widths, strides, strict=True):
            layers += [nn.Conv2d(previous, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            previous = out
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(nn.Sequential(*layers), channels, previous, num_classes)
