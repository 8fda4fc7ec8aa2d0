"""Stage `construct`: the datasets D_R, D_NR, D_rand, D_det and their controls, made from D by source models."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from notbugs.construction.building import construct_settings, parts, recipe_generator, set_up
from notbugs.construction.describe import Untouched, describe, over_sources, summarise
from notbugs.construction.recipe import Recipe, joined
from notbugs.construction.settings import ConstructSettings
from notbugs.data.images import ImageData, Images
from notbugs.data.store import (
    DTYPES,
    Dtype,
    Shard,
    StoredDataset,
    largest_shard,
    load_dataset,
    write_manifest,
    write_shard,
)
from notbugs.evaluation.accuracy import batches, predict
from notbugs.evaluation.neighbours import neighbour_reference, own_neighbours
from notbugs.models import load_model
from notbugs.models.base import Classifier
from notbugs.models.ensemble import Ensemble
from notbugs.pipeline.origins import Origin, ensemble_members, origins
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.job import Job
from notbugs.pipeline.running.jobs import Say, do_all
from notbugs.pipeline.running.models import compiles, construction_seeds, source_models
from notbugs.pipeline.running.own_code import file_hashes, require_files_watched
from notbugs.runtime.cache import ResultCache, digest, load_kept, work_folder
from notbugs.runtime.config import SOURCE, check_name, dataset_name
from notbugs.runtime.distribution import is_first, rank, wait_for_all, world_size
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import publish, sha256, write_json
from notbugs.runtime.imports import made_with
from notbugs.runtime.state_file import StateError, load_state, save_state
from notbugs.training.settings import train_settings


class Shards:
    """The shards of an unfinished dataset, each whole or not there, and per example what is known of it.

    Args:
        folder: of the dataset; holds what an earlier, killed run made.
        facts: folder of what is known of its examples.
        num_examples: of the whole dataset.
        shard_size: images in a file.
        dtype: stored precision.
    """

    def __init__(self, folder: Path, facts: Path, num_examples: int, shard_size: int, dtype: Dtype) -> None:
        self.folder, self._facts, self.dtype = folder, facts, dtype
        self.rows = list(batches(num_examples, shard_size))
        self.folder.mkdir(parents=True, exist_ok=True)

    def missing(self) -> list[int]:
        """Numbers of the shards that are still to be made."""
        return [number for number in range(len(self.rows)) if self._read(number) is None]

    def write(self, number: int, data: ImageData, facts: Mapping[str, Tensor]) -> None:
        """Keep a shard; facts: column -> (n,)."""
        shard = write_shard(self.folder, number, data.images.to(DTYPES[self.dtype]), data.labels)
        save_state(self._facts_of(number), {"shard": shard.model_dump(mode="json"), "facts": facts})

    def finished(self) -> tuple[list[Shard], dict[str, Tensor]]:
        """All shards, and the columns of all examples; to be asked for when all processes are done."""
        made = [self._read(number) for number in range(len(self.rows))]
        shards = [Shard.model_validate(one["shard"]) for one in made if one]
        columns = {name: torch.cat([one["facts"][name] for one in made if one]) for name in (made[0] or {})["facts"]}
        return shards, columns

    def _read(self, number: int) -> dict[str, Any] | None:
        """What was kept of a shard; None unless both of its files are there and whole."""
        try:
            kept: dict[str, Any] = load_state(self._facts_of(number))
            shard = kept["shard"]
            return kept if sha256(self.folder / shard["file"]) == shard["sha256"] else None
        except (FileNotFoundError, StateError):
            return None

    def _facts_of(self, number: int) -> Path:
        return self._facts / f"{number:05d}.safetensors"


@dataclass(frozen=True)
class _Source:
    """One source model, and all that its dataset depends on; told apart by the construction and the model's file.

    Attributes:
        seed: of the source model.
        members: files of the models that are attacked: the source model, or an ensemble.
        judge: file of the robust model that judges. others: files of models of the same kinds from other seeds.
        neighbours: what 1-NN calls each image of D, (N,).
        compiled: compile the engine.
        shards: where its dataset is written.
    """

    name: str
    members: tuple[Path, ...]
    project: Context = field(compare=False)
    config: ConstructSettings = field(compare=False)
    seed: int = field(compare=False)
    judge: Path = field(compare=False)
    others: tuple[Path, ...] = field(compare=False)
    data: StoredDataset = field(compare=False)
    neighbours: Tensor = field(compare=False)
    compiled: bool = field(compare=False)
    shards: Shards = field(compare=False)


def construct(job: Job) -> None:
    """Write data/<name>, a dataset for each source model, and its summary.

    Command: `notbugs construct rand`. On digits 2 s a source model (inversions: 15 s). Expected there: D_rand's targets
    are reached for nine images in ten, and nine in ten still look like y to the robust model.
    """
    project, config = job.project, job.settings
    made_from = origins(project, config, job.stage.key(job.name))
    seeds = [origin.seed for origin in made_from]
    files = {file for origin in made_from for file in (*origin.members, *origin.others)}
    inputs = [project.dataset("train"), *sorted({*files, *source_models(project, "robust")})]
    (folder,) = job.outputs
    require_files_watched(project, job.stage, config.files)
    files_read = file_hashes(project, config.files)
    with job.begin(inputs, sources=seeds, **files_read) as (run, work):
        data = load_dataset(project.dataset("train"))
        sources = _sources(job, made_from, data, work)
        tasks = [(source, number) for source in sources for number in source.shards.missing()]
        wait_for_all()  # all have seen what is missing before any begins
        do_all(project, tasks[rank() :: world_size()], _make, description=f"{job.title}, shards")
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
        f"{_counted(made_from)}, success {summary['success_rate']:.1%}, "
        f"median ‖δ‖₂ {summary['delta_norm']['median']:.3f}, still y of what the judge called y before: robust model "
        f"{_percent(summary['robust_model']['still_y'])}, 1-NN {_percent(summary['nearest_neighbour']['still_y'])}"
    )


def read_recipe(params: Mapping[str, Any], key: str) -> ConstructSettings:
    """Settings of a construction, an entry of the section `construct`.

    Raises: ConfigError.
    """
    check_name(key)
    config = construct_settings(params.get("construct", {}).get(key.partition(".")[2]), key)
    _require_own_title(params, key, config.title)
    trained = [name for name in params.get("train") or {} if isinstance(name, str)]
    if config.ensemble is not None:
        for name in ("model", "source_seeds"):
            if getattr(config, name):
                raise ConfigError(f"params.yaml: {key}.{name}: must be left out where `from` names the models")
        ensemble_members(params, config.ensemble, key)
    elif not config.model:
        raise ConfigError(f"params.yaml: {key}.model: missing; it must be given, or `from` in its place")
    elif config.model not in trained:
        allowed = ", ".join(trained)
        raise ConfigError(f"params.yaml: {key}.model = {config.model!r}: must be an entry of train: {allowed}")
    elif config.source_seeds is not None:
        trained_with = train_settings(params, f"train.{config.model}").seeds
        construction_seeds(trained_with, config.source_seeds, model=config.model, key=key)
    return config


def _require_own_title(params: Mapping[str, Any], key: str, title: str | None) -> None:
    """Raises: ConfigError where something else is called by the title."""
    others = {name: part for name, part in params["construct"].items() if f"construct.{name}" != key}
    taken = {"D", *map(dataset_name, others)}
    given = [part.get("title") for part in others.values() if isinstance(part, Mapping)]
    if title is not None and (title in taken or title in given):
        raise ConfigError(f"params.yaml: {key}.title = {title!r}: must differ from what other sets are called")


def _counted(made_from: Sequence[Origin]) -> str:
    """How many source models datasets were made from, in print."""
    members = len(made_from[0].members)
    return f"an ensemble of {members}" if members > 1 else f"{len(made_from)} source models"


def _percent(share: float | None) -> str:
    """A share in print; one of no images is none."""
    return "none known" if share is None else f"{share:.1%}"


def _sources(job: Job, made_from: Sequence[Origin], data: StoredDataset, work: Path) -> list[_Source]:
    """Each source model with all that its dataset depends on."""
    project, config = job.project, job.settings
    size = min(config.shard_size, max(config.batch_size, largest_shard(data.image_shape, config.dtype)))
    neighbours = _neighbours(project, data)
    one = attacked(made_from[0].members, project.device)
    compiled = compiles(project, job.title, one, data.image_shape, len(data) * config.looks)
    return [
        _Source(
            str(job.name),
            origin.members,
            project,
            config,
            origin.seed,
            judge=origin.judge,
            others=origin.others,
            data=data,
            neighbours=neighbours,
            compiled=compiled,
            shards=Shards(
                work / "dataset" / f"{SOURCE}{origin.seed}",
                work / "facts" / f"{SOURCE}{origin.seed}",
                len(data),
                size,
                config.dtype,
            ),
        )
        for origin in made_from
    ]


def attacked(members: Sequence[Path], device: torch.device) -> Classifier:
    """The model that a dataset is made from, loaded."""
    models = [load_model(file, device=device) for file in members]
    return models[0] if len(models) == 1 else Ensemble(models).eval()


def _neighbours(project: Context, data: StoredDataset) -> Tensor:
    """What 1-NN calls each image of D, (N,): the same for every dataset and source, so one process finds it once."""
    kept, made_from = ResultCache(work_folder(project.root, "neighbours")), of_untouched(project)

    def find() -> dict[str, Any]:
        """Look at all of D."""
        reference = neighbour_reference(data, project.device)
        return {"called": own_neighbours(reference, device=project.device).tolist()}

    if is_first():
        kept.get_or_compute(made_from, find)
    wait_for_all()
    return torch.tensor(kept.get_or_compute(made_from, find)["called"])


def of_untouched(project: Context) -> dict[str, Any]:
    """All that what is said of D's own images depends on, beside who says it."""
    return {
        **made_with(__name__),
        "data": sha256(project.dataset("train") / "manifest.json"),
        "num_threads": project.runtime.num_threads,
        "device": project.device.type,
    }


