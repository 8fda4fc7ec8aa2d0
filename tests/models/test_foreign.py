"""Networks that are not the package's: torchvision's, timm's, the user's own; and one line for each that cannot be."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from notbugs.models import ARCHITECTURES, ModelError, ModelSettings, create_model, load_model, save_model
from notbugs.models.base import Classifier
from notbugs.runtime import registry
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.testing import check_classifier

NAMES = ("a", "b", "c")
OWN = """
import torch
from torch import nn

def plain(image_shape, num_classes):
    pixels = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 7), nn.ReLU(), nn.Linear(7, num_classes))

class Wide(nn.Module):
    def __init__(self, image_shape, num_classes, width=5, bias=True):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(image_shape[0], width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
        self.classify = nn.Linear(width, num_classes, bias=bias)

    def forward(self, x):
        return self.classify(self.features(x).flatten(1))

def convolutional(image_shape, num_classes):
    head = nn.Conv2d(4, num_classes, 1)
    return nn.Sequential(nn.Conv2d(image_shape[0], 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), head, nn.Flatten())

def few(image_shape, num_classes):
    return plain(image_shape, num_classes + 1)

def one_by_one(image_shape, num_classes):
    return nn.Conv2d(image_shape[0], num_classes, 3)

def broken(image_shape, num_classes):
    raise RuntimeError("no weights at home")

def nothing(image_shape, num_classes):
    return None

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, fresh_names: None) -> Path:
    """A project whose src holds lab/networks.py; what it is called by is named in params.yaml."""
    module = tmp_path / "src" / "lab" / "networks.py"
    module.parent.mkdir(parents=True)
    module.write_text(OWN)
    (module.parent / "faulty.py").write_text("1 / 0\n")
    registry.allow([], tmp_path)
    return module


def make(architecture: str, shape: tuple[int, int, int] = (3, 16, 16), **more: Any) -> Classifier:
    registry.allow([architecture])
    return create_model(architecture, shape, NAMES, generator=torch.Generator().manual_seed(2), **more)


def assert_is_a_classifier(model: Classifier, shape: tuple[int, int, int], features: int) -> None:
    """Logits are the head of the representation, of a network behind its normalisation; all checks pass."""
    check_classifier(model, shape, len(NAMES))
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    assert model.eval().representation(x).shape == (2, features)
    torch.testing.assert_close(model.head(model.representation(x)), model(x))
    model.normalise.std.fill_(0.5)
    assert not torch.equal(model(x), model(0.5 * x))
    model.normalise.std.fill_(1)


@pytest.mark.parametrize(
    ("name", "features"), [("resnet18", 512), ("mobilenet_v3_small", 1024), ("squeezenet1_1", None)]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_networks_of_torchvision(name: str, features: int | None, channels: int) -> None:
    shape = (channels, 32, 32)
    if features is None:
        message = "torchvision:squeezenet1_1: its logits are not those of a linear layer: `representation` must name"
        with pytest.raises(ModelError, match=message):
            make(f"torchvision:{name}", shape)
        return
    assert_is_a_classifier(make(f"torchvision:{name}", shape), shape, features)


def test_networks_of_timm() -> None:
    pytest.importorskip("timm")
    model = make("timm:convnext_atto", (1, 32, 32), kwargs={"drop_path_rate": 0.0})
    assert_is_a_classifier(model, (1, 32, 32), 320)
    with pytest.raises(ModelError, match=r"timm:convnext_ato'?: must be a network of timm: convnext"):
        make("timm:convnext_ato")


@pytest.mark.parametrize(("name", "features", "more"), [("plain", 7, {}), ("Wide", 5, {}), ("Wide", 9, {"width": 9})])
def test_networks_of_ones_own(own: Path, name: str, features: int, more: dict[str, Any]) -> None:
    model = make(f"lab.networks:{name}", **more)
    assert_is_a_classifier(model, (3, 16, 16), features)
    again = make(f"lab.networks:{name}", **more)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)  # drawn from the generator


