"""How fast our attacks, adversarial training and evaluation are, beside other libraries' and beside the limit.

    make bench                                      # everything: a quarter of an hour on two cores
    python benchmarks/engine.py --models small_cnn  # a part

All implementations of a task take turns in one process, so that whatever else the machine does slows all of them; a
rate is the median over the rounds. "limit" is the bare forward pass and input gradient of the folded network, as
often as the attack has steps. What an attack found is compared with the plain loop's ("robustness"). Writes
engine-<device>.json, .md and .png beside this file; a run of a part replaces that part.
"""

import argparse
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from peers import PEERS, Task, limit, notbugs_attack, textbook_epoch
from tables import Row, draw, merge, write_table
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks import AttackSettings
from notbugs.attacks.engine import Engine
from notbugs.config import read_params, settings
from notbugs.evaluation import adversarially_correct, predict, shifted_labels
from notbugs.images import ImageData, make_generator
from notbugs.models import ModelSettings, create_model, load_model, save_model, set_normalisation
from notbugs.models.base import Classifier
from notbugs.sources import DataSettings, load_source
from notbugs.training import TrainSettings, train

HERE = Path(__file__).parent
MODELS = {
    "small_cnn": (ModelSettings(architecture="small_cnn", width=16), 8),
    "resnet18-16": (ModelSettings(architecture="resnet18", width=16), 32),
    "resnet18-64": (ModelSettings(architecture="resnet18", width=64), 32),
    "resnet50-64": (ModelSettings(architecture="resnet50", width=64), 32),
}
"""Name -> network, pixels."""
SIZES = {
    "cpu": {"small_cnn": (360, 10), "resnet18-16": (128, 10), "resnet18-64": (32, 5)},
    "cuda": {"small_cnn": (1000, 20), "resnet18-64": (512, 20), "resnet50-64": (512, 20)},
}
"""Device -> model -> images, steps of the attacks."""
TASKS = {
    "PGD L2": Task("l2", 0.5, 0.1, 10),
    "PGD Linf": Task("linf", 8 / 255, 2 / 255, 10),
    "PGD L2 targeted": Task("l2", 0.5, 0.1, 10, targeted=True),
    "representation": Task("box", math.inf, 0.1, 10, targeted=True, loss="representation_distance"),
}
EPOCH = {"cpu": ("resnet18-16", 256), "cuda": ("resnet18-64", 10_000)}
"""Device -> model and images of the adversarial epoch."""
LIBRARIES = ("torch", "torchattacks", "foolbox", "adversarial-robustness-toolbox")


def digits(pixels: int) -> tuple[ImageData, ImageData]:
    """Scikit-learn's digits, to train on and to attack; enlarged and in three channels beyond 8 pixels."""
    source = load_source(DataSettings(source="digits"), seed=0, root=Path())
    if pixels == 8:
        return source.train, source.test

    def enlarge(data: ImageData) -> ImageData:
        images = functional.interpolate(data.images, size=(pixels, pixels), mode="bilinear").repeat(1, 3, 1, 1)
        return replace(data, images=images.clamp(0, 1))

    return enlarge(source.train), enlarge(source.test)


def trained(name: str, device: torch.device, section: str | None = None) -> tuple[Classifier, ImageData, ImageData]:
    """A trained network (kept for the next run) with its training and test images.

    `section` of the digits preset says how it is trained; None trains a few epochs.
    """
    model_settings, pixels = MODELS[name]
    data, test = digits(pixels)
    kept = HERE.parent / ".notbugs" / "benchmarks" / f"{name}-{section}.safetensors"
    if kept.exists():
        return load_model(kept, device=device), data, test
    model = create_model(model_settings, tuple(data.images.shape[1:]), data.class_names, generator=make_generator(0))
    set_normalisation(model, data.images)
    if section is None:
        epochs = {"resnet18-16": 6, "resnet18-64": 2, "resnet50-64": 2}.get(name, 20)
        config = TrainSettings(epochs=epochs, batch_size=64, lr=0.05, schedule="one_cycle")
    else:
        config = settings(read_params(HERE.parent / "presets" / "digits.yaml"), f"train.{section}", TrainSettings)
    train(model.to(device), data, config, generator=make_generator(1))
    save_model(model, kept)
    return model.eval(), data, test