def _make(task: tuple[_Source, int], say: Say) -> None:
    """Make a shard of a source's dataset and keep it: shards can be made in any order, by any process."""
    source, number = task
    ready = _ready(source)
    rows, count = source.shards.rows[number], len(source.shards.rows)
    untouched = Untouched(
        rows.start,
        _logits(source, source.members, ready.model, rows),
        _logits(source, (source.judge,), ready.judge, rows),
    )
    made, columns = [], defaultdict(list)
    for batch, part in parts(
        ready.recipe,
        rows.stop - rows.start,
        batch_size=source.config.batch_size,
        dtype=source.config.dtype,
        first=rows.start,
        progress=source.project.progress,
        description=f"construct {source.name}, source {source.seed}"
        + (f", shard {number + 1} of {count}" if count > 1 else ""),
    ):
        made.append(part)
        columns["start_index"].append(part.start_index)
        for key, values in ready.describe(part, first=batch.start, untouched=untouched).items():
            columns[key].append(values)
    source.shards.write(number, joined(made).data, {key: torch.cat(values) for key, values in columns.items()})


def _logits(source: _Source, members: Sequence[Path], model: Classifier, rows: slice) -> Tensor:
    """What a model says of D's own images in these rows, (n, K): the same for every dataset, so it is kept."""
    made_from = {
        **of_untouched(source.project),
        "members": [sha256(file) for file in members],
        "rows": [rows.start, rows.stop],
    }
    file = work_folder(source.project.root, "untouched") / f"{digest(made_from)}.safetensors"
    kept = load_kept(file)
    if kept is None:
        kept = {"logits": predict(model, source.data.select(rows))}
        save_state(file, kept)
    logits: Tensor = kept["logits"]
    return logits


