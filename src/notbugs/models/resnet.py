"""ResNets from torchvision's blocks, with stems for small and for large images.

For small images the stem is one 3x3 convolution of stride 1 without max-pooling (He et al. 2016, section 4.2, as used
for CIFAR-10 in the paper), for large ones ImageNet's: 7x7 of stride 2 and max-pooling. The four groups of blocks are
ImageNet's.
"""

from torch import nn

from notbugs.models.base import Classifier, averaged, initialise_, is_large, stem


def resnet8(image_shape: tuple[int, int, int], num_classes: int, width: int) -> Classifier:
    """A small ResNet of three blocks; the representation has 4·width numbers (64 at width 16)."""
    return _resnet("BasicBlock", (1, 1, 1), image_shape, num_classes, width)


def resnet18(image_shape: tuple[int, int, int], num_classes: int, width: int) -> Classifier:
    """ResNet-18; the representation has 8·width numbers (512 at width 64)."""
    return _resnet("BasicBlock", (2, 2, 2, 2), image_shape, num_classes, width)


def resnet50(image_shape: tuple[int, int, int], num_classes: int, width: int) -> Classifier:
    """ResNet-50; the representation has 32·width numbers (2048 at width 64)."""
    return _resnet("Bottleneck", (3, 4, 6, 3), image_shape, num_classes, width)


def _resnet(
    block_name: str, depths: tuple[int, ...], image_shape: tuple[int, int, int], num_classes: int, width: int
) -> Classifier:
    from torchvision.models import resnet  # imported here: it costs seconds that other models need not pay

    block = getattr(resnet, block_name)
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
    model = Classifier(averaged(*layers), image_shape[0], channels, num_classes)
    initialise_(model, "fan_out")
    return model


def _shortcut(channels: int, out: int, stride: int) -> nn.Module | None:
    if stride == 1 and channels == out:
        return None
    return nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
