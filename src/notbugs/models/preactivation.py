"""Residual networks whose blocks normalise before they convolve: PreActResNet-18, and Wide ResNets.

Source: He et al. 2016, "Identity mappings in deep residual networks"; Zagoruyko & Komodakis 2016, "Wide residual
networks".
"""

from torch import Tensor, nn
from torch.nn import functional

from notbugs.models.base import Classifier, averaged, first_convolution, initialise_, is_large


class PreActivation(nn.Module):
    """Two 3x3 convolutions, each behind BatchNorm and ReLU, beside a shortcut: a convolution where the shape changes.

    Args:
        bare_shortcut: that convolution is given the block's input as it is, not behind the first BatchNorm and ReLU.
    """

    def __init__(self, channels: int, out: int, stride: int, *, bare_shortcut: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        changes = stride != 1 or channels != out
        self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False) if changes else None
        self.bare_shortcut = bare_shortcut

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, H/stride, W/stride)."""
        given = functional.relu(self.bn1(x))
        found: Tensor = self.conv2(functional.relu(self.bn2(self.conv1(given))))
        if self.shortcut is None:
            return x + found
        return found + self.shortcut(x if self.bare_shortcut else given)


def preact_resnet18(
    image_shape: tuple[int, int, int], num_classes: int, width: int, *, bare: bool = False
) -> Classifier:
    """PreActResNet-18; the representation has 8·width numbers.

    Args:
        bare: without the BatchNorm and ReLU at the end, and with bare shortcuts: a variant that is often trained
            adversarially.
    """
    return _preactivated(image_shape, num_classes, width, [width * 2**group for group in range(4)], 2, bare)


def wide_resnet(depth: int, image_shape: tuple[int, int, int], num_classes: int, width: int) -> Classifier:
    """WRN-depth-(width/16): three groups of `width`, 2·width and 4·width channels behind 16 of the first convolution.

    The representation has 4·width numbers.
    """
    return _preactivated(image_shape, num_classes, 16, [width, 2 * width, 4 * width], (depth - 4) // 6, False)


def _preactivated(
    image_shape: tuple[int, int, int], num_classes: int, first: int, groups: list[int], depth: int, bare: bool
) -> Classifier:
    """The first convolution, so many blocks in each group, and what stands at the end."""
    layers: list[nn.Module] = [first_convolution(image_shape, first)]
    if is_large(image_shape):
        layers.append(nn.MaxPool2d(3, stride=2, padding=1))
    channels = first
    for group, out in enumerate(groups):
        blocks = []
        for number in range(depth):
            blocks.append(PreActivation(channels, out, 2 if group and not number else 1, bare_shortcut=bare))
            channels = out
        layers.append(nn.Sequential(*blocks))
    if not bare:
        layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    model = Classifier(averaged(*layers), image_shape[0], channels, num_classes)
    initialise_(model, "fan_out")
    return model
