"""Filters and corruptions against their closed forms."""

import math

import pytest
import torch
from torch import Tensor

from notbugs.data.images import make_generator
from notbugs.science.debate._corruptions import CORRUPTIONS, SEVERITIES, corrupted, frequencies, high_pass, low_pass

KEEP_THE_MEAN = ("defocus_blur", "gaussian_blur", "motion_blur", "contrast", "pixelate")
LEAVE_CONSTANTS = (*KEEP_THE_MEAN, "elastic")


def draw(seed: int = 0) -> torch.Generator:
    return make_generator(seed, "test corruptions")


def smooth_images(side: int, count: int = 6, channels: int = 1) -> Tensor:
    """Random blobs in [0.1, 0.9]."""
    images = low_pass(torch.rand(count, channels, side, side, generator=draw(side)), 0.5)
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    return 0.1 + 0.8 * (images - low) / (high - low)


def cosine(side: int, number: int) -> Tensor:
    """A wave that a mirror at the edges continues, along x, around grey: (1, 1, H, W)."""
    wave = (math.pi * number * (torch.arange(side) + 0.5) / side).cos()
    return (0.5 + 0.3 * wave).expand(1, 1, side, side)


def amplitude(images: Tensor, number: int) -> float:
    wave = cosine(images.shape[-1], number) - 0.5
    return float(((images - 0.5) * wave).sum() / wave.square().sum())


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("side", [8, 32])
def test_severity_grows_the_distance(name: str, side: int) -> None:
    images = smooth_images(side, 24)
    severities = range(1, SEVERITIES + 1)
    made = [corrupted(images, name, severity, draw()) for severity in severities]
    assert all(one.shape == images.shape and one.min() >= 0 and one.max() <= 1 for one in made)
    distances = [float((one - images).flatten(1).norm(dim=1).mean()) for one in made]
    assert distances == sorted(distances)
    assert 0 < distances[0] < distances[-1]


@pytest.mark.parametrize("name", KEEP_THE_MEAN)
@pytest.mark.parametrize("size", [(8, 8), (9, 13)])
def test_the_mean_is_kept(name: str, size: tuple[int, int]) -> None:
    images = 0.3 + 0.4 * torch.rand(4, 3, *size, generator=draw())
    for severity in (1, SEVERITIES):
        made = corrupted(images, name, severity, draw())
        assert torch.allclose(made.mean(dim=(2, 3)), images.mean(dim=(2, 3)), atol=1e-5)


@pytest.mark.parametrize("name", LEAVE_CONSTANTS)
def test_an_even_image_is_left_as_it_is(name: str) -> None:
    images = torch.tensor([0.2, 0.7]).view(2, 1, 1, 1).expand(2, 3, 11, 8).clone()
    assert torch.allclose(corrupted(images, name, SEVERITIES, draw()), images, atol=1e-5)


def test_blurs_multiply_a_wave_by_their_transfer_functions() -> None:
    side, number = 32, 5
    frequency, images = number / (2 * side), cosine(side, number)
    values = {name: side * CORRUPTIONS[name].values[4] for name in ("gaussian_blur", "defocus_blur", "motion_blur")}
    z = torch.tensor(2 * math.pi * values["defocus_blur"] * frequency)
    expected = {
        "gaussian_blur": math.exp(-2 * (math.pi * values["gaussian_blur"] * frequency) ** 2),
        "defocus_blur": float(2 * torch.special.bessel_j1(z) / z),
        "motion_blur": math.sin(math.pi * values["motion_blur"] * frequency)
        / (math.pi * values["motion_blur"] * frequency),
    }
    for name, factor in expected.items():
        assert amplitude(corrupted(images, name, 5, draw()), number) == pytest.approx(factor, abs=1e-5)
        across = corrupted(images.transpose(2, 3), name, 5, draw()).transpose(2, 3)
        assert amplitude(across, number) == pytest.approx(1.0 if name == "motion_blur" else factor, abs=1e-5)


