"""Stage `construct`: the datasets D_R, D_NR, D_rand, D_det and their controls, made from D by a source model."""

import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from notbugs.config import DATASET_NAMES
from notbugs.construction import (
    Constructed,
    ConstructSettings,
    Recipe,
    construct_settings,
    describe,
    joined,
    parts,
    set_up,
    summarise,
)
from notbugs.distribution import is_first, wait_for_all
from notbugs.errors import ConfigError
from notbugs.files import publish, write_json
from notbugs.images import ImageData, Images, make_generator
from notbugs.models import load_model
from notbugs.models.base import Classifier
from notbugs.neighbours import neighbour_reference
from notbugs.stages.compiling import compiles
from notbugs.stages.context import Context
from notbugs.stages.processes import in_processes
from notbugs.stages.samples import write_samples
from notbugs.stages.shards import Shards
from notbugs.stages.source_models import first_source_model, source_seeds
from notbugs.stages.unfinished import unfinished
from notbugs.store import StoredDataset, largest_shard, load_dataset, write_manifest


@in_processes
def construct(project: Context, name: str) -> None:
    """Write data/<name> and its summary.

    Command: `notbugs construct rand`. On digits 2 s (inversions: 15 s). Expected there: D_rand's targets are
    reached for nine images in ten, and nine in ten still look like y to the robust model.
    """
    if name not in DATASET_NAMES:
        raise ConfigError(f"params.yaml: construct.{name}: unknown name; allowed: {', '.join(DATASET_NAMES)}")
    config = construct_settings(project.params.get("construct", {}).get(name), f"construct.{name}")
    source_seed = source_seeds(project, config.model)[0]
    source_file = project.source_model(config.model, source_seed)
    robust_file = first_source_model(project, "robust")
    inputs = [project.dataset("train"), source_file, robust_file]
    folder = project.dataset(name)
    metrics_file = project.root / "metrics" / "construct" / f"{name}.json"
    made_from = {"construct": {name: config.model_dump(mode="json")}}
    with project.tracked(
        "construct",
        name,
        params={**made_from, "runtime": project.runtime.model_dump(mode="json")},
        inputs=inputs,
        outputs=[folder, metrics_file],
        metrics_file=metrics_file,
    ) as run:
        data = load_dataset(project.dataset("train"))
        model = load_model(source_file, device=project.device)
        robust_model = load_model(robust_file, device=project.device)
        recipe = _recipe(project, name, config, model, data)
        reference = neighbour_reference(data)
        size = min(config.shard_size, max(config.batch_size, largest_shard(data.image_shape, config.dtype)))
        with unfinished(project, "construct", name, settings=made_from, inputs=inputs) as work:
            shards = Shards(work, len(data), size, config.dtype)
            for number, rows in shards.missing():
                title = f"construct {name}" + (f", shard {number + 1} of {len(shards.rows)}" if shards.rows[1:] else "")
                steps = parts(
                    recipe,
                    rows.stop - rows.start,
                    config,
                    first=rows.start,
                    progress=project.progress,
                    description=title,
                )
                shards.write(number, *_described(steps, data, model, robust_model, reference))
            wait_for_all()
            if not is_first():
                return
            settings = {**config.model_dump(mode="json"), "source_seed": source_seed}
            summary = summarise(_complete(shards, data, DATASET_NAMES[name], settings))
            publish(shards.folder, folder)
            write_json(metrics_file, summary)
        with tempfile.TemporaryDirectory() as unsaved:
            picture = Path(unsaved) / "samples.png"
            write_samples(picture, data, load_dataset(folder, verify=False))
            run.artifact(picture)
    project.say(
        f"construct {name}: success {summary['success_rate']:.1%}, "
        f"median ‖δ‖₂ {summary['delta_norm']['median']:.3f}, still y: robust model "
        f"{summary['robust_model']['still_y']:.1%}, 1-NN {summary['nearest_neighbour']['still_y']:.1%}"
    )


def _recipe(project: Context, name: str, config: ConstructSettings, model: Classifier, data: StoredDataset) -> Recipe:
    """The recipe with this construction's own random stream, on a compiled network where that pays."""
    looks = len(data) * config.num_steps
    return set_up(
        model,
        data,
        config,
        generator=make_generator(project.seed, "construct", name),
        compiled=compiles(project, f"construct {name}", model, data.manifest.image_shape, looks),
    )


def _described(
    steps: Iterable[tuple[slice, Constructed]],
    data: Images,
    model: Classifier,
    robust_model: Classifier,
    reference: Images,
) -> tuple[ImageData, dict[str, Tensor]]:
    """A shard made of batches: its images, and the facts of its examples by column."""
    made, columns = [], defaultdict(list)
    for rows, part in steps:
        made.append(part)
        columns["start_index"].append(part.start_index)
        facts = describe(part, data, model, robust_model, first=rows.start, reference=reference)
        for key, values in facts.items():
            columns[key].append(values)
    return joined(made).data, {key: torch.cat(values) for key, values in columns.items()}


def _complete(shards: Shards, data: StoredDataset, name: str, settings: dict[str, Any]) -> dict[str, Tensor]:
    """Write the manifest of a dataset whose shards are all there; the facts of its examples by column, (N,)."""
    import pandas as pd

    files, facts = shards.finished()
    indices = {"index": range(len(data)), "source_index": range(len(data))}
    write_manifest(
        shards.folder,
        files,
        pd.DataFrame({**indices, **{key: values.numpy() for key, values in facts.items()}}),
        class_names=data.class_names,
        name=name,
        source=data.manifest.source,
        settings=settings,
    )
    return facts
