"""Compare settings of the digits preset, on the validation split.

    python benchmarks/digits_settings.py [CANDIDATE ...]   all candidates, or those named; five fit seeds each
    python benchmarks/digits_settings.py --sources         the chosen one with source models of seeds 1 and 2
    python benchmarks/digits_settings.py --final           the chosen one on the test split: once, at the end
    python benchmarks/digits_settings.py --table           the table again, from the CSV

A candidate is presets/digits.yaml with some keys changed. Rows go to digits_settings.csv beside this file; what is
there already is not run again (delete the file after an edit of the preset). Two to four minutes a candidate on
one core. Random streams are named as in the pipeline's stages, so the chosen candidate gives what it gives.
"""

import argparse
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from notbugs.construction.building import construct, construct_settings
from notbugs.construction.describe import describe, summarise
from notbugs.data.images import ImageData, make_generator
from notbugs.data.sources import DataSettings, load_source
from notbugs.evaluation.accuracy import adversarially_correct, predict, shifted_labels
from notbugs.models import set_normalisation
from notbugs.models.base import Classifier
from notbugs.runtime.config import read_params, settings
from notbugs.training.loop import train
from notbugs.training.settings import FitSettings, TrainSettings

ROOT = Path(__file__).parents[1]
PRESET = ROOT / "presets" / "digits.yaml"
CSV = Path(__file__).with_suffix(".csv")
SEEDS = (0, 1, 2, 3, 4)
RADII = (0.5, 0.6, 1.0)
HEADLINE = 0.6
DATASETS = {"robust": "D_R", "nonrobust": "D_NR", "rand": "D_rand", "det": "D_det"}

_EARLIER = {
    "train.standard.lr": 0.3,
    **{f"fit.{name}.epochs": 20 for name in ("robust", "nonrobust")},
    **{f"fit.{name}.batch_size": 64 for name in ("robust", "nonrobust")},
}
CANDIDATES: dict[str, dict[str, Any]] = {
    "chosen": {},
    "standard lr 0.3, D_R batches of 64": _EARLIER,
    "the same, eps 1.15": {**_EARLIER, "construct.rand.eps": 1.15, "construct.det.eps": 1.15},
    "longer, lr 0.1, batches of 128": {
        **{"train.standard.epochs": 40, "train.standard.lr": 0.1, "train.robust.lr": 0.1},
        **{"fit.*.epochs": 20, "fit.*.lr": 0.1, "fit.*.batch_size": 128},
    },
    "64 numbers, strides 1 2 1": {"shape": ((16, 32, 64), (1, 2, 1))},
}
"""Changed keys (`*`: every entry of that section) and the network's shape: channels, and stride, of each
convolution."""
SHAPE = ((32, 64, 16), (1, 2, 2))
"""Of `small_cnn` at width 16."""


