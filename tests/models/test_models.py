"""Classifiers: shapes, sizes, reproducible weights, and files that come back bit by bit or are refused."""

import json
import re

import pytest
import torch
from torch import nn

from notbugs.data.images import ImageData, make_generator
from notbugs.models import (
    ARCHITECTURES,
    ModelError,
    ModelSettings,
    create_model,
    load_model,
    save_model,
    set_normalisation,
)
from notbugs.models.base import Classifier
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError

NAMES = tuple("abcdefghij")
CONVOLUTIONAL = (
    *("small_cnn", "deep_cnn", "resnet8", "resnet9", "resnet18", "resnet50", "vgg16"),
    *("densenet121", "inception", "preact_resnet18", "preact_resnet18_bare", "wide_resnet28", "wide_resnet34"),
)


def make(architecture="small_cnn", width=4, shape=(3, 32, 32), names=NAMES, seed=0) -> Classifier:
    return create_model(architecture, shape, names, width=width, generator=make_generator(seed, "weights"))


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 20, 28), (1, 4, 4)])
def test_logits_are_the_head_of_the_representation(architecture, shape):
    model = make(architecture, shape=shape).eval()
    x = picture(2, *shape)
    logits, representation = model(x), model.representation(x)
    assert logits.shape == (2, 10)
    assert logits.dtype == torch.float32
    assert representation.shape == (2, model.head.in_features)
    torch.testing.assert_close(representation @ model.head.weight.T + model.head.bias, logits)


@pytest.mark.parametrize(
    ("architecture", "count", "features"),
    [
        ("resnet18", 11_173_962, 512),
        ("resnet50", 23_520_842, 2048),
        ("vgg16", 14_728_266 - 4_224, 512),  # no biases before BatchNorm: 4,224 channels
        ("densenet121", 6_956_298, 1024),
        ("resnet8", 78_042, 64),
        ("resnet9", 2_274_890, 128),
        ("preact_resnet18", 11_172_170, 512),
        ("wide_resnet28", 36_479_194, 640),
    ],
)
def test_networks_have_the_usual_number_of_parameters(architecture, count, features):
    model = make(architecture, width=None)
    assert sum(p.numel() for p in model.parameters()) == count
    assert model.head.in_features == features


@pytest.mark.parametrize(
    ("architecture", "side"),
    [
        ("resnet8", 8),
        ("resnet9", 8),
        ("resnet18", 4),
        ("resnet50", 4),
        ("vgg16", 1),
        ("densenet121", 4),
        ("inception", 8),
    ],
)
def test_networks_have_the_stem_for_32_pixels(architecture, side):
    """Stride 1 and no max-pooling in front: so many of 32 pixels are left before the average."""
    model = make(architecture)
    features = model.body[:-2](picture(2, 3, 32, 32))
    assert features.shape[2:] == (side, side)


def test_inception_has_the_channels_of_googlenet():
    """Szegedy et al. 2015, table 1: what the blocks 3a to 5b give on, at width 64."""
    with torch.device("meta"):
        body = ARCHITECTURES["inception"].build((3, 32, 32), 10, 64).body
    blocks = [module for module in body if type(module).__name__ == "Inception"]
    assert [block.branch1.conv.in_channels for block in blocks] == [192, 256, 480, 512, 512, 512, 528, 832, 832]
    assert [block.branch1.conv.out_channels for block in blocks] == [64, 128, 192, 160, 128, 112, 256, 256, 384]


def test_a_perceptron_does_not_see_neighbourhood():
    """The pixels in another order, and the first layer's columns with them: the same logits."""
    model = make("mlp", shape=(3, 4, 4)).eval()
    x = picture(5, 3, 4, 4)
    order = torch.randperm(48, generator=torch.Generator().manual_seed(0))
    expected = model(x)
    model.body[1].weight.data = model.body[1].weight.data[:, order]
    torch.testing.assert_close(model(x.flatten(1)[:, order].view_as(x)), expected)


