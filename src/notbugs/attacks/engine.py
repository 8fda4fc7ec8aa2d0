"""The engine: a frozen copy of a network, made for being attacked.

An attack runs a network hundreds of times and wants one thing of it, the gradient with respect to the image. So
the copy keeps no parameter gradients, has its BatchNorms folded into its convolutions, lies in memory in the order
that convolutions like (channels last), convolves wide layers with fewer multiplications (on the CPU), may be compiled,
and on CUDA convolves in half precision. Images, steps and projections stay in float32 outside it. On several CPU
threads each works on its own part of the batch from the first step to the last, instead of all of them meeting after
every layer.
"""

import copy
import itertools
import math
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks.folding import Fold, find_folds, fold_, refold_
from notbugs.attacks.winograd import WinogradConv2d, use_winograd_
from notbugs.config import EngineName
from notbugs.errors import ConfigError

COMPILING_PAYS = {"cpu": math.inf, "cuda": 1e16}
"""Forward multiply-adds of the whole work from which `auto` compiles: on the CPU never (docs/performance.md)."""
SMALLEST_SHARE = 8
"""Images below which another thread is not worth it."""
MOST_SHRUNK = 16
"""A compiled engine runs no batch smaller than the first size met divided by this; smaller ones are padded."""
HALVED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


Part = TypeVar("Part")


class Engine(nn.Module):
    """A network that is only attacked; called like the network: (N, C, H, W) in [0, 1] -> logits (N, K).

    Args:
        model: any module, on any device; it is copied and not changed. `refresh` follows later changes.
        inputs: a few images as they will come, (n, ...). What is folded (or halved) must give the model's own
            logits on them, else it is left as it is.
        compiled: use torch.compile, for the first batch size met and its halves; others are padded to them.
        learning: `refresh` will be called every few steps, so what only pays for lasting weights is left out.
    """

    network: nn.Module
    """The copy."""
    _logits: Callable[[Tensor], Tensor]
    _features: Callable[[Tensor], Tensor] | None

    def __init__(self, model: nn.Module, inputs: Tensor, *, compiled: bool = False, learning: bool = False) -> None:
        super().__init__()
        self.compiled = compiled
        self._source = [model]  # in a list, so that it is no submodule
        self._batch_size = 0
        self.network, self._folds = _folded_copy(model, inputs)
        self._on_cuda = inputs.is_cuda
        self._half = inputs.is_cuda and inputs.dtype == torch.float32
        if self._half:
            self._halve(inputs)
        self.channels_last = inputs.ndim == 4
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)
            if not (compiled or learning):
                use_winograd_(self.network, inputs)
        self._stopped = threading.Event()
        self._use(self.network)

    def in_parts(self, count: int, work: "Callable[[Engine, slice], Part]") -> "list[Part]":
        """Do a work on `count` examples, on the CPU a part of them in each of torch's threads.

        Args:
            work: (engine, rows) -> anything; engines of different parts share their weights and nothing else.
        Returns: what `work` gave, in the order of the rows.
        """
        num_threads = min(torch.get_num_threads(), count // SMALLEST_SHARE)
        if num_threads < 2 or self.compiled or self._on_cuda:
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

    def _twin(self, stopped: threading.Event) -> "Engine":
        """An engine that shares the weights; what a network may write on itself, it writes on its own copy."""
        shared = {id(tensor): tensor for tensor in (*self.network.parameters(), *self.network.buffers())}
        twin = copy.copy(self)
        twin._modules, twin._stopped = {}, stopped
        twin._use(copy.deepcopy(self.network, memo=shared))
        return twin

    def _use(self, network: nn.Module) -> None:
        self.network = self._logits = network
        self._features = getattr(network, "representation", None)
        if self.compiled:
            mode = "reduce-overhead" if self._on_cuda else None
            self._logits = torch.compile(network, dynamic=False, mode=mode)
            if self._features is not None:
                self._features = torch.compile(self._features, dynamic=False, mode=mode)

    def forward(self, x: Tensor) -> Tensor:
        """Logits, (N, ...) -> (N, K) in the precision of x."""
        return self._run(self._logits, x)

    def representation(self, x: Tensor) -> Tensor:
        """Penultimate activations, (N, ...) -> (N, F) in the precision of x.

        Raises: AttributeError if the network has no `representation`.
        """
        if self._features is None:
            raise AttributeError(f"{type(self.network).__name__} has no representation")
        return self._run(self._features, x)

    def refresh(self) -> None:
        """Take over the weights and statistics that the model has now."""
        refold_(self.network, self._source[0], self._folds)
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
        with torch.autocast("cuda", torch.float16) if self._half else nullcontext():
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

    def _halve(self, inputs: Tensor) -> None:
        """Store the weights of convolutions in half precision, unless that changes what the network says."""
        expected, whole = self._run(self.network, inputs), copy.deepcopy(self.network)
        for module in self.network.modules():
            if type(module) in HALVED:
                module.half()
        found = self._run(self.network, inputs)
        if not _agree(found, expected, 0.05):
            self.network, self._half = whole, False


def pays_to_compile(engine: EngineName, model: nn.Module, inputs: Tensor, *, num_looks: int) -> bool:
    """Whether a work of so many images × steps is done by a compiled engine.

    `auto` decides by a fixed rule, not by a timing, so that a rerun does the same: from COMPILING_PAYS forward
    multiply-adds on, where there is a compiler.

    Args:
        engine: as params.yaml writes it.
        model: what is attacked.
        inputs: at least one image, (n, ...).
        num_looks: images × steps of the whole work.
    Raises: ConfigError if `compiled` is asked for where there is no compiler.
    """
    if engine != "auto":
        if engine == "compiled" and not can_compile(inputs.device):
            raise ConfigError("params.yaml: engine = 'compiled': no C++ compiler was found; allowed: auto, plain")
        return engine == "compiled"
    if not can_compile(inputs.device):
        return False
    return multiply_adds(model, inputs[:1]) * num_looks >= COMPILING_PAYS[inputs.device.type]


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs: on the CPU a C++ compiler."""
    if device.type == "cuda":
        return True
    return device.type == "cpu" and any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "c++", "clang++"))


def multiply_adds(model: nn.Module, image: Tensor) -> float:
    """Multiply-adds of one forward pass; image: (1, ...)."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with frozen(model), torch.no_grad(), counter:
        model(image)
    return counter.get_total_flops() / 2


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """The model in eval mode with parameters that need no gradient; as found afterwards, module by module."""
    modes = [(module, module.training) for module in model.modules()]
    needs = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in needs:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, needed in needs:
            parameter.requires_grad_(needed)
        for module, mode in modes:
            module.training = mode


@torch.no_grad()
def _folded_copy(model: nn.Module, inputs: Tensor) -> tuple[nn.Module, list[Fold]]:
    network = copy.deepcopy(model).eval().requires_grad_(False)
    folds = find_folds(network)
    if folds:
        expected = network(inputs)
        fold_(network, folds)
        refold_(network, model, folds)
        if not _agree(network(inputs), expected, 1e-3):
            return copy.deepcopy(model).eval().requires_grad_(False), []
    return network, folds


def _agree(found: Tensor, expected: Tensor, tolerance: float) -> bool:
    """Whether all logits are equal to within a share of the largest."""
    scale = expected.abs().amax().clamp(min=1e-12)
    return bool((found - expected).abs().amax() <= tolerance * scale) if len(found) else True
