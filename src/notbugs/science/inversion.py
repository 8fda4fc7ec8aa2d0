"""A close look at inverted images x_r: do they resemble the start x' or the target x, and what is learnt from them?

x is the image whose representation is matched (its label is given), x' the training image at which the descent starts,
x_r where it ends. Asked by Reviewer 1 of Ilyas et al. 2019, and as a posterior predictive check by the SEI/CMU
discussion.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from notbugs.attacks import Loss, pgd
from notbugs.attacks.engine import Engine, frozen
from notbugs.attacks.losses import representation_distance
from notbugs.data.images import ImageData, Images, make_generator, stratified_subset
from notbugs.evaluation.accuracy import batches, called_by, model_device
from notbugs.evaluation.neighbours import BATCH, nearest_rows
from notbugs.models.base import Classifier
from notbugs.runtime.config import Settings
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.progress import Track, silent
from notbugs.science.common.lab import Answer, Lab, Pictures, require_images
from notbugs.science.common.shares import nested, share, share_table
from notbugs.science.common.training import Attack, clean_and_attacked

if TYPE_CHECKING:
    import pandas as pd

Objective = Literal["representation", "cosine", "logits"]


def cosine_distance(representation: Tensor, targets: Tensor) -> Tensor:
    """1 − cos(g(z), target), per example: (N, F), (N, F) -> (N,)."""
    return 1 - functional.cosine_similarity(representation, targets, dim=1)


OBJECTIVES: dict[Objective, Loss] = {
    "representation": Loss(representation_distance, reads="representation"),
    "cosine": Loss(cosine_distance, reads="representation"),
    "logits": Loss(representation_distance, reads="logits"),
}
"""What an inversion descends: ‖g(z) − g(x)‖₂ (the paper's), 1 − cos(g(z), g(x)), or ‖logits(z) − logits(x)‖₂."""


@torch.no_grad()
def features(model: Classifier, images: Tensor, *, reads: str = "representation", batch_size: int = BATCH) -> Tensor:
    """g(x), or the logits, in eval mode: (N, C, H, W) -> (N, F), float32 on the CPU."""
    device, network = model_device(model), model.representation if reads == "representation" else model
    with frozen(model):
        parts = [network(images[batch].to(device)).float().cpu() for batch in batches(len(images), batch_size)]
    return torch.cat(parts)


def invert(
    model: Classifier,
    targets: Tensor,
    starts: Tensor,
    objective: Objective,
    *,
    num_steps: int,
    step_size: float,
    batch_size: int = 500,
    progress: Track = silent,
    description: str = "invert",
) -> Tensor:
    """x_r: from each start x', descend an objective towards the target x, within [0, 1]; the last iterate.

    With the objective "representation" this is the paper's recipe (`construction.inversion.Inversion`).

    Args:
        model: gives g and logits.
        targets: x, (N, C, H, W). starts: x', same shape.
        objective: a name in OBJECTIVES.
        num_steps, step_size: of the descent, on the gradient normalised per example.
    Returns: (N, C, H, W), on the CPU.
    """
    loss, device = OBJECTIVES[objective], model_device(model)
    engine = Engine(model, targets[:8].to(device))
    goals = features(model, targets, reads=loss.reads)
    descent: dict[str, Any] = {"step_size": step_size, "num_steps": num_steps, "loss": loss, "targeted": True}
    found = []
    for batch in progress(list(batches(len(targets), batch_size)), f"{description}, batches"):
        start, goal = starts[batch].to(device), goals[batch].to(device)
        found.append(pgd(engine, start, goal, norm="box", eps=float("inf"), **descent, judge=False).x_adv.cpu())
    return torch.cat(found)


@dataclass(frozen=True)
class Pairs:
    """Which images of D are inverted, and from where.

    Attributes:
        target: (M,) rows of x in D. start: (M,) rows of x' in D, never the same.
    """

    target: Tensor
    start: Tensor


def choose_pairs(data: Images, num_examples: int | None, generator: torch.Generator) -> Pairs:
    """x drawn by class, at most all of D (None: all), and x' uniformly among the other images of D.

    Raises: ValueError if fewer examples are asked for than D has classes.
    """
    count = len(data)
    target = stratified_subset(data.labels, min(num_examples or count, count), generator)
    offset = torch.randint(1, count, (len(target),), generator=generator)
    return Pairs(target, (target + offset) % count)


def resemblance(inverted: Tensor, data: Images, pairs: Pairs, model: Classifier | None = None) -> dict[str, Tensor]:
    """How far inverted images are from x and from x', and whom their neighbours among the rest of D are.

    Args:
        inverted: x_r, (M, C, H, W).
        data: D, read part by part.
        pairs: rows of x and x'.
        model: whose representation measures distances; None for pixels.
    Returns: columns, (M,) each: `to_target`, `to_start` (L2 there), `start_to_target` (of x' to x), `neighbour` (label
        of the nearest other image of D, x and x' left out).
    """

    def points(images: Tensor) -> Tensor:
        """Where images are in the space, (N, C, H, W) -> (N, F)."""
        return images.flatten(1) if model is None else features(model, images)

    new = points(inverted)  # (M, F)
    target, start = (points(data.select(rows).images) for rows in (pairs.target, pairs.start))
    others = (points(data.select(rows).images) for rows in batches(len(data), BATCH))
    neighbour = nearest_rows(new, others, [pairs.target, pairs.start])
    return {
        "to_target": (new - target).norm(dim=1),
        "to_start": (new - start).norm(dim=1),
        "start_to_target": (start - target).norm(dim=1),
        "neighbour": data.labels[neighbour],
    }


def summary(
    columns: dict[str, Tensor],
    target_labels: Tensor,
    start_labels: Tensor,
    *,
    num_bootstrap: int,
    generator: torch.Generator,
) -> dict[str, Any]:
    """Medians of the distances, and shares that resemble the target, over the pairs of different classes.

    `reached`: median of ‖x_r − x‖ / ‖x' − x‖ in that space: 0 at the target, 1 at the start's distance.
    `nearer_target`: share nearer to x than to x'. `neighbour_target`, `neighbour_start`: share whose nearest other
    image has the class of x, of x'.

    Raises: ValueError if no pair has two classes.
    """
    differ = target_labels != start_labels
    if not differ.any():
        raise ValueError("every start has its target's class: a larger num_examples is needed")
    part = {name: values[differ] for name, values in columns.items()}
    ratio = part["to_target"] / part["start_to_target"].clamp(min=1e-12)
    return {
        "to_target": median(part["to_target"], num_bootstrap, generator),
        "to_start": median(part["to_start"], num_bootstrap, generator),
        "reached": median(ratio, num_bootstrap, generator),
        "nearer_target": share([part["to_target"] < part["to_start"]]),
        "neighbour_target": share([part["neighbour"] == target_labels[differ]]),
        "neighbour_start": share([part["neighbour"] == start_labels[differ]]),
    }


def median(values: Tensor, num_bootstrap: int, generator: torch.Generator) -> dict[str, float]:
    """Median with its 95% percentile bootstrap interval; values: (N,)."""
    values = values.double()
    draws = torch.randint(0, len(values), (num_bootstrap, len(values)), generator=generator)
    medians = values[draws].quantile(0.5, dim=1)
    low, high = medians.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"median": round(float(values.quantile(0.5)), 6), "low": round(low, 6), "high": round(high, 6)}


