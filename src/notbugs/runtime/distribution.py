"""Several processes that do one work together, one a device: those of torchrun.

Everything here also holds where there is one process only; then it changes nothing.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from inspect import signature

import torch
from torch import Tensor, distributed, nn

from notbugs.runtime.errors import ConfigError

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: for as long as they live. Who started them sees when one dies."""


def started_by_torchrun() -> bool:
    """Whether this process is one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Let the processes of torchrun find each other: NCCL on CUDA, gloo elsewhere.

    Raises: ConfigError if there are more processes than CUDA devices.
    """
    if device.type == "cuda":
        local_rank, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local_rank >= count:
            processes = os.environ["WORLD_SIZE"]
            raise ConfigError(f"params.yaml: processes = {processes}: this machine has {count} CUDA devices")
        torch.cuda.set_device(local_rank)
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    yield
    distributed.destroy_process_group()  # after an error it might wait for the others


def world_size() -> int:
    """Number of processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def is_first() -> bool:
    """Whether this process writes what there is to write once."""
    return rank() == 0


def own_part(indices: Tensor) -> Tensor:
    """This process's part of some indices, (n,) -> (n / world size,); parts differ by one at most."""
    return indices.tensor_split(world_size())[rank()]


def summed(*numbers: Tensor | float) -> list[float]:
    """Each number summed over the processes; all get the same."""
    if world_size() == 1:
        return [float(number) for number in numbers]
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    values = torch.tensor([float(number) for number in numbers], dtype=torch.float64, device=device)
    distributed.all_reduce(values)
    return values.tolist()


def own_generator(generator: torch.Generator) -> torch.Generator:
    """A generator of this process's own, for what only its part of a batch needs at random; alone, the one given.

    It is seeded from a copy of `generator`, which stays as it is: what all processes draw from that, such as the order
    of the examples, is what one process draws.
    """
    if world_size() == 1:
        return generator
    copied = torch.Generator().set_state(generator.get_state())
    seeds = torch.randint(2**62, (world_size(),), generator=copied)
    return torch.Generator().manual_seed(int(seeds[rank()]))


def averaging(model: nn.Module) -> nn.Module:
    """The model, with gradients that are averaged over the processes in the backward pass.

    Buffers, which are BatchNorm's statistics, stay each process's own until `average_buffers`.
    """
    if world_size() == 1:
        return model
    parallel: Callable[..., nn.Module] = nn.parallel.DistributedDataParallel
    known = signature(parallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # older torch
    return parallel(model, **{name: False})


def average_buffers(model: nn.Module) -> None:
    """Give every process the mean over processes of each buffer of floating point, in place.

    Each has seen its own part of the batches. Before a model is measured or kept, all must hold the same one: else
    its parts of the validation images are measured by models that nobody keeps.
    """
    if world_size() == 1:
        return
    with torch.no_grad():
        for buffer in model.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer /= world_size()


def wait_for_all() -> None:
    """Go on when all processes have come here."""
    if world_size() > 1:
        distributed.barrier()
