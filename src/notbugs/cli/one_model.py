"""Measure one model from the command line: one of the registry, or a network of the user's own."""

import importlib
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from notbugs.attacks.engine import frozen
from notbugs.attacks.modules import UnsteadyError, check_steady, evaluating_
from notbugs.data.images import Images, make_generator
from notbugs.data.store import load_dataset
from notbugs.evaluation.accuracy import measure, predict, usual_radii
from notbugs.evaluation.levels import RANDOM_STARTS, SuiteSettings
from notbugs.evaluation.minimum_norm import smallest
from notbugs.evaluation.suite import Audit, audit
from notbugs.models import ModelError, load_model
from notbugs.models.given import fill, read_weights
from notbugs.runtime.config import read_params, runtime, settings, validate
from notbugs.runtime.errors import ConfigError, UserError
from notbugs.runtime.files import write_json
from notbugs.runtime.machine import project_folder
from notbugs.runtime.registry import allow, texts

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


_SECTION = re.compile(r"^evaluate\s*:", re.MULTILINE)


def measure_file(
    model: str,
    data: Path,
    *,
    weights: Path | None = None,
    transfer_from: Path | None = None,
    changes: dict[str, Any] | None = None,
    seed: int | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Attack a model as stage `evaluate` does, its suite and checks included.

    Args:
        model: a .safetensors file of the registry (its .json beside it), or "package.module:factory", a callable
            that gives a torch module: images (N, C, H, W) in [0, 1] -> logits. It is called with those of
            `image_shape` and `num_classes` that it takes, so an architecture of params.yaml will do.
        data: a stored dataset.
        weights: file of the weights of a factory's network (`models.given.read_weights`); None keeps those that it
            comes with.
        transfer_from: a model of the registry whose adversarial images are tried on this one.
        changes: settings that differ from the section `evaluate` of params.yaml here, if there is one.
        seed: of everything random; None takes that of params.yaml here, 0 if there is none.
        device: where the models run.
    Returns: model, weights (their file, or None), data, settings, and lists `accuracies`, `minimum_norms`, `checks`,
        `certificate`; no paths of the machine but those given.
    Raises: UserError for what is missing, cannot be read, or does not fit the data.
    """
    params = params_here()
    config = _settings(params, changes or {})
    images = load_dataset(data)
    network = _load(model, weights, images).to(device)
    _check_fits(network, images, model)
    other = None
    if transfer_from is not None:
        other = load_model(transfer_from).to(device)
        _check_fits(other, images, str(transfer_from))
    seed = runtime(params).seed if seed is None else seed
    generator = make_generator(seed, *RANDOM_STARTS)
    found = audit(network, images, **config.arguments(), generator=generator, transfer_from=other)
    return {
        "model": model,
        "weights": None if weights is None else str(weights),
        "data": str(data),
        "n": len(images),
        "seed": seed,
        "settings": config.model_dump(mode="json"),
        **_written(found, images, config),
    }


def _written(found: Audit, data: Images, config: SuiteSettings) -> dict[str, Any]:
    norms = {**found.norms, "smallest": smallest(list(found.norms.values()))} if found.norms else {}
    written: dict[str, Any] = {
        "accuracies": [asdict(measure(outcome)) for outcome in found.outcomes],
        "minimum_norms": {attack: _quartiles(values.tolist()) for attack, values in norms.items()},
        "checks": [
            {
                "check": check.check,
                "passed": check.passed,
                "value": check.value if check.value == check.value else None,
                "threshold": check.threshold,
            }
            for check in found.checks
        ],
    }
    if found.certificate is not None and config.certificate is not None:
        called, radius = found.certificate.called, found.certificate.radius
        right = called == data.labels[: len(called)]
        written["certificate"] = [
            {"eps": eps, "accuracy": float((right & (radius >= eps)).double().mean()), "n": len(called)}
            for eps in (0.0, *sorted({*config.eps, config.headline_eps}))
        ]
    return written


def _quartiles(values: list[float]) -> dict[str, float | None]:
    """The 25%, 50% and 75% points of ‖δ‖ (the value at or below); None where no perturbation was found."""
    ordered = sorted(values)
    points = {"q25": 0.25, "median": 0.5, "q75": 0.75}
    found = {key: ordered[int((len(ordered) - 1) * share)] for key, share in points.items()}
    return {key: value if value != float("inf") else None for key, value in found.items()}


def _settings(params: dict[str, Any], changes: dict[str, Any]) -> SuiteSettings:
    """The section `evaluate` of params.yaml, if there is one, with changes; what they name may be imported."""
    allow(texts(changes), Path.cwd())
    if not changes.get("headline_eps", 1) > 0:
        raise UserError(f"--eps {changes['headline_eps']:g}: must be a number > 0")
    if "evaluate" not in params and "headline_eps" not in changes:
        raise UserError("--eps: must be given where no params.yaml has a section evaluate: the radius of the attacks")
    base = settings(params, "evaluate", SuiteSettings).model_dump() if "evaluate" in params else {}
    if "headline_eps" in changes and changes["headline_eps"] not in base.get("eps", ()):
        base["eps"] = usual_radii(changes["headline_eps"])
    return validate({**base, **changes}, "evaluate", SuiteSettings)


def params_here() -> dict[str, Any]:
    """What params.yaml here says; nothing where there is none, or one of another tool, without a section `evaluate`.

    Raises: ConfigError if it has that section and something in it is wrong.
    """
    folder = project_folder(Path.cwd())
    if folder is None or not (folder / "params.yaml").exists():
        return {}
    file = folder / "params.yaml"
    try:
        return read_params(file)
    except ConfigError:
        if _SECTION.search(file.read_text(encoding="utf-8", errors="replace")):
            raise
        return {}


def _load(model: str, weights: Path | None, data: Images) -> nn.Module:
    if model.endswith(".safetensors"):
        if weights is not None:
            raise UserError(f"--weights {weights}: only with --model package.module:factory; {model} holds its own")
        return load_model(model)
    if ":" not in model:
        raise UserError(f"--model {model}: must be a .safetensors file or package.module:factory")
    network = _make(model, data)
    if weights is not None:
        fill(network, read_weights(weights), f"--weights {weights}")
    evaluating_(network)
    return network


def _make(model: str, data: Images) -> nn.Module:
    module_name, _, factory_name = model.partition(":")
    known = {"image_shape": data.image_shape, "num_classes": len(data.class_names)}
    sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
        takes = inspect.signature(factory).parameters
        network = factory(**{name: value for name, value in known.items() if name in takes})
    except Exception as error:  # the user's code may raise anything
        raise ModelError(f"--model {model}: {type(error).__name__}: {' '.join(str(error).split())[:300]}") from None
    finally:
        sys.path.pop(0)
    if not isinstance(network, nn.Module):
        raise ModelError(f"--model {model}: gave a {type(network).__name__}; it must give a torch.nn.Module")
    return network


def _check_fits(network: nn.Module, data: Images, name: str) -> None:
    """Raises: ModelError unless the network gives one logit a class for these images."""
    few = data.select(slice(0, 2)).images
    shape = tuple(few.shape[1:])
    try:
        with frozen(network):
            check_steady(network, few)
        logits = predict(network, few)
    except UnsteadyError as error:
        raise ModelError(f"--model {name}: {error}") from None
    except Exception as error:  # shapes that do not fit raise many kinds
        text = " ".join(str(error).split())[:200]
        raise ModelError(f"--model {name}: does not take images {shape}: {text}") from None
    if logits.shape != (min(2, len(data)), len(data.class_names)):
        raise ModelError(
            f"--model {name}: gives {tuple(logits.shape[1:])} for an image, not one logit for each of "
            f"{len(data.class_names)} classes"
        )


def print_found(found: dict[str, Any], console: "Console | None" = None) -> None:
    """Print accuracies, smallest perturbations and checks as tables."""
    from rich.console import Console

    console = console or Console()
    title = f"{found['model']} on {found['n']} images, level {found['settings']['level']}"
    table = _table(title, ("attack", "labels"), ("eps", "accuracy %", "95% interval"))
    for row in found["accuracies"]:
        accuracy, low, high = (f"{100 * row[key]:.1f}" for key in ("accuracy", "low", "high"))
        labels = "y" if row["labels"] == "true" else "y + 1"
        table.add_row(row["attack"], labels, f"{row['eps']:g}", accuracy, f"{low}–{high}")
    console.print(table)
    if found["weights"] is None and not found["model"].endswith(".safetensors"):
        console.print(f"Weights: as {found['model']} gives them. --weights FILE puts trained ones in.\n")
    norms = _table("Smallest perturbation found", ("attack",), ("25%", "median", "75%"))
    for attack, points in found["minimum_norms"].items():
        norms.add_row(attack, *("none" if value is None else f"{value:.4g}" for value in points.values()))
    console.print(norms)
    checks = _table("Checks for masked gradients", ("check", ""), ("value", "threshold"))
    for row in found["checks"]:
        value = "no number" if row["value"] is None else f"{row['value']:.3g}"
        checks.add_row(row["check"], "pass" if row["passed"] else "FAIL", value, f"{row['threshold']:.3g}")
    console.print(checks)
    for row in found["checks"]:
        if row["check"] == "logits_finite" and not row["passed"]:
            console.print(
                f"The model gives logits that are no numbers on or near {100 * row['value']:.1f}% of the images. No "
                "attack can fool it there: before that is mended, the accuracies above say nothing of it."
            )
    for row in found.get("certificate", []):
        console.print(f"certified at eps {row['eps']:g}: {100 * row['accuracy']:.1f}% of {row['n']}")


def _table(title: str, words: Sequence[str], numbers: Sequence[str]) -> "Table":
    """An empty table of columns of words, on the left, and of numbers."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title)
    for head in words:
        table.add_column(head)
    for head in numbers:
        table.add_column(head, justify="right")
    return table


def save_found(found: dict[str, Any], path: Path) -> None:
    """Write what was found as JSON.

    Raises: UserError if the file cannot be written.
    """
    try:
        write_json(path, found)
    except OSError as error:
        raise UserError(f"--out {path}: cannot be written: {error.strerror or error}") from None