ESTIMATORS = ("robust", "standard")
FITTED = {"robust": "D_R", "nonrobust": "D_NR"}
MADE_BY = {"robust": "robust", "nonrobust": "standard"}
DISTANCES = ("to_target", "to_start", "start_to_target")
Columns = dict[str, dict[str, Tensor]]


class InversionSettings(Settings):
    """How many images are inverted, how far, by which objectives."""

    num_examples: int = Field(ge=10)
    """Training images inverted by both models from the same x', drawn by class; at most all of D."""
    num_test: int = Field(ge=10)
    """Test images inverted to measure the fits on D_R and D_NR on images they did not learn."""
    objectives: tuple[Objective, ...] = Field(default=("representation", "cosine", "logits"), strict=False)
    """What is brought together; the paper's is representation (L2), which is always among them."""
    num_steps: int = Field(ge=1)
    """Gradient steps."""
    step_size: float = Field(gt=0, allow_inf_nan=False)
    """Length of a step on the normalised gradient, pixel units."""
    gap_attack: Attack
    """Attack of the adversarial train/test gap."""
    panel_classes: int = Field(default=8, ge=2, le=12)
    """Columns of the panel: one example of each of the first so many classes."""
    num_bootstrap: int = Field(default=200, ge=10)
    """Resamplings of the examples for the intervals of medians."""

    @field_validator("objectives")
    @classmethod
    def _has_the_papers(cls, objectives: tuple[Objective, ...]) -> tuple[Objective, ...]:
        if "representation" not in objectives or len(set(objectives)) != len(objectives):
            raise ValueError("different objectives, representation among them")
        return objectives

    def check_data(self, data: Mapping[str, Images]) -> None:
        """Raises: UnfitError, ConfigError if D has fewer images, or more classes, than are asked for."""
        classes = len(data["train"].labels.unique())
        require_images("num_examples", self.num_examples, classes, len(data["train"]))
        require_images("num_test", self.num_test, classes)
        if len(data["test"]) < 2:
            raise ConfigError(
                f"data/test: {len(data['test'])} image; the stage inversion begins at another one of them"
            )


