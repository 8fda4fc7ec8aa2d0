"""Networks of other people: torchvision's, timm's, and what a factory makes, put behind normalisation as a Classifier.

Their representation is what the last linear layer is given, where that layer's outputs are the logits. Of any other
network it is what a named module gives.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from notbugs.models.base import Classifier, Normalise
from notbugs.runtime.errors import UserError, one_line
from notbugs.runtime.registry import RegistryError

Shape = tuple[int, int, int]
Factory = Callable[..., nn.Module]
"""(image shape (C, H, W), number of classes, width or None, further arguments) -> a network that gives logits."""


class ModelError(UserError):
    """A model is missing, incomplete, does not fit, or cannot be made."""


class Hooked(Classifier):
    """A network whose representation is what one of its modules gives, flat.

    Args:
        network: (N, C, H, W) normalised -> logits (N, K).
        module: dotted name of the module in it.
    """

    def __init__(self, network: nn.Module, num_channels: int, module: str) -> None:
        nn.Module.__init__(self)
        self.normalise = Normalise(num_channels)
        self.network = network
        self.description: Any = None
        self._module = module

    def representation(self, x: Tensor) -> Tensor:
        """What the named module gives: (N, C, H, W) in [0, 1] -> (N, F)."""
        found: list[Tensor] = []
        hook = self.network.get_submodule(self._module).register_forward_hook(lambda _, __, given: found.append(given))
        try:
            self.network(self.normalise(x))
        finally:
            hook.remove()
        return found[-1].flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits: (N, C, H, W) in [0, 1] -> (N, K)."""
        logits: Tensor = self.network(self.normalise(x))
        return logits


def classifier_of(network: nn.Module, image_shape: Shape, num_classes: int, representation: str | None) -> Classifier:
    """A network as a Classifier.

    Args:
        network: images (N, C, H, W) -> logits (N, K); it is taken apart.
        representation: dotted name of the module that gives the representation; None for the input of the last
            linear layer.
    Raises: ModelError for one that gives other than logits, or whose representation is not found.
    """
    train = network.training
    calls: list[tuple[nn.Linear, Tensor, Tensor]] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], found: Tensor) -> None:
        """Remember a call of a linear layer."""
        assert isinstance(module, nn.Linear)
        calls.append((module, given[0], found))

    hooks = [module.register_forward_hook(note) for module in network.modules() if isinstance(module, nn.Linear)]
    try:
        with torch.no_grad():
            logits = network.eval()(torch.full((2, *image_shape), 0.5))
    except Exception as error:
        raise ModelError(f"images of shape {image_shape}: {type(error).__name__}: {one_line(error)}") from None
    finally:
        for hook in hooks:
            hook.remove()
        network.train(train)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if shape != (2, num_classes):
        raise ModelError(f"2 images must give logits of shape (2, {num_classes}), not {shape}")
    if representation is not None:
        if representation not in dict(network.named_modules()):
            names = ", ".join(name for name, _ in network.named_children())
            raise ModelError(f"representation = {representation!r}: must be a module of the network: {names}, ...")
        return Hooked(network, image_shape[0], representation)
    last = calls[-1] if calls else None
    if last is None or last[2] is not logits or last[1].ndim != 2:
        raise ModelError(
            "its logits are not those of a linear layer: `representation` must name the module whose output is taken"
        )
    head = last[0]
    return _split(network, head, image_shape[0], num_classes)


def _split(network: nn.Module, head: nn.Linear, num_channels: int, num_classes: int) -> Classifier:
    """The network without its last layer as the body, and that layer as the head."""
    if network is head:
        network = nn.Identity()
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if child is head:
                setattr(parent, name, nn.Identity())
    with torch.random.fork_rng(devices=[]):  # the layer made here is replaced at once
        model = Classifier(network, num_channels, head.in_features, num_classes)
    model.head = head
    return model


class Grey(nn.Module):
    """A network for colour images, given grey ones: their one channel stands for all three."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> what the network says of (N, 3, H, W)."""
        logits: Tensor = self.network(x.expand(-1, 3, -1, -1))
        return logits


def of_torchvision(name: str) -> Factory:
    """A classification network of torchvision, untrained, with its own stem.

    Raises: RegistryError if torchvision has none of that name.
    """
    from torchvision import models

    if name not in models.list_models(models):
        raise RegistryError(f"a network of torchvision.models: {', '.join(models.list_models(models))}")

    def build(image_shape: Shape, num_classes: int, width: int | None, **kwargs: Any) -> nn.Module:
        """The network; some have a second classifier for training, which is left out."""
        _has_no_width(width)
        if image_shape[0] not in (1, 3):
            raise ModelError(f"takes images of 3 channels, or grey ones of 1, not {image_shape[0]}")
        if name in ("googlenet", "inception_v3"):
            kwargs = {"aux_logits": False, "init_weights": True, **kwargs}
        network: nn.Module = models.get_model(name, weights=None, num_classes=num_classes, **kwargs)
        return Grey(network) if image_shape[0] == 1 else network

    return build


def of_timm(name: str) -> Factory:
    """A network of timm, untrained.

    Raises: RegistryError if timm is not installed, or has none of that name.
    """
    try:
        import timm
    except ImportError:
        raise RegistryError("of an installed library: timm is not; `pip install 'notbugs[timm]'` installs it") from None
    if not timm.is_model(name):
        close = timm.list_models(f"*{name[:8]}*")[:8]
        raise RegistryError(f"a network of timm{': ' + ', '.join(close) + ', ...' if close else ''}")

    def build(image_shape: Shape, num_classes: int, width: int | None, **kwargs: Any) -> nn.Module:
        """The network for so many channels and classes."""
        _has_no_width(width)
        network: nn.Module = timm.create_model(
            name, pretrained=False, in_chans=image_shape[0], num_classes=num_classes, **kwargs
        )
        return network

    return build


def of_factory(factory: Any) -> Factory:
    """What a user's factory or class makes: called with `image_shape` and `num_classes`, and `width` if it takes one.

    Raises: RegistryError if it cannot be called.
    """
    if not callable(factory):
        raise RegistryError(f"a factory or a class of networks, not a {type(factory).__name__}")
    takes = inspect.signature(factory).parameters
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())

    def build(image_shape: Shape, num_classes: int, width: int | None, **kwargs: Any) -> nn.Module:
        """The network, whatever class it is of."""
        if width is not None and not (any_name or "width" in takes):
            raise ModelError("width: must be null: the factory takes none")
        if width is not None:
            kwargs["width"] = width
        network = factory(image_shape=image_shape, num_classes=num_classes, **kwargs)
        if not isinstance(network, nn.Module):
            raise ModelError(f"gives a {type(network).__name__}, not a torch module")
        return network

    return build


def _has_no_width(width: int | None) -> None:
    if width is not None:
        raise ModelError("width: must be null: the library's layers are as wide as they are")
