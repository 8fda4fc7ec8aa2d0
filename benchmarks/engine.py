"""How fast our attacks, adversarial training and evaluation are, beside other libraries' and beside the limit.

    make bench                                      # everything: a quarter of an hour on two cores
    python benchmarks/engine.py --models small_cnn  # a part

All implementations of a task take turns (benchmarks/turns.py), so that whatever else the machine does slows all of
them; a rate is the median over the rounds. "limit" is the bare forward pass and input gradient of the folded network,
as often as the attack has steps. Where the CPU multiplies in bfloat16, ours and the limit are measured in it, too. What
an attack found is compared with the plain loop's ("robustness"). Writes engine-<device>.json, .md and .png beside this
file; a run of a part replaces that part.
"""

import argparse
import math
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from peers import PEERS, Task, bare, limit, notbugs_attack, textbook_epoch
from tables import Row, draw, merge, write_table
from torch import Tensor, nn
from torch.nn import functional
from turns import Turns

from notbugs.attacks import AttackSettings
from notbugs.attacks.engine import Engine
from notbugs.data.images import ImageData, make_generator
from notbugs.data.sources import DataSettings, load_source
from notbugs.evaluation.accuracy import adversarially_correct, predict, shifted_labels
from notbugs.models import ModelSettings, create_model, load_model, save_model, set_normalisation
from notbugs.models.base import Classifier
from notbugs.runtime.config import read_params, settings
from notbugs.runtime.devices import has_bfloat16, use_precision
from notbugs.runtime.machine import processor_name
from notbugs.training.loop import train
from notbugs.training.settings import TrainSettings

HERE = Path(__file__).parent
MODELS = {
    "small_cnn": (ModelSettings(architecture="small_cnn", width=16), 8),
    "resnet9-32": (ModelSettings(architecture="resnet9", width=32), 32),
    "resnet18-16": (ModelSettings(architecture="resnet18", width=16), 32),
    "resnet18-64": (ModelSettings(architecture="resnet18", width=64), 32),
    "resnet50-64": (ModelSettings(architecture="resnet50", width=64), 32),
}
"""Name -> network, pixels."""
SIZES = {
    "cpu": {"small_cnn": (360, 10), "resnet9-32": (128, 10), "resnet18-16": (128, 10), "resnet18-64": (32, 5)},
    "cuda": {"small_cnn": (1000, 20), "resnet18-64": (512, 20), "resnet50-64": (512, 20)},
}
"""Device -> model -> images, steps of the attacks."""
TASKS = {
    "PGD L2": Task("l2", 0.5, 0.1, 10),
    "PGD Linf": Task("linf", 8 / 255, 2 / 255, 10),
    "PGD L2 targeted": Task("l2", 0.5, 0.1, 10, targeted=True),
    "representation": Task("box", math.inf, 0.1, 10, targeted=True, loss="representation_distance"),
}
EPOCH = {"cpu": ("resnet18-16", 1024), "cuda": ("resnet18-64", 10_000)}
"""Device -> model and images of the adversarial epoch."""
EVALUATED = (
    ("small_cnn", "standard", 0.01),
    ("small_cnn", "standard", 0.25),
    ("small_cnn", "robust", None),
    ("resnet18-16", "robust", 0.35),
)
"""Models of the evaluation, and the share of the images that PGD-20 leaves at the radius; None takes radius 1."""
EVALUATED_IMAGES = 256
"""Of networks for 32 pixels."""
HALF = " bfloat16"
"""End of the name of an implementation that computes in it."""
LIBRARIES = ("torch", "torchattacks", "foolbox", "adversarial-robustness-toolbox")


def digits(pixels: int) -> tuple[ImageData, ImageData]:
    """Scikit-learn's digits, to train on and to attack; enlarged and in three channels beyond 8 pixels."""
    source = load_source(DataSettings(source="digits"), seed=0, root=Path())
    train_data, test_data = (split.select(slice(0, len(split))) for split in (source.train, source.test))
    if pixels == 8:
        return train_data, test_data

    def enlarge(data: ImageData) -> ImageData:
        images = functional.interpolate(data.images, size=(pixels, pixels), mode="bilinear").repeat(1, 3, 1, 1)
        return replace(data, images=images.clamp(0, 1))

    return enlarge(train_data), enlarge(test_data)


