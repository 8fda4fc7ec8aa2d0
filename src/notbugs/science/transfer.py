"""Do the source model's adversarial examples fool other architectures, and do these learn from D_rand and D_det?

Ilyas et al. 2019, section 3.3 and Figure 3: an architecture that learns the source's non-robust features better
from D_det is also fooled more often by the source's adversarial examples.

Transfer success (Reviewer 2 asked for the exact definition): of the test images that source and X both classify
rightly and whose adversarial example fools the source, the share that X gets wrong (untargeted) or calls t
(targeted, t = y + 1). Unconditional: of all test images.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from notbugs.attacks import pgd
from notbugs.attacks.losses import NO_NUMBER
from notbugs.data.images import ImageData, make_generator
from notbugs.evaluation.accuracy import batches, called_by, engine_of, model_device, shifted_labels
from notbugs.models import ModelSettings
from notbugs.runtime.config import Seeds, Settings
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.shares import nested, share, share_table
from notbugs.science.common.training import Attack, StudyTraining, trained

Goal = Literal["untargeted", "targeted"]
GOALS: tuple[Goal, ...] = ("untargeted", "targeted")
DATASETS = {"d": ("D", "train"), "rand": ("D_rand", "rand"), "det": ("D_det", "det")}
"""Key of the settings of a training -> what is learnt: its name in the paper, and in the lab."""


class TransferSettings(Settings):
    """Which architectures are tried, how they learn, and how the source is attacked."""

    architectures: dict[str, ModelSettings] = Field(min_length=1)
    """Name in tables and figures -> architecture X."""
    seeds: Seeds = (0,)
    """Each architecture is trained once for each, on each dataset."""
    d: StudyTraining
    """How X is trained on D, independently of the source model."""
    rand: StudyTraining
    """How X is fitted on D_rand."""
    det: StudyTraining
    """How X is fitted on D_det."""
    attack: Attack
    """The source's adversarial examples: the last iterate, as in D_rand and D_det."""


def transfer(lab: Lab, settings: TransferSettings) -> Answer:
    """Metrics of every architecture, and how learning from D_rand and D_det goes with being fooled.

    On digits about a minute and a half. Expected in the paper: accuracy from D_det and transfer success rise together.
    """
    source, attack = lab.models["standard"], settings.attack
    parts = {
        f"architecture-{number}": partial(_measure_architecture, settings=settings, name=name)
        for number, name in enumerate(settings.architectures)
    }
    found = lab.load_or_make_all(parts, "architectures")
    facts = {name: one for name, (one, _) in zip(settings.architectures, found, strict=True)}
    masks = {name: one for name, (_, one) in zip(settings.architectures, found, strict=True)}
    examples = _examples_of_source(lab, settings)
    table = {name: {**facts[name], **nested(shares)} for name, shares in share_table(masks).items()}
    rates = [found["transfer"]["targeted"]["conditional"] for found in table.values()]
    shown = ", ".join(f"{rate['mean']:.1%}" for rate in rates if rate)
    metrics = {
        "attack": {"norm": attack.norm, "eps": attack.eps, "num_steps": attack.num_steps},
        "source": {
            "architecture": source.description.architecture,
            "width": source.description.width,
            "accuracy": share([examples.source_right]),
            "fooled": {goal: share([examples.fooled[goal]]) for goal in GOALS},
        },
        "source_seeds": {DATASETS[name][0]: seed for name, seed in lab.source_seeds.items()},
        "architectures": table,
        "correlation": _correlations(table),
    }
    return Answer(metrics, (f"{len(table)} architectures; targeted transfer success {shown or 'undefined'}",))


def _examples_of_source(lab: Lab, settings: TransferSettings) -> "Examples":
    """The same whenever they are made: each architecture's part makes them anew, which costs little beside training."""
    generator = make_generator(lab.seed, "transfer", "noise")
    return adversarial_examples(lab.models["standard"], lab.data["test"].data(), settings.attack, generator=generator)


