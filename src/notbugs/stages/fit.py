"""Stage `fit`: classifiers trained from scratch on a constructed dataset."""

import torch

from notbugs.config import settings
from notbugs.distribution import is_first
from notbugs.files import publish, write_json
from notbugs.images import Images, Subset
from notbugs.stages.context import Context
from notbugs.stages.learning import train_seeds, write_curves
from notbugs.stages.processes import in_processes
from notbugs.stages.unfinished import unfinished
from notbugs.store import StoredDataset, load_dataset
from notbugs.training import FitSettings


@in_processes
def fit(project: Context, name: str) -> None:
    """Fit models/fit/<name>: on all images, and on those that both judges still call y.

    Command: `notbugs fit rand`. On digits about 3 s a seed. Validation is D's, with D's own labels; expected
    there for rand: 80% or more.
    """
    config = settings(project.params, f"fit.{name}", FitSettings)
    inputs = [project.dataset(name), project.dataset("validation")]
    folder = project.fitted_model(name, "full", 0).parents[1]
    metrics_file = project.root / "metrics" / "fit" / f"{name}.json"
    curves_file = project.root / "plots" / "learning" / f"fit-{name}.csv"
    learnt = {
        "fit": {name: config.model_dump(mode="json")},
        "model": project.model_settings().model_dump(mode="json"),
    }
    with project.tracked(
        "fit",
        name,
        params={**learnt, "runtime": project.runtime.model_dump(mode="json")},
        inputs=inputs,
        outputs=[folder, metrics_file, curves_file],
        metrics_file=metrics_file,
    ) as run:
        stored, validation = (load_dataset(path) for path in inputs)
        subsets = _subsets(project, name, config, stored)
        summaries, curves = {}, []
        with unfinished(project, "fit", name, settings=learnt, inputs=inputs) as work:
            for subset, data in subsets.items():
                summaries[subset], rows = train_seeds(
                    project,
                    config,
                    data,
                    validation,
                    stage="fit",
                    name=name,
                    subset=subset,
                    file_of=lambda seed, subset=subset: work / "models" / subset / f"seed-{seed}.safetensors",  # type: ignore[misc]
                    run=run,
                    work=work,
                )
                curves += rows
            if is_first():
                publish(work / "models", folder)
                write_curves(curves_file, curves)
                lineage = {"name": stored.manifest.name, "source": stored.manifest.source, **stored.manifest.settings}
                write_json(metrics_file, {**summaries, "dataset": lineage})
        run.model(folder)
    mean = summaries["full"]["mean"]
    project.say(
        f"fit {name}: validation accuracy on y {mean['validation_accuracy']:.1%}, on the shifted label "
        f"{mean['validation_accuracy_shifted']:.1%} (mean of {len(config.seeds)} seeds)"
    )


def _subsets(project: Context, name: str, config: FitSettings, stored: StoredDataset) -> dict[str, Images]:
    """What is fitted on: all images; and those still y, where that is asked for and makes a batch."""
    subsets: dict[str, Images] = {"full": stored}
    if config.still_y:
        agreed = torch.from_numpy(stored.examples["still_y"].to_numpy(copy=True)).nonzero().flatten()
        still_y = Subset(stored, agreed)
        if len(still_y) >= config.batch_size:
            subsets["still_y"] = still_y
        else:
            project.say(f"fit {name}: {len(still_y)} images still y: fewer than a batch, no second fit")
    return subsets
