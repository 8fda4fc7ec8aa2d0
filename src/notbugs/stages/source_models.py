"""The models trained on D, by seed, as the stages after `train` find them."""

from pathlib import Path

from notbugs.config import settings
from notbugs.stages.context import Context
from notbugs.training import TrainSettings


def source_seeds(project: Context, name: str) -> tuple[int, ...]:
    """Seeds of `train.<name>`, in the order of params.yaml.

    Raises: ConfigError.
    """
    return settings(project.params, f"train.{name}", TrainSettings).seeds


def source_models(project: Context, name: str) -> list[Path]:
    """Files of the models `train.<name>`, one a seed; they need not be there."""
    return [project.source_model(name, seed) for seed in source_seeds(project, name)]


def first_source_model(project: Context, name: str) -> Path:
    """File of the first seed's model: the one that datasets are made with and looked at."""
    return source_models(project, name)[0]
