"""Attacks in whatever mode of torch the caller is: gradients are followed, and in the precision of the images."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from notbugs.attacks.modules import all_tensors, copied

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def in_ordinary_mode(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run a function outside torch.inference_mode() and torch.autocast, whichever the caller is in.

    Tensors and networks among its arguments that were made in inference mode are copied: autograd refuses them.
    """

    @functools.wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with ordinary_mode():
            own = {name: _ordinary(value) for name, value in kwargs.items()}
            return function(*map(_ordinary, args), **own)

    return run


@contextmanager
def ordinary_mode() -> Iterator[None]:
    """Neither inference mode nor autocast."""
    with torch.inference_mode(False), torch.autocast("cpu", enabled=False):
        if not torch.is_autocast_enabled("cuda"):
            yield
            return
        with torch.autocast("cuda", enabled=False):
            yield


def _ordinary(value: Any) -> Any:
    """The value itself, or a copy where it is or holds tensors of inference mode."""
    if isinstance(value, Tensor) and value.is_inference():
        return value.clone()
    if not isinstance(value, nn.Module) or "_parameters" not in vars(value):  # one that is being made has none yet
        return value
    return copied(value) if any(tensor.is_inference() for tensor in all_tensors(value)) else value
