"""What the judges and the writing add to the making of a dataset: D_det, 50 steps, D of CIFAR-10's size and shape.

    python benchmarks/judges.py                                  # on one thread: two minutes
    python benchmarks/judges.py --device cuda --images 10000

The images are made up: none of the times depends on what they show. One model of another seed is asked, too. Writes
judges-<device>-<width>.json beside this file: the seconds of each part, and what all but the attack add to it.
"""

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from memory import CLASSES, make

from notbugs.construction.building import parts, set_up
from notbugs.construction.describe import describe
from notbugs.construction.recipe import Constructed, joined
from notbugs.construction.settings import TargetSettings
from notbugs.data.images import make_generator
from notbugs.data.store import load_dataset, write_shard
from notbugs.evaluation.neighbours import neighbour_reference, own_neighbours
from notbugs.models import create_model
from notbugs.models.base import Classifier
from notbugs.runtime.devices import has_bfloat16, use_precision
from notbugs.runtime.memory import keep_freed_memory

HERE = Path(__file__).parent
SIZE, BATCH = 45_000, 500


class Clock:
    """Seconds of each part of a work."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, dict[str, float]()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the block."""
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def new_model(seed: int, width: int, device: torch.device) -> Classifier:
    """An untrained ResNet-9."""
    generator = make_generator(seed)
    return create_model("resnet9", (3, 32, 32), CLASSES, width=width, generator=generator).to(device).eval()


def measure(device: torch.device, count: int, width: int, folder: Path) -> dict[str, float]:
    """Seconds of the attack, of what describes its images, and of the writing, for `count` images."""
    make(folder / "D", SIZE)
    data, clock = load_dataset(folder / "D"), Clock(device)
    model, judge, other = (new_model(seed, width, device) for seed in range(3))
    config = TargetSettings(recipe="deterministic_target", model="standard", eps=0.5, num_steps=50, step_size=0.1)
    recipe = set_up(model, data, **config.scalars(), generator=make_generator(2))
    with clock.part("reference"):
        reference = neighbour_reference(data, device)
    neighbours = own_neighbours(data.select(slice(0, 2 * BATCH)), device=device)  # found once for all datasets
    neighbours = torch.cat([neighbours, neighbours.new_zeros(SIZE - len(neighbours))])
    made: list[Constructed] = []
    made_in_parts = parts(recipe, count, batch_size=BATCH, dtype="float16")
    while True:
        with clock.part("attack"):
            found = next(made_in_parts, None)
        if found is None:
            break
        rows, part = found
        with clock.part("judges"):
            describe(
                part, data, model, judge, first=rows.start, reference=reference, neighbours=neighbours, others=[other]
            )
        made.append(part)
    whole = joined(made).data
    with clock.part("writing"):
        write_shard(folder, 0, whole.images.half(), whole.labels)
    return clock.seconds


def main() -> None:
    """Measure, print, and write."""
    arguments = argparse.ArgumentParser(description="Share of the judges.")
    arguments.add_argument("--device", default="cpu")
    arguments.add_argument("--images", type=int, default=BATCH)
    arguments.add_argument("--width", type=int, default=64, help="of the ResNet-9; 32 is half of it")
    asked = arguments.parse_args()
    device, kept = torch.device(asked.device), HERE / f"judges-{asked.device}-{asked.width}.json"
    torch.set_num_threads(1)
    keep_freed_memory()
    found = {}
    for precision in ("float32", "bfloat16") if device.type == "cpu" and has_bfloat16(device) else ("usual",):
        use_precision(device, precision)
        with tempfile.TemporaryDirectory() as folder:
            seconds = measure(device, asked.images, asked.width, Path(folder))
        added = sum(seconds[name] for name in ("judges", "writing")) / seconds["attack"]
        found[precision] = {**{name: round(value, 3) for name, value in seconds.items()}, "added": round(added, 4)}
        print(precision, found[precision])
    facts: dict[str, object] = {"images": asked.images, "width": asked.width, "of": SIZE}
    facts |= {"torch": torch.__version__, "machine": platform.machine()}
    kept.write_text(json.dumps({**facts, "seconds": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
