"""Released classifiers made into models of our own: MadryLab/robustness, RobustBench, and plain state dicts.

    robustness   {"model": {"module.model.<name>", "module.attacker.<...>", "module.normalizer.new_mean", ...}, ...}
    robustbench  <name>, or {"state_dict": ...}; prefixes "module." and "model."; mu, sigma, or normalize.mean, .std
    state_dict   <name> as the network itself has it

Nothing in a file is run (`models.given.read_weights`). Names of the released CIFAR networks become those of the
package's; any other network (torchvision:NAME, timm:NAME, one's own) is given the names as they are.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from notbugs.exchange.base import FormatError
from notbugs.models import ModelError, description_of, save_model
from notbugs.models.base import Classifier
from notbugs.models.given import model_of, read_weights
from notbugs.runtime.files import sha256

_MEANS = ("normalizer.new_mean", "normalizer.mean", "normalize.mean", "normalizer.mu", "mu", "mean")
_STDS = ("normalizer.new_std", "normalizer.std", "normalize.std", "normalizer.sigma", "sigma", "std")
"""Names of what a released network's images are normalised by."""
_UNUSED = ("attacker.", "sub_block1.")
"""Beginnings of names of weights that logits do not go through: a second copy for attacks, and a group of blocks that
some released Wide ResNets carry along."""
_RESNET = (
    (r"^conv1\.", "body.0."),
    (r"^bn1\.", "body.1."),
    *((rf"^layer{number}\.", f"body.{number + 2}.") for number in (1, 2, 3, 4)),
    (r"\.shortcut\.", ".downsample."),
    (r"^linear\.", "head."),
)
_PREACT = (
    (r"^conv1\.", "body.0."),
    *((rf"^layer{number}\.", f"body.{number}.") for number in (1, 2, 3, 4)),
    (r"^bn\.", "body.5."),
    (r"\.shortcut\.0\.", ".shortcut."),
    (r"^linear\.", "head."),
)
_WIDE = (
    (r"^conv1\.", "body.0."),
    (r"^block(\d)\.layer\.", r"body.\1."),
    (r"^bn1\.", "body.4."),
    (r"\.convShortcut\.", ".shortcut."),
    (r"^fc\.", "head."),
)
RENAMED: dict[str, Sequence[tuple[str, str]]] = {
    "resnet18": _RESNET,
    "resnet50": _RESNET,
    "preact_resnet18": _PREACT,
    "preact_resnet18_bare": _PREACT,
    "wide_resnet28": _WIDE,
    "wide_resnet34": _WIDE,
}
"""Architecture -> patterns of the released networks' names, and what stands in their place in ours."""


def import_model(
    file: Path,
    form: str,
    out: Path,
    *,
    architecture: str,
    width: int | None = None,
    kwargs: Mapping[str, Any] | None = None,
    representation: str | None = None,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    class_names: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """Make a model of our own, which `load_model` opens, of a released checkpoint.

    Args:
        file: the checkpoint; nothing in it is run.
        form: one of MODEL_FORMATS.
        out: .safetensors file to be made, its description beside it.
        architecture, width, kwargs, representation: the network, as in params.yaml's `model`.
        image_shape: (C, H, W) of its images.
        class_names: in label order; None takes the numbers of as many classes as there are logits.
        mean, std: what its images are normalised by, where the file does not say; a number or one a channel.
    Returns: the model, in eval mode.
    Raises: FormatError if `out` is no .safetensors file, or is there already; ModelError for a file that cannot be
        read, or does not fit the network.
    """
    if out.suffix != ".safetensors":
        raise FormatError(f"--out {out}: must be a .safetensors file")
    for path in (out, out.with_suffix(".json")):
        if path.exists() or path.is_symlink():
            raise FormatError(f"--out {path}: is there already, and nothing is overwritten; name a new file")
    state = _unwrapped(read_weights(file), ("module.",) if form == "state_dict" else ("module.", "model."))
    found_mean, found_std = (_popped(state, names) for names in (_MEANS, _STDS))
    if form != "state_dict":
        state = _renamed(state, architecture)
    names = tuple(class_names or map(str, range(_num_classes(state, file))))
    description = description_of(architecture, image_shape, names, width, kwargs, representation)
    model = model_of(state, description, str(file), mean=mean or found_mean, std=std or found_std)
    origin = {"file": file.name, "format": form, "sha256": sha256(file)}
    model.description = description.model_copy(update={"origin": origin})
    save_model(model, out)
    return model


def _unwrapped(state: Mapping[str, Tensor], prefixes: Sequence[str]) -> dict[str, Tensor]:
    """The weights that logits go through, without the prefixes of what was put around the network."""
    found = {}
    for name, tensor in state.items():
        for prefix in prefixes:
            name = name.removeprefix(prefix)
        if not name.startswith(_UNUSED):
            found[name] = tensor
    return found


def _popped(state: dict[str, Tensor], names: Sequence[str]) -> list[float] | None:
    """The first of these that the state has; it is taken out."""
    found = None
    for name in names:
        if name in state:
            values = state.pop(name)
            found = found or [float(value) for value in values.flatten()]
    return found


def _renamed(state: Mapping[str, Tensor], architecture: str) -> dict[str, Tensor]:
    """The weights of a released CIFAR network by the names of ours."""
    found = {}
    for name, tensor in state.items():
        own = name
        for pattern, place in RENAMED.get(architecture, ()):
            own = re.sub(pattern, place, own)
        found[own] = tensor
    return found


def _num_classes(state: Mapping[str, Tensor], file: Path) -> int:
    """As many as the last linear layer gives numbers.

    Raises: ModelError if there is none.
    """
    counts = [len(tensor) for name, tensor in state.items() if name.endswith("weight") and tensor.ndim == 2]
    if not counts:
        raise ModelError(f"{file}: has no linear layer that says how many classes there are; name them with --classes")
    return counts[-1]
