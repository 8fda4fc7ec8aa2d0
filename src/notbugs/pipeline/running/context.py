"""What every stage starts with: the project folder, its params, the device and the paths of inputs and outputs."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from notbugs.models import ModelSettings
from notbugs.runtime.config import SOURCE, Runtime, read_params, runtime, settings
from notbugs.runtime.devices import Precision, has_bfloat16, use_precision
from notbugs.runtime.distribution import is_first, started_by_torchrun
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import finish_moves
from notbugs.runtime.memory import keep_freed_memory
from notbugs.runtime.progress import Track, silent, track


@dataclass(frozen=True)
class Context:
    """A project as a stage sees it.

    Attributes:
        root: the folder that holds params.yaml.
        params: all of params.yaml, unvalidated; stages validate their own sections.
        runtime: seed, threads, device.
        device: where models and attacks run.
        precision: of the convolutions of attacks and training there.
        progress: shows long work.
    """

    root: Path
    params: dict[str, Any]
    runtime: Runtime
    device: torch.device
    progress: Track = track
    precision: Precision = "usual"

    @property
    def seed(self) -> int:
        """The seed that every random stream is derived from."""
        return self.runtime.seed

    def model_settings(self) -> ModelSettings:
        """The section `model`."""
        return settings(self.params, "model", ModelSettings)

    def dataset(self, name: str, source_seed: int | None = None) -> Path:
        """Folder of a stored dataset: train, validation, test; or of a construction from one source seed's model.

        Without a seed, the folder of a construction is the one that holds them all.
        """
        folder = self.root / "data" / name
        return folder if source_seed is None else folder / f"{SOURCE}{source_seed}"

    def source_model(self, name: str, seed: int) -> Path:
        """File of a model trained on D: `standard` or `robust`."""
        return self.root / "models" / "train" / name / f"seed-{seed}.safetensors"

    def fitted_model(self, name: str, subset: str, source_seed: int, seed: int) -> Path:
        """File of a model fitted on a construction from one source; `subset` is full, still_y or baseline."""
        folder = self.root / "models" / "fit" / name / subset
        return folder / f"{SOURCE}{source_seed}" / f"seed-{seed}.safetensors"

    def names(self, section: str) -> list[str]:
        """The entries of a section such as `train`, `construct`, `fit`.

        Raises: ConfigError if the section is no mapping or empty.
        """
        entries = self.params.get(section)
        if not isinstance(entries, dict) or not entries:
            raise ConfigError(f"params.yaml: {section}: must map at least one name to its settings")
        return [str(name) for name in entries]

    def say(self, message: str) -> None:
        """One line for the person who watches; of several processes the first speaks."""
        if is_first():
            print(message, file=sys.stderr, flush=True)


def open_project(root: Path) -> Context:
    """Read params.yaml and make torch deterministic: threads, device, kernels.

    A dataset or other folder whose writer was killed while it took the old one's place is put there.

    Raises: ConfigError for impossible settings, or a device asked for that is not there.
    """
    params = read_params(root / "params.yaml")
    finish_moves(root)
    shared = runtime(params)
    device, precision = set_up_torch(shared)
    return Context(root, params, shared, device, track if _speaks() else silent, precision)


def set_up_torch(shared: Runtime) -> tuple[torch.device, Precision]:
    """Make torch deterministic: threads, device, precision, kernels.

    Returns: device and precision of the params; a line says where a device that is there is not taken, and which
        precision was chosen.
    Raises: ConfigError for a device that is not there, or a precision that it does not have.
    """
    device, note = choose_device(
        shared, cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available(), probe=_probe_mps
    )
    torch.set_num_threads(shared.num_threads)
    keep_freed_memory()
    precision, gain = choose_precision(shared, device, has_bfloat16=has_bfloat16(device), probe=_bfloat16_gain)
    use_precision(device, precision)
    note = "\n".join(filter(None, (note, gain)))
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    if note and _speaks():
        print(note, file=sys.stderr, flush=True)
    return device, precision


def _speaks() -> bool:
    """Whether this process is the one of several that shows something, before they are joined."""
    return os.environ.get("RANK", "0") == "0"


def choose_device(
    shared: Runtime, *, cuda: bool, mps: bool, probe: Callable[[], str | None]
) -> tuple[torch.device, str | None]:
    """The device for the param `device`: `auto` takes CUDA, else MPS if it computes right, else the CPU.

    Args:
        shared: the params.
        cuda, mps: whether there is such a device.
        probe: says in a few words why MPS does not compute right here, or None; called only where MPS would be taken.
    Returns: the device, and a line about one that is there and is not taken.
    Raises: ConfigError if the device asked for is not there, or does not compute right.
    """
    asked = shared.device
    for name, there in (("cuda", cuda), ("mps", mps)):
        if asked == name and not there:
            kind = name.upper()
            raise ConfigError(f"params.yaml: device = {name!r}: this machine has no {kind} device; allowed: auto, cpu")
    if cuda and asked in ("auto", "cuda"):
        return torch.device("cuda"), None
    if asked == "cpu" or not mps:
        return torch.device("cpu"), None
    reason = "several processes cannot share it" if shared.processes > 1 else probe()
    if reason is None:
        return torch.device("mps"), None
    if asked == "mps":
        raise ConfigError(f"params.yaml: device = 'mps': {reason}; allowed: auto, cpu")
    return torch.device("cpu"), f"device: auto: the CPU, not MPS: {reason}"


LEAST_GAIN = 1.2
"""Times as fast as float32 that bfloat16 must be on a CPU to be taken: by its own instructions it is 1.6 to 2 times as
fast, emulated 0.01 to 0.04 times, so chance decides nothing."""


def choose_precision(
    shared: Runtime, device: torch.device, *, has_bfloat16: bool, probe: Callable[[], float]
) -> tuple[Precision, str | None]:
    """The precision for the param `precision`, by a fixed rule.

    Args:
        shared: the params.
        device: where models run.
        has_bfloat16: whether it multiplies in bfloat16.
        probe: says how many times as fast as float32 it is then; called only where the CPU has to be asked.
    Returns: the precision, and a line about a choice that was measured.
    Raises: ConfigError if the precision asked for is not there.
    """
    asked = shared.precision
    if asked == "bfloat16" and not has_bfloat16:
        raise ConfigError(
            f"params.yaml: precision = 'bfloat16': this {device.type.upper()} has no instructions for it; "
            "allowed: auto, float32"
        )
    if asked != "auto":
        return asked, None
    if device.type != "cpu":
        return "usual", None
    if not has_bfloat16:
        return "float32", None
    if started_by_torchrun():  # all processes must choose alike, so none is asked how fast it is
        return "bfloat16", None
    gain = probe()
    chosen: Precision = "bfloat16" if gain >= LEAST_GAIN else "float32"
    return chosen, f"precision: auto: {chosen}; bfloat16 is {gain:.1f} times as fast as float32 here"


def _bfloat16_gain() -> float:
    from notbugs.pipeline.running.probe import bfloat16_gain

    return bfloat16_gain()


def _probe_mps() -> str | None:
    from notbugs.pipeline.running.probe import probe

    return probe(torch.device("mps"))
