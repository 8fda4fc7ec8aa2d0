"""Networks of other people: all modules of one, a copy of one, and whether it judges each image by itself."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from notbugs.attacks.gradients import followed
from notbugs.runtime.errors import UserError

REPEATS = 1e-3
"""Difference of two evaluations, as a share of the largest logit, that rounding explains."""

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))


class UnsteadyError(UserError):
    """What a network says of an image depends on the other images of its batch."""


def all_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Every module of a network once, those too that `modules()` misses since they lie in plain lists or mappings."""
    seen: set[int] = set()
    waiting = [model]
    while waiting:
        module = waiting.pop(0)
        if id(module) in seen:
            continue
        seen.add(id(module))
        yield module
        waiting += module.children()
        waiting += _modules_in(_attributes(module))


def all_tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers of every module that `all_modules` finds, each once."""
    return tensors_of(all_modules(model))


def tensors_of(modules: Iterable[nn.Module]) -> list[Tensor]:
    """Parameters and buffers of modules, each once, without those of their children."""
    found: dict[int, Tensor] = {}
    for module in modules:
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            found[id(tensor)] = tensor
    return list(found.values())


def evaluating_(model: nn.Module) -> None:
    """Put a network into eval mode, with modules that its own `eval` does not reach."""
    if in_train_mode(model) is not None:
        model.eval()
    for module in all_modules(model):
        if in_train_mode(module):
            module.training = False


def in_train_mode(module: nn.Module) -> bool | None:
    """Whether a module is; None for one that knows no modes (torch.jit.freeze takes them away)."""
    mode: bool | None = getattr(module, "training", None)
    return mode


@torch.no_grad()
def copied(model: nn.Module, shared: Mapping[int, Tensor] | None = None) -> nn.Module:
    """A copy; of tensors that were computed (torch.nn.utils.weight_norm keeps one), the values.

    Args:
        shared: id of a tensor -> what the copy has in its place; None shares nothing.
    """
    memo: dict[int, Any] = dict(shared or {})
    for module in all_modules(model):
        for value in _attributes(module).values():
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    return copy.deepcopy(model, memo)


@torch.no_grad()
def check_steady(model: nn.Module, inputs: Tensor) -> None:
    """Refuse a network whose logits of an image change with the other images of its batch.

    A BatchNorm that computes with its batch's statistics does that. Its accuracy is no number, and attacks on one image
    move by the others. The network is left as it was; one that draws random numbers is not told apart, so it passes.

    Args:
        model: in eval mode.
        inputs: at least one image as they will come, (n, ...) in [0, 1].
    Raises: UnsteadyError naming what was seen.
    """
    if not len(inputs):
        return
    tensors = all_tensors(model)
    before = [tensor.detach().clone() for tensor in tensors]
    image = inputs[:1].detach()
    companion = inputs[1:2].detach() if len(inputs) > 1 and not torch.equal(inputs[:1], inputs[1:2]) else image / 2
    pairs = (torch.cat([image, image]), torch.cat([image, companion]))
    try:
        first, again, other = (followed(model, pair)[0] for pair in (pairs[0], pairs[0], pairs[1]))
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            if not torch.equal(tensor, value):
                tensor.copy_(value)
    if _differ(first, other) and not _differ(first, again):
        kind = nn.modules.batchnorm._BatchNorm
        normalising = [type(module).__name__ for module in all_modules(model) if isinstance(module, kind)]
        named = f" ({', '.join(sorted(set(normalising)))} among its layers)" if normalising else ""
        raise UnsteadyError(
            f"{type(model).__name__}: its logits of one image change with the other images of the batch{named}; "
            "a network that is measured or attacked must judge each image by itself, in eval mode"
        )


def _differ(first: Tensor, second: Tensor) -> bool:
    scale = first.abs().amax().clamp(min=1e-12)
    return bool((first - second).abs().amax() > REPEATS * scale)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """What a module keeps besides its parameters, buffers, children, and what every module has."""
    return {name: value for name, value in vars(module).items() if name not in _OF_EVERY_MODULE}


def _modules_in(value: Any) -> Iterator[nn.Module]:
    """Modules in lists, tuples, sets and mappings, however deep."""
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _modules_in(item)
    elif isinstance(value, list | tuple | set):
        for item in value:
            yield from _modules_in(item)