def inversion(lab: Lab, settings: InversionSettings) -> Answer:
    """What inverted images resemble, by every model and objective, and how well the fits do on unseen ones.

    On digits about half a minute. Expected: the robust model's x_r lie nearer to the target, the standard model's
    nearer to the start.
    """
    import pandas as pd

    data = lab.data["train"]
    missing = [name for label, name in enumerate(data.class_names) if not bool((data.labels == label).any())]
    if missing:
        raise ConfigError(f"data/train: no image of class {', '.join(missing)}; `dvc repro prepare`")
    pairs = choose_pairs(data, settings.num_examples, make_generator(lab.seed, "inversion", "pairs"))
    labels, start_labels = data.labels[pairs.target], data.labels[pairs.start]
    shown = _shown(settings, labels, start_labels)
    table: dict[str, Any] = {name: {} for name in lab.models}
    images, frames = [], []
    for name in lab.models:
        for objective in settings.objectives:
            found, columns = _look_closely(lab, settings, name, objective, pairs)
            entry: dict[str, Any] = {}
            for space, measured in columns.items():
                again = make_generator(lab.seed, "inversion", "bootstrap")
                entry[space] = summary(
                    measured, labels, start_labels, num_bootstrap=settings.num_bootstrap, generator=again
                )
            entry["called_y"] = {
                judge: share([called_by(other, found) == labels]) for judge, other in lab.models.items()
            }
            table[name][objective] = entry
            images.append(found[shown])
            frames.append(_facts(name, objective, pairs, columns, data.labels, shown))
    inverted = ImageData(torch.cat(images), labels[shown].repeat(len(images)), data.class_names)
    metrics = {
        "num_examples": len(pairs.target),
        "source_seeds": {FITTED[key]: seed for key, seed in lab.source_seeds.items()},
        "resemblance": table,
        "fits": _gaps(lab, settings),
        "eps": settings.gap_attack.eps,
    }
    panel = Pictures(
        inverted,
        pd.concat(frames, ignore_index=True),
        name="inversion panel",
        source=data.manifest.source,
        settings=settings.model_dump(mode="json"),
    )
    nearer = [f"{name} {table[name]['representation']['pixels']['nearer_target']['mean']:.1%}" for name in ESTIMATORS]
    return Answer(metrics, (f"x_r nearer to x than to x' in pixels: {', '.join(nearer)}",), panel)


