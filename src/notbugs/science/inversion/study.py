"""A close look at inverted images x_r: do they resemble the start x' or the target x, and what is learnt from them?

Asked by Reviewer 1 of Ilyas et al. 2019, and as a posterior predictive check by the SEI/CMU discussion.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, field_validator
from torch import Tensor

from notbugs.data.images import ImageData, Images, make_generator, stratified_subset
from notbugs.evaluation.accuracy import called_by
from notbugs.models.base import Classifier
from notbugs.runtime.config import Settings
from notbugs.runtime.errors import ConfigError
from notbugs.science.common.lab import Answer, Lab, Pictures, require_images
from notbugs.science.common.shares import nested, share, share_table
from notbugs.science.common.training import Attack, clean_and_attacked
from notbugs.science.inversion.inverting import Objective, Pairs, choose_pairs, invert, resemblance, summary

if TYPE_CHECKING:
    import pandas as pd

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
        """Raises: ConfigError if D has fewer images, or more classes, than are asked for."""
        classes = len(data["train"].labels.unique())
        require_images("inversion.num_examples", self.num_examples, classes, len(data["train"]))
        require_images("inversion.num_test", self.num_test, classes)
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
    found = invert(
        lab.models[name],
        data.select(pairs.target).images,
        data.select(pairs.start).images,
        objective,
        num_steps=settings.num_steps,
        step_size=settings.step_size,
        progress=lab.progress,
        description=f"inversion: {name} model, {objective}",
    )
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
    for key, name in FITTED.items():
        unseen = invert(
            lab.models[MADE_BY[key]],
            test.images,
            test.images[start],
            "representation",
            num_steps=settings.num_steps,
            step_size=settings.step_size,
            progress=lab.progress,
            description=f"inversion: {name} of test images",
        )
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
