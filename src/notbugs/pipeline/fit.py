"""Stage `fit`: classifiers trained from scratch on a constructed dataset, and on D by the same recipe."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch

from notbugs.data.images import Images, Subset
from notbugs.data.store import StoredDataset, load_dataset
from notbugs.pipeline.learning import Lesson, learn_all, summary, write_curves
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.processes import in_processes
from notbugs.pipeline.running.source_models import made_sources
from notbugs.pipeline.running.unfinished import unfinished
from notbugs.runtime.config import SOURCE, SUBSETS, settings
from notbugs.runtime.distribution import is_first
from notbugs.runtime.files import publish, write_json
from notbugs.training.settings import FitSettings


@in_processes
def fit(project: Context, name: str) -> None:
    """Fit models/fit/<name>: for each source model's dataset and each seed, on each of SUBSETS asked for.

    Command: `notbugs fit rand`. On digits about 3 s a model. Validation is D's, with D's own labels; expected
    there for rand: 80% or more.
    """
    config = settings(project.params, f"fit.{name}", FitSettings)
    sources = made_sources(project, name)
    made = {seed: project.dataset(name, seed) for seed in sources}
    inputs = [project.dataset("train"), project.dataset("validation"), *made.values()]
    folder = project.fitted_model(name, "full", 0, 0).parents[2]
    metrics_file = project.root / "metrics" / "fit" / f"{name}.json"
    curves_file = project.root / "plots" / "learning" / f"fit-{name}.csv"
    made_from = {
        "fit": {name: config.model_dump(mode="json")},
        "model": project.model_settings().model_dump(mode="json"),
    }
    with project.tracked(
        "fit",
        name,
        params={**made_from, "runtime": project.runtime.model_dump(mode="json")},
        inputs=inputs,
        outputs=[folder, metrics_file, curves_file],
        metrics_file=metrics_file,
    ) as run:
        base, validation, *stored = (load_dataset(path) for path in inputs)
        subsets = {
            seed: _subsets(project, name, seed, config, dataset, base)
            for seed, dataset in zip(sources, stored, strict=True)
        }
        with unfinished(project, "fit", name, settings=made_from, inputs=inputs) as work:
            lessons = list(_lessons(project, name, config, subsets, validation, work))
            learnt = learn_all(lessons, run, description=f"fit {name}")
            if is_first():
                publish(work / "models", folder)
                write_curves(curves_file, lessons, learnt)
                found = {}
                for subset in SUBSETS:
                    mine = [number for number, lesson in enumerate(lessons) if lesson.subset == subset]
                    if mine:
                        found[subset] = summary([lessons[n] for n in mine], [learnt[n] for n in mine])
                manifest = stored[0].manifest
                recipe = {key: value for key, value in manifest.settings.items() if key != "source_seed"}
                lineage = {"name": manifest.name, "source": manifest.source, **recipe, "source_seeds": list(sources)}
                write_json(metrics_file, {**found, "dataset": lineage})
        run.model(folder)
    if is_first():
        mean = found["full"]["mean"]
        project.say(
            f"fit {name}: validation accuracy on y {mean['validation_accuracy']:.1%}, on the shifted label "
            f"{mean['validation_accuracy_shifted']:.1%} (mean of {len(config.seeds)} fits for each of {len(sources)} "
            "source models)"
        )


def _subsets(
    project: Context, name: str, source_seed: int, config: FitSettings, stored: StoredDataset, base: StoredDataset
) -> dict[str, Images]:
    """What is fitted on, for one source: all images; those still y, where that makes a batch; and D."""
    subsets: dict[str, Images] = {"full": stored}
    if config.still_y:
        agreed = torch.from_numpy(stored.examples["still_y"].to_numpy(copy=True)).nonzero().flatten()
        still_y = Subset(stored, agreed)
        if len(still_y) >= config.batch_size:
            subsets["still_y"] = still_y
        else:
            project.say(
                f"fit {name}, source {source_seed}: {len(still_y)} images still y: fewer than a batch, no second fit"
            )
    if config.baseline:
        subsets["baseline"] = base
    return subsets


def _lessons(
    project: Context,
    name: str,
    config: FitSettings,
    subsets: Mapping[int, Mapping[str, Images]],
    validation: Images,
    work: Path,
) -> Iterator[Lesson]:
    """Every model to be fitted.

    A fit's random streams go by its source seed and its own seed alone. So two constructions, a subset of one, and D
    itself by its recipe begin with the same weights and take their batches in the same order: they are pairs.
    """
    for source_seed, datasets in subsets.items():
        for subset, data in datasets.items():
            suffix = "" if subset == "full" else f" ({subset})"
            for seed in config.seeds:
                yield Lesson(
                    project,
                    config,
                    data,
                    validation,
                    stream=("fit", source_seed, seed),
                    file=work / "models" / subset / f"{SOURCE}{source_seed}" / f"seed-{seed}.safetensors",
                    title=f"fit {name}{suffix}, source {source_seed}, seed {seed}",
                    seed=seed,
                    subset=subset,
                    source_seed=source_seed,
                    work=work,
                )