def test_arguments_reach_the_factory(own: Path) -> None:
    assert make("lab.networks:Wide", kwargs={"bias": False}).head.bias is None
    with pytest.raises(ModelError, match=r"lab\.networks:Wide: TypeError: .*unexpected keyword argument 'depth'"):
        make("lab.networks:Wide", kwargs={"depth": 3})
    with pytest.raises(ModelError, match=r"lab\.networks:plain: width: must be null: the factory takes none"):
        make("lab.networks:plain", width=4)


def test_a_representation_that_is_named(own: Path) -> None:
    model = make("lab.networks:convolutional", representation="2").eval()
    check_classifier(model, (3, 16, 16), len(NAMES))
    x = torch.rand(2, 3, 16, 16)
    network: nn.Sequential = model.network
    torch.testing.assert_close(model.representation(x), network[:3](x).flatten(1))
    with pytest.raises(ModelError, match=r"representation = 'body': must be a module of the network: 0, 1, 2, 3, 4"):
        make("lab.networks:convolutional", representation="body")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("convolutional", "its logits are not those of a linear layer: `representation` must name the module whose"),
        ("few", r"2 images must give logits of shape \(2, 3\), not \(2, 4\)"),
        ("one_by_one", r"2 images must give logits of shape \(2, 3\), not \(2, 3, 14, 14\)"),
        ("broken", "RuntimeError: no weights at home"),
        ("nothing", "gives a NoneType, not a torch module"),
    ],
)
def test_what_is_no_classifier_is_one_line(own: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=rf"^architecture lab\.networks:{name}: {message}") as raised:
        make(f"lab.networks:{name}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnt18", "must be one of small_cnn, .* or package.module:attribute of your own; did you mean resnet18"),
        ("torchvision:resnet19", "must be a network of torchvision.models: alexnet, "),
        ("lab.networks:plan", r"must be something that is there: .*networks\.py has no plan; did you mean plain\?"),
        ("lab.nets:plain", r"must be something that is there: no module lab\.nets in .*src, .*, the installed pack"),
        ("lob.networks:plain", r"must be something that is there: no module lob in "),
        ("lab.faulty:net", r"must be importable: lab\.faulty raises ZeroDivisionError: .*faulty\.py, line 1\)"),
        ("lab.networks:number", "must be a factory or a class of networks, not a int"),
    ],
)
def test_a_name_that_stands_for_nothing_is_one_line(own: Path, name: str, message: str) -> None:
    registry.allow([name])
    with pytest.raises(ConfigError, match=rf"^params\.yaml: model\.architecture = '{name}': {message}") as raised:
        validate({"architecture": name}, "model", ModelSettings)
    assert "\n" not in str(raised.value)


def test_a_stored_file_alone_imports_nothing(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.safetensors"
    save_model(make("lab.networks:Wide", width=3), path)
    facts = json.loads(path.with_suffix(".json").read_text())
    assert facts["architecture"] == "lab.networks:Wide"
    model = load_model(path)
    x = torch.rand(2, 3, 16, 16)
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]
    monkeypatch.setattr(registry, "_allowed", set())
    with pytest.raises(ModelError, match=r"model\.json: architecture = 'lab\.networks:Wide': must be named in params"):
        load_model(path)
    assert "lab" not in sys.modules
    registry.allow(["lab.networks:Wide"])
    assert torch.equal(load_model(path)(x), model(x))


def test_built_in_networks_take_no_arguments() -> None:
    with pytest.raises(ModelError, match="small_cnn: kwargs and representation must be left out: it is built in"):
        create_model("small_cnn", (1, 8, 8), NAMES, kwargs={"depth": 3})


def test_packages_add_networks_by_entry_points(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint

    entry = EntryPoint("their_network", "lab.networks:plain", "notbugs.models")
    monkeypatch.setattr(registry, "_packaged", lambda group: {entry.name: entry} if group == entry.group else {})
    with pytest.raises(ModelError, match="named in params"):
        create_model("their_network", (3, 16, 16), NAMES)
    assert_is_a_classifier(make("their_network"), (3, 16, 16), 7)
    with pytest.raises(ModelError, match=r"'their_netwrok': must be .*; did you mean their_network\?"):
        make("their_netwrok")
    assert "their_network" not in ARCHITECTURES
