"""What a preset costs at full size, by arithmetic: network passes, multiply-adds, GPU-hours, bytes.

    python benchmarks/scale.py cifar10 cifar10_paper restricted_imagenet

Counts, for the stages up to `evaluate` (without its suite), from the preset's own settings; nothing is timed. A pass
through a network forwards costs M multiply-adds an image (M counted by torch's flop counter), backwards to the image as
many again, to the weights twice as many. The science, transfer and the sweep come on top.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch

from notbugs.attacks.engine import multiply_adds
from notbugs.data.sources import DataSettings
from notbugs.models import ModelSettings, create_model
from notbugs.runtime.config import read_params, validate

PRESETS = Path(__file__).parents[1] / "presets"
SIZES = {"cifar10": (50_000, 10_000, 32), "restricted_imagenet": (257_748, 10_150, 224)}
"""Source -> pictures to learn from, to test, pixels. Restricted ImageNet: about 1,270 a synset, and 50 to test."""
DTYPE_BYTES = {"float32": 4, "float16": 2, "uint8": 1}
GPU_RATE = 0.1 * 989e12 / 2
"""Multiply-adds a second: an assumed tenth of the 989 TFLOP/s that data sheets of H100 and H200 state for bfloat16."""


def attack_passes(attack: dict[str, Any] | None) -> int:
    """Passes to perturb a batch: forwards and backwards for every step."""
    return 0 if attack is None else 2 * attack["num_steps"] * attack.get("num_restarts", 1)


def training(section: dict[str, Any], num_train: int, num_validation: int) -> float:
    """Passes of one seed: each epoch attacks, then goes forwards and back to image and weights; validation besides."""
    measured = math.ceil(section["epochs"] / section.get("measure_every", 1))
    watching = num_validation * measured * (1 + attack_passes(section.get("validation_attack")))
    return section["epochs"] * num_train * (attack_passes(section.get("attack")) + 3) + watching


def work(params: dict[str, Any], num_train: int, num_validation: int, num_test: int) -> dict[str, float]:
    """Stage -> passes of the network."""
    passes = {}
    for name, section in params["train"].items():
        passes[f"train {name}"] = len(section["seeds"]) * training(section, num_train, num_validation)
    for name, section in params["construct"].items():
        looks = 2 * section["num_steps"] + 5  # source and judge before and after, the target of an inversion
        others = len(params["train"][section["model"]]["seeds"]) - 1
        passes[f"construct {name}"] = num_sources(params, name) * num_train * (looks + others)
    models = sum(len(section["seeds"]) for section in params["train"].values())
    for name, section in params["fit"].items():
        subsets = 1 + section.get("still_y", True) + section.get("baseline", False)  # at most as many images again
        fits = subsets * num_sources(params, name) * len(section["seeds"])
        models += fits
        passes[f"fit {name}"] = fits * training(section, num_train, num_validation)
    evaluate = params["evaluate"]
    steps = len({*evaluate["eps"], evaluate["headline_eps"]}) * evaluate["num_steps"] + evaluate["headline_num_steps"]
    passes["evaluate"] = models * num_test * (1 + 2 * steps)
    return passes


def num_sources(params: dict[str, Any], name: str) -> int:
    """Source models that a construction is made with, a dataset each."""
    section = params["construct"][name]
    return len(section.get("source_seeds") or params["train"][section["model"]]["seeds"])


def disk(params: dict[str, Any], num_train: int, num_rest: int, image: int) -> dict[str, float]:
    """Dataset -> bytes; `image` values an image."""
    data = validate(params["data"], "data", DataSettings)
    sizes = {"D": (num_train + num_rest) * image * DTYPE_BYTES[data.dtype]}
    for name, section in params["construct"].items():
        sizes[name] = num_sources(params, name) * num_train * image * DTYPE_BYTES[section.get("dtype", "float32")]
    return sizes


def table(name: str) -> str:
    params = read_params(PRESETS / f"{name}.yaml")
    pool, num_test, side = SIZES[params["data"]["source"]]
    num_validation = round(pool * params["data"]["validation_fraction"])
    num_train = pool - num_validation
    settings = validate(params["model"], "model", ModelSettings)
    model = create_model(settings.architecture, (3, side, side), ("a", "b"), width=settings.width).eval()
    each = multiply_adds(model, torch.zeros(1, 3, side, side))
    passes = work(params, num_train, num_validation, num_test)
    lines = [
        f"{name}: {num_train:,} + {num_validation:,} + {num_test:,} images of {side} pixels, "
        f"{settings.architecture}: {each / 1e9:.2f}e9 multiply-adds a pass",
        "",
        "| stage | passes | multiply-adds | GPU-hours |",
        "|---|---|---|---|",
    ]
    for stage, count in [*passes.items(), ("together", sum(passes.values()))]:
        lines.append(f"| {stage} | {count:.2e} | {count * each:.1e} | {count * each / GPU_RATE / 3600:,.1f} |")
    sizes = disk(params, num_train, num_validation + num_test, 3 * side**2)
    shown = ", ".join(f"{key} {size / 1e9:,.1f}" for key, size in sizes.items())
    return "\n".join([*lines, "", f"GB on disk: {shown}; together {sum(sizes.values()) / 1e9:,.1f}"])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("presets", nargs="+", choices=sorted(path.stem for path in PRESETS.glob("*.yaml")))
    for name in parser.parse_args().presets:
        print(table(name), end="\n\n")


if __name__ == "__main__":
    main()
