"""Rates of attacks and training on one CUDA device, beside torchattacks; every figure is printed and kept as it comes.

    python benchmarks/gpu.py measure --out FILE --seconds 120
    python benchmarks/gpu.py table benchmarks/gpu-h100.jsonl    # writes engine-cuda.md beside this file

benchmarks/gpu.sh runs the first on a machine with a GPU. Images are random and networks untrained: only rates are
asked here. `--tiny` runs every line on any device, in seconds.
"""

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from peers import PEERS, Task, limit, notbugs_attack
from torch import Tensor, nn

from notbugs.attacks import AttackSettings
from notbugs.attacks.engine import Engine
from notbugs.data.images import ImageData, make_generator
from notbugs.models import create_model
from notbugs.runtime.devices import full_precision
from notbugs.training.loop import train
from notbugs.training.settings import TrainSettings

HERE = Path(__file__).parent
CLASSES = tuple("abcdefghij")
L2 = Task("l2", 0.5, 0.1, 20)
LINF = Task("linf", 8 / 255, 2 / 255, 20)
TITLES = {
    "attack": "Attacks, images·steps a second",
    "epoch": "Training, images a second",
    "trial": "Full-scale trial",
    "tests": "Tests",
}


@dataclass(frozen=True)
class Size:
    """How much is measured: images of an attack, images of an epoch, width of the networks, rounds."""

    attacked: int
    trained: int
    width: int
    rounds: int


FULL, TINY = Size(1000, 45_000, 64, 3), Size(16, 128, 4, 1)


def network(name: str, size: Size, device: torch.device) -> nn.Module:
    model = create_model(name, (3, 32, 32), CLASSES, width=size.width, generator=make_generator(0))
    return model.to(device).eval()


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    wait(device)
    started = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - started


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def attacks(name: str, size: Size, device: torch.device) -> Iterator[dict[str, Any]]:
    """The same attack by every implementation, in turns; best of the rounds after one that is not counted."""
    model = network(name, size, device)
    x = torch.rand(size.attacked, 3, 32, 32, generator=make_generator(1)).to(device)
    y = torch.arange(size.attacked, device=device) % 10
    engine, full = Engine(model, x[:8]), Engine(model, x[:8], half=None)
    compiled = Engine(model, x[:8], compiled=True)
    for title, task in (("PGD L2", L2), ("PGD Linf", LINF)):
        runs = {
            "notbugs": partial(notbugs_attack, engine, x, y, task),
            "torchattacks, TF32": partial(PEERS["torchattacks"], model, x, y, task),
        }
        if task is L2:
            runs["bare passes of the engine"] = partial(bare, engine, x, task)
            runs["notbugs compiled"] = partial(notbugs_attack, compiled, x, y, task)
            runs["notbugs, float32"] = partial(exactly, notbugs_attack, full, x, y, task)
            runs["torchattacks, float32"] = partial(exactly, PEERS["torchattacks"], model, x, y, task)
        first = {who: seconds(run, device) for who, run in runs.items()}
        taken: dict[str, list[float]] = {who: [] for who in runs}
        for _ in range(size.rounds):
            for who, run in runs.items():
                taken[who].append(seconds(run, device))
        for who, values in taken.items():
            rate = size.attacked * task.num_steps / min(values)
            yield {
                "part": "attack",
                "what": title,
                "model": name,
                "who": who,
                "rate": round(rate),
                "first_s": round(first[who], 2),
            }


def bare(engine: Engine, x: Tensor, task: Task) -> None:
    with torch.autocast(x.device.type, engine.half_dtype or torch.bfloat16, enabled=engine.half_dtype is not None):
        limit(engine.network, x, task)


def exactly(attack: Callable[..., Tensor], model: nn.Module, x: Tensor, y: Tensor, task: Task) -> Tensor:
    with full_precision(x.device):
        return attack(model, x, y, task)


def epochs(name: str, size: Size, device: torch.device) -> Iterator[dict[str, Any]]:
    """Epochs of standard and of adversarial training, after one that is not counted."""
    images = torch.rand(size.trained, 3, 32, 32, generator=make_generator(1)).to(device)
    data = ImageData(images, torch.arange(size.trained, device=device) % 10, CLASSES)
    adversary = AttackSettings(eps=0.5, num_steps=7, step_size=0.1)
    for what, attack, share in (("standard epoch", None, 1), ("PGD-7 epoch", adversary, 3)):
        for batch_size in (512, 128):
            model = network(name, size, device)
            part = data.select(slice(0, size.trained // share))
            common = {"batch_size": batch_size, "lr": 0.01, "schedule": "constant", "attack": attack}
            train(
                model,
                data.select(slice(0, 4 * 128)),
                **TrainSettings(epochs=1, **common).arguments(),
                generator=make_generator(2),
            )
            taken = seconds(
                lambda model=model, part=part, common=common: train(
                    model, part, **TrainSettings(epochs=1, **common).arguments(), generator=make_generator(2)
                ),
                device,
            )
            rate = round(len(part) / taken)
            yield {
                "part": "epoch",
                "what": f"{what}, batch {batch_size}",
                "model": name,
                "who": "notbugs",
                "rate": rate,
            }


def measure(out: Path, limit_s: float, size: Size) -> None:
    """Every figure until the time is over; a part is begun only while there is some left."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        torch.backends.cudnn.deterministic = True
    begun = time.monotonic()
    keep(out, {"part": "machine", **machine(device)})
    for part, name in ((attacks, "resnet18"), (epochs, "resnet18"), (attacks, "resnet50")):
        if time.monotonic() - begun > limit_s:
            keep(out, {"part": "left out", "what": f"{part.__name__} of {name}: no time left"})
            continue
        for row in part(name, size, device):
            keep(out, row)


def keep(out: Path, row: dict[str, Any]) -> None:
    line = json.dumps(row, ensure_ascii=False)
    with out.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    print(line, flush=True)


def machine(device: torch.device) -> dict[str, Any]:
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    found = {"device": name, "python": platform.python_version()}
    for library in ("torch", "torchvision", "torchattacks"):
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            found[library] = "not installed"
    return found


def table(files: list[Path]) -> None:
    """Write engine-cuda.md from what `measure` and gpu.sh kept."""
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    rows = [json.loads(line) for line in lines]
    about = next(row for row in rows if row["part"] == "machine")
    facts = ", ".join(f"{key} {value}" for key, value in about.items() if key != "part")
    text = [
        "# On one CUDA device",
        "",
        f"Written by `python benchmarks/gpu.py table` from a run of benchmarks/gpu.sh: {facts}.",
        "",
    ]
    for part, title in TITLES.items():
        own = [row for row in rows if row["part"] == part]
        if own:
            text += [f"## {title}", "", *markdown(own), ""]
    text += [f"- {row['what']}" for row in rows if row["part"] == "left out"]
    (HERE / "engine-cuda.md").write_text("\n".join(text).rstrip() + "\n", encoding="utf-8")


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    columns = [key for key in dict.fromkeys(key for row in rows for key in row) if key != "part"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    return lines + ["| " + " | ".join(shown(row.get(key)) for key in columns) + " |" for row in rows]


def shown(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("--out", type=Path, required=True)
    measuring.add_argument("--seconds", type=float, default=120)
    measuring.add_argument("--tiny", action="store_true")
    commands.add_parser("table").add_argument("files", type=Path, nargs="+")
    arguments = parser.parse_args()
    if arguments.command == "table":
        table(arguments.files)
        return
    measure(arguments.out, arguments.seconds, TINY if arguments.tiny else FULL)


if __name__ == "__main__":
    sys.exit(main())
