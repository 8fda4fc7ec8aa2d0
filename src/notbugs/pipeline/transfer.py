"""Stage `transfer`: other architectures, fitted on D_rand and D_det and shown the source's adversarial examples."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from notbugs.data.images import ImageData, Images, make_generator
from notbugs.data.store import load_dataset
from notbugs.evaluation.accuracy import called_by, shifted_labels
from notbugs.models import ModelSettings, create_model, load_model, set_normalisation
from notbugs.models.base import Classifier
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.source_models import first_sources, source_model_of
from notbugs.pipeline.running.unfinished import kept, unfinished
from notbugs.runtime.config import settings
from notbugs.runtime.files import write_json
from notbugs.science.common.shares import nested, share, share_table
from notbugs.science.transfer import (
    GOALS,
    Examples,
    TransferSettings,
    adversarial_examples,
    correlation,
    transfer_rates,
)
from notbugs.training.loop import TrainSettings, train

DATASETS = {"d": "D", "rand": "D_rand", "det": "D_det"}


def transfer(project: Context) -> None:
    """Write metrics/transfer.json: of the first source seed that D_rand and D_det share.

    Command: `notbugs transfer`. On digits about a minute and a half. Expected in the paper: accuracy from D_det
    and transfer success rise together.
    """
    config = settings(project.params, "transfer", TransferSettings)
    made = first_sources(project, "rand", "det")
    source_file = source_model_of(project, "standard", made["det"])
    folders = {"d": project.dataset("train"), **{name: project.dataset(name, seed) for name, seed in made.items()}}
    metrics_file = project.root / "metrics" / "transfer.json"
    inputs = [*folders.values(), project.dataset("test"), source_file]
    with project.tracked(
        "transfer",
        params={"transfer": config.model_dump(mode="json"), "runtime": project.runtime.model_dump(mode="json")},
        inputs=inputs,
        outputs=[metrics_file],
        metrics_file=metrics_file,
    ):
        source = load_model(source_file, device=project.device)
        data = {key: load_dataset(folder) for key, folder in folders.items()}
        test = load_dataset(project.dataset("test")).data()
        examples = adversarial_examples(
            source, test, config.attack, generator=make_generator(project.seed, "transfer", "noise")
        )
        facts, masks = {}, {}
        made_from = {"transfer": config.model_dump(mode="json")}
        with unfinished(project, "transfer", "all", settings=made_from, inputs=inputs) as work:
            for number, (name, model) in enumerate(config.architectures.items()):
                facts[name], masks[name] = kept(
                    work / f"architecture-{number}.safetensors",
                    lambda name=name, model=model: _architecture(project, config, name, model, data, test, examples),  # type: ignore[misc]
                )
        table = {name: {**facts[name], **nested(shares)} for name, shares in share_table(masks).items()}
        write_json(
            metrics_file,
            {
                "attack": {"norm": config.attack.norm, "eps": config.attack.eps, "num_steps": config.attack.num_steps},
                "source": {
                    "architecture": source.description.architecture,
                    "width": source.description.width,
                    "accuracy": share([examples.source_right]),
                    "fooled": {goal: share([examples.fooled[goal]]) for goal in GOALS},
                },
                "source_seeds": {DATASETS[name]: seed for name, seed in made.items()},
                "architectures": table,
                "correlation": _correlations(table),
            },
        )
    rates = [facts["transfer"]["targeted"]["conditional"] for facts in table.values()]
    shown = [f"{rate['mean']:.1%}" for rate in rates if rate]
    project.say(f"transfer: {len(table)} architectures; targeted transfer success {', '.join(shown) or 'undefined'}")


def _architecture(
    project: Context,
    config: TransferSettings,
    name: str,
    model: ModelSettings,
    data: Mapping[str, Images],
    test: ImageData,
    examples: Examples,
) -> tuple[dict[str, Any], dict[str, list[Tensor]]]:
    """What X is, and all that is measured of it: accuracy from each dataset, transfer from the source, by seed."""
    shifted = shifted_labels(test.labels, len(test.class_names))
    masks: dict[str, list[Tensor]] = defaultdict(list)
    for seed in config.seeds:
        for key, dataset in DATASETS.items():
            trained = _trained(project, getattr(config, key), model, data[key], name, key, seed)
            called = called_by(trained, test.images)
            masks[f"accuracy.{dataset}"].append(called == test.labels)
            masks[f"accuracy_shifted.{dataset}"].append(called == shifted)
            if key == "d":
                for rate, mask in transfer_rates(trained, test, examples).items():
                    masks[f"transfer.{rate}"].append(mask)
    facts = {
        "architecture": trained.description.architecture,
        "width": trained.description.width,
        "num_parameters": sum(parameter.numel() for parameter in trained.parameters()),
    }
    return facts, masks


def _trained(
    project: Context, config: TrainSettings, settings: ModelSettings, data: Images, name: str, key: str, seed: int
) -> Classifier:
    """X from scratch on one dataset; an X of one seed starts alike and sees the rows in the same order on each."""
    stream = ("transfer", settings.architecture, settings.width or 0, seed)
    model = create_model(
        settings,
        data.image_shape,
        data.class_names,
        generator=make_generator(project.seed, *stream, "weights"),
    ).to(project.device)
    set_normalisation(model, data)
    train(
        model,
        data,
        config,
        generator=make_generator(project.seed, *stream, "batches"),
        progress=project.progress,
        description=f"transfer: {name} on {DATASETS[key]}, seed {seed}",
    )
    return model


def _correlations(table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Accuracy from D_rand and D_det against transfer success, over the architectures where both are defined."""
    found: dict[str, Any] = {}
    for dataset in ("D_rand", "D_det"):
        for goal in GOALS:
            pairs = [
                (rate["mean"], facts["accuracy"][dataset]["mean"])
                for facts in table.values()
                if (rate := facts["transfer"][goal]["conditional"]) is not None
            ]
            found.setdefault(dataset, {})[goal] = correlation([x for x, _ in pairs], [y for _, y in pairs])
    return found
