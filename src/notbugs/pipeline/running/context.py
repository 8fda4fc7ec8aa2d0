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
from notbugs.runtime.distribution import is_first
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
        progress: shows long work.
    """

    root: Path
    params: dict[str, Any]
    runtime: Runtime
    device: torch.device
    progress: Track = track

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
    device = set_up_torch(shared)
    return Context(root, params, shared, device, track if _speaks() else silent)


def set_up_torch(shared: Runtime) -> torch.device:
    """Make torch deterministic: threads, device, kernels.

    Returns: the device of the params; a line says so where one that is there is not taken.
    Raises: ConfigError for a device that is not there.
    """
    device, note = choose_device(
        shared, cuda=torch.cuda.is_available(), mps=torch.backends.mps.is_available(), probe=_probe_mps
    )
    torch.set_num_threads(shared.num_threads)
    keep_freed_memory()
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    if note and _speaks():
        print(note, file=sys.stderr, flush=True)
    return device


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


def _probe_mps() -> str | None:
    from notbugs.pipeline.running.probe import probe

    return probe(torch.device("mps"))
