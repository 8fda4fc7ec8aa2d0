"""Small networks for small images: a CNN, a deeper one, and a multilayer perceptron."""

from typing import ClassVar

from torch import nn

from notbugs.models.base import Classifier, averaged, convolution


class SmallCNN(Classifier):
    """Three 3x3 convolutions of 2·width, 4·width and width channels, then global average pooling.

    The representation is `width` numbers, a bottleneck. With as many numbers as an image has pixels, the image
    can be read back from them, and D_R would be D itself. The last two convolutions halve height and width: what
    a robust model and a standard one look at is then large parts of a digit (benchmarks/digits_settings.md).
    """

    STAGES: ClassVar[tuple[tuple[int, int], ...]] = ((2, 1), (4, 2), (1, 2))
    """Of each convolution: channels in multiples of the width, and stride."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, width: int) -> None:
        layers: list[nn.Module] = []
        channels = image_shape[0]
        for factor, stride in self.STAGES:
            layers += convolution(channels, factor * width, stride)
            channels = factor * width
        super().__init__(averaged(*layers), image_shape[0], width, num_classes)


class DeepCNN(SmallCNN):
    """SmallCNN with two convolutions in place of each: six, then global average pooling to `width` numbers."""

    STAGES: ClassVar[tuple[tuple[int, int], ...]] = ((2, 1), (2, 1), (4, 2), (4, 1), (2, 2), (1, 1))


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
