"""Classifiers: the architectures, and saving and loading them without pickle.

Every classifier takes images in [0, 1] (normalisation is its first layer), gives logits when called, and its
penultimate activations by `representation`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import AfterValidator, Field, JsonValue, PositiveInt, ValidationError
from torch import nn

from notbugs.data.images import Images, by_parts
from notbugs.models.base import Classifier
from notbugs.models.foreign import Factory, classifier_of, of_factory, of_timm, of_torchvision
from notbugs.models.foreign import ModelError as ModelError
from notbugs.models.imagenet import densenet121, inception, resnet, vgg16
from notbugs.models.missing import no_model, remedy
from notbugs.models.preactivation import preact_resnet18, wide_resnet
from notbugs.models.resnet9 import ResNet9
from notbugs.models.small_cnn import MLP, DeepCNN, SmallCNN
from notbugs.runtime.config import Settings
from notbugs.runtime.errors import one_line
from notbugs.runtime.files import sha256, whole_file, write_json
from notbugs.runtime.registry import Registry, RegistryError


class Architecture(NamedTuple):
    """A kind of classifier.

    Attributes:
        build: (image shape (C, H, W), number of classes, width, further arguments) -> the network.
        usual_width: what no width stands for; None where the network is somebody else's.
    """

    build: Factory
    usual_width: int | None = None


def _foreign(find: Callable[[Any], Factory]) -> Callable[[Any], Architecture]:
    return lambda given: Architecture(find(given))


_BUILT_IN = {
    "small_cnn": Architecture(SmallCNN, 16),
    "deep_cnn": Architecture(DeepCNN, 16),
    "mlp": Architecture(MLP, 64),
    "resnet8": Architecture(partial(resnet, "BasicBlock", (1, 1, 1)), 16),
    "resnet9": Architecture(ResNet9, 64),
    "resnet18": Architecture(partial(resnet, "BasicBlock", (2, 2, 2, 2)), 64),
    "resnet50": Architecture(partial(resnet, "Bottleneck", (3, 4, 6, 3)), 64),
    "vgg16": Architecture(vgg16, 64),
    "densenet121": Architecture(densenet121, 64),
    "inception": Architecture(inception, 64),
    "preact_resnet18": Architecture(preact_resnet18, 64),
    "preact_resnet18_bare": Architecture(partial(preact_resnet18, bare=True), 64),
    "wide_resnet28": Architecture(partial(wide_resnet, 28), 160),
    "wide_resnet34": Architecture(partial(wide_resnet, 34), 160),
}
ARCHITECTURES = Registry(
    "models",
    _BUILT_IN,
    libraries={"torchvision": _foreign(of_torchvision), "timm": _foreign(of_timm)},
    adapt=_foreign(of_factory),
)
"""The networks by name."""


_OF_OTHERS = frozenset({"kwargs", "representation"})
"""Fields that only networks of others have."""


class ModelSettings(Settings):
    """Which classifier is trained."""

    options = _OF_OTHERS
    architecture: Annotated[str, AfterValidator(ARCHITECTURES.check)] = "small_cnn"
    """Network: a built-in one by its usual name (those made for ImageNet have the stem for small images below 128
    pixels), torchvision:NAME, timm:NAME, or package.module:attribute of your own, called with `image_shape` and
    `num_classes`."""
    width: int | None = Field(default=None, ge=1, le=1024)
    """Scales all layers; null takes the usual width (16 for small_cnn, 64 for those made for ImageNet, 160 for Wide
    ResNets: ten times as wide)."""
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """Further arguments of a network that is not built in."""
    representation: str | None = None
    """Only of such a network: the module whose output is the representation; null for the input of the last linear
    layer."""

    def __hash__(self) -> int:
        """Of equal settings the same; a mapping among them has none of its own."""
        return hash(self.model_dump_json())

    def arguments(self) -> dict[str, Any]:
        """What `create_model` is told."""
        return self.model_dump()


class Description(Settings):
    """All that is needed to build a classifier again; saved as JSON beside its weights."""

    options = _OF_OTHERS | {"origin"}
    architecture: str
    width: int | None = Field(default=None, ge=1, le=1024)
    kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    representation: str | None = None
    image_shape: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(strict=False)
    """(C, H, W)."""
    class_names: tuple[str, ...] = Field(strict=False, min_length=2)
    origin: dict[str, str] | None = None
    """Of a model from elsewhere: name and SHA-256 of the file that it was read from, and its format."""

    @property
    def is_built_in(self) -> bool:
        """Whether the network is one of the package's."""
        return self.architecture in ARCHITECTURES


def create_model(
    architecture: str,
    image_shape: tuple[int, int, int],
    class_names: tuple[str, ...],
    *,
    width: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
    representation: str | None = None,
    generator: torch.Generator | None = None,
) -> Classifier:
    """Build a freshly initialised classifier.

    Args:
        architecture: a name that ARCHITECTURES finds.
        image_shape: (C, H, W).
        class_names: one a class.
        width: scales all layers; None takes the usual one.
        kwargs, representation: see `ModelSettings`.
        generator: decides the initial weights, None as one of seed 0 does; torch's global generator is left as it was.
    Raises: ModelError for an unknown architecture, or one that gives no classifier.
    """
    description = description_of(architecture, image_shape, class_names, width, kwargs, representation)
    seed = 0 if generator is None else generator.initial_seed()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed CUDA too
        return build(description)


def description_of(
    architecture: str,
    image_shape: tuple[int, int, int],
    class_names: tuple[str, ...],
    width: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
    representation: str | None = None,
) -> Description:
    """What `create_model` builds.

    Raises: ModelError for an unknown architecture.
    """
    try:
        usual = ARCHITECTURES[architecture].usual_width
    except RegistryError as error:
        raise ModelError(f"architecture = {architecture!r}: must be {error}") from None
    return Description(
        architecture=architecture,
        width=width or usual,
        kwargs=dict(kwargs or {}),
        representation=representation,
        image_shape=image_shape,
        class_names=class_names,
    )