def new_model(settings: ModelSettings, data: ImageData) -> Classifier:
    """An untrained network for such images, the same each time."""
    return create_model(
        settings.architecture, data.image_shape, data.class_names, width=settings.width, generator=make_generator(0)
    )


def trained(name: str, device: torch.device, section: str | None = None) -> tuple[Classifier, ImageData, ImageData]:
    """A trained network (kept for the next run) with its training and test images.

    `section` of the digits preset says how the small CNN is trained; None, and that of a larger network, trains a few
    epochs.
    """
    model_settings, pixels = MODELS[name]
    data, test = digits(pixels)
    kept = HERE.parent / ".notbugs" / "benchmarks" / f"{name}-{section}.safetensors"
    if kept.exists():
        return load_model(kept, device=device), data, test
    model = new_model(model_settings, data)
    set_normalisation(model, data.images)
    if section is None or pixels != 8:
        epochs = {"resnet9-32": 3, "resnet18-16": 6, "resnet18-64": 2, "resnet50-64": 2}.get(name, 20)
        attack = AttackSettings(eps=1.0, num_steps=3, step_size=0.5) if section == "robust" else None
        config = TrainSettings(epochs=epochs, batch_size=64, lr=0.05, schedule="one_cycle", attack=attack)
    else:
        config = settings(read_params(HERE.parent / "presets" / "digits.yaml"), f"train.{section}", TrainSettings)
    train(model.to(device), data, **config.arguments(), generator=make_generator(1))
    save_model(model, kept)
    return model.eval(), data, test


def limit_of(implementation: str) -> str:
    """The implementation that is the limit of another one."""
    return f"limit{HALF}" if implementation.endswith(HALF) else "limit"


def half_of(implementation: str) -> Any:
    """What `Engine` is told of its precision."""
    return torch.bfloat16 if implementation.endswith(HALF) else "auto"


def ours(device: torch.device) -> list[str]:
    """Ours, in float32 and in bfloat16 where the device has it; CUDA's usual half precision is plain "notbugs"."""
    return ["notbugs", f"notbugs{HALF}"] if device.type == "cpu" and has_bfloat16(device) else ["notbugs"]


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
            "ratio_to_limit": round(rate / rates[limit_of(name)], 3) if limit_of(name) in rates else None,
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


def prepare(title: str, name: str, device: torch.device) -> tuple[Classifier, Tensor, Tensor, Task]:
    """The network of an attack's task, where the attack starts, what it aims at, and its settings."""
    model, _, test = trained(name, device)
    count, num_steps = SIZES[device.type][name]
    rows = torch.arange(count) % len(test)
    x, labels = test.images[rows].to(device), test.labels[rows].to(device)
    task = replace(TASKS[title], num_steps=num_steps)
    if task.loss == "representation_distance":
        with torch.no_grad():
            return model, x.flip(0), model.representation(x), task
    return model, x, shifted_labels(labels, 10) if task.targeted else labels, task


def attack_run(implementation: str, title: str, name: str, device: torch.device) -> Callable[[], Any]:
    """One implementation's attack; "limit" runs what no attack can do without."""
    model, start, y, task = prepare(title, name, device)
    if implementation in PEERS:
        return partial(PEERS[implementation], model, start, y, task)
    engine = Engine(model, start[:8], compiled=implementation == "notbugs compiled", half=half_of(implementation))
    if implementation.startswith("limit"):
        return partial(limit, *bare(engine, start), task)
    return partial(notbugs_attack, engine, start, y, task)


