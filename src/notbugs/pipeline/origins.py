"""What a construction is made from: the model of each seed, or an ensemble of source models."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from notbugs.construction.settings import ConstructSettings
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.models import construction_seeds, judge_seed, source_seeds
from notbugs.runtime.errors import ConfigError
from notbugs.training.settings import train_settings


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


def origins(project: Context, config: ConstructSettings, key: str) -> list[Origin]:
    """The source models of a construction, one each, by rising seed; or its ensemble.

    Args:
        key: dotted place of its settings, for the error.
    Raises: ConfigError for a seed that no model is trained with.
    """
    if config.ensemble is not None:
        groups = [ensemble_members(project.params, config.ensemble, key)]
    else:
        trained = source_seeds(project, config.model)
        seeds = construction_seeds(trained, config.source_seeds, model=config.model, key=key)
        groups = [[(config.model, seed)] for seed in seeds]
    return [_origin(project, members) for members in groups]


def _origin(project: Context, members: Sequence[tuple[str, int]]) -> Origin:
    """Of a model, or several that are attacked together."""
    kinds = dict.fromkeys(name for name, _ in members)
    others = [(name, seed) for name in kinds for seed in source_seeds(project, name) if (name, seed) not in members]
    judge = judge_seed(source_seeds(project, "robust"), members)
    return Origin(
        min(seed for _, seed in members),
        tuple(project.source_model(*member) for member in members),
        tuple(project.source_model(*other) for other in others),
        project.source_model("robust", judge),
    )


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
        trained = train_settings(params, f"train.{name}").seeds if name in (params.get("train") or {}) else ()
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
