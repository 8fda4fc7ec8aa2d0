"""Nested state of tensors and plain values in one safetensors file, with a checksum; nothing is pickled."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from notbugs.runtime.errors import UserError
from notbugs.runtime.files import whole_file


class StateError(UserError):
    """A file of state is truncated or altered."""


def save_state(file: Path, state: Any) -> None:
    """Write state whole or not at all.

    Args:
        file: written under a temporary name and renamed.
        state: dictionaries (keys: text or integers), lists, tuples, tensors, numbers, text, booleans, None.
    Raises: TypeError for anything else.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_packed(state, tensors))
    with whole_file(file) as temporary:
        save_file(tensors, temporary, metadata={"state": text, "sha256": _checksum(text, tensors)})


def load_state(file: Path) -> Any:
    """Read what `save_state` wrote; tensors lie on the CPU.

    Raises: FileNotFoundError; StateError if the file is damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if _checksum(metadata["state"], tensors) != metadata["sha256"]:
            raise StateError(f"{file}: altered (its SHA-256 is another)")
        return _unpacked(json.loads(metadata["state"]), tensors)
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError, RuntimeError, LookupError, AttributeError, TypeError, ValueError) as error:
        if isinstance(error, StateError):
            raise
        raise StateError(f"{file}: cannot be read: {' '.join(str(error).split())[:300]}") from None


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        found.update(tensors[name].flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def _packed(value: Any, tensors: dict[str, Tensor]) -> Any:
    """As JSON; a tensor becomes its number among `tensors`."""
    if isinstance(value, Tensor):
        name = f"{len(tensors):05d}"
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"map": [[_key(key), _packed(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_packed(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"state cannot hold a {type(value).__name__}")


def _key(key: Any) -> str | int:
    if isinstance(key, str | int):
        return key
    raise TypeError(f"a key of state is text or an integer, not a {type(key).__name__}")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "map":
        return {key: _unpacked(item, tensors) for key, item in content}
    items = [_unpacked(item, tensors) for item in content]
    return items if kind == "list" else tuple(items)
