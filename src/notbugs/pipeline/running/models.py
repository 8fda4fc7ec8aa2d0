"""The models trained on D and the datasets made with them, by seed; and whether an attacked network is compiled."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from notbugs.attacks.engine import multiply_adds, pays_to_compile
from notbugs.data.store import DatasetError, source_folders
from notbugs.pipeline.running.context import Context
from notbugs.runtime.config import settings
from notbugs.runtime.errors import ConfigError
from notbugs.training.settings import TrainSettings


def source_seeds(project: Context, name: str) -> tuple[int, ...]:
    """Seeds of `train.<name>`, in the order of params.yaml.

    Raises: ConfigError.
    """
    return settings(project.params, f"train.{name}", TrainSettings).seeds


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


class Origin(NamedTuple):
    """What one dataset of a construction is made from.

    Attributes:
        seed: of the source model; the lowest one of an ensemble's.
        members: files of the models that are attacked: one, or an ensemble.
        others: files of models of the same kinds that are not.
        judge: file of the robust model that says what the images still show.
    """

    seed: int
    members: tuple[Path, ...]
    others: tuple[Path, ...]
    judge: Path


class Sources(Protocol):
    """What settings of a construction say of its source models; stages that construct nothing need not import these."""

    @property
    def model(self) -> str:
        """An entry of `train`."""
        ...

    @property
    def ensemble(self) -> tuple[str, ...] | None:
        """Members in its place."""
        ...

    @property
    def source_seeds(self) -> tuple[int, ...] | None:
        """Those of its seeds that are used; None for all."""
        ...


def origins(project: Context, config: Sources, key: str) -> list[Origin]:
    """The source models of a construction, one each, by rising seed; or its ensemble.

    Args:
        key: dotted place of its settings, for the error.
    Raises: ConfigError for a seed that no model is trained with.
    """
    robust = source_seeds(project, "robust")
    if config.ensemble is not None:
        members = ensemble_members(project.params, config.ensemble, key)
        kinds = dict.fromkeys(name for name, _ in members)
        others = [(name, seed) for name in kinds for seed in source_seeds(project, name) if (name, seed) not in members]
        judges = [seed for seed in robust if ("robust", seed) not in members] or list(robust)
        return [
            Origin(
                min(seed for _, seed in members),
                tuple(project.source_model(*member) for member in members),
                tuple(project.source_model(*other) for other in others),
                project.source_model("robust", judges[0]),
            )
        ]
    name = config.model
    trained = source_seeds(project, name)
    seeds = construction_seeds(trained, config.source_seeds, model=name, key=key)
    return [
        Origin(
            seed,
            (project.source_model(name, seed),),
            tuple(project.source_model(name, other) for other in trained if other != seed),
            project.source_model("robust", judge_seed(robust, name, seed)),
        )
        for seed in seeds
    ]


def ensemble_members(params: Mapping[str, Any], named: Sequence[str], key: str) -> list[tuple[str, int]]:
    """(entry of `train`, seed) of each member of an ensemble, in order.

    Args:
        named: NAME/SEED, or NAME for all seeds of an entry.
        key: dotted place of the construction's settings, for the error.
    Raises: ConfigError for what is not trained, stands twice, or is one model alone.
    """
    members: list[tuple[str, int]] = []
    for member in named:
        name, _, seed = member.partition("/")
        trained = settings(params, f"train.{name}", TrainSettings).seeds if name in (params.get("train") or {}) else ()
        chosen = [one for one in trained if seed in ("", str(one))]
        if not chosen:
            there = [f"{entry}/SEED" for entry in params.get("train") or {}]
            raise ConfigError(
                f"params.yaml: {key}.from: {member}: no model is trained by that name and seed; allowed: an entry of "
                f"train, or one of its seeds: {', '.join(there)}"
            )
        members += [(name, one) for one in chosen]
    if len(set(members)) != len(members) or len(members) < 2:
        what = "names a model twice" if len(set(members)) != len(members) else "names one model: that is `model`"
        raise ConfigError(f"params.yaml: {key}.from = {list(named)}: {what}; allowed: two different models or more")
    return members


def judge_seed(robust_seeds: Sequence[int], model: str, source_seed: int) -> int:
    """Seed of the robust model that judges what a constructed image still shows.

    The first one, or the next where that made the image: nobody judges its own work if there is another.
    """
    others = [seed for seed in robust_seeds if model != "robust" or seed != source_seed]
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
    if project.runtime.engine == "auto":
        work = multiply_adds(model, image) * num_looks
        project.say(f"{what}: {'compiled' if compiled else 'plain'} engine for {work:.1e} multiply-adds")
    return compiled
