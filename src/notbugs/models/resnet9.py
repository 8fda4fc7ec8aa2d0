"""ResNet-9, the fastest residual network for CIFAR-10 of its time.

Source: Page 2018, How to Train Your ResNet. Its logits were scaled by 1/8, which the head here learns.
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
    """Four convolutions of width to 8·width channels, residual blocks after the second and the last, max-pooling."""

    def __init__(self, image_shape: tuple[int, int, int], num_classes: int, width: int) -> None:
        body = nn.Sequential(
            *convolution(image_shape[0], width),
            *convolution(width, 2 * width),
            _halved(),
            _Residual(2 * width),
            *convolution(2 * width, 4 * width),
            _halved(),
            *convolution(4 * width, 8 * width),
            _halved(),
            _Residual(8 * width),
            nn.AdaptiveMaxPool2d(1),
            nn.Flatten(),
        )
        super().__init__(body, image_shape[0], 8 * width, num_classes)


def _halved() -> nn.Module:
    return nn.MaxPool2d(2, ceil_mode=True)  # of images of 4 pixels something is left
