import pytest
import torch
from pydantic import ValidationError

from notbugs.data.images import make_generator
from notbugs.data.sources import DataSettings, load_source
from notbugs.data.sources.planted import CLASS_NAMES, PlantedSettings, draw, patterns, read_planted
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError


def test_patterns_are_unit_and_smooth_ones_are_orthogonal_to_fine_ones() -> None:
    smooth, fine = (patterns()[name].flatten(1) for name in ("smooth", "fine"))
    assert torch.allclose(fine @ fine.T, torch.eye(4).double(), atol=1e-12)
    opposite = torch.eye(4).flip(1).double()  # yellow and dark, red and green
    assert torch.allclose(smooth @ smooth.T, torch.eye(4).double() - opposite, atol=1e-12)
    assert float((smooth @ fine.T).abs().max()) < 1e-12


def test_fine_patterns_are_of_high_frequency_and_smooth_ones_are_not() -> None:
    for name, band in (("smooth", (0, 1)), ("fine", (8, 16))):
        for image in patterns()[name]:
            power = torch.fft.fft2(image).abs().square().sum(dim=0)
            wave = torch.fft.fftfreq(32, 1 / 32).abs()
            highest = torch.maximum(wave[:, None].expand(32, 32), wave.expand(32, 32))
            inside = (highest >= band[0]) & (highest <= band[1])
            assert float(power[inside].sum() / power.sum()) > 0.999


def test_an_image_is_its_patterns_and_bounded_noise() -> None:
    world = PlantedSettings(noise=0.08, smooth_agreement=0.8)
    images, labels, shown = draw(world, 200, make_generator(0))
    unit = patterns()
    rest = images.double() - 0.5
    rest -= world.smooth_amplitude * unit["smooth"][shown] + world.fine_amplitude * unit["fine"][labels]
    assert float(rest.abs().max()) <= 0.08 + 1e-6
    assert float(rest.abs().max()) > 0.079
    assert float((shown == labels).double().mean()) == pytest.approx(0.8, abs=0.1)
    assert images.dtype == torch.float32


def test_clipping_never_bites_at_the_very_limit() -> None:
    world = PlantedSettings()
    at_limit = PlantedSettings(noise=world.noise + 0.5 - world.reach - 1e-9)
    images, _, _ = draw(at_limit, 400, make_generator(0))
    assert 0 < float(images.min()) < 0.02
    assert 0.98 < float(images.max()) < 1
    with pytest.raises(ValidationError, match=r"stay within 0.5 of grey; these reach 0.50"):
        PlantedSettings(noise=at_limit.noise + 0.001)


def test_source_is_balanced_and_seeded() -> None:
    world = PlantedSettings(num_train=203, num_test=83)
    pool, test = read_planted(world, seed=0)
    assert pool.labels.bincount().tolist() == [50] * 4
    assert test.labels.bincount().tolist() == [20] * 4
    again, other = read_planted(world, seed=0)[0], read_planted(world, seed=1)[0]
    assert torch.equal(pool.pixels, again.pixels)
    assert not torch.equal(pool.pixels, other.pixels)


def test_it_is_selected_by_params(tmp_path: object) -> None:
    config = validate({"source": "planted", "planted": {"num_train": 80, "num_test": 40}}, "data", DataSettings)
    source = load_source(config, seed=0, root=tmp_path)  # type: ignore[arg-type]
    assert source.name == "planted"
    assert source.train.class_names == CLASS_NAMES
    assert (len(source.train), len(source.validation), len(source.test)) == (72, 8, 40)
    exact, _, _ = draw(config.planted, 80, make_generator(0, "planted", "train"))  # type: ignore[arg-type]
    assert torch.equal(
        source.train.select(slice(None)).images, exact[source.source_indices["train"]]
    )  # floats, not rounded to bytes


def test_settings_that_another_source_would_ignore_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.planted = .*only source: planted reads it, and source is digits"):
        validate({"source": "digits", "planted": {}}, "data", DataSettings)
    with pytest.raises(ConfigError, match=r"only source: folder, restr.* reads it, and source is planted"):
        validate({"source": "planted", "path": "x"}, "data", DataSettings)
