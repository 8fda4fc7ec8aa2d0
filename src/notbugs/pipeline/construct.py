"""Stage `construct`: the datasets D_R, D_NR, D_rand, D_det and their controls, made from D by source models."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from notbugs.construction.building import parts, recipe_generator, set_up
from notbugs.construction.describe import describe, over_sources, summarise
from notbugs.construction.recipe import Constructed, Recipe, joined
from notbugs.construction.settings import ConstructSettings, construct_settings
from notbugs.data.images import ImageData, Images
from notbugs.data.store import StoredDataset, largest_shard, load_dataset, write_manifest
from notbugs.evaluation.neighbours import neighbour_reference, own_neighbours
from notbugs.models import load_model
from notbugs.models.base import Classifier
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.job import Job
from notbugs.pipeline.running.jobs import Say, do_all
from notbugs.pipeline.running.models import compiles, construction_seeds, judge_seed, source_models, source_seeds
from notbugs.pipeline.shards import Shards
from notbugs.runtime.cache import load_or_make
from notbugs.runtime.config import DATASET_NAMES, SOURCE
from notbugs.runtime.distribution import is_first, rank, wait_for_all, world_size
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import publish, write_json


@dataclass(frozen=True, eq=False)
class _Source:
    """One source model, and all that its dataset depends on.

    Attributes:
        seed: of the source model.
        model, judge: files of the source model and of the robust model that judges.
        others: files of the models of its kind from other seeds.
        neighbours: what 1-NN calls each image of D, (N,).
        compiled: compile the engine.
        shards: where its dataset is written.
    """

    project: Context
    name: str
    config: ConstructSettings
    seed: int
    model: Path
    judge: Path
    others: tuple[Path, ...]
    data: StoredDataset
    neighbours: Tensor
    compiled: bool
    shards: Shards

    def __eq__(self, other: object) -> bool:
        """In a worker process, where each task brings its own: by the construction and the source model."""
        return isinstance(other, _Source) and self._known_by == other._known_by

    def __hash__(self) -> int:
        return hash(self._known_by)

    @property
    def _known_by(self) -> tuple[str, Path]:
        return self.name, self.model


@dataclass(frozen=True)
class _Task:
    """One shard of one source's dataset: tasks can be done in any order, by any process."""

    source: _Source
    number: int


@dataclass(frozen=True)
class _Ready:
    """A source's models, loaded, and its recipe, set up."""

    model: Classifier
    judge: Classifier
    others: tuple[Classifier, ...]
    recipe: Recipe
    reference: Images


def construct(job: Job) -> None:
    """Write data/<name>, a dataset for each source model, and its summary.

    Command: `notbugs construct rand`. On digits 2 s a source model (inversions: 15 s). Expected there: D_rand's targets
    are reached for nine images in ten, and nine in ten still look like y to the robust model.
    """
    project, config = job.project, job.settings
    trained = source_seeds(project, config.model)
    seeds = construction_seeds(trained, config.source_seeds, model=config.model, key=job.stage.key(job.name))
    files = {*source_models(project, config.model), *source_models(project, "robust")}
    inputs = [project.dataset("train"), *sorted(files)]
    (folder,) = job.outputs
    with job.begin(inputs, sources=list(seeds)) as (run, work):
        data = load_dataset(project.dataset("train"))
        sources = _sources(job, seeds, data, work)
        tasks = [_Task(source, number) for source in sources for number in source.shards.missing()]
        wait_for_all()  # all have seen what is missing before any begins
        do_all(project, tasks[rank() :: world_size()], _make, description=job.title)
        _ready.cache_clear()
        wait_for_all()
        if not is_first():
            return
        summary = over_sources({source.seed: summarise(_complete(source)) for source in sources})
        publish(work / "dataset", folder)
        write_json(job.metrics_file, summary)
        picture = work / "samples.png"
        write_samples(picture, data, load_dataset(folder / f"{SOURCE}{seeds[0]}", verify=False))
        run.artifact(picture)
    job.say(
        f"{len(seeds)} source models, success {summary['success_rate']:.1%}, "
        f"median ‖δ‖₂ {summary['delta_norm']['median']:.3f}, still y of what the judge called y before: robust model "
        f"{_percent(summary['robust_model']['still_y'])}, 1-NN {_percent(summary['nearest_neighbour']['still_y'])}"
    )


def read_recipe(params: Mapping[str, Any], key: str) -> ConstructSettings:
    """Settings of a construction, an entry of the section `construct`.

    Raises: ConfigError.
    """
    name = key.partition(".")[2]
    if name not in DATASET_NAMES:
        raise ConfigError(f"params.yaml: {key}: unknown name; allowed: {', '.join(DATASET_NAMES)}")
    return construct_settings(params.get("construct", {}).get(name), key)


def _percent(share: float | None) -> str:
    """A share in print; one of no images is none."""
    return "none known" if share is None else f"{share:.1%}"


