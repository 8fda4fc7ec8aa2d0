"""Stage `features`: usefulness and robust usefulness of features, on D and on every constructed dataset."""

from torch import nn

from notbugs.data.sources import DataSettings
from notbugs.data.sources.planted import patterns
from notbugs.data.store import load_dataset
from notbugs.models import load_model
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.source_models import first_sources, source_model_of
from notbugs.pipeline.running.unused import remove_unused
from notbugs.runtime.config import DATASET_NAMES, settings
from notbugs.runtime.files import write_csv, write_json
from notbugs.science.features.maps import LinearFeatures, Probabilities, principal_components
from notbugs.science.features.study import FeaturesSettings, Worlds, study


def features(project: Context) -> None:
    """Write metrics/features.csv and metrics/features.json: of the first source seed that all constructions share.

    Command: `notbugs features`. On digits about a minute. Expected there: D_R keeps all of the usefulness of
    the robust model's features, and D_NR that of the standard model's.
    """
    config = settings(project.params, "features", FeaturesSettings)
    remove_unused(project)
    names = [name for name in DATASET_NAMES if name in project.names("construct")]
    made = first_sources(project, *names)
    first = min(made.values(), default=0)
    files = {name: source_model_of(project, name, first) for name in ("standard", "robust")}
    inputs = {split: project.dataset(split) for split in ("train", "test")}
    inputs |= {name: project.dataset(name, seed) for name, seed in made.items()}
    rows_file, metrics_file = (project.root / "metrics" / f"features.{form}" for form in ("csv", "json"))
    with project.tracked(
        "features",
        params={"features": config.model_dump(mode="json"), "runtime": project.runtime.model_dump(mode="json")},
        inputs=[*inputs.values(), *files.values()],
        outputs=[rows_file, metrics_file],
        metrics_file=metrics_file,
    ) as run:
        data = {name: load_dataset(path) for name, path in inputs.items()}
        worlds = Worlds(data["train"], data["test"], {DATASET_NAMES[name]: data[name] for name in names})
        sources: dict[str, nn.Module] = {name: load_model(file, device=project.device) for name, file in files.items()}
        sources["posterior"] = Probabilities(load_model(files["standard"], device=project.device)).eval()
        source = settings(project.params, "data", DataSettings).source
        linear = principal_components(worlds.train, config.max_linear)
        sources["linear"] = LinearFeatures(linear).to(project.device)
        if source == "planted":
            for name, directions in patterns().items():
                sources[name] = LinearFeatures(directions).to(project.device)
        found = study(sources, worlds, config, seed=project.seed, progress=project.progress)
        write_csv(rows_file, tuple(found.rows[0]), found.rows)
        source_seeds = {DATASET_NAMES[name]: seed for name, seed in made.items()}
        write_json(metrics_file, {**found.summary, "source_seeds": source_seeds})
        run.artifact(rows_file)
    headline = f"{config.headline_eps:g}"
    shares = ", ".join(
        f"{name} {part['share_nonrobust'][headline]['value']:.0%} of {part['num_useful']}"
        for name, part in found.summary["sources"].items()
        if part["share_nonrobust"]
    )
    project.say(f"features: not robust at eps {headline}, of the useful ones: {shares}")