def take_turns(runs: dict[str, Callable[[], Any]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each run; a first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def rows_of(task: str, model: str, unit: str, rates: dict[str, float], **facts: dict[str, Any]) -> list[Row]:
    """One row an implementation, with the ratios to the best peer and to the limit."""
    best = max((rate for name, rate in rates.items() if not name.startswith(("notbugs", "limit"))), default=math.nan)
    return [
        {
            "task": task,
            "model": model,
            "implementation": name,
            "rate": round(rate, 2),
            "unit": unit,
            "ratio_to_best_peer": round(rate / best, 3),
            "ratio_to_limit": round(rate / rates["limit"], 3) if "limit" in rates else None,
            "peak_mib": None,
            **{key: values.get(name) for key, values in facts.items()},
        }
        for name, rate in rates.items()
    ]


def found_at(model: Classifier, x_adv: Tensor, y: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Per-example loss and called class."""
    logits = predict(model, x_adv)
    if task.loss != "cross_entropy":
        with torch.no_grad():
            return (model.representation(x_adv) - y).norm(dim=1).cpu(), logits.argmax(dim=1)
    return functional.cross_entropy(logits, y.cpu(), reduction="none"), logits.argmax(dim=1)


def attacks(name: str, device: torch.device, rounds: int, compiled: bool) -> list[Row]:
    """Every attack of TASKS on one model."""
    model, _, test = trained(name, device)
    count, num_steps = SIZES[device.type][name]
    rows = torch.arange(count) % len(test)
    x, labels = test.images[rows].to(device), test.labels[rows].to(device)
    engines = {"notbugs": Engine(model, x[:8])}
    if compiled:
        engines["notbugs compiled"] = Engine(model, x[:8], compiled=True)
    result = []
    for title, task in TASKS.items():
        task = replace(task, num_steps=num_steps)
        y, start = labels, x
        if task.loss == "representation_distance":
            with torch.no_grad():
                y, start = model.representation(x), x.flip(0)
        elif task.targeted:
            y = shifted_labels(labels, 10)
        runs: dict[str, Callable[[], Any]] = {
            peer: partial(attack, model, start, y, task)
            for peer, attack in PEERS.items()
            if task.loss == "cross_entropy" or peer == "robustness"
        }
        for engine_name, engine in engines.items():
            runs[engine_name] = partial(notbugs_attack, engine, start, y, task)
        found, problems = {}, {}
        for peer, run in list(runs.items()):
            try:
                found[peer] = run()
            except ImportError as error:
                problems[peer] = str(error)
                del runs[peer]
        runs["limit"] = partial(limit, engines["notbugs"], start, task)
        for peer, problem in problems.items():
            print(f"{title} on {name}: {peer} left out ({problem})", flush=True)
        seconds = take_turns(runs, rounds, device)
        rates = {peer: count * num_steps / value for peer, value in seconds.items()}
        _, called = found_at(model, found["robustness"], y, task)
        agreement: dict[str, dict[str, float]] = {"p99_dx": {}, "same_calls": {}, "loss": {}}
        for peer, x_adv in found.items():
            its_loss, its_called = found_at(model, x_adv, y, task)
            changes = (x_adv - found["robustness"]).abs().flatten().sort().values
            agreement["p99_dx"][peer] = float(f"{float(changes[int(0.99 * len(changes))]):.3g}")
            agreement["same_calls"][peer] = round(float((its_called == called).double().mean()), 5)
            agreement["loss"][peer] = round(float(its_loss.mean()), 5)
        result += rows_of(title, name, "images·steps/s", rates, **agreement)
        show(result[-len(rates) :])
    return result


def epoch(device: torch.device, rounds: int) -> list[Row]:
    """One epoch of PGD-7 adversarial training."""
    name, count = EPOCH[device.type]
    model_settings, pixels = MODELS[name]
    data = digits(pixels)[0]
    data = data.select(torch.arange(count) % len(data)).to(device)
    config = TrainSettings(
        epochs=1,
        batch_size=128,
        lr=0.01,
        schedule="constant",
        attack=AttackSettings(eps=0.5, num_steps=7, step_size=0.1),
    )

    def fresh() -> Classifier:
        model = create_model(
            model_settings, tuple(data.images.shape[1:]), data.class_names, generator=make_generator(0)
        )
        set_normalisation(model, data.images.cpu())
        return model.to(device)

    ours, plain = fresh(), fresh()
    runs = {
        "robustness": lambda: textbook_epoch(plain, data.images, data.labels, config),
        "notbugs": lambda: train(ours, data, config, generator=make_generator(0)),
    }
    seconds = take_turns(runs, rounds, device)
    rates = {peer: count / value for peer, value in seconds.items()}
    result = rows_of("PGD-7 training epoch", name, "images/s", rates)
    show(result)
    return result


def evaluation(device: torch.device, rounds: int) -> list[Row]:
    """Adversarial accuracy by PGD-100 at L2 radii where the model keeps little, some, and (robust) much."""
    result = []
    for section, keeps in (("standard", 0.01), ("standard", 0.25), ("robust", None)):
        model, _, test = trained("small_cnn", device, section)
        eps = 1.0 if keeps is None else radius_that_keeps(model, test, keeps)
        attack = AttackSettings(eps=eps, num_steps=100)
        task = Task("l2", eps, attack.step, 100)
        x, y = test.images.to(device), test.labels.to(device)

        def peer_accuracy(peer: str) -> float:
            x_adv = PEERS[peer](model, x, y, task)  # noqa: B023
            return float((predict(model, x_adv).argmax(dim=1) == y.cpu()).double().mean())  # noqa: B023

        def our_accuracy() -> float:
            withstood = adversarially_correct(model, test, attack, generator=make_generator(0))  # noqa: B023
            return float(withstood.double().mean())

        runs: dict[str, Callable[[], float]] = {
            "torchattacks": lambda: peer_accuracy("torchattacks"),
            "foolbox": lambda: peer_accuracy("foolbox"),
            "notbugs": our_accuracy,
        }
        accuracy = {peer: round(run(), 5) for peer, run in runs.items()}
        seconds = take_turns(runs, rounds, device)
        rates = {peer: len(test) / value for peer, value in seconds.items()}
        title = f"PGD-100 evaluation, {section} model, eps {eps:g}"
        result += rows_of(title, "small_cnn", "images/s", rates, accuracy=accuracy)
        show(result[-3:])
    return result


def radius_that_keeps(model: nn.Module, test: ImageData, share: float) -> float:
    """L2 radius at which PGD-20 leaves about this adversarial accuracy, by bisection."""
    low, high = 0.0, 3.0
    for _ in range(7):
        middle = (low + high) / 2
        attack = AttackSettings(eps=middle, num_steps=20)
        withstood = adversarially_correct(model, test, attack, generator=make_generator(0))
        low, high = (middle, high) if float(withstood.double().mean()) > share else (low, middle)
    return round(high, 2)


def scaling(device: torch.device, rounds: int) -> list[Row]:
    """How our attack's time grows: log-log slope of seconds against steps, images, batch size and width."""
    name = "resnet18-16" if device.type == "cpu" else "resnet18-64"
    base_width = 8 if device.type == "cpu" else 64
    data = digits(32)[1]
    base = {"steps": 4, "images": 64, "batch": 16, "width": base_width}

    def seconds(steps: int, images: int, batch: int, width: int) -> float:
        model = create_model(
            replace_width(MODELS[name][0], width), (3, 32, 32), data.class_names, generator=make_generator(0)
        ).to(device)
        x = data.images[:images].to(device)
        y = data.labels[:images].to(device)
        engine, task = Engine(model, x[:8]), Task("l2", 0.5, 0.1, steps)

        def run() -> None:
            for part in torch.arange(images).split(batch):
                notbugs_attack(engine, x[part], y[part], task)

        return take_turns({"notbugs": run}, rounds, device)["notbugs"]

    result = []
    for what in base:
        values = [base[what] * factor for factor in (1, 2, 4)]
        times = [seconds(**{**base, what: value}) for value in values]
        slope = math.log(times[-1] / times[0]) / math.log(values[-1] / values[0])
        title = f"seconds against {what} ({', '.join(map(str, values))})"
        row = {
            "task": title,
            "model": name,
            "implementation": "notbugs",
            "rate": round(slope, 3),
            "unit": "log-log slope",
        }
        result.append({**row, "ratio_to_best_peer": None, "ratio_to_limit": None, "peak_mib": None})
        show(result[-1:])
    return result


def replace_width(model_settings: ModelSettings, width: int) -> ModelSettings:
    return ModelSettings(architecture=model_settings.architecture, width=width)


def peak_memory(name: str, implementation: str, device: torch.device) -> float:
    """MiB that a PGD L2 attack adds, measured in a process of its own."""
    command = [sys.executable, __file__, "--device", device.type, "--peak", name, implementation]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_peak(name: str, implementation: str, device: torch.device) -> None:
    model, _, test = trained(name, device)
    count, _ = SIZES[device.type][name]
    rows = torch.arange(count) % len(test)
    x, y = test.images[rows].to(device), test.labels[rows].to(device)
    attack = notbugs_attack if implementation == "notbugs" else PEERS[implementation]
    attacked: nn.Module = Engine(model, x[:8]) if implementation == "notbugs" else model
    if implementation == "ART":
        attack(attacked, x[:2], y[:2], replace(TASKS["PGD L2"], num_steps=1))  # its imports are not the attack's
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        attack(attacked, x, y, replace(TASKS["PGD L2"], num_steps=3))
        print((torch.cuda.max_memory_allocated() - before) / 2**20)
        return
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = status_kib("VmRSS")
    attack(attacked, x, y, replace(TASKS["PGD L2"], num_steps=3))
    print((status_kib("VmHWM") - before) / 2**10)


def status_kib(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(key)).split()[1])


def show(rows: list[Row]) -> None:
    for row in rows:
        peer, bound = (
            f"{row[key]:.2f}" if row[key] is not None and row[key] == row[key] else "-"
            for key in ("ratio_to_best_peer", "ratio_to_limit")
        )
        extra = " ".join(
            f"{key} {row[key]}" for key in ("p99_dx", "same_calls", "accuracy") if row.get(key) is not None
        )
        print(
            f"{row['task']:45} {row['model']:12} {row['implementation']:17} {row['rate']:>10} {row['unit']:15}"
            f"{peer:>6}x peer {bound:>6}x limit  {extra}",
            flush=True,
        )


def versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine(device: torch.device) -> dict[str, Any]:
    if device.type == "cuda":
        name = torch.cuda.get_device_name()
    else:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
    return {"device": name, "threads": torch.get_num_threads(), "python": platform.python_version(), **versions()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="*", help="some of " + ", ".join(MODELS))
    parser.add_argument("--parts", nargs="*", default=["attacks", "epoch", "evaluation", "scaling", "memory"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compiled", action="store_true", help="also measure the compiled engine")
    parser.add_argument("--peak", nargs=2, metavar=("MODEL", "IMPLEMENTATION"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.peak:
        print_peak(*arguments.peak, device)
        return
    models = arguments.models or list(SIZES[device.type])
    rows: list[Row] = []
    if "attacks" in arguments.parts:
        for name in models:
            rows += attacks(name, device, arguments.rounds, arguments.compiled)
    if "epoch" in arguments.parts:
        rows += epoch(device, arguments.rounds)
    if "evaluation" in arguments.parts:
        rows += evaluation(device, arguments.rounds)
    if "scaling" in arguments.parts:
        rows += scaling(device, arguments.rounds)
    if "memory" in arguments.parts:
        for row in rows:
            if row["task"] == "PGD L2" and row["implementation"] in ("notbugs", *PEERS):
                row["peak_mib"] = round(peak_memory(row["model"], row["implementation"], device), 1)
    file, facts = HERE / f"engine-{device.type}.json", machine(device)
    rows = merge(file, facts, rows)
    write_table(file.with_suffix(".md"), facts, rows)
    draw(file.with_suffix(".png"), facts, rows)


if __name__ == "__main__":
    main()