@pytest.mark.parametrize("architecture", CONVOLUTIONAL)
def test_no_width_is_the_usual_width(architecture):
    model = make(architecture, width=None, shape=(3, 8, 8))
    assert model.description.width == ARCHITECTURES[architecture].usual_width
    first = next(module for module in model.body.modules() if isinstance(module, torch.nn.Conv2d))
    assert first.in_channels == 3
    wider = make(architecture, width=ARCHITECTURES[architecture].usual_width // 2, shape=(3, 8, 8))
    assert model.head.in_features == 2 * wider.head.in_features
    if not architecture.startswith("wide_resnet"):  # whose first convolution has 16 channels at any width
        second = next(module for module in wider.body.modules() if isinstance(module, torch.nn.Conv2d))
        assert first.out_channels == 2 * second.out_channels


def test_small_cnn_keeps_a_bottleneck():
    """64 pixels must not be readable from the representation."""
    model = make("small_cnn", width=16, shape=(1, 8, 8))
    assert model.head.in_features <= 64


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_weights_follow_from_the_seed(architecture):
    first, again, other = make(architecture), make(architecture), make(architecture, seed=1)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
    assert not torch.equal(first.head.weight, other.head.weight)
    torch.manual_seed(99)  # the global stream plays no part
    torch.rand(3)
    assert torch.equal(make(architecture).head.weight, first.head.weight)


def test_global_random_streams_are_left_alone(tmp_path, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    before = torch.get_rng_state()
    save_model(make(), tmp_path / "m.safetensors")
    load_model(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert seeded == []  # CUDA's neither


def test_normalisation_is_inside(digits):
    images = picture(50, 3, 8, 8) * torch.tensor([1.0, 0.5, 0.1]).view(1, 3, 1, 1)
    model = make(shape=(3, 8, 8)).eval()
    plain = model.body(images)
    torch.testing.assert_close(model.representation(images), plain)  # none yet
    set_normalisation(model, images)
    std, mean = torch.std_mean(images, dim=(0, 2, 3), keepdim=True)
    torch.testing.assert_close(model.representation(images), model.body((images - mean) / std))
    assert {"normalise.mean", "normalise.std"} <= set(model.state_dict())
    assert not any(name.startswith("normalise") for name, _ in model.named_parameters())


def test_a_constant_channel_is_no_division_by_zero():
    images = picture(5, 3, 8, 8)
    images[:, 1] = 0.25
    model = make(shape=(3, 8, 8)).eval()
    set_normalisation(model, images)
    assert model(images).isfinite().all()


@pytest.mark.parametrize("architecture", ["resnet18", "resnet50", "vgg16", "densenet121", "inception"])
def test_large_images_meet_imagenets_stem(architecture):
    """From 128 pixels on the first convolution and pooling quarter the sides, as published; below nothing does."""

    def sides(size: int) -> list[int]:
        seen: list[int] = []
        model = create_model(architecture, (3, size, size), ("a", "b"), width=4).eval()
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(lambda _m, _i, out: seen.append(out.shape[-1]))
        with torch.no_grad():
            assert model(torch.zeros(1, 3, size, size)).shape == (1, 2)
        return seen

    small, large = sides(64), sides(128)
    if architecture == "vgg16":  # has no pooling in its stem
        assert (small[0], large[0]) == (64, 128)
    else:
        assert small[:2] == [64, 64]
        assert large[:2] == [64, 32]
    assert len(small) == len(large)


def test_default_settings():
    assert ModelSettings() == ModelSettings(architecture="small_cnn", width=None)


def test_an_unknown_architecture_is_refused():
    with pytest.raises(
        ModelError, match=r"architecture = 'resnet34': must be one of small_cnn, .*wide_resnet34, torch"
    ):
        create_model("resnet34", (1, 8, 8), NAMES)
    assert {*CONVOLUTIONAL, "mlp"} == set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            {"architecture": "resnet34"},
            r"model\.architecture = 'resnet34': must be one of small_cnn, .*, torchvision:NAME, timm:NAME or pack",
        ),
        ({"width": 0}, r"model\.width = 0: must be greater than or equal to 1"),
        ({"width": 16.0}, r"model\.width = 16\.0: must be a valid integer"),
        ({"widht": 3}, r"model\.widht: unknown key; did you mean width\?"),
    ],
)
def test_impossible_settings_are_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        validate(section, "model", ModelSettings)


# Files


@pytest.fixture
def trained(tmp_path):
    """A model with BatchNorm statistics and normalisation that are not the initial ones, and its file."""
    model = make(shape=(3, 8, 8))
    images = picture(16, 3, 8, 8)
    set_normalisation(model, images)
    with torch.no_grad():
        model.train()(images)
    path = tmp_path / "models" / "seed-0.safetensors"
    save_model(model, path)
    return model, path


def test_a_saved_model_comes_back_bit_by_bit(trained):
    model, path = trained
    loaded = load_model(path)
    assert type(loaded) is type(model)
    assert not any(module.training for module in loaded.modules())
    assert list(loaded.state_dict()) == list(model.state_dict())
    for name, value in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == value.dtype
        assert torch.equal(loaded.state_dict()[name], value), name
    assert loaded.description == model.description
    x = picture(4, 3, 8, 8)
    assert torch.equal(loaded(x), model.eval()(x))


def test_saving_twice_gives_the_same_bytes_and_nothing_else(trained, tmp_path):
    path = trained[1]
    other = tmp_path / "other" / "seed-0.safetensors"
    save_model(load_model(path), other)
    assert other.read_bytes() == path.read_bytes()
    assert other.with_suffix(".json").read_bytes() == path.with_suffix(".json").read_bytes()
    assert sorted(file.name for file in path.parent.iterdir()) == ["seed-0.json", "seed-0.safetensors"]


