"""Stage `inversion`: what inverted images resemble, other objectives, and the train/test gap of the fits on them."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from notbugs.data.images import ImageData, Images, make_generator, stratified_subset
from notbugs.data.store import load_dataset, save_dataset
from notbugs.evaluation.accuracy import called_by
from notbugs.models import load_model
from notbugs.models.base import Classifier
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.source_models import first_sources, source_model_of, source_models
from notbugs.runtime.config import settings
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import write_json
from notbugs.science.common.shares import nested, share, share_table
from notbugs.science.inversion.inverting import (
    InversionSettings,
    Pairs,
    accuracies,
    invert,
    resemblance,
    summary,
)
from notbugs.training.loop import FitSettings

ESTIMATORS = ("robust", "standard")
FITTED = {"robust": "D_R", "nonrobust": "D_NR"}
MADE_BY = {"robust": "robust", "nonrobust": "standard"}
Columns = dict[str, dict[str, Tensor]]


def inversion(project: Context) -> None:
    """Write metrics/inversion.json, and the panel's images as the dataset data/inversion.

    It looks at one source seed, the first that D_R and D_NR share: its models, and the fits on what they made.

    Command: `notbugs inversion`. On digits about half a minute. Expected: the robust model's x_r lie nearer to
    the target, the standard model's nearer to the start.
    """
    config = settings(project.params, "inversion", InversionSettings)
    made = first_sources(project, *FITTED)
    model_files = {MADE_BY[key]: source_model_of(project, MADE_BY[key], seed) for key, seed in made.items()}
    splits = {
        **{name: project.dataset(name) for name in ("train", "test")},
        **{name: project.dataset(name, seed) for name, seed in made.items()},
    }
    panel = project.dataset("inversion")
    metrics_file = project.root / "metrics" / "inversion.json"
    with project.tracked(
        "inversion",
        params={"inversion": config.model_dump(mode="json"), "runtime": project.runtime.model_dump(mode="json")},
        inputs=[*splits.values(), *model_files.values(), project.root / "models" / "fit"],
        outputs=[panel, metrics_file],
        metrics_file=metrics_file,
    ):
        data = {name: load_dataset(folder) for name, folder in splits.items()}
        models = {name: load_model(file, device=project.device) for name, file in model_files.items()}
        pairs = _pairs(project, config, data["train"])
        table, images, rows = _look_closely(project, config, data["train"], models, pairs)
        save_dataset(
            panel,
            images,
            rows,
            name="inversion panel",
            source=data["train"].manifest.source,
            settings=config.model_dump(mode="json"),
        )
        gaps = _gaps(project, config, data, models, made)
        write_json(
            metrics_file,
            {
                "num_examples": len(pairs.target),
                "source_seeds": {FITTED[key]: seed for key, seed in made.items()},
                "resemblance": table,
                "fits": gaps,
                "eps": config.gap_attack.eps,
            },
        )
    nearer = [f"{name} {table[name]['representation']['pixels']['nearer_target']['mean']:.1%}" for name in ESTIMATORS]
    project.say(f"inversion: x_r nearer to x than to x' in pixels: {', '.join(nearer)}")


def _pairs(project: Context, config: InversionSettings, data: Images) -> Pairs:
    """x drawn by class, x' uniformly among the other images of D."""
    count, classes = len(data), len(data.class_names)
    missing = [name for label, name in enumerate(data.class_names) if not bool((data.labels == label).any())]
    if missing:
        raise ConfigError(f"{project.dataset('train')}: no image of class {', '.join(missing)}; `dvc repro prepare`")
    if not classes <= config.num_examples <= count:
        raise ConfigError(
            f"params.yaml: inversion.num_examples = {config.num_examples}: must be in {classes}..{count}, "
            "one of each class and no more than D has"
        )
    generator = make_generator(project.seed, "inversion", "pairs")
    target = stratified_subset(data.labels, config.num_examples, generator)
    offset = torch.randint(1, count, (len(target),), generator=generator)
    return Pairs(target, (target + offset) % count)


