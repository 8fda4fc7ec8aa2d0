"""Weights that were trained elsewhere: read from a file without running anything in it, and put into a network."""

import difflib
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from notbugs.models import Description, ModelError, build, description_of, load_model
from notbugs.models.base import Classifier
from notbugs.models.foreign import Grey
from notbugs.runtime.errors import one_line
from notbugs.runtime.files import sha256

CONTAINERS = ("state_dict", "model_state_dict", "model", "net", "last", "best")
"""Where checkpoints keep their weights, beside the optimizer's state and other things."""
SHOWN = 3
"""So many names an error shows of each kind."""
_COUNT = "num_batches_tracked"
"""Of BatchNorms; older files lack it, and nothing depends on it."""
_WRITTEN_BY_TORCH = (b"PK", b"\x80")
"""How files of torch.save begin: an archive; or a pickle, before torch 1.6."""
_NORMALISATION = ("normalise.mean", "normalise.std")


class Stub:
    """Stands for every object of a checkpoint that is no tensor, container, number or text; it does nothing."""

    def __new__(cls, *_: Any) -> "Stub":
        """Takes what the object would have been made of, and forgets it."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


def read_weights(file: Path) -> dict[str, Tensor]:
    """Tensors by name, of a .safetensors file, or of a state dict or checkpoint that torch.save wrote.

    Nothing in the file is run: torch reads it with weights_only, and what is no weight becomes a `Stub`.

    Raises: ModelError, in one line, if it cannot be read or holds no weights.
    """
    from safetensors.torch import load_file

    if file.exists() and not file.is_file():
        raise ModelError(f"{file}: must be a file")
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = _state_in(_checkpoint(file))
    except FileNotFoundError:
        raise ModelError(f"{file}: no such file") from None
    except UnpicklingError as error:
        reason = one_line(error).partition("WeightsUnpickler error: ")[2]
        found = f" ({reason[:120]})" if reason else ""
        raise ModelError(
            f"{file}: holds more than weights, and nothing of it was run{found}; where it can be trusted, save its "
            "state dict alone"
        ) from None
    except ModelError:
        raise
    except Exception as error:  # many kinds for a damaged file
        raise ModelError(f"{file}: cannot be read: {one_line(error)}") from None
    if not state:
        raise ModelError(f"{file}: holds no state dict: tensors by their names, at its top or under {CONTAINERS}")
    return state


def _checkpoint(file: Path) -> Any:
    with file.open("rb") as opened:
        if not opened.read(4).startswith(_WRITTEN_BY_TORCH):
            raise ModelError(f"{file}: must be a .safetensors file, or one that torch.save wrote")
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except ValueError:  # of a form from before torch 1.6, whose names are not listed: weights alone can be read
        unknown = []
    with torch.serialization.safe_globals([(Stub, name) for name in unknown]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is wrong is an error, in one line
        return torch.load(file, map_location="cpu", weights_only=True)


def _state_in(found: Any) -> dict[str, Tensor]:
    """The weights, or those of the first container that has some."""
    if not isinstance(found, Mapping):
        return {}
    for name in CONTAINERS:
        inner = _state_in(found.get(name))
        if inner:
            return inner
    return {key: value for key, value in found.items() if isinstance(key, str) and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether it is a tensor of numbers that are there, not sparse, quantised or the like."""
    return isinstance(value, Tensor) and value.layout == torch.strided and not (value.is_quantized or value.is_meta)


def fill(network: nn.Module, state: Mapping[str, Tensor], what: str, *, may_lack: Sequence[str] = ()) -> None:
    """Put weights into a network, in place; what does not fit changes nothing of it.

    Args:
        what: the file, for the error.
        may_lack: names that the state need not have.
    Raises: ModelError naming what the state lacks, has too much, has in another shape, or not finite.
    """
    own = network.state_dict()
    state = _untied(state, own)
    lacks = [name for name in own if name not in state and name not in may_lack and not name.endswith(_COUNT)]
    extra = [name for name in state if name not in own and not name.endswith(_COUNT)]
    if lacks or extra:
        parts = [f"lacks {_some(lacks)}"] if lacks else []
        parts += [f"has {_some(extra)} besides"] if extra else []
        close = difflib.get_close_matches(lacks[0], extra, n=1) if lacks else []
        parts[-1] += f"; nearest to {lacks[0]}: {close[0]}" if close else ""
        raise ModelError(f"{what}: does not fit the network: {', and '.join(parts)}")
    for name, tensor in state.items():
        if name in own and tensor.shape != own[name].shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(own[name].shape)}"
            raise ModelError(f"{what}: does not fit the network: {name} is of shape {shapes}")
        if name in own and tensor.is_floating_point() != own[name].is_floating_point():
            raise ModelError(f"{what}: does not fit the network: {name} is {tensor.dtype}, not {own[name].dtype}")
        if not tensor.isfinite().all():
            raise ModelError(f"{what}: {name} holds numbers that are not finite")
    network.load_state_dict({name: state.get(name, tensor) for name, tensor in own.items()})


