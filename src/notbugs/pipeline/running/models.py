"""The models trained on D and the datasets made with them, by seed; and whether an attacked network is compiled."""

from collections.abc import Collection, Sequence
from pathlib import Path

import torch
from torch import nn

from notbugs.attacks.engine import multiply_adds, pays_to_compile
from notbugs.data.store import DatasetError, source_folders
from notbugs.pipeline.running.context import Context
from notbugs.runtime.errors import ConfigError
from notbugs.training.settings import train_settings


def source_seeds(project: Context, name: str) -> tuple[int, ...]:
    """Seeds of `train.<name>`, in the order of params.yaml.

    Raises: ConfigError.
    """
    return train_settings(project.params, f"train.{name}").seeds


def source_models(project: Context, name: str) -> list[Path]:
    """Files of the models `train.<name>`, one a seed; they need not be there."""
    return [project.source_model(name, seed) for seed in source_seeds(project, name)]


def construction_seeds(trained: Sequence[int], asked: Sequence[int] | None, *, model: str, key: str) -> tuple[int, ...]:
    """Seeds of the source models that a dataset is made from, one each, in rising order.

    Args:
        trained: seeds of `train.<model>`.
        asked: the construction's `source_seeds`; None takes all.
        key: dotted place of the construction's settings, for the error.
    Raises: ConfigError for a seed that no model is trained with.
    """
    if asked is None:
        return tuple(sorted(trained))
    if not set(asked) <= set(trained):
        allowed = ", ".join(map(str, trained))
        raise ConfigError(
            f"params.yaml: {key}.source_seeds = {list(asked)}: must be among train.{model}.seeds: {allowed}"
        )
    return tuple(sorted(asked))


def judge_seed(robust_seeds: Sequence[int], members: Collection[tuple[str, int]]) -> int:
    """Seed of the robust model that judges what a constructed image still shows.

    The first one, or the next where that made the image: nobody judges its own work if there is another.

    Args:
        members: (entry of `train`, seed) of the models that made it.
    """
    others = [seed for seed in robust_seeds if ("robust", seed) not in members]
    return (others or list(robust_seeds))[0]


def made_sources(project: Context, name: str) -> tuple[int, ...]:
    """Source seeds that data/<name> holds a dataset of, in rising order.

    Raises: DatasetError if there is none.
    """
    folder = project.dataset(name)
    found = tuple(source_folders(folder))
    if not found:
        raise DatasetError(f"{folder}: no dataset there (no folder source-<seed>); `dvc repro` makes it")
    return found


def first_sources(project: Context, *names: str) -> dict[str, int]:
    """For each construction the source seed that a stage looks at which needs one only.

    It is the lowest that they all have, so that they are looked at in pairs; each one's own lowest if there is none.

    Raises: DatasetError if a construction has not been made.
    """
    made = {name: made_sources(project, name) for name in names}
    shared = sorted(set.intersection(*map(set, made.values()))) if made else []
    return {name: shared[0] if shared else seeds[0] for name, seeds in made.items()}


def source_model_of(project: Context, name: str, seed: int) -> Path:
    """File of the model `train.<name>` of a source seed; of its first seed where it has not that one."""
    trained = source_seeds(project, name)
    return project.source_model(name, seed if seed in trained else trained[0])


def compiles(project: Context, what: str, model: nn.Module, image_shape: tuple[int, ...], num_looks: int) -> bool:
    """Apply the param `engine` to a work, and say so where it leaves the choice to the amount of work.

    Args:
        what: the work's name.
        model: the network attacked, on the project's device.
        image_shape: (C, H, W).
        num_looks: images × steps.
    Raises: ConfigError if `compiled` is asked for where there is no compiler.
    """
    image = torch.zeros(1, *image_shape, device=project.device)
    compiled = pays_to_compile(project.runtime.engine, model, image, num_looks=num_looks)
    if compiled and project.runtime.engine == "auto":
        work = multiply_adds(model, image) * num_looks
        project.say(f"{what}: the attacked network is compiled, which pays for {work:.1e} multiply-adds")
    return compiled