def _look_closely(
    project: Context, config: InversionSettings, data: Images, models: dict[str, Classifier], pairs: Pairs
) -> tuple[dict[str, Any], ImageData, pd.DataFrame]:
    """Invert by every model and objective; the measurements, and the images and facts of the panel."""
    labels, start_labels = data.labels[pairs.target], data.labels[pairs.start]
    shown = _shown(config, labels, start_labels)
    table: dict[str, Any] = {}
    images, frames = [], []
    for name, model in models.items():
        for objective in config.objectives:
            found = invert(
                model,
                data.select(pairs.target).images,
                data.select(pairs.start).images,
                objective,
                num_steps=config.num_steps,
                step_size=config.step_size,
                progress=project.progress,
                description=f"inversion: {name} model, {objective}",
            )
            columns: Columns = resemblance(found, data, pairs, {"pixels": None, **models})
            entry: dict[str, Any] = {
                space: summary(
                    measured,
                    labels,
                    start_labels,
                    num_bootstrap=config.num_bootstrap,
                    generator=make_generator(project.seed, "inversion", "bootstrap"),
                )
                for space, measured in columns.items()
            }
            entry["called_y"] = {judge: share([called_by(other, found) == labels]) for judge, other in models.items()}
            table.setdefault(name, {})[objective] = entry
            images.append(found[shown])
            frames.append(_facts(name, objective, pairs, columns, data.labels, shown))
    inverted = ImageData(torch.cat(images), labels[shown].repeat(len(images)), data.class_names)
    return table, inverted, pd.concat(frames, ignore_index=True)


def _shown(config: InversionSettings, labels: Tensor, start_labels: Tensor) -> Tensor:
    """Places of the panel's examples: of each of the first classes the first x whose x' is of another class."""
    found = []
    for label in labels.unique().tolist()[: config.panel_classes]:
        places = ((labels == label) & (start_labels != label)).nonzero().flatten()
        found += places[:1].tolist()
    return torch.tensor(found)


def _facts(name: str, objective: str, pairs: Pairs, columns: Columns, labels: Tensor, shown: Tensor) -> pd.DataFrame:
    """One row an image of the panel."""
    target, start = pairs.target[shown], pairs.start[shown]
    return pd.DataFrame(
        {
            "model": name,
            "objective": objective,
            "source_index": target.numpy(),
            "start_index": start.numpy(),
            "true_label": labels[target].numpy(),
            "start_label": labels[start].numpy(),
            **{
                f"{space}_{column}": measured[column][shown].numpy()
                for space, measured in columns.items()
                for column in ("to_target", "to_start", "start_to_target")
            },
        }
    )


def _gaps(
    project: Context,
    config: InversionSettings,
    data: Mapping[str, Images],
    models: dict[str, Classifier],
    made: Mapping[str, int],
) -> dict[str, Any]:
    """Accuracy on images learnt, on unseen images made the same way, and on D's test images; shares over fit seeds."""
    stream = make_generator(project.seed, "inversion", "gap")
    some = {name: _some(part, config.num_test, stream) for name, part in data.items()}
    count = len(some["test"])
    start = (torch.arange(count) + torch.randint(1, count, (count,), generator=stream)) % count
    subjects = {
        f"D, {name}": (source_models(project, name), {"train": some["train"], "test": some["test"]})
        for name in ESTIMATORS
    }
    for key, name in FITTED.items():
        unseen = invert(
            models[MADE_BY[key]],
            some["test"].images,
            some["test"].images[start],
            "representation",
            num_steps=config.num_steps,
            step_size=config.step_size,
            progress=project.progress,
            description=f"inversion: {name} of test images",
        )
        inverted = ImageData(unseen, some["test"].labels, some["test"].class_names)
        seeds = settings(project.params, f"fit.{key}", FitSettings).seeds
        files = [project.fitted_model(key, "full", made[key], seed) for seed in seeds]
        subjects[name] = (files, {"train": some[key], "inverted_test": inverted, "test": some["test"]})
    masks: dict[str, dict[str, list[Tensor]]] = {}
    for name, (files, splits) in subjects.items():
        masks[name] = defaultdict(list)
        for file in files:
            measured = accuracies(load_model(file, device=project.device), splits, config.gap_attack, generator=stream)
            for column, mask in measured.items():
                masks[name][column].append(mask)
    return {name: nested(shares) for name, shares in share_table(masks).items()}


def _some(data: Images, count: int, generator: torch.Generator) -> ImageData:
    """At most `count` examples, by class."""
    few = len(data) <= count
    return data.select(slice(0, count) if few else stratified_subset(data.labels, count, generator))
