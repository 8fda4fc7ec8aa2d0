"""Filters by frequency, and common corruptions of five severities, each by its formula, for images of any size.

The kinds are those of Hendrycks & Dietterich 2019 ("Benchmarking neural network robustness to common corruptions and
perturbations"), and so are the values that do not hang on a number of pixels. Lengths are shares of the image's height
instead, so accuracies here are not those of their benchmarks.

Images are (N, C, H, W) in [0, 1] throughout, and so are corrupted ones.
"""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

SEVERITIES = 5
BLOCK = 8
"""Side of JPEG's blocks, pixels."""
SMOOTHNESS = 0.15
"""Standard deviation that smooths the displacements of `elastic`, a share of the height."""
Transfer = Callable[[Tensor, Tensor], Tensor]
"""Frequencies in cycles a pixel, along y and x -> by what each wave is multiplied; even in both."""


def frequencies(height: int, width: int) -> Tensor:
    """|f| of each wave of an image, (H, W//2 + 1), in fractions of Nyquist's frequency, half a cycle a pixel."""
    along_y, along_x = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    return 2 * (along_y.square() + along_x.square()).sqrt()


def low_pass(images: Tensor, radius: float) -> Tensor:
    """The image without the waves beyond a radius; not clipped, which would bring some of them back.

    Args:
        radius: in fractions of Nyquist's frequency; from √2 on nothing is taken away.
    """
    waves, shape = torch.fft.rfft2(images), images.shape[-2:]
    # 1e-6: a wave that lies on the radius must not be lost by rounding.
    passes = (frequencies(*shape) <= radius + 1e-6).to(images.device)
    return torch.fft.irfft2(waves * passes, s=shape)


def high_pass(images: Tensor, radius: float) -> Tensor:
    """What `low_pass` takes away: of mean 0, negative where the image is darker than its smooth part."""
    return images - low_pass(images, radius)


def _filtered(images: Tensor, transfer: Transfer) -> Tensor:
    """Convolve with the kernel of a transfer function, the image being mirrored at its edges; the mean is kept."""
    height, width = images.shape[-2:]
    whole = torch.cat([images, images.flip(-1)], dim=-1)
    whole = torch.cat([whole, whole.flip(-2)], dim=-2)  # (N, C, 2H, 2W), periodic without a jump
    along_y, along_x = torch.fft.fftfreq(2 * height)[:, None], torch.fft.rfftfreq(2 * width)[None]
    waves = torch.fft.rfft2(whole) * transfer(along_y, along_x).to(images)
    return torch.fft.irfft2(waves, s=whole.shape[-2:])[..., :height, :width]