def build(description: Description, put_in: Callable[[nn.Module], None] | None = None) -> Classifier:
    """The classifier of a description, with weights drawn from torch's global generator.

    Args:
        put_in: is given a network that is not built in, before it is taken apart: puts weights into it.
    Raises: ModelError if somebody's network cannot be made, or is no classifier.
    """
    kind, count = ARCHITECTURES[description.architecture], len(description.class_names)
    given = (description.image_shape, count, description.width)
    if kind.usual_width is not None:
        if description.kwargs or description.representation:
            raise ModelError(f"{description.architecture}: kwargs and representation must be left out: it is built in")
        model = kind.build(*given)
        assert isinstance(model, Classifier)
    else:
        model = _built(description, kind.build, *given, put_in=put_in)
    model.description = description
    return model


def _built(
    description: Description,
    factory: Factory,
    image_shape: tuple[int, int, int],
    count: int,
    width: int | None,
    put_in: Callable[[nn.Module], None] | None,
) -> Classifier:
    """A network that is not the package's, made and looked at."""
    try:
        network = factory(image_shape, count, width, **description.kwargs)
        if put_in is not None:
            put_in(network)
        if isinstance(network, Classifier):
            return network
        return classifier_of(network, image_shape, count, description.representation)
    except ModelError as error:
        raise ModelError(f"architecture {description.architecture}: {error}") from None
    except Exception as error:
        raise ModelError(
            f"architecture {description.architecture}: {type(error).__name__}: {one_line(error)}"
        ) from None


def set_normalisation(model: Classifier, images: torch.Tensor | Images) -> None:
    """Set the first layer to the mean and standard deviation per channel of images (N, C, H, W) or of a dataset.

    A dataset is read in parts, whose moments are merged in double precision.

    Source: Chan, Golub & LeVeque 1983, equation 2.1 (merging of moments).
    """
    count, mean, squares = 0, torch.zeros(()), torch.zeros(())  # squares: summed squared distances from the mean
    for part in [images] if isinstance(images, torch.Tensor) else (part.images for part in by_parts(images)):
        number = part.numel() // part.shape[1]
        std, own = torch.std_mean(part.double(), dim=(0, 2, 3))  # (C,)
        total, apart = count + number, own - mean
        squares = squares + std**2 * (number - 1) + apart**2 * (count * number / total)
        mean = mean + apart * (number / total)
        count = total
    std = (squares / (count - 1)).sqrt()
    model.normalise.mean.copy_(mean.float().view(1, -1, 1, 1))
    model.normalise.std.copy_(std.float().clamp(min=1e-3).view(1, -1, 1, 1))


def save_model(model: Classifier, path: Path) -> None:
    """Write `path` (.safetensors) and, beside it, its description with a checksum (.json), each whole or not at all.

    Raises: ModelError if the model was not built by `create_model` or `build`.
    """
    from safetensors.torch import save_file

    description: Description | None = model.description
    if description is None:
        raise ModelError(f"{path}: the model has no description, so it could not be loaded again")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    with whole_file(path) as temporary:
        save_file(state, temporary)
    facts = description.model_dump(mode="json")
    write_json(path.with_suffix(".json"), {**facts, "checksum": _checksum(facts, path)})


def load_model(path: Path | str, *, device: torch.device | str = "cpu") -> Classifier:
    """Load a classifier in eval mode.

    Args:
        path: the .safetensors file; its .json lies beside it.
    Raises: ModelError naming the file that is missing, damaged or does not fit the description.
    """
    from safetensors.torch import load_file

    path = Path(path)
    description, checksum = _read_description(path.with_suffix(".json"))
    try:
        state: dict[str, Any] = load_file(path)
    except FileNotFoundError:
        raise no_model(path) from None
    except Exception as error:  # safetensors raises many kinds for a damaged header
        raise ModelError(f"{path}: cannot be read: {' '.join(str(error).split())[:300]}") from None
    try:
        if description.is_built_in:
            with torch.device("meta"):  # of shapes alone: those of a damaged description may not fit into memory
                build(description).load_state_dict(state, assign=True)
        with torch.random.fork_rng(devices=[]):  # the initial weights, replaced at once, take nothing from the caller
            model = build(description)
        model.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:
        raise ModelError(f"{path}: does not fit its description: {' '.join(str(error).split())[:300]}") from None
    if checksum not in (None, _checksum(description.model_dump(mode="json"), path)):
        raise ModelError(f"{path}: altered, or the .json beside it (its checksum does not fit); {remedy(path)}")
    return model.to(device).eval()


def _checksum(facts: dict[str, Any], weights: Path) -> str:
    """Hexadecimal SHA-256 of a description and the file of weights that it describes."""
    return hashlib.sha256(f"{json.dumps(facts, sort_keys=True)} {sha256(weights)}".encode()).hexdigest()


def _read_description(path: Path) -> tuple[Description, str | None]:
    """The description and its checksum, which older ones lack."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        checksum = facts.pop("checksum", None) if isinstance(facts, dict) else None
        description = Description.model_validate(facts)
    except FileNotFoundError:
        raise no_model(path) from None
    except (ValidationError, ValueError, OSError, RecursionError) as error:
        raise ModelError(f"{path}: not a model's description: {' '.join(str(error).split())[:300]}") from None
    try:
        ARCHITECTURES.check(description.architecture)
    except RegistryError as error:
        raise ModelError(f"{path}: architecture = {description.architecture!r}: must be {error}") from None
    return description, checksum
