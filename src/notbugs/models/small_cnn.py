"""A small convolutional network for small images."""

from torch import nn

from notbugs.models.base import Classifier


class SmallCNN(Classifier):
    """Three 3x3 convolutions of 2·width, 4·width and width channels, then global average pooling.

    The representation is `width` numbers, a bottleneck. With as many numbers as an image has pixels, the image
    can be read back from them, and D_R would be D itself. The last two convolutions halve height and width: what
    a robust model and a standard one look at is then large parts of a digit (benchmarks/digits_settings.md).
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, width: int) -> None:
        channels = image_shape[0]
        layers: list[nn.Module] = []
        previous = channels
        for out, stride in ((2 * width, 1), (4 * width, 2), (width, 2)):
            layers += [nn.Conv2d(previous, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out)]
            layers.append(nn.ReLU(inplace=True))
            previous = out
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(nn.Sequential(*layers), channels, previous, num_classes)
