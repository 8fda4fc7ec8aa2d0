"""Compare settings of the digits preset, on the validation split.

    python benchmarks/digits_settings.py [CANDIDATE ...]   all candidates, or those named; five fit seeds each
    python benchmarks/digits_settings.py --sources         the chosen one with source models of seeds 1 and 2
    python benchmarks/digits_settings.py --final           the chosen one on the test split: once, at the end
    python benchmarks/digits_settings.py --table           the table again, from the CSV

Rows go to digits_settings.csv beside this file; what is there already is not run again. About 2 minutes a
candidate on one core. Random streams are named as in the pipeline's stages, so the chosen candidate gives what
the pipeline gives.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from notbugs import models
from notbugs.attacks import AttackSettings
from notbugs.construction import InvertSettings, TargetSettings, construct, describe, summarise
from notbugs.evaluation import adversarially_correct, predict, shifted_labels
from notbugs.images import ImageData, make_generator, stratified_split
from notbugs.models.base import Classifier
from notbugs.sources.digits import read_digits
from notbugs.training import TrainSettings, train

CSV = Path(__file__).with_suffix(".csv")
SEEDS = (0, 1, 2, 3, 4)
RADII = (0.5, 0.6, 1.0)
HEADLINE = "adversarial_0.6"


@dataclass(frozen=True)
class Candidate:
    """One setting; the defaults are the chosen ones.

    Attributes:
        widths, strides: channels, and stride, of each 3x3 convolution; average pooling follows.
        robust_eps: radius of adversarial training.
        eps, steps: of D_rand and D_det; the step size is 6·eps/steps.
        crop_padding, label_smoothing: of all models.
        fit_epochs, fit_weight_decay: of the fits on constructed datasets.
    """

    widths: tuple[int, ...] = (32, 64, 16)
    strides: tuple[int, ...] = (1, 2, 2)
    robust_eps: float = 1.0
    eps: float = 1.0
    steps: int = 60
    crop_padding: int = 0
    label_smoothing: float = 0.0
    fit_epochs: int = 20
    fit_weight_decay: float = 5e-4


CANDIDATES = {
    "chosen": Candidate(),
    "smooth, 64 numbers": Candidate(widths=(16, 32, 64), strides=(1, 2, 1)),
    "64 numbers": Candidate(widths=(16, 32, 64)),
    "32 numbers": Candidate(widths=(16, 32, 32)),
    "smooth": Candidate(strides=(1, 2, 1)),
    "8 numbers": Candidate(widths=(32, 64, 8)),
    "robust eps 0.75": Candidate(robust_eps=0.75),
    "eps 0.75": Candidate(eps=0.75),
    "fit 40 epochs": Candidate(fit_epochs=40),
    "crops": Candidate(crop_padding=1),
    "label smoothing": Candidate(label_smoothing=0.1),
}
"""The finalists and their neighbours; digits_settings.md tells of the screening before."""


class Net(Classifier):
    """`small_cnn` with any shape."""

    def __init__(self, candidate: Candidate) -> None:
        layers: list[nn.Module] = []
        previous = 1
        for out, stride in zip(candidate.widths, candidate.strides, strict=True):
            layers += [nn.Conv2d(previous, out, 3, stride, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            previous = out
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        super().__init__(nn.Sequential(*layers), 1, previous, 10)


def digits() -> dict[str, ImageData]:
    """D, validation and test as stage `prepare` splits them."""
    pool, test = read_digits(0.2, seed=0)
    kept, held = stratified_split(pool.labels, 0.15, make_generator(0, "data", "validation"))
    everything = torch.arange(len(test.labels))
    return {"train": pool.images(kept), "validation": pool.images(held), "test": test.images(everything)}


def trained(candidate: Candidate, data: ImageData, settings: TrainSettings, *purpose: str | int) -> Classifier:
    """A classifier trained from scratch, with the random streams of the stage of that name."""
    generator = make_generator(0, *purpose, "weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator.initial_seed())
        model = Net(candidate)
    models.set_normalisation(model, data.images)
    train(model, data, settings, generator=make_generator(0, *purpose, "batches"))
    return model


def measured(model: Classifier, data: ImageData) -> dict[str, float]:
    """Accuracy on y, on y + 1, and after PGD-100 at each radius."""
    called = predict(model, data.images).argmax(dim=1)
    row = {
        "clean": float((called == data.labels).double().mean()),
        "shifted": float((called == shifted_labels(data.labels, 10)).double().mean()),
    }
    for eps in RADII:
        attack = AttackSettings(eps=eps, num_steps=100)
        withstood = adversarially_correct(model, data, attack, generator=make_generator(0, "benchmark"))
        row[f"adversarial_{eps}"] = float(withstood.double().mean())
    return row


def rows_of(candidate: Candidate, split: str, source_seed: int) -> Iterator[dict[str, object]]:
    """One row a model: the ten trained on D, then five fits on each construction."""
    parts = digits()
    data, held = parts["train"], parts[split]
    common = {"lr": 0.1, "schedule": "one_cycle", "crop_padding": candidate.crop_padding}
    common["label_smoothing"] = candidate.label_smoothing
    standard = TrainSettings(epochs=40, **common)
    attack = AttackSettings(eps=candidate.robust_eps, num_steps=7, step_size=candidate.robust_eps / 5)
    robust = TrainSettings(epochs=40, attack=attack, **common)
    source: dict[str, Classifier] = {}
    for name, settings in (("standard", standard), ("robust", robust)):
        # The robust model is the slow one: all seeds only where its spread is reported.
        seeds = SEEDS if name == "standard" or split == "test" else (source_seed,)
        for seed in seeds:
            model = trained(candidate, data, settings, "train", name, seed)
            if seed == source_seed:
                source[name] = model
            yield {"dataset": f"D {name}", "seed": seed, **measured(model, held)}
    fit = TrainSettings(epochs=candidate.fit_epochs, weight_decay=candidate.fit_weight_decay, **common)
    for name, dataset in (("robust", "D_R"), ("nonrobust", "D_NR"), ("rand", "D_rand"), ("det", "D_det")):
        recipe = _recipe(name, candidate)
        model = source[recipe.model]
        made = construct(model, data, recipe, generator=make_generator(0, "construct", name))
        columns = describe(made, data, model, source["robust"])
        facts = summarise(columns)
        about = {
            "robust_still_y": facts["robust_model"]["still_y"],
            "neighbour_still_y": facts["nearest_neighbour"]["still_y"],
            "success": facts["success_rate"],
            "distance_to_x": facts["delta_norm"]["median"],
        }
        subsets = {"full": made.data}
        if name in ("rand", "det"):
            subsets["still_y"] = made.data.select(columns["still_y"])
        for subset, images in subsets.items():
            suffix = "" if subset == "full" else "_still_y"
            for seed in SEEDS:
                fitted = trained(candidate, images, fit, "fit", name, subset, seed)
                yield {"dataset": dataset + suffix, "seed": seed, **measured(fitted, held), **about}


def _recipe(name: str, candidate: Candidate) -> InvertSettings | TargetSettings:
    if name in ("robust", "nonrobust"):
        source = "robust" if name == "robust" else "standard"
        return InvertSettings(recipe="invert", model=source, num_steps=200, step_size=0.05)
    return TargetSettings(
        recipe="random_target" if name == "rand" else "deterministic_target",
        model="standard",
        eps=candidate.eps,
        num_steps=candidate.steps,
        step_size=6 * candidate.eps / candidate.steps,
    )


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
    lines = []
    columns = "candidate | split, source seed | D std clean, .5, .6 | D robust | D_R | D_NR | D_rand on y; still y"
    columns += " (robust, 1-NN) | D_det on y / y + 1; still y | D_R − D_NR, D_R − D std at .6"
    lines += [f"| {columns} |", "|" + "---|" * 9]
    for key, rows in pd.read_csv(CSV).groupby(["candidate", "split", "source_seed"], sort=False):
        means = rows.groupby("dataset").mean(numeric_only=True) * 100
        name, split, source_seed = key  # type: ignore[misc]
        cells = [str(name), f"{split}, {source_seed}"]
        for dataset in ("D standard", "D robust", "D_R", "D_NR"):
            curve = means.loc[dataset, ["clean", "adversarial_0.5", "adversarial_0.6"]]
            cells.append(", ".join(f"{value:.1f}" for value in curve))
        for dataset in ("D_rand", "D_det"):
            row = means.loc[dataset]
            accuracy = f"{row['clean']:.1f}" + (f" / {row['shifted']:.1f}" if dataset == "D_det" else "")
            cells.append(f"{accuracy}; {row['robust_still_y']:.1f}, {row['neighbour_still_y']:.1f}")
        gaps = means.loc["D_R", HEADLINE] - means.loc[["D_NR", "D standard"], HEADLINE]
        cells.append(", ".join(f"{gap:.1f}" for gap in gaps))
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