def attacks(name: str, turns: Turns, compiled: bool, tasks: Sequence[str]) -> list[Row]:
    """Some attacks of TASKS on one model."""
    device = turns.device
    trained(name, device)
    result = []
    for title in tasks:
        task = TASKS[title]
        implementations = [peer for peer in PEERS if task.loss == "cross_entropy" or peer == "robustness"]
        implementations += [*ours(device), *(limit_of(name) for name in ours(device))]
        implementations += ["notbugs compiled"] if compiled else []
        makes = {who: (attack_run, who, title, name, device) for who in implementations}
        seconds, found, missing = turns.take(makes)
        for peer, problem in missing.items():
            print(f"{title} on {name}: {peer} left out ({problem})", flush=True)
        model, start, y, task = prepare(title, name, device)
        rates = {who: len(start) * task.num_steps / value for who, value in seconds.items()}
        images = {who: torch.from_numpy(x_adv).to(device) for who, x_adv in found.items() if x_adv is not None}
        _, called = found_at(model, images["robustness"], y, task)
        agreement: dict[str, dict[str, float]] = {"p99_dx": {}, "same_calls": {}, "loss": {}}
        for who, x_adv in images.items():
            its_loss, its_called = found_at(model, x_adv, y, task)
            changes = (x_adv - images["robustness"]).abs().flatten().sort().values
            agreement["p99_dx"][who] = float(f"{float(changes[int(0.99 * len(changes))]):.3g}")
            agreement["same_calls"][who] = round(float((its_called == called).double().mean()), 5)
            agreement["loss"][who] = round(float(its_loss.mean()), 5)
        result += rows_of(title, name, "images·steps/s", rates, **agreement)
        show(result[-len(rates) :])
    return result


def epoch_run(implementation: str, device: torch.device) -> Callable[[], Any]:
    """One epoch of PGD-7 adversarial training, going on with the same network at every turn."""
    name, count = EPOCH[device.type]
    model_settings, pixels = MODELS[name]
    data = digits(pixels)[0]
    data = data.select(torch.arange(count) % len(data)).to(device)
    attack = AttackSettings(eps=0.5, num_steps=7, step_size=0.1)
    config = TrainSettings(epochs=1, batch_size=128, lr=0.01, schedule="constant", attack=attack)
    model = new_model(model_settings, data)
    set_normalisation(model, data.images.cpu())
    model.to(device)

    use_precision(device, "bfloat16" if implementation.endswith(HALF) else "usual")

    def run() -> None:
        if implementation == "robustness":
            textbook_epoch(model, data.images, data.labels, config)
        else:
            train(model, data, **config.arguments(), generator=make_generator(0))

    return run


def epoch(turns: Turns) -> list[Row]:
    """An adversarial epoch beside the textbook's."""
    name, count = EPOCH[turns.device.type]
    seconds, _, _ = turns.take({who: (epoch_run, who, turns.device) for who in ("robustness", *ours(turns.device))})
    rates = {who: count / value for who, value in seconds.items()}
    result = rows_of("PGD-7 training epoch", name, "images/s", rates)
    show(result)
    return result


def evaluated(name: str, section: str, device: torch.device) -> tuple[Classifier, ImageData]:
    """A model of the evaluation, and its images."""
    model, _, test = trained(name, device, section)
    return model, test if MODELS[name][1] == 8 else test.select(slice(0, EVALUATED_IMAGES))


def evaluation_run(
    implementation: str, name: str, section: str, eps: float, device: torch.device
) -> Callable[[], float]:
    """Adversarial accuracy by PGD-100."""
    model, test = evaluated(name, section, device)
    attack = AttackSettings(eps=eps, num_steps=100)
    task = Task("l2", eps, attack.step, 100)
    x, y = test.images.to(device), test.labels.to(device)

    def run() -> float:
        if implementation.startswith("notbugs"):
            engine = Engine(model, x[:8], half=half_of(implementation))
            withstood = adversarially_correct(model, test, engine=engine, **attack.arguments())
        else:
            withstood = predict(model, PEERS[implementation](model, x, y, task)).argmax(dim=1) == y.cpu()
        return round(float(withstood.double().mean()), 5)

    return run


def evaluation(turns: Turns, models: Sequence[str]) -> list[Row]:
    """Adversarial accuracy by PGD-100 at L2 radii where the model keeps little, some, and (robust) much."""
    device = turns.device
    result = []
    for name, section, keeps in EVALUATED:
        if name not in models:
            continue
        model, test = evaluated(name, section, device)
        eps = 1.0 if keeps is None else radius_that_keeps(model, test, keeps)
        makes = {
            who: (evaluation_run, who, name, section, eps, device) for who in ("torchattacks", "foolbox", *ours(device))
        }
        seconds, accuracy, _ = turns.take(makes)
        rates = {who: len(test) / value for who, value in seconds.items()}
        title = f"PGD-100 evaluation, {section} model, eps {eps:g}"
        result += rows_of(title, name, "images/s", rates, accuracy=accuracy)
        show(result[-len(rates) :])
    return result