def _sources(job: Job, seeds: Iterable[int], data: StoredDataset, work: Path) -> list[_Source]:
    """Each source model with all that its dataset depends on."""
    project, config = job.project, job.settings
    size = min(config.shard_size, max(config.batch_size, largest_shard(data.image_shape, config.dtype)))
    neighbours = _neighbours(project, data, work / "neighbours.safetensors")
    files = {seed: project.source_model(config.model, seed) for seed in source_seeds(project, config.model)}
    robust = source_seeds(project, "robust")
    one = load_model(next(iter(files.values())), device=project.device)
    compiled = compiles(project, job.title, one, data.image_shape, len(data) * config.num_steps)
    return [
        _Source(
            project,
            str(job.name),
            config,
            seed,
            model=files[seed],
            judge=project.source_model("robust", judge_seed(robust, config.model, seed)),
            others=tuple(file for other, file in files.items() if other != seed),
            data=data,
            neighbours=neighbours,
            compiled=compiled,
            shards=Shards(
                work / "dataset" / f"{SOURCE}{seed}", work / "facts" / f"{SOURCE}{seed}", len(data), size, config.dtype
            ),
        )
        for seed in seeds
    ]


def _neighbours(project: Context, data: StoredDataset, file: Path) -> Tensor:
    """What 1-NN calls each image of D, (N,): the same for every source, so one process finds it once."""

    def find() -> dict[str, Tensor]:
        """Look at all of D."""
        return {"called": own_neighbours(neighbour_reference(data), device=project.device)}

    if is_first():
        load_or_make(file, find)
    wait_for_all()
    return load_or_make(file, find)["called"]


def _make(task: _Task, say: Say) -> None:
    """Make a shard and keep it, with the facts of its examples."""
    source, ready = task.source, _ready(task.source)
    rows = source.shards.rows[task.number]
    count = len(source.shards.rows)
    steps = parts(
        ready.recipe,
        rows.stop - rows.start,
        batch_size=source.config.batch_size,
        dtype=source.config.dtype,
        first=rows.start,
        progress=source.project.progress,
        description=f"construct {source.name}, source {source.seed}"
        + (f", shard {task.number + 1} of {count}" if count > 1 else ""),
    )
    source.shards.write(task.number, *_described(steps, source, ready))


@lru_cache(maxsize=1)
def _ready(source: _Source) -> _Ready:
    """Load a source's models; those of the last one are kept, since its shards come one after the other."""
    device, data = source.project.device, source.data
    model = load_model(source.model, device=device)
    recipe = set_up(
        model,
        data,
        **source.config.scalars(),
        generator=recipe_generator(source.project.seed, source.config.recipe, source.seed),
        compiled=source.compiled,
    )
    return _Ready(
        model,
        load_model(source.judge, device=device),
        tuple(load_model(file, device=device) for file in source.others),
        recipe,
        neighbour_reference(data),
    )


def _described(
    steps: Iterable[tuple[slice, Constructed]], source: _Source, ready: _Ready
) -> tuple[ImageData, dict[str, Tensor]]:
    """A shard made of batches: its images, and the facts of its examples by column."""
    made, columns = [], defaultdict(list)
    for rows, part in steps:
        made.append(part)
        columns["start_index"].append(part.start_index)
        facts = describe(
            part,
            source.data,
            ready.model,
            ready.judge,
            first=rows.start,
            reference=ready.reference,
            neighbours=source.neighbours,
            others=ready.others,
        )
        for key, values in facts.items():
            columns[key].append(values)
    return joined(made).data, {key: torch.cat(values) for key, values in columns.items()}


def _complete(source: _Source) -> dict[str, Tensor]:
    """Write the manifest of a dataset whose shards are all there; the facts of its examples by column, (N,)."""
    import pandas as pd

    files, facts = source.shards.finished()
    data, settings = source.data, source.config.model_dump(mode="json", exclude={"source_seeds"})
    indices = {"index": range(len(data)), "source_index": range(len(data))}
    write_manifest(
        source.shards.folder,
        files,
        pd.DataFrame({**indices, **{key: values.numpy() for key, values in facts.items()}}),
        class_names=data.class_names,
        name=DATASET_NAMES[source.name],
        source=data.manifest.source,
        settings={**settings, "source_seed": source.seed},
    )
    return facts


HEIGHT = 64
"""Pixels that an image is enlarged to, at least."""


def write_samples(path: Path, data: Images, made: Images) -> None:
    """Write a PNG: a column for the first image of each class with x, what was made from it, and 1/2 + 5·(difference).

    Args:
        data: D; `made` was made from it row by row.
    """
    from PIL import Image

    labels = data.labels[: len(made)]
    rows = torch.tensor([int((labels == label).nonzero()[0]) for label in labels.unique()])
    old, new = data.select(rows).images, made.select(rows).images  # (K, C, H, W)
    strips = torch.cat([old, new, (0.5 + 5 * (new - old)).clamp(0, 1)])
    grid = _tiled(strips, len(rows))
    pixels = (255 * grid).round().to(torch.uint8).permute(1, 2, 0).numpy()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path)


def _tiled(images: Tensor, columns: int) -> Tensor:
    """(R·columns, C, H, W) -> one image (C, ...), row by row, enlarged without smoothing, a white line between."""
    factor = max(1, HEIGHT // images.shape[2])
    large = functional.interpolate(images, scale_factor=factor, mode="nearest")
    framed = functional.pad(large, [2] * 4, value=1.0)
    rows = [torch.cat(list(row), dim=2) for row in framed.split(columns)]
    return torch.cat(rows, dim=1)