def _untied(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with each tied weight under all its names, of which safetensors' `save_model` writes one."""
    places: dict[tuple[Any, ...], str] = {}  # where a tensor lies in memory -> a name that the state has for it
    lies = {name: (tensor.data_ptr(), tensor.shape, tensor.stride()) for name, tensor in own.items()}
    for name, place in lies.items():
        if name in state:
            places[place] = name
    lacking = {name: state[places[place]] for name, place in lies.items() if name not in state and place in places}
    return {**state, **lacking}


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def model_of(
    state: Mapping[str, Tensor],
    description: Description,
    what: str,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """The classifier of a description with given weights, in eval mode.

    Args:
        state: by the names of our own files, or, of a network that is not built in, by those of the network itself.
        what: the file, for the error.
        mean, std: what the network's images are normalised by, a number or one a channel; None takes the state's own,
            and images as they are if it has none.
    Raises: ModelError.
    """
    as_saved = description.is_built_in or any(name in state for name in _NORMALISATION)

    def put_in(network: nn.Module) -> None:
        """Before it is taken apart, while its weights have their own names."""
        if not as_saved:
            fill(network.network if isinstance(network, Grey) else network, state, what)

    with torch.random.fork_rng(devices=[]):  # the initial weights, replaced at once, take nothing from the caller
        model = build(description, put_in)
    if as_saved:
        fill(model, state, what, may_lack=_NORMALISATION)
    for name, values in (("mean", mean), ("std", std)):
        if values is not None:
            _set_channels(getattr(model.normalise, name), values, f"{name} = {list(values)}")
    if not (model.normalise.std > 0).all():
        raise ModelError(f"{what}: std: must be > 0 for every channel")
    model.eval()
    with torch.no_grad():
        logits = model(torch.full((2, *description.image_shape), 0.5))
    if not logits.isfinite().all():
        raise ModelError(f"{what}: gives logits that are not finite")
    return model


def _set_channels(buffer: Tensor, values: Sequence[float], what: str) -> None:
    if len(values) not in (1, buffer.shape[1]):
        raise ModelError(f"{what}: must be one number, or one for each of {buffer.shape[1]} channels")
    buffer.copy_(torch.tensor(list(values)).view(1, -1, 1, 1).expand_as(buffer))


def given_model(
    file: Path,
    image_shape: tuple[int, int, int],
    class_names: tuple[str, ...],
    *,
    network: Mapping[str, Any],
    is_named: bool,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """A model from elsewhere as one of D's, in eval mode.

    Args:
        file: one of our own, its .json beside it; or weights alone.
        image_shape, class_names: of D.
        network: which one weights alone are put into, as `ModelSettings.arguments` says.
        is_named: it was named for this file.
        mean, std: see `model_of`; only of weights alone.
    Raises: ModelError if it is missing, damaged, unreadable, or not for D's images and classes.
    """
    origin = {"file": file.name, "sha256": ""}
    if file.suffix == ".safetensors" and file.with_suffix(".json").exists():
        if is_named or mean or std:
            raise ModelError(f"{file}: architecture, mean and std must be left out: the .json beside it says them")
        model = load_model(file)
        _require_of_d(model.description, image_shape, class_names, file)
        origin = model.description.origin or origin
    else:
        description = description_of(image_shape=image_shape, class_names=class_names, **network)
        model = model_of(read_weights(file), description, str(file), mean=mean, std=std)
    origin = origin if origin["sha256"] else {**origin, "sha256": sha256(file)}
    model.description = model.description.model_copy(update={"class_names": class_names, "origin": origin})
    return model


def _require_of_d(
    description: Description, image_shape: tuple[int, int, int], class_names: tuple[str, ...], file: Path
) -> None:
    """Raises: ModelError unless a model is for images and classes of D; numbers stand for classes of any names."""
    if description.image_shape != image_shape:
        raise ModelError(f"{file}: for images of shape {description.image_shape}, not {image_shape} as in data/train")
    names = description.class_names
    if len(names) != len(class_names):
        raise ModelError(f"{file}: for {len(names)} classes, not {len(class_names)} as in data/train")
    if names not in (class_names, tuple(map(str, range(len(names))))):
        here, there = next((mine, one) for mine, one in zip(names, class_names, strict=True) if mine != one)
        raise ModelError(f"{file}: its classes are not data/train's in their order: {here!r} where D has {there!r}")
