"""Networks made for ImageNet, with stems for small images too: ResNets, VGG-16, DenseNet-121, an Inception network.

For small images the stem is a 3x3 convolution of stride 1 without max-pooling (He et al. 2016, section 4.2, as used for
CIFAR-10 in the paper), for large ones ImageNet's; everything behind it is as usual. Images far smaller than 32 pixels
pass too: pooling stops at one pixel.
"""

from collections import OrderedDict
from typing import Literal

from torch import nn

from notbugs.models.base import Classifier, averaged, convolution, first_convolution, initialise_, is_large, stem

VGG16 = ((1, 1), (2, 2), (4, 4, 4), (8, 8, 8), (8, 8, 8))
"""Channels of each convolution in multiples of the width; max-pooling after every group."""
INCEPTION = (
    ((1, 1.5, 2, 0.25, 0.5, 0.5), (2, 2, 3, 0.5, 1.5, 1)),
    (
        (3, 1.5, 3.25, 0.25, 0.75, 1),
        (2.5, 1.75, 3.5, 0.375, 1, 1),
        (2, 2, 4, 0.375, 1, 1),
        (1.75, 2.25, 4.5, 0.5, 1, 1),
        (4, 2.5, 5, 0.5, 2, 2),
    ),
    ((4, 2.5, 5, 0.5, 2, 2), (6, 3, 6, 0.75, 2, 2)),
)
"""GoogLeNet's blocks 3a to 5b, in multiples of the width (64): 1x1, 3x3 reduced, 3x3, 5x5 reduced, 5x5, pooled."""


def resnet(
    block_name: str, depths: tuple[int, ...], image_shape: tuple[int, int, int], num_classes: int, width: int
) -> Classifier:
    """A ResNet of torchvision's blocks, so many in each group.

    The representation has as many numbers as the last group has channels: width·2^(groups − 1), four times that of
    "Bottleneck" blocks.
    """
    from torchvision.models import resnet as kinds  # imported here: it costs seconds that other models need not pay

    block = getattr(kinds, block_name)
    layers = stem(image_shape, width)
    if is_large(image_shape):
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    channels = width
    for group, depth in enumerate(depths):
        planes = width * 2**group
        blocks = []
        for number in range(depth):
            stride = 2 if group > 0 and number == 0 else 1
            blocks.append(block(channels, planes, stride, _shortcut(channels, planes * block.expansion, stride)))
            channels = planes * block.expansion
        layers.append(nn.Sequential(*blocks))
    return _initialised(averaged(*layers), image_shape, channels, num_classes, "fan_out")


def _shortcut(channels: int, out: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))


def vgg16(image_shape: tuple[int, int, int], num_classes: int, width: int) -> Classifier:
    """VGG-16 with BatchNorm and one linear layer at the end; the representation has 8·width numbers.

    Source: Simonyan & Zisserman 2015, configuration D.
    """
    layers: list[nn.Module] = []
    channels = image_shape[0]
    for group in VGG16:
        for factor in group:
            layers += convolution(channels, factor * width)
            channels = factor * width
        layers.append(nn.MaxPool2d(2, ceil_mode=True))
    return _initialised(averaged(*layers), image_shape, channels, num_classes)


def densenet121(image_shape: tuple[int, int, int], num_classes: int, width: int) -> Classifier:
    """DenseNet-121 of growth rate width/2, from torchvision; the representation has 16·width numbers.

    Source: Huang et al. 2017.
    """
    from torchvision.models import DenseNet  # imported here: it costs seconds that other models need not pay

    whole = DenseNet(growth_rate=max(width // 2, 1), num_init_features=width)
    features = OrderedDict(whole.features.named_children())
    if not is_large(image_shape):
        for name in ("norm0", "relu0", "pool0"):
            del features[name]
    features["conv0"] = first_convolution(image_shape, width)
    for number in (1, 2, 3):  # an image of 8 pixels is one pixel after the third
        features[f"transition{number}"].pool = nn.AvgPool2d(2, ceil_mode=True)
    body = averaged(nn.Sequential(features), nn.ReLU())
    return _initialised(body, image_shape, whole.classifier.in_features, num_classes)


def inception(image_shape: tuple[int, int, int], num_classes: int, width: int) -> Classifier:
    """GoogLeNet's nine Inception blocks, from torchvision, with BatchNorm; the representation has 16·width numbers.

    Source: Szegedy et al. 2015, table 1; the auxiliary classifiers are left out.
    """
    from torchvision.models.googlenet import Inception

    channels = 3 * width
    layers: list[nn.Module] = []
    for part in (stem(image_shape, width), convolution(width, channels)):
        layers += part
        if is_large(image_shape):  # halves the side; small images keep theirs
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
    for number, group in enumerate(INCEPTION):
        if number:
            layers.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        for factors in group:
            sizes = [max(round(factor * width), 1) for factor in factors]
            layers.append(Inception(channels, *sizes))
            channels = sizes[0] + sizes[2] + sizes[4] + sizes[5]
    return _initialised(averaged(*layers), image_shape, channels, num_classes)


def _initialised(
    body: nn.Module,
    image_shape: tuple[int, int, int],
    num_features: int,
    num_classes: int,
    mode: Literal["fan_in", "fan_out"] = "fan_in",
) -> Classifier:
    model = Classifier(body, image_shape[0], num_features, num_classes)
    initialise_(model, mode)
    return model
