"""A network whose last ReLUs pass gradients back as if they were not there."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from notbugs.attacks.modules import copied, evaluating_
from notbugs.models.base import Classifier
from notbugs.models.ensemble import Ensemble
from notbugs.runtime.errors import UserError, one_line

_FUNCTIONS = (torch.relu, torch.relu_, functional.relu, functional.relu_)
_METHODS = ("relu", "relu_")


class NoReluError(UserError):
    """The last ReLUs of a network are not found."""


def straightened(model: Classifier) -> Classifier:
    """A copy with the same outputs, whose last ReLUs have the derivative 1 everywhere.

    A ReLU is among the last if no other comes after it on the way to the representation: of a ResNet that is the one
    which ends its last block, of an Inception network those which end the branches of its last block.

    Args:
        model: its body, or that of each member of an ensemble, is traced; it is not changed.
    Returns: the copy, in eval mode.
    Raises: NoReluError if the body cannot be traced, or has no ReLU.
    Source: MadryLab/robustness, `FakeReLU` of custom_modules.py, which the released datasets were inverted with.
    """
    if isinstance(model, Ensemble):
        return Ensemble([straightened(cast(Classifier, member)) for member in model.members]).eval()
    copy = copied(model)
    assert isinstance(copy, Classifier)
    evaluating_(copy)
    body = getattr(copy, "body", None)  # missing where the representation is that of a named module
    if not isinstance(body, nn.Module):
        raise _refusal(model, "its representation is not the input of its last layer")
    try:
        graph = fx.Tracer().trace(body)
    except Exception as error:  # whatever a forward method may raise at a stand-in for a tensor
        raise _refusal(model, f"it cannot be traced: {type(error).__name__}: {one_line(error)}") from None
    last = _last_relus(graph, dict(body.named_modules(remove_duplicate=False)))
    if not last:
        raise _refusal(model, "it has no ReLU")
    for node in last:
        given = node.args[0] if node.args else node.kwargs["input"]
        with graph.inserting_after(node):
            straight = graph.call_function(straight_relu, (given,))
        node.replace_all_uses_with(straight)
        graph.erase_node(node)
    copy.body = fx.GraphModule(body, graph).eval()
    return copy


def straight_relu(x: Tensor) -> Tensor:
    """max(x, 0), to the bit, with the derivative of x; in operations that can be traced and compiled."""
    return x.relu().detach() + (x - x.detach())


def _last_relus(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> list[fx.Node]:
    """The ReLUs that no other comes after."""
    found, leading = [], set()  # leading: nodes that a ReLU comes after, or that are one
    for node in reversed(graph.nodes):
        followed = any(user in leading for user in node.users)
        if _is_relu(node, modules) and not followed:
            found.append(node)
        if followed or _is_relu(node, modules):
            leading.add(node)
    return found


def _is_relu(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    if node.op == "call_module":
        return isinstance(modules.get(str(node.target)), nn.ReLU)
    return (node.op == "call_function" and node.target in _FUNCTIONS) or (
        node.op == "call_method" and node.target in _METHODS
    )


def _refusal(model: nn.Module, why: str) -> NoReluError:
    return NoReluError(f"straight_through = true: must be false for this source model ({type(model).__name__}): {why}")