def _look_closely(
    lab: Lab, settings: InversionSettings, name: str, objective: Objective, pairs: Pairs
) -> tuple[Tensor, Columns]:
    """x_r by one model and objective, and what they resemble, in pixels and to every model."""
    data = lab.data["train"]
    target, start = (data.select(rows).images for rows in (pairs.target, pairs.start))
    description = f"inversion: {name} model, {objective}"
    steps = settings.model_dump(include={"num_steps", "step_size"})
    found = invert(lab.models[name], target, start, objective, **steps, progress=lab.progress, description=description)
    spaces: dict[str, Classifier | None] = {"pixels": None, **lab.models}
    return found, {space: resemblance(found, data, pairs, model) for space, model in spaces.items()}


def _shown(settings: InversionSettings, labels: Tensor, start_labels: Tensor) -> Tensor:
    """Places of the panel's examples: of each of the first classes the first x whose x' is of another class."""
    found = []
    for label in labels.unique().tolist()[: settings.panel_classes]:
        places = ((labels == label) & (start_labels != label)).nonzero().flatten()
        found += places[:1].tolist()
    return torch.tensor(found)


def _facts(name: str, objective: str, pairs: Pairs, columns: Columns, labels: Tensor, shown: Tensor) -> "pd.DataFrame":
    """One row an image of the panel."""
    import pandas as pd

    target, start = pairs.target[shown], pairs.start[shown]
    table = pd.DataFrame(
        {
            "model": name,
            "objective": objective,
            "source_index": target.numpy(),
            "start_index": start.numpy(),
            "true_label": labels[target].numpy(),
            "start_label": labels[start].numpy(),
        }
    )
    for space, measured in columns.items():
        for distance in DISTANCES:
            table[f"{space}_{distance}"] = measured[distance][shown].numpy()
    return table


def _gaps(lab: Lab, settings: InversionSettings) -> dict[str, Any]:
    """Accuracy on images learnt, on unseen images made the same way, and on D's test images; shares over fit seeds."""
    stream = make_generator(lab.seed, "inversion", "gap")
    some = {name: _some(lab.data[name], settings.num_test, stream) for name in ("train", "test", *FITTED)}
    test = some["test"]
    count = len(test)
    start = (torch.arange(count) + torch.randint(1, count, (count,), generator=stream)) % count
    learnt: dict[str, Mapping[str, ImageData]] = {}
    for name in ESTIMATORS:
        learnt[f"D, {name}"] = {"train": some["train"], "test": test}
    files = {f"D, {name}": lab.trained[name] for name in ESTIMATORS}
    steps: dict[str, Any] = {**settings.model_dump(include={"num_steps", "step_size"}), "progress": lab.progress}
    for key, name in FITTED.items():
        model, description = lab.models[MADE_BY[key]], f"inversion: {name} of test images"
        unseen = invert(model, test.images, test.images[start], "representation", **steps, description=description)
        inverted = ImageData(unseen, test.labels, test.class_names)
        learnt[name] = {"train": some[key], "inverted_test": inverted, "test": test}
        files[name] = lab.fitted[key]
    masks: dict[str, dict[str, list[Tensor]]] = {}
    for name, splits in learnt.items():
        masks[name] = defaultdict(list)
        for file in files[name]:
            model = lab.load(file)
            for split, images in splits.items():
                clean, attacked = clean_and_attacked(model, images, settings.gap_attack, stream)
                masks[name][f"{split}.clean"].append(clean)
                masks[name][f"{split}.attacked"].append(attacked)
    return {name: nested(shares) for name, shares in share_table(masks).items()}


def _some(data: Images, count: int, generator: torch.Generator) -> ImageData:
    """At most `count` examples, by class."""
    few = len(data) <= count
    return data.select(slice(0, count) if few else stratified_subset(data.labels, count, generator))
