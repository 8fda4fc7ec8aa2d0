"""Small networks for small images: a CNN, a deeper one, and a multilayer perceptron."""

from collections.abc import Sequence

from torch import nn

from notbugs.models.base import Classifier, averaged, convolution


class SmallCNN(Classifier):
    """Three 3x3 convolutions of 2·width, 4·width and width channels, then global average pooling.

    The representation is `width` numbers, a bottleneck. With as many numbers as an image has pixels, the image
    can be read back from them, and D_R would be D itself. The last two convolutions halve height and width: what
    a robust model and a standard one look at is then large parts of a digit (benchmarks/digits_settings.md).
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, width: int) -> None:
        stages = ((2 * width, 1), (4 * width, 2), (width, 2))
        super().__init__(_convolutions(image_shape[0], stages), image_shape[0], width, num_classes)


class DeepCNN(Classifier):
    """SmallCNN with two convolutions in place of each: six, then global average pooling to `width` numbers."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, width: int) -> None:
        stages = ((2 * width, 1), (2 * width, 1), (4 * width, 2), (4 * width, 1), (2 * width, 2), (width, 1))
        super().__init__(_convolutions(image_shape[0], stages), image_shape[0], width, num_classes)


class MLP(Classifier):
    """Three fully connected layers of 2·width, 2·width and width units; it knows nothing of neighbouring pixels."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, width: int) -> None:
        channels, height, breadth = image_shape
        layers: list[nn.Module] = [nn.Flatten()]
        previous = channels * height * breadth
        for out in (2 * width, 2 * width, width):
            layers += [nn.Linear(previous, out, bias=False), nn.BatchNorm1d(out), nn.ReLU(inplace=True)]
            previous = out
        super().__init__(nn.Sequential(*layers), channels, width, num_classes)


def _convolutions(channels: int, stages: Sequence[tuple[int, int]]) -> nn.Sequential:
    """A convolution for each (channels out, stride), then the average over pixels."""
    layers: list[nn.Module] = []
    for out, stride in stages:
        layers += convolution(channels, out, stride)
        channels = out
    return averaged(*layers)