class Net(Classifier):
    """`small_cnn` with any shape."""

    def __init__(self, widths: tuple[int, ...], strides: tuple[int, ...]) -> None:
        layers: list[nn.Module] = []
        previous = 1
        for out, stride in zip(widths, strides, strict=True):
            layers += [nn.Conv2d(previous, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            previous = out
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(nn.Sequential(*layers), 1, previous, 10)


def params_of(changes: dict[str, Any]) -> dict[str, Any]:
    """The preset with the changes made."""
    params = copy.deepcopy(read_params(PRESET))
    params["shape"] = changes.get("shape", SHAPE)
    for key, value in changes.items():
        *places, last = key.split(".")
        sections = [params] if places else []
        for place in places:
            sections = [s for section in sections for s in (section.values() if place == "*" else [section[place]])]
        for section in sections:
            section[last] = value
    return params


def trained(params: dict[str, Any], data: ImageData, config: TrainSettings, *purpose: str | int) -> Classifier:
    """A classifier trained from scratch, with the random streams of the stage of that name."""
    generator = make_generator(params["seed"], *purpose, "weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        model = Net(*params["shape"])
    set_normalisation(model, data.images)
    train(model, data, **config.arguments(), generator=make_generator(params["seed"], *purpose, "batches"))
    return model


def measured(model: Classifier, data: ImageData) -> dict[str, float]:
    """Accuracy on y, on y + 1, and after PGD-100 at each radius."""
    called = predict(model, data.images).argmax(dim=1)
    row = {
        "clean": float((called == data.labels).double().mean()),
        "shifted": float((called == shifted_labels(data.labels, 10)).double().mean()),
    }
    for eps in RADII:
        withstood = adversarially_correct(model, data, eps=eps, num_steps=100)
        row[f"adversarial_{eps}"] = float(withstood.double().mean())
    return row


def rows_of(changes: dict[str, Any], split: str, source_seed: int) -> Iterator[dict[str, object]]:
    """One row a model: those trained on D, then five fits on each construction."""
    params = params_of(changes)
    base = load_source(settings(params, "data", DataSettings), seed=params["seed"], root=ROOT)
    data, held = base.train, {"validation": base.validation, "test": base.test}[split]
    source: dict[str, Classifier] = {}
    for name in ("standard", "robust"):
        config = settings(params, f"train.{name}", TrainSettings)
        # The robust model is the slow one: all seeds only where its spread is reported.
        spread = name == "standard" or not changes
        for seed in SEEDS if spread else (source_seed,):
            model = trained(params, data, config, "train", name, seed)
            if seed == source_seed:
                source[name] = model
            yield {"dataset": f"D {name}", "seed": seed, **measured(model, held)}
    for name, dataset in DATASETS.items():
        recipe = construct_settings(params["construct"][name], f"construct.{name}")
        model = source[recipe.model]
        made = construct(model, data, **recipe.arguments(), generator=make_generator(params["seed"], "construct", name))
        columns = describe(made, data, model, source["robust"])
        facts = summarise(columns)
        about = {
            "robust_still_y": facts["robust_model"]["still_y"],
            "neighbour_still_y": facts["nearest_neighbour"]["still_y"],
            "success": facts["success_rate"],
            "distance_to_x": facts["delta_norm"]["median"],
        }
        fit = settings(params, f"fit.{name}", FitSettings)
        subsets = {"full": made.data}
        if not changes and name in ("rand", "det"):
            subsets["still_y"] = made.data.select(columns["still_y"])
        for subset, images in subsets.items():
            suffix = "" if subset == "full" else "_still_y"
            for seed in SEEDS:
                fitted = trained(params, images, fit, "fit", name, subset, seed)
                yield {"dataset": dataset + suffix, "seed": seed, **measured(fitted, held), **about}
        if not changes and name == "robust":  # D_R against D by the very same fit settings
            for seed in SEEDS:
                fitted = trained(params, data, fit, "fit", "base", "full", seed)
                yield {"dataset": "D as D_R", "seed": seed, **measured(fitted, held)}


def run(name: str, split: str, source_seed: int) -> None:
    """Measure a candidate, unless the CSV has it, and add its rows to the CSV."""
    known = pd.read_csv(CSV) if CSV.exists() else pd.DataFrame(columns=["candidate", "split", "source_seed"])
    key = {"candidate": name, "split": split, "source_seed": source_seed}
    if (known[list(key)] == pd.Series(key)).all(axis=1).any():
        return
    new = pd.DataFrame([{**key, **row} for row in rows_of(CANDIDATES[name], split, source_seed)])
    pd.concat([known, new] if len(known) else [new]).round(6).to_csv(CSV, index=False)


def table() -> str:
    """Means over seeds in percent, one line a candidate, split and source seed (Markdown)."""
    head = ["candidate", "split, source seed", "D standard", "D robust", "D_R", "D_NR", "D_rand", "D_rand still y"]
    head += ["D_det on y / y + 1", "D_det still y", "D_R − D_NR", "D_R − D std"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for key, rows in pd.read_csv(CSV).groupby(["candidate", "split", "source_seed"], sort=False):
        means = rows.groupby("dataset").mean(numeric_only=True) * 100
        name, split, source_seed = key  # type: ignore[misc]
        cells = [str(name), f"{split}, {source_seed}"]
        for dataset in ("D standard", "D robust", "D_R", "D_NR"):
            curve = means.loc[dataset, ["clean", *(f"adversarial_{eps}" for eps in RADII)]]
            cells.append(" ".join(f"{value:.1f}" for value in curve))
        for dataset in ("D_rand", "D_det"):
            row = means.loc[dataset]
            shifted = f" / {row['shifted']:.1f}" if dataset == "D_det" else ""
            cells += [f"{row['clean']:.1f}{shifted}", f"{row['robust_still_y']:.1f} {row['neighbour_still_y']:.1f}"]
        headline = means[f"adversarial_{HEADLINE}"]
        cells += [f"{headline['D_R'] - headline[other]:.1f}" for other in ("D_NR", "D standard")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run what the command line asks for, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("candidates", nargs="*", metavar="CANDIDATE", help=", ".join(CANDIDATES))
    parser.add_argument("--sources", action="store_true", help="other source models, validation split")
    parser.add_argument("--final", action="store_true", help="the chosen candidate on the test split")
    parser.add_argument("--table", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    for name in arguments.candidates:
        if name not in CANDIDATES:
            parser.error(f"unknown candidate {name!r}; known: {', '.join(CANDIDATES)}")
    torch.set_num_threads(1)
    if arguments.final:
        run("chosen", "test", 0)
    elif arguments.sources:
        for source_seed in (1, 2):
            run("chosen", "validation", source_seed)
    elif not arguments.table:
        for name in arguments.candidates or CANDIDATES:
            run(name, "validation", 0)
    print(table())


if __name__ == "__main__":
    main()
