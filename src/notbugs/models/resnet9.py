"""ResNet-9 in the shape that replicated the paper's D_rand in minutes: a strided 5x5 convolution early, a narrow end.

Source: Jordan 2024, github.com/KellerJordan/features-not-bugs; after Page 2018, How to Train Your ResNet. Its logits
were scaled by 0.2, which the head here learns.
"""

from torch import Tensor, nn

from notbugs.models.base import Classifier, convolution


class _Residual(nn.Module):
    """x + two convolutions of it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*convolution(channels, channels), *convolution(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        return x + self.layers(x)


class ResNet9(Classifier):
    """Convolutions of width, 2·width, 4·width and 2·width channels, residual blocks between; global max-pooling.

    The representation is 2·width numbers.
    """

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, width: int) -> None:
        body = nn.Sequential(
            *convolution(image_shape[0], width),
            nn.Conv2d(width, 2 * width, 5, stride=2, padding=2, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
            _Residual(2 * width),
            *convolution(2 * width, 4 * width),
            nn.MaxPool2d(2, ceil_mode=True),  # of images of 4 pixels something is left
            _Residual(4 * width),
            *convolution(4 * width, 2 * width),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        super().__init__(body, image_shape[0], 2 * width, num_classes)
