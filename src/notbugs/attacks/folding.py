"""BatchNorm folded into the layer before it, for networks that no longer learn.

In eval mode a BatchNorm is a fixed affine map per channel, so Conv → BatchNorm is one convolution with other
numbers: W' = W · γ/√(σ² + ε),  b' = β + (b − μ) · γ/√(σ² + ε).
"""

from collections import Counter
from typing import NamedTuple

import torch
from torch import fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Fold(NamedTuple):
    """A layer and the BatchNorm after it, by their dotted names."""

    layer: str
    norm: str


def find_folds(model: nn.Module) -> list[Fold]:
    """Every Conv → BatchNorm and Linear → BatchNorm of a model where nothing else reads the layer's output.

    The model is traced; a part that cannot be traced (control flow that depends on the data) is searched
    module by module inside, and what is found nowhere stays as it is.

    Args:
        model: in eval mode.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    places = Counter(id(module) for module in modules.values())
    owners = Counter(id(tensor) for module in set(modules.values()) for tensor in module.parameters(recurse=False))

    def stands_alone(name: str) -> bool:
        """Whether a module is used once, and shares no weight with another."""
        module = modules[name]
        tied = any(owners[id(tensor)] > 1 for tensor in module.parameters(recurse=False))
        return is_plain(module) and places[id(module)] == 1 and not tied

    return [
        fold
        for fold in _pairs(model, "")
        if all(map(stands_alone, fold)) and _fits(modules[fold.layer], modules[fold.norm])
    ]


def fold_(model: nn.Module, folds: list[Fold]) -> None:
    """Give each layer a bias and replace its BatchNorm by nothing; `refold_` then fills in the numbers."""
    for layer_name, norm_name in folds:
        layer = model.get_submodule(layer_name)
        if layer.bias is None:
            norm = model.get_submodule(norm_name)
            zeros = torch.zeros_like(norm.running_mean)
            layer.bias = nn.Parameter(zeros, requires_grad=False)
        parent, _, child = norm_name.rpartition(".")
        setattr(model.get_submodule(parent), child, nn.Identity())


@torch.no_grad()
def refold_(model: nn.Module, source: nn.Module, folds: list[Fold]) -> None:
    """Copy the weights of `source` into its folded copy `model`, in place.

    Args:
        model: what `fold_` made of a copy of `source`.
        source: the network as it is now.
        folds: what was folded.
    """
    folded = {fold.layer for fold in folds}
    mine = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, value in (*source.named_parameters(), *source.named_buffers()):
        if name in mine and name.rpartition(".")[0] not in folded:
            mine[name].copy_(value)
    for fold in folds:
        weight, bias = _folded(source.get_submodule(fold.layer), source.get_submodule(fold.norm))
        mine[f"{fold.layer}.weight"].copy_(weight)
        mine[f"{fold.layer}.bias"].copy_(bias)


def _folded(layer: nn.Module, norm: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    statistics = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    if isinstance(layer, nn.Linear):
        return fuse_linear_bn_weights(layer.weight, layer.bias, *statistics)  # type: ignore[arg-type]
    transposed = isinstance(layer, TRANSPOSED)
    return fuse_conv_bn_weights(layer.weight, layer.bias, *statistics, transposed)  # type: ignore[arg-type]


def _pairs(module: nn.Module, prefix: str) -> list[Fold]:
    """The pairs inside one module, from its own trace if it has one, else from its children's."""
    try:
        graph = fx.Tracer().trace(module)
    except Exception:  # whatever a forward method may raise at a stand-in for a tensor
        return [fold for name, child in module.named_children() for fold in _pairs(child, f"{prefix}{name}.")]
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    return [
        Fold(prefix + str(node.args[0].target), prefix + str(node.target))
        for node in graph.nodes
        if node.op == "call_module" and len(node.args) == 1 and not node.kwargs
        and isinstance(before := node.args[0], fx.Node) and before.op == "call_module"
        and len(before.users) == 1
        and calls[node.target] == calls[before.target] == 1
        and not read & {node.target, before.target}
    ]  # fmt: skip


def is_plain(module: nn.Module) -> bool:
    """Whether a module is nothing but its class: no hooks, no parametrised weights."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return not any(hooks) and not parametrize.is_parametrized(module)


def _fits(layer: nn.Module, norm: nn.Module) -> bool:
    """Whether the pair is of the kinds that fold; subclasses may compute something else, so they do not."""
    if type(norm) not in NORMS or norm.running_mean is None:
        return False
    if type(layer) in TRANSPOSED and layer.groups != 1:
        return False
    return type(layer) in CONVOLUTIONS or (type(layer) is nn.Linear and type(norm) is nn.BatchNorm1d)