def _measure_architecture(
    lab: Lab, *, settings: TransferSettings, name: str
) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """What X is, and all that is measured of it: accuracy from each dataset, transfer from the source, by seed."""
    architecture = settings.architectures[name]
    test, examples = lab.data["test"].data(), _examples_of_source(lab, settings)
    shifted = shifted_labels(test.labels, len(test.class_names))
    masks: dict[str, list[Tensor]] = defaultdict(list)
    for seed in settings.seeds:
        for key, (dataset, place) in DATASETS.items():
            stream = ("transfer", architecture.architecture, architecture.width or 0, seed)
            description = f"transfer: {name} on {dataset}, seed {seed}"
            model = trained(lab, architecture, lab.data[place], getattr(settings, key), stream, description)
            called = called_by(model, test.images)
            masks[f"accuracy.{dataset}"].append(called == test.labels)
            masks[f"accuracy_shifted.{dataset}"].append(called == shifted)
            if key == "d":
                for rate, mask in transfer_rates(model, test, examples).items():
                    masks[f"transfer.{rate}"].append(mask)
    facts = {
        "architecture": model.description.architecture,
        "width": model.description.width,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    return facts, masks


def _correlations(table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Accuracy from D_rand and D_det against transfer success, over the architectures where both are defined."""
    found: dict[str, Any] = {}
    for dataset in ("D_rand", "D_det"):
        for goal in GOALS:
            known = [facts for facts in table.values() if facts["transfer"][goal]["conditional"] is not None]
            fooled = [facts["transfer"][goal]["conditional"]["mean"] for facts in known]
            learnt = [facts["accuracy"][dataset]["mean"] for facts in known]
            found.setdefault(dataset, {})[goal] = correlation(fooled, learnt)
    return found


@dataclass(frozen=True)
class Examples:
    """Adversarial examples of the source model on the test images.

    Attributes:
        images: goal -> (N, C, H, W); "noise" holds random perturbations of the same length, the control.
        source_right: (N,) bool, the source calls the untouched image y.
        fooled: goal -> (N,) bool, the source calls the example something else than y (targeted: t).
        targets: (N,) t = (y + 1) mod C.
    """

    images: dict[str, Tensor]
    source_right: Tensor
    fooled: dict[Goal, Tensor]
    targets: Tensor


def adversarial_examples(
    source: nn.Module, data: ImageData, attack: Attack, *, generator: torch.Generator, batch_size: int = 500
) -> Examples:
    """Attack the source model, untargeted and towards t = y + 1; last iterates.

    Args:
        source: the model that made D_rand and D_det.
        data: test images with their labels, (N, C, H, W).
        attack: norm, radius, steps.
        generator: of the noise control: a random direction, as long in L2 as the untargeted perturbation.
    """
    device = model_device(source)
    engine = engine_of(source, data)
    targets = shifted_labels(data.labels, len(data.class_names))
    aims: dict[Goal, Tensor] = {"untargeted": data.labels, "targeted": targets}
    images, fooled = {}, {}
    for goal, labels in aims.items():
        how = {**attack.arguments(), "targeted": goal == "targeted", "generator": generator, "judge": False}
        parts = []
        for batch in batches(len(data), batch_size):
            inputs, aimed = data.images[batch].to(device), labels[batch].to(device)
            parts.append(pgd(engine, inputs, aimed, **how).x_adv.cpu())
        images[str(goal)] = torch.cat(parts)
        fooled[goal] = _hit(called_by(source, images[goal]), data.labels, targets, goal)
    lengths = (images["untargeted"] - data.images).flatten(1).norm(dim=1)  # (N,)
    images["noise"] = _with_noise(data.images, lengths, generator)
    right = called_by(source, data.images) == data.labels
    return Examples(images, right, fooled, targets)


def _with_noise(images: Tensor, lengths: Tensor, generator: torch.Generator) -> Tensor:
    """Images moved by `lengths` (N,) in random directions, clipped to [0, 1]."""
    noise = torch.randn(images.shape, generator=generator)
    noise *= (lengths / noise.flatten(1).norm(dim=1)).view(-1, 1, 1, 1)
    return (images + noise).clamp(0, 1)


def transfer_rates(model: nn.Module, data: ImageData, examples: Examples) -> dict[str, Tensor]:
    """What X says of the source's examples: "<goal>.<rate>" -> (n,) bool, one entry an image that counts.

    Rates: `conditional` over the images that both models get right and that fool the source; `unconditional`
    over all images; `clean` over all untouched images and `noise` over all randomly perturbed ones, by the same
    measure (wrong, or called t).

    Args:
        model: X, independently trained.
        data: the test images, with D's own labels.
        examples: from `adversarial_examples` on the same images.
    """
    seen = {"clean": data.images, **examples.images}
    called = {kind: called_by(model, images) for kind, images in seen.items()}
    right = called["clean"] == data.labels
    rates = {}
    for goal in GOALS:
        hit = {kind: _hit(answer, data.labels, examples.targets, goal) for kind, answer in called.items()}
        counts = right & examples.source_right & examples.fooled[goal]
        rates[f"{goal}.conditional"] = hit[goal][counts]
        rates[f"{goal}.unconditional"] = hit[goal]
        rates[f"{goal}.clean"] = hit["clean"]
        rates[f"{goal}.noise"] = hit["noise"]
    return rates


def _hit(called: Tensor, labels: Tensor, targets: Tensor, goal: Goal) -> Tensor:
    """Whether an answer is what the attack aimed at, (N,) bool; an answer that is no number is no success."""
    return (called != labels) & (called != NO_NUMBER) if goal == "untargeted" else called == targets


def correlation(x: Sequence[float], y: Sequence[float]) -> dict[str, Any] | None:
    """How two columns rise together: Pearson's r, Spearman's rho, and rho with each point left out in turn.

    A handful of architectures is no sample of anything, so no interval is given. The null of `p_value` is that the
    columns were paired at random: the share of all pairings whose rho is at least as large (of NUM_PAIRINGS random ones
    beyond EXACT_POINTS points). The range of `rho_without_one` says how much hangs on a single point.

    Returns: None for fewer than three points or a constant column.
    """
    from scipy.stats import spearmanr

    if len(x) < 3 or len(set(x)) == 1 or len(set(y)) == 1:
        return None
    known = []
    for gone in range(len(x)):
        others, beside = [*x[:gone], *x[gone + 1 :]], [*y[:gone], *y[gone + 1 :]]
        if len(set(others)) > 1 and len(set(beside)) > 1:
            known.append(float(spearmanr(others, beside).statistic))
    return {
        "pearson": round(float(torch.corrcoef(torch.tensor([list(x), list(y)], dtype=torch.float64))[0, 1]), 4),
        "spearman": round(float(spearmanr(x, y).statistic), 4),
        "p_value": round(_permutation_p(x, y), 4),
        "rho_without_one": [round(min(known), 4), round(max(known), 4)] if known else None,
        "num_points": len(x),
    }


EXACT_POINTS = 8
"""Up to this many points every pairing is tried: 40,320."""
NUM_PAIRINGS = 20_000
"""Random pairings tried beyond EXACT_POINTS."""


def _permutation_p(x: Sequence[float], y: Sequence[float]) -> float:
    """One-sided p of Spearman's rho: the share of pairings of x with y whose rho is at least the one found."""
    from scipy.stats import rankdata

    ranks, others = (torch.from_numpy(rankdata(values)) for values in (x, y))
    if len(x) <= EXACT_POINTS:
        orders = torch.tensor(list(permutations(range(len(x)))))  # (n!, n)
    else:
        generator = make_generator(0, "transfer", "pairings")
        orders = torch.rand(NUM_PAIRINGS, len(x), generator=generator).argsort(dim=1)
    # rho rises with Σ rank·rank, for given ranks; 1e-9: equal sums must count as equal.
    sums = (ranks * others[orders]).sum(dim=1)
    found = float((ranks * others).sum())
    return float((sums >= found - 1e-9).double().mean())