def test_noises_have_their_moments() -> None:
    images = torch.full((40, 1, 50, 50), 0.5)
    made = {name: CORRUPTIONS[name].apply(images, 0.1, draw()) for name in ("gaussian_noise", "impulse_noise")}
    assert float(made["gaussian_noise"].std()) == pytest.approx(0.1, rel=0.02)
    hit = made["impulse_noise"] != 0.5
    assert float(hit.double().mean()) == pytest.approx(0.1, rel=0.05)
    assert float(made["impulse_noise"][hit].mean()) == pytest.approx(0.5, abs=0.02)
    assert set(made["impulse_noise"][hit].unique().tolist()) == {0.0, 1.0}
    shot = CORRUPTIONS["shot_noise"].apply(images, 8.0, draw())
    assert float(shot.mean()) == pytest.approx(0.5, abs=0.005)
    assert float(shot.var()) == pytest.approx(0.5 / 8, rel=0.03)


def test_fog_mixes_a_smooth_field_in() -> None:
    images, amount = torch.full((5, 3, 16, 16), 0.4), CORRUPTIONS["fog"].values[2]
    made = corrupted(images, "fog", 3, draw())
    field = ((1 + amount) * made - images) / amount
    assert torch.allclose(field.amin(dim=(2, 3)), torch.zeros(5, 3), atol=1e-5)
    assert torch.allclose(field.amax(dim=(2, 3)), torch.ones(5, 3), atol=1e-5)
    assert torch.equal(made[:, 0], made[:, 1])
    assert float(high_pass(field, 0.5).square().mean() / field.var()) < 0.1
    assert not torch.allclose(made[0], made[1])


def test_jpeg_loses_nothing_by_fine_steps_and_nothing_twice() -> None:
    images = smooth_images(20, channels=3)
    fine = CORRUPTIONS["jpeg"].apply(images, 1e6, draw())
    assert torch.allclose(fine, images, atol=1e-4)
    aligned = smooth_images(16)
    once = CORRUPTIONS["jpeg"].apply(aligned, 10.0, draw())
    assert torch.allclose(CORRUPTIONS["jpeg"].apply(once, 10.0, draw()), once, atol=1e-5)
    assert not torch.allclose(once, aligned, atol=0.02)


def test_pixelate_gives_the_averages_of_its_cells() -> None:
    images = torch.rand(2, 3, 8, 12, generator=draw())
    made = CORRUPTIONS["pixelate"].apply(images, 0.5, draw())
    cells = images.view(2, 3, 4, 2, 6, 2).mean(dim=(3, 5))
    assert torch.allclose(made, cells.repeat_interleave(2, 2).repeat_interleave(2, 3), atol=1e-6)


def test_filters_part_an_image_at_a_radius() -> None:
    images = torch.rand(3, 2, 8, 10, generator=draw())
    low, high = low_pass(images, 0.5), high_pass(images, 0.5)
    assert torch.allclose(low + high, images, atol=1e-6)
    assert float((low * high).sum()) == pytest.approx(0.0, abs=1e-4)
    assert torch.allclose(low_pass(low, 0.5), low, atol=1e-6)
    assert torch.allclose(low.mean(dim=(2, 3)), images.mean(dim=(2, 3)), atol=1e-6)
    assert torch.allclose(low_pass(images, math.sqrt(2)), images, atol=1e-6)


@pytest.mark.parametrize(("along_y", "along_x"), [(1, 0), (0, 3), (2, 2), (4, 4)])
def test_a_wave_passes_from_its_own_radius_on(along_y: int, along_x: int) -> None:
    y, x = torch.arange(8)[:, None] / 8, torch.arange(8)[None] / 8
    wave = (2 * math.pi * (along_y * y + along_x * x)).cos().view(1, 1, 8, 8)
    radius = math.hypot(along_y, along_x) / 4  # 4 waves in 8 pixels are Nyquist's
    assert float(frequencies(8, 8)[along_y, along_x]) == pytest.approx(radius)
    assert torch.allclose(low_pass(wave, radius), wave, atol=1e-5)
    assert torch.allclose(low_pass(wave, 0.99 * radius), torch.zeros_like(wave), atol=1e-5)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_large_images_of_any_shape_are_corrupted_alike_again(name: str) -> None:
    images = torch.rand(1, 3, 224, 190, generator=draw())
    made = corrupted(images, name, 3, draw(1))
    assert made.shape == images.shape
    assert torch.equal(made, corrupted(images, name, 3, draw(1)))