class _Ready(NamedTuple):
    """A source's recipe, set up, its models, and `describe` with them."""

    recipe: Recipe
    model: Classifier
    judge: Classifier
    describe: Callable[..., dict[str, Tensor]]


@lru_cache(maxsize=1)
def _ready(source: _Source) -> _Ready:
    """What the shards of a source need; of the last one, whose shards follow each other."""
    device, data = source.project.device, source.data
    model, judge = attacked(source.members, device), load_model(source.judge, device=device)
    recipe = set_up(
        model,
        data,
        **source.config.located(source.project.root).scalars(),
        generator=recipe_generator(source.project.seed, source.config.recipe, source.seed),
        compiled=source.compiled,
    )
    describe_part = partial(
        describe,
        data=data,
        model=model,
        robust_model=judge,
        reference=neighbour_reference(data, device),
        neighbours=source.neighbours,
        others=[load_model(file, device=device) for file in source.others],
    )
    return _Ready(recipe, model, judge, describe_part)


def _complete(source: _Source) -> dict[str, Tensor]:
    """Write the manifest of a dataset whose shards are all there; the facts of its examples by column, (N,)."""
    import pandas as pd

    files, facts = source.shards.finished()
    data, recipe = source.data, source.config.model_dump(mode="json", exclude={"source_seeds"})
    indices = {"index": range(len(data)), "source_index": range(len(data))}
    write_manifest(
        source.shards.folder,
        files,
        pd.DataFrame({**indices, **{key: values.numpy() for key, values in facts.items()}}),
        class_names=data.class_names,
        name=dataset_name(source.name),
        source=data.manifest.source,
        settings={**recipe, "source_seed": source.seed},
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
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path, format="PNG")


def _tiled(images: Tensor, columns: int) -> Tensor:
    """(R·columns, C, H, W) -> one image (C, ...), row by row, enlarged without smoothing, a white line between."""
    factor = max(1, HEIGHT // images.shape[2])
    large = functional.interpolate(images, scale_factor=factor, mode="nearest")
    framed = functional.pad(large, [2] * 4, value=1.0)
    rows = [torch.cat(list(row), dim=2) for row in framed.split(columns)]
    return torch.cat(rows, dim=1)