def radius_that_keeps(model: nn.Module, test: ImageData, share: float) -> float:
    """L2 radius at which PGD-20 leaves about this adversarial accuracy, by bisection."""
    low, high = 0.0, 6.0
    for _ in range(8):
        middle = (low + high) / 2
        attack = AttackSettings(eps=middle, num_steps=20)
        withstood = adversarially_correct(model, test, **attack.arguments())
        low, high = (middle, high) if float(withstood.double().mean()) > share else (low, middle)
    return round(high, 2)


def scaling_run(steps: int, images: int, batch: int, width: int, device: torch.device) -> Callable[[], None]:
    """Our attack on so many images, in batches, by a ResNet-18 of a width."""
    data = digits(32)[1]
    model_settings = ModelSettings(architecture="resnet18", width=width)
    model = new_model(model_settings, data).to(device)
    x, y = data.images[:images].to(device), data.labels[:images].to(device)
    engine, task = Engine(model, x[:8]), Task("l2", 0.5, 0.1, steps)

    def run() -> None:
        for part in torch.arange(images).split(batch):
            notbugs_attack(engine, x[part], y[part], task)

    return run


def scaling(turns: Turns) -> list[Row]:
    """How our attack's time grows: log-log slope of seconds against steps, images, batch size and width."""
    device = turns.device
    name = "resnet18-16" if device.type == "cpu" else "resnet18-64"
    base = {"steps": 4, "images": 64, "batch": 16, "width": 8 if device.type == "cpu" else 64}
    result = []
    for what in base:
        values = [base[what] * factor for factor in (1, 2, 4)]
        makes = {
            f"notbugs x{value // base[what]}": (scaling_run, *{**base, what: value}.values(), device)
            for value in values
        }
        times = list(turns.take(makes)[0].values())
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


def peak_memory(name: str, implementation: str, device: torch.device) -> float:
    """MiB that a PGD L2 attack adds, measured in a process of its own."""
    command = [sys.executable, __file__, "--device", device.type, "--peak", name, implementation]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def print_peak(name: str, implementation: str, device: torch.device) -> None:
    model, _, test = trained(name, device)
    count, _ = SIZES[device.type][name]
    rows = torch.arange(count) % len(test)
    x, y = test.images[rows].to(device), test.labels[rows].to(device)
    attack = PEERS.get(implementation, notbugs_attack)
    attacked: nn.Module = model if implementation in PEERS else Engine(model, x[:8], half=half_of(implementation))
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
    name = torch.cuda.get_device_name() if device.type == "cuda" else processor_name()
    return {"device": name, "threads": torch.get_num_threads(), "python": platform.python_version(), **versions()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", nargs="*", help="some of " + ", ".join(MODELS))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS), metavar="TASK")
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
    with Turns(device, arguments.rounds) as turns:
        if "attacks" in arguments.parts:
            for name in models:
                rows += attacks(name, turns, arguments.compiled, arguments.tasks)
        if "epoch" in arguments.parts:
            rows += epoch(turns)
        if "evaluation" in arguments.parts:
            rows += evaluation(turns, models)
        if "scaling" in arguments.parts:
            rows += scaling(turns)
    file, facts = HERE / f"engine-{device.type}.json", machine(device)
    rows = merge(file, facts, rows)
    if "memory" in arguments.parts:
        attacked = [row for row in rows if row["task"] == "PGD L2" and row["model"] in models]
        for row in attacked:
            if row["implementation"] in (*ours(device), *PEERS):
                row["peak_mib"] = round(peak_memory(row["model"], row["implementation"], device), 1)
        rows = merge(file, facts, attacked)
    write_table(file.with_suffix(".md"), facts, rows)
    draw(file.with_suffix(".png"), facts, rows)


if __name__ == "__main__":
    main()