def test_description_says_what_is_needed(trained):
    description = json.loads(trained[1].with_suffix(".json").read_text())
    assert len(description.pop("checksum")) == 64
    assert description == {
        "architecture": "small_cnn",
        "width": 4,
        "image_shape": [3, 8, 8],
        "class_names": list(NAMES),
    }


def test_a_model_without_a_description_is_not_saved(tmp_path):
    model = make()
    model.description = None
    with pytest.raises(ModelError, match=r"m\.safetensors: .*no description"):
        save_model(model, tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (("safetensors",), "seed-0.safetensors: no model there; `dvc repro train@standard` makes it"),
        (("safetensors", "json"), "seed-0.safetensors: no model there; `dvc repro train@standard` makes it"),
        (
            ("json",),
            "seed-0.safetensors: its description seed-0.json is not beside it; `dvc repro train@standard` makes",
        ),
    ],
)
def test_a_missing_file_is_named_with_the_command_that_makes_it(tmp_path, missing, said):
    path = tmp_path / "models" / "train" / "standard" / "seed-0.safetensors"
    path.parent.mkdir(parents=True)
    save_model(make(), path)
    for suffix in missing:
        path.with_suffix(f".{suffix}").unlink()
    with pytest.raises(ModelError, match=re.escape(said)):
        load_model(path)


def test_a_missing_model_that_no_stage_makes_has_no_stage(tmp_path):
    with pytest.raises(ModelError, match=r"mine\.safetensors: no model there; those that `dvc repro` makes are under"):
        load_model(tmp_path / "mine.safetensors")


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "folder"])
def test_damaged_weights_are_named(trained, damage):
    path = trained[1]
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes({"truncated": whole[:-100], "empty": b"", "garbage": b"\xff" * 300}[damage])
    with pytest.raises(ModelError, match=r"seed-0\.safetensors: cannot be read"):
        load_model(path)


@pytest.mark.parametrize(
    "text",
    [
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b'{"architecture": "small_cnn"}',
        b'{"architecture": "small_cnn", "width": 4, "image_shape": [3, 8], "class_names": ["a", "b"]}',
        b'{"architecture": "small_cnn", "width": 4, "image_shape": [-3, 8, 8], "class_names": ["a", "b"]}',
    ],
)
def test_a_damaged_description_is_named(trained, text):
    trained[1].with_suffix(".json").write_bytes(text)
    with pytest.raises(ModelError, match=r"seed-0\.json: not a model's description"):
        load_model(trained[1])


def test_a_description_of_an_unknown_network_is_named(trained):
    description = trained[1].with_suffix(".json")
    description.write_text(json.dumps({**json.loads(description.read_text()), "architecture": "vgg"}))
    with pytest.raises(ModelError, match=r"seed-0\.json: architecture = 'vgg': must be one of small_cnn, .*mean vgg16"):
        load_model(trained[1])


@pytest.mark.parametrize(
    "change", [{"width": 8}, {"class_names": ["a", "b"]}, {"image_shape": [1, 8, 8]}, {"architecture": "resnet18"}]
)
def test_weights_of_another_model_are_named(trained, change):
    description = trained[1].with_suffix(".json")
    description.write_text(json.dumps({**json.loads(description.read_text()), **change}))
    with pytest.raises(ModelError, match=r"seed-0\.safetensors: does not fit its description"):
        load_model(trained[1])


def test_weights_altered_by_a_bit_are_named(trained):
    content = bytearray(trained[1].read_bytes())
    content[-1] ^= 1
    trained[1].write_bytes(content)
    with pytest.raises(ModelError, match=r"seed-0\.safetensors: altered, or the \.json beside it"):
        load_model(trained[1])


def test_a_description_altered_by_a_bit_is_named(trained):
    description = trained[1].with_suffix(".json")
    description.write_text(description.read_text().replace('"a"', '"c"'))
    with pytest.raises(ModelError, match=r"seed-0\.safetensors: altered, or the \.json beside it"):
        load_model(trained[1])


def test_models_from_before_checksums_are_read(trained):
    description = trained[1].with_suffix(".json")
    facts = json.loads(description.read_text())
    del facts["checksum"]
    description.write_text(json.dumps(facts))
    assert torch.equal(load_model(trained[1]).head.weight, trained[0].head.weight)


@pytest.mark.cuda
def test_a_model_is_loaded_onto_a_device(trained):
    loaded = load_model(trained[1], device="cuda")
    assert {tensor.device.type for tensor in loaded.state_dict().values()} == {"cuda"}
    images = picture(4, 3, 8, 8)
    data = ImageData(images, torch.arange(4), NAMES).to(torch.device("cuda"))
    torch.testing.assert_close(loaded(data.images).cpu(), trained[0].eval()(images), rtol=1e-4, atol=1e-4)
