"""What differs from one kind of device to another, in one table.

Code asks `traits` and never for a device's name, so every branch that a GPU takes can be taken on a CPU, by a test
that changes the table.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class Traits:
    """How work is done on a kind of device.

    Attributes:
        attack_precision: in which the convolutions of attacked networks run; None for that of the images.
        training_precision: in which the convolutions of training run, where the device has it; None for float32.
        runs_ahead: the host queues work and does not wait for it, so that asking for a number costs.
        compile_mode: of torch.compile.
        compiling_pays: forward multiply-adds of a whole work from which `engine: auto` compiles; None for never
            (docs/performance.md).
        own_random_numbers: draw noise on the device, from a generator seeded by the host's.
        pinned: batches go there from pinned memory, while the host works on.
        widest: type of the longest numbers it has: lengths and sums are taken in it.
    """

    attack_precision: torch.dtype | None = None
    training_precision: torch.dtype | None = None
    runs_ahead: bool = False
    compile_mode: str | None = None
    compiling_pays: float | None = None
    own_random_numbers: bool = False
    pinned: bool = False
    widest: torch.dtype = torch.float64


TRAITS = {
    "cpu": Traits(),
    "cuda": Traits(
        attack_precision=torch.float16,
        training_precision=torch.bfloat16,
        runs_ahead=True,
        compile_mode="reduce-overhead",
        compiling_pays=1e16,
        own_random_numbers=True,
        pinned=True,
    ),
    "mps": Traits(runs_ahead=True, widest=torch.float32),
}
"""Type of the device -> its traits; others are treated as the CPU is."""


Precision = Literal["float32", "bfloat16", "usual"]
"""Of the convolutions of attacks and training; "usual": as the table has it, which on CUDA is half of each kind."""
_USUAL = dict(TRAITS)


def traits(device: torch.device) -> Traits:
    """The traits of a device."""
    return TRAITS.get(device.type, TRAITS["cpu"])


def use_precision(device: torch.device, precision: Precision) -> None:
    """Let attacks and training on a kind of device convolve in this precision from now on, in this process."""
    if device.type not in _USUAL:
        return
    usual = _USUAL[device.type]
    dtype = torch.bfloat16 if precision == "bfloat16" else None
    chosen = usual if precision == "usual" else replace(usual, attack_precision=dtype, training_precision=dtype)
    TRAITS[device.type] = chosen


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies in bfloat16 by instructions of its own; without them it is 25 to 80 times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    found: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # an older torch does not tell
    return bool(found.get("avx512_bf16") or found.get("amx_bf16"))


def widened(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor in the longest numbers that its device has: float64, or on Apple's GPUs float32."""
    return tensor.to(traits(tensor.device).widest)


def training_precision(device: torch.device) -> AbstractContextManager[object]:
    """Convolutions in reduced precision where the device has it; weights and the loss stay in float32."""
    dtype = traits(device).training_precision
    if dtype is None or (device.type == "cuda" and not has_bfloat16(device)):
        return nullcontext()
    return torch.autocast(device.type, dtype)


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Convolutions and products in the precision of their numbers: no autocast, no TF32; as found afterwards.

    What a network says of an image is judged so: TF32 keeps ten bits, and moves logits by up to 1e-3.
    """
    cudnn: Any = torch.backends.cudnn  # torch's stubs do not know its operations
    operations: tuple[Any, ...] = (cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul)
    before = [operation.fp32_precision for operation in operations]
    for operation in operations:
        operation.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for operation, precision in zip(operations, before, strict=True):
            operation.fp32_precision = precision


def noise_generator(generator: torch.Generator, device: torch.device) -> torch.Generator:
    """Where noise for this device is drawn from: `generator` itself, or one on the device that it seeds.

    Random numbers of the host and of the device differ, so this is for noise that they need not share.
    """
    if not traits(device).own_random_numbers:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator))
    return torch.Generator(device).manual_seed(seed)


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a device with memory of its own; None for one that shares the host's."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


OUT_OF_MEMORY = (
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA error: out of memory",
    "unable to find an engine to execute this computation",  # cuDNN, where no workspace fits
    "not enough memory",  # the CPU's allocator
    "can't allocate memory",
    "MPS backend out of memory",
)
"""What errors say that stand for too little memory, besides torch.OutOfMemoryError."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory does not hold the work."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in OUT_OF_MEMORY)
