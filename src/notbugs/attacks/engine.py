"""The engine: a frozen copy of a network, made for being attacked.

An attack runs a network hundreds of times and wants one thing of it, the gradient with respect to the image. So
the copy keeps no parameter gradients, has its BatchNorms folded into its convolutions, lies in memory in the order
that convolutions like (channels last), convolves wide layers with fewer multiplications (on the CPU), may be compiled,
and convolves in half precision where the device gains by it (`devices.TRAITS`). Images, steps and projections stay in
float32 outside it. On several CPU threads each works on its own part of the batch from the first step to the last,
instead of all of them meeting after every layer.
"""

import copy
import importlib.util
import itertools
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks.folding import Fold, find_folds, fold_, refold_
from notbugs.attacks.gradients import followed, has_derivative
from notbugs.attacks.modes import in_ordinary_mode
from notbugs.attacks.modules import (
    all_modules,
    all_tensors,
    check_steady,
    copied,
    evaluating_,
    in_train_mode,
    tensors_of,
)
from notbugs.attacks.winograd import WinogradConv2d, use_winograd_
from notbugs.runtime.config import EngineName
from notbugs.runtime.devices import Traits, is_out_of_memory, traits
from notbugs.runtime.errors import ConfigError

SMALLEST_SHARE = 8
"""Images below which another thread is not worth it."""
MOST_SHRUNK = 16
"""A compiled engine runs no batch smaller than the first size met divided by this; smaller ones are padded."""
LOW_PRECISION = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers whose weights are stored in half precision, where that is used."""
HALF_TOLERANCE = 0.05
"""Difference of a logit, as a share of the largest, from which half precision is refused."""
COMPILER = "inductor"
"""Backend of torch.compile."""
RECOMPILED = 64
"""Versions of a network that torch.compile may keep: a size of batch and a mode of autograd each."""


Part = TypeVar("Part")


class Engine(nn.Module):
    """A network that is only attacked; called like the network: (N, C, H, W) in [0, 1] -> logits (N, K).

    Args:
        model: any module, on any device; it is copied and not changed. `refresh` follows later changes.
        inputs: a few images as they will come, (n, ...). What is folded, or stored in half precision, must give
            the model's own logits on them, else it is left as it is.
        compiled: use torch.compile, for the first batch size met and its halves; others are padded to them. Where it
            fails at the first batch, that is said and the network runs as it is.
        half: precision of the convolutions; "auto" takes what `devices.TRAITS` has for the images' device, None that
            of the images.
        learning: `refresh` will be called every few steps, so what only pays for lasting weights is left out.
    Raises: UnsteadyError for a network whose logits of an image change with the other images of its batch.
    """

    network: nn.Module
    """The copy."""
    _functions: tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor] | None]
    """What gives logits and representation; in a tuple, so that neither is a submodule beside `network`."""
    smooth: bool
    """Whether the gradient was made of numbers at the images that it was made with; where the host waits for the
    device, nobody asks."""

    @in_ordinary_mode
    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        *,
        compiled: bool = False,
        half: torch.dtype | Literal["auto"] | None = "auto",
        learning: bool = False,
    ) -> None:
        super().__init__()
        self._source = lambda: model  # in a function, so that it is no submodule
        self._in_full: list[Engine] = []  # in a list, so that it is no submodule
        self._batch_size = 0
        self._stopped = threading.Event()
        self._traits = traits(inputs.device)
        inputs = inputs.detach()
        self.network, self._folds = _folded_copy(model, inputs)
        check_steady(self.network, inputs)
        self._writes = _writes_on_input(self.network, inputs)
        self.compiled = compiled and not self._writes  # compiled code takes what autograd begins with, not a copy
        wanted = self._traits.attack_precision if half == "auto" else half
        self.half_dtype: torch.dtype | None = None
        self.channels_last = inputs.ndim == 4 and self._lies_channels_last(inputs)
        if wanted is not None and inputs.dtype == torch.float32:
            self._lower_precision(inputs, wanted)
        if self.channels_last and not (compiled or learning or self.half_dtype):
            use_winograd_(self.network, inputs)
        self._use(self.network)
        self.smooth = not self._traits.runs_ahead or has_derivative(self._runner, inputs, torch.ones_like)

    def in_parts(self, count: int, work: "Callable[[Engine, slice], Part]") -> "list[Part]":
        """Do a work on `count` examples, on the CPU a part of them in each of torch's threads.

        Args:
            work: (engine, rows) -> anything; engines of different parts share their weights and nothing else.
        Returns: what `work` gave, in the order of the rows.
        """
        num_threads = min(torch.get_num_threads(), count // SMALLEST_SHARE)
        if num_threads < 2 or self.compiled or self._traits.runs_ahead:
            return [work(self, slice(0, count))]
        ends = [count * number // num_threads for number in range(num_threads + 1)]
        stopped = threading.Event()
        before = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                jobs = [
                    pool.submit(work, self._twin(stopped), slice(start, stop))
                    for start, stop in itertools.pairwise(ends)
                ]
                try:
                    return [job.result() for job in jobs]
                finally:
                    stopped.set()  # after Ctrl-C the others end at their next step
        finally:
            torch.set_num_threads(before)  # the pool's setting reaches beyond its own threads

    def in_full(self, inputs: Tensor) -> "Engine":
        """The engine of the same model in the precision of the images, made when it is first asked for.

        Args:
            inputs: a few images as they will come, (n, ...).
        """
        if self.half_dtype is None:
            return self
        if not self._in_full:
            self._in_full.append(Engine(self._source(), inputs, half=None))
        return self._in_full[0]

    def _twin(self, stopped: threading.Event) -> "Engine":
        """An engine that shares the weights; what a network may write on itself, it writes on its own copy."""
        shared = {id(tensor): tensor for tensor in all_tensors(self.network)}
        twin = copy.copy(self)
        twin._modules, twin._stopped = {}, stopped
        twin._use(copied(self.network, shared))
        return twin

    def _use(self, network: nn.Module) -> None:
        logits: Callable[[Tensor], Tensor] = network
        features = getattr(network, "representation", None)
        self.network = network
        if self.compiled:
            logits, features = _Compiled(logits, self._traits), features and _Compiled(features, self._traits)
        self._functions = (logits, features)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, ...) -> (N, K) in the precision of x."""
        return self._run(self._functions[0], x)

    def representation(self, x: Tensor) -> Tensor:
        """Penultimate activations, (N, ...) -> (N, F) in the precision of x.

        Raises: AttributeError if the network has no `representation`.
        """
        features = self._functions[1]
        if features is None:
            raise AttributeError(f"{type(self.network).__name__} has no representation")
        return self._run(features, x)

    def refresh(self) -> None:
        """Take over the weights and statistics that the model has now."""
        refold_(self.network, self._source(), self._folds)
        for module in self.network.modules():
            if isinstance(module, WinogradConv2d):
                module.repack()

    def train(self, mode: bool = True) -> "Engine":
        """Does nothing: an engine is always in eval mode."""
        return self

    def _run(self, network, x: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        if self._stopped.is_set():
            raise InterruptedError("the attack was stopped")
        count = len(x)
        missing = self._padded(count) - count
        if missing:
            x = functional.pad(x, [0, 0] * (x.ndim - 1) + [0, missing])
        elif self._writes:
            x = x.clone()
        with torch.autocast(x.device.type, self.half_dtype) if self.half_dtype else nullcontext():
            outputs: Tensor = network(x)
        return (outputs[:count] if missing else outputs).to(x.dtype)

    def _padded(self, count: int) -> int:
        """The batch size that `count` examples run at: compiled code is made for the first size met and its halves."""
        if not self.compiled:
            return count
        self._batch_size = size = max(self._batch_size, count)
        while size // 2 >= count and size > self._batch_size // MOST_SHRUNK:
            size //= 2
        return size

    @torch.no_grad()
    def _lies_channels_last(self, inputs: Tensor) -> bool:
        """Lay the network out channels last; not where it then fails (it flattens by `view`) or says something else."""
        expected = followed(self._runner, inputs)
        self.network.to(memory_format=torch.channels_last)
        try:
            found = followed(self._runner, inputs.contiguous(memory_format=torch.channels_last))
            works = _agree(found, expected, 1e-3)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            works = False
        if not works:
            self.network.to(memory_format=torch.contiguous_format)
        return works

    def _runner(self, x: Tensor) -> Tensor:
        return self._run(self.network, x)

    @torch.no_grad()
    def _lower_precision(self, inputs: Tensor, dtype: torch.dtype) -> None:
        """Store the weights of convolutions in half precision, unless that changes what the network says."""
        expected, whole = self._run(self.network, inputs), copied(self.network)
        for module in self.network.modules():
            if type(module) in LOW_PRECISION:
                module.to(dtype)
        self.half_dtype = dtype
        if not _agree(self._run(self.network, inputs), expected, HALF_TOLERANCE):
            self.network, self.half_dtype = whole, None


def pays_to_compile(engine: EngineName, model: nn.Module, inputs: Tensor, *, num_looks: int) -> bool:
    """Whether a work of so many images × steps is done by a compiled engine.

    `auto` decides by a fixed rule, not by a timing, so that a rerun does the same: from so many forward multiply-adds
    on (`devices.TRAITS`), where there is a compiler.

    Args:
        engine: as params.yaml writes it.
        model: what is attacked.
        inputs: at least one image, (n, ...).
        num_looks: images × steps of the whole work.
    Raises: ConfigError if `compiled` is asked for where there is no compiler.
    """
    if engine != "auto":
        if engine == "compiled" and not can_compile(inputs.device):
            needed = "Triton and a C compiler" if inputs.device.type == "cuda" else "a C++ compiler"
            raise ConfigError(f"params.yaml: engine = 'compiled': it needs {needed}; allowed: auto, plain")
        return engine == "compiled"
    if not can_compile(inputs.device):
        return False
    pays = traits(inputs.device).compiling_pays
    return pays is not None and multiply_adds(model, inputs[:1]) * num_looks >= pays


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs: on the CPU a C++ compiler, on CUDA Triton and a C compiler."""
    if device.type == "cuda":
        found = any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "cc", "clang"))
        return found and importlib.util.find_spec("triton") is not None
    return device.type == "cpu" and any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "c++", "clang++"))


class _Compiled:
    """A function compiled; itself, from the first batch on, where that turns out to be impossible."""

    def __init__(self, function: Callable[[Tensor], Tensor], device: Traits) -> None:
        import torch._dynamo

        limit = torch._dynamo.config.recompile_limit
        torch._dynamo.config.recompile_limit = max(limit, RECOMPILED)
        self._plain, self._worked = function, False
        self._fast: Callable[[Tensor], Tensor] | None = torch.compile(
            function, dynamic=False, mode=device.compile_mode, backend=COMPILER
        )

    def __call__(self, x: Tensor) -> Tensor:
        """(N, ...) -> what the function gives."""
        if self._fast is None:
            return self._plain(x)
        try:
            outputs = self._fast(x)
        except Exception as error:  # compilers raise anything
            if self._worked or is_out_of_memory(error):
                raise
            text = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
            print(f"engine: torch.compile failed ({text}); goes on without", file=sys.stderr, flush=True)
            self._fast = None
            return self._plain(x)
        self._worked = True
        return outputs


def multiply_adds(model: nn.Module, image: Tensor) -> float:
    """Multiply-adds of one forward pass; image: (1, ...)."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with frozen(model), torch.no_grad(), counter:
        followed(model, image)
    return counter.get_total_flops() / 2


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model in eval mode with parameters that need no gradient; as found afterwards, module by module.

    Modules that `modules()` misses, since they lie in a plain list, are no exception; nor is a model whose own `train`
    leaves some in train mode.
    """
    modules = list(all_modules(model))
    modes = [(module, in_train_mode(module)) for module in modules]
    needs = [(tensor, tensor.requires_grad) for tensor in tensors_of(modules) if isinstance(tensor, nn.Parameter)]
    try:
        if any(mode for _, mode in modes):
            evaluating_(model)
        _need_gradients_(needs, False)
        yield
    finally:
        _need_gradients_(needs, True)
        for module, mode in modes:
            if mode is not None and in_train_mode(module) != mode:
                module.training = mode


def _need_gradients_(needs: Sequence[tuple[Tensor, bool]], again: bool) -> None:
    """Take the need for a gradient from those that have it, or give it back."""
    with torch.inference_mode(False):
        for tensor, needed in needs:
            if needed and not tensor.is_inference():  # one made in inference mode has no gradients in any case
                tensor.requires_grad_(again)


@torch.no_grad()
def _folded_copy(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, list[Fold]]:
    network = _frozen_copy(model)
    folds = find_folds(network)
    if folds:
        expected = followed(network, inputs)
        fold_(network, folds)
        refold_(network, model, folds)
        if not _agree(followed(network, inputs), expected, 1e-3):
            return _frozen_copy(model), []
    return network, folds


def _frozen_copy(model: nn.Module) -> nn.Module:
    network = copied(model)
    evaluating_(network)
    for tensor in all_tensors(network):
        tensor.requires_grad_(False)
    return network


@torch.no_grad()
def _writes_on_input(network: nn.Module, inputs: Tensor) -> bool:
    """Whether a network changes the images that it is given, as one that normalises in place does."""
    given = inputs[:1].clone()
    network(given)
    return not torch.equal(given, inputs[:1])


def _agree(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether all logits are equal to within a share of the largest."""
    scale = expected.abs().amax().clamp(min=1e-12)
    return bool((found - expected).abs().amax() <= tolerance * scale) if len(found) else True
