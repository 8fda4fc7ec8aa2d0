"""A dataset while it is made: shard by shard, each whole or not there, in any order, by any process."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from notbugs.data.images import ImageData
from notbugs.data.store import DTYPES, Dtype, Shard, write_shard
from notbugs.evaluation.accuracy import batches
from notbugs.runtime.files import sha256
from notbugs.runtime.state_file import StateError, load_state, save_state


class Shards:
    """The shards of an unfinished dataset, and per example what is known of it.

    Args:
        folder: of the dataset; holds what an earlier, killed run made.
        facts: folder of what is known of its examples.
        num_examples: of the whole dataset.
        shard_size: images in a file.
        dtype: stored precision.
    """

    def __init__(self, folder: Path, facts: Path, num_examples: int, shard_size: int, dtype: Dtype) -> None:
        self.folder, self._facts, self.dtype = folder, facts, dtype
        self.rows = list(batches(num_examples, shard_size))
        self.folder.mkdir(parents=True, exist_ok=True)

    def missing(self) -> list[int]:
        """Numbers of the shards that are still to be made."""
        return [number for number in range(len(self.rows)) if self._read(number) is None]

    def write(self, number: int, data: ImageData, facts: Mapping[str, Tensor]) -> None:
        """Keep a shard; facts: column -> (n,)."""
        shard = write_shard(self.folder, number, data.images.to(DTYPES[self.dtype]), data.labels)
        save_state(self._facts_of(number), {"shard": shard.model_dump(mode="json"), "facts": facts})

    def finished(self) -> tuple[list[Shard], dict[str, Tensor]]:
        """All shards, and the columns of all examples; to be asked for when all processes are done."""
        made = [self._read(number) for number in range(len(self.rows))]
        shards = [Shard.model_validate(one["shard"]) for one in made if one]
        columns = {name: torch.cat([one["facts"][name] for one in made if one]) for name in (made[0] or {})["facts"]}
        return shards, columns

    def _read(self, number: int) -> dict[str, Any] | None:
        """What was kept of a shard; None unless both of its files are there and whole."""
        try:
            kept: dict[str, Any] = load_state(self._facts_of(number))
            shard = kept["shard"]
            return kept if sha256(self.folder / shard["file"]) == shard["sha256"] else None
        except (FileNotFoundError, StateError):
            return None

    def _facts_of(self, number: int) -> Path:
        return self._facts / f"{number:05d}.safetensors"