def _normal(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(images.shape, generator=generator).to(images)


def _gaussian_noise(images: Tensor, std: float, generator: torch.Generator) -> Tensor:
    return images + std * _normal(images, generator)


def _shot_noise(images: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    """Poisson(x·photons)/photons."""
    return torch.poisson(images.cpu() * photons, generator=generator).to(images) / photons


def _impulse_noise(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """That share of the numbers is 0 or 1, as often."""
    draw = torch.rand(images.shape, generator=generator).to(images)
    return torch.where(draw < share / 2, 0.0, torch.where(draw < share, 1.0, images))


def _gaussian_blur(images: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """exp(−2π²σ²|f|²)."""
    sigma = std * images.shape[-2]
    return _filtered(images, lambda y, x: (-2 * (math.pi * sigma) ** 2 * (y.square() + x.square())).exp())


def _defocus_blur(images: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """A disk of light: 2·J₁(z)/z with z = 2πr|f|."""
    length = radius * images.shape[-2]

    def disk(y: Tensor, x: Tensor) -> Tensor:
        z = 2 * math.pi * length * (y.square() + x.square()).sqrt()
        return torch.where(z > 0, 2 * torch.special.bessel_j1(z) / z.clamp(min=1e-12), 1.0)

    return _filtered(images, disk)


def _motion_blur(images: Tensor, length: float, generator: torch.Generator) -> Tensor:
    """A horizontal line of light: sinc(l·f_x)."""
    pixels = length * images.shape[-2]
    return _filtered(images, lambda y, x: torch.sinc(pixels * x) + 0 * y)


def _fog(images: Tensor, amount: float, generator: torch.Generator) -> Tensor:
    """(x + a·p)/(1 + a); p is a random field in [0, 1], the same in all channels, of amplitude 1/|f|².

    That is the spectrum of a plasma fractal whose steps halve with each octave.
    """
    count, _, height, width = images.shape
    waves = torch.fft.rfft2(torch.randn(count, 1, height, width, generator=generator))
    distance = frequencies(height, width)
    distance[0, 0] = math.inf
    field = torch.fft.irfft2(waves / distance.square(), s=(height, width)).flatten(1)
    low, high = field.amin(dim=1, keepdim=True), field.amax(dim=1, keepdim=True)
    scaled = ((field - low) / (high - low).clamp(min=1e-12)).view(count, 1, height, width).to(images)
    return (images + amount * scaled) / (1 + amount)


def _brightness(images: Tensor, more: float, generator: torch.Generator) -> Tensor:
    return images + more


def _contrast(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """That share of the difference from each channel's mean."""
    mean = images.mean(dim=(-2, -1), keepdim=True)
    return mean + share * (images - mean)


def _pixelate(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Averages over a grid of that share of the height and width; the mean is kept."""
    height, width = (_averaging(size, max(1, round(share * size))).to(images) for size in images.shape[-2:])
    return height @ images @ width


def _averaging(size: int, cells: int) -> Tensor:
    """What gives each of `size` pixels the averages of the equal cells that it lies in, by area: (size, size)."""
    edges, pixels = torch.arange(cells + 1) * (size / cells), torch.arange(size)[:, None]
    overlap = (torch.minimum(pixels + 1, edges[1:]) - torch.maximum(pixels, edges[:-1])).clamp(min=0)  # (size, cells)
    return overlap @ overlap.T * (cells / size)


def _elastic(images: Tensor, length: float, generator: torch.Generator) -> Tensor:
    """Pixels are moved by a smooth random field, in the root mean square by that share of the height."""
    count, _, height, width = images.shape
    moves = _gaussian_blur(torch.randn(count, 2, height, width, generator=generator), SMOOTHNESS, generator)
    size = moves.square().sum(dim=1).mean(dim=(1, 2)).sqrt().view(-1, 1, 1, 1)
    moves = 2 * length * moves / size.clamp(min=1e-12)  # the image is 2 long
    moves[:, 0] *= height / width  # along x, which counts in widths
    whole = functional.affine_grid(torch.eye(2, 3).expand(count, 2, 3), [count, 1, height, width], align_corners=False)
    grid = (whole + moves.permute(0, 2, 3, 1)).to(images)
    return functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _jpeg(images: Tensor, quality: float, generator: torch.Generator) -> Tensor:
    """Cosine transforms of 8x8 blocks, rounded to steps of 50/quality·(16 + 7(u + v))/255, of each channel by itself.

    The steps are those of JPEG's table for brightness, made linear in the wave numbers u and v.
    """
    height, width = images.shape[-2:]
    numbers = torch.arange(BLOCK, dtype=torch.float32)
    cosines = (math.pi / BLOCK * numbers[:, None] * (numbers[None] + 0.5)).cos() * math.sqrt(2 / BLOCK)
    cosines[0] /= math.sqrt(2)
    cosines = cosines.to(images)  # (u, pixel), orthonormal
    steps = (50 / quality * (16 + 7 * (numbers[:, None] + numbers[None])) / 255).to(images)
    padded = functional.pad(images, (0, -width % BLOCK, 0, -height % BLOCK), mode="replicate")
    blocks = padded.unfold(2, BLOCK, BLOCK).unfold(3, BLOCK, BLOCK)  # (N, C, rows, columns, 8, 8)
    kept = cosines.T @ ((cosines @ blocks @ cosines.T / steps).round() * steps) @ cosines
    return kept.transpose(3, 4).reshape(padded.shape)[..., :height, :width]


class Corruption(NamedTuple):
    """A formula, and the value of it at each severity."""

    apply: Callable[[Tensor, float, torch.Generator], Tensor]
    values: tuple[float, float, float, float, float]
    group: str


CORRUPTIONS: Mapping[str, Corruption] = {
    "gaussian_noise": Corruption(_gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38), "noise"),
    "shot_noise": Corruption(_shot_noise, (60, 25, 12, 5, 3), "noise"),
    "impulse_noise": Corruption(_impulse_noise, (0.03, 0.06, 0.09, 0.17, 0.27), "noise"),
    "defocus_blur": Corruption(_defocus_blur, (0.02, 0.04, 0.06, 0.09, 0.12), "blur"),
    "gaussian_blur": Corruption(_gaussian_blur, (0.01, 0.02, 0.03, 0.045, 0.06), "blur"),
    "motion_blur": Corruption(_motion_blur, (0.06, 0.12, 0.18, 0.24, 0.3), "blur"),
    "fog": Corruption(_fog, (0.2, 0.5, 0.75, 1.0, 1.5), "weather"),
    "brightness": Corruption(_brightness, (0.1, 0.2, 0.3, 0.4, 0.5), "weather"),
    "contrast": Corruption(_contrast, (0.4, 0.3, 0.2, 0.1, 0.05), "digital"),
    "pixelate": Corruption(_pixelate, (0.6, 0.5, 0.4, 0.3, 0.25), "digital"),
    "elastic": Corruption(_elastic, (0.02, 0.04, 0.06, 0.08, 0.1), "digital"),
    "jpeg": Corruption(_jpeg, (25, 18, 15, 10, 7), "digital"),
}
"""The corruptions by name."""
NOISES = tuple(name for name, one in CORRUPTIONS.items() if one.group == "noise")
SMOOTH = ("fog", "contrast")
"""Those of low frequencies, of which Yin et al. 2019 speak."""


def corrupted(images: Tensor, name: str, severity: int, generator: torch.Generator) -> Tensor:
    """Images corrupted at a severity, in [0, 1].

    Args:
        name: in CORRUPTIONS. severity: 1 to 5. generator: on the CPU; of what is random in it.
    """
    kind = CORRUPTIONS[name]
    return kind.apply(images, kind.values[severity - 1], generator).clamp(0, 1)
