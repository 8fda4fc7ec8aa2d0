"""Validating all of params.yaml at once, before the first stage runs."""

from collections.abc import Mapping
from typing import Any

from notbugs.config import DATASET_NAMES, SECTIONS, Settings, runtime, settings
from notbugs.construction import construct_settings
from notbugs.errors import ConfigError
from notbugs.models import ModelSettings
from notbugs.report import ReportSettings
from notbugs.robustness import SuiteSettings
from notbugs.science.diversity import DiversitySettings
from notbugs.science.estimator import EstimatorSettings
from notbugs.science.features_study import FeaturesSettings
from notbugs.science.gaussian import GaussianSettings
from notbugs.science.inversion import InversionSettings
from notbugs.science.planted_study import PlantedStudySettings
from notbugs.science.transfer import TransferSettings
from notbugs.sources import DataSettings
from notbugs.stages.source_models import construction_seeds
from notbugs.sweeps.settings import sweep_settings
from notbugs.training import FitSettings, TrainSettings

SCIENCE: dict[str, type[Settings]] = {
    "transfer": TransferSettings,
    "inversion": InversionSettings,
    "diversity": DiversitySettings,
    "estimator": EstimatorSettings,
    "features": FeaturesSettings,
    "planted": PlantedStudySettings,
    "gaussian": GaussianSettings,
}
"""Section -> settings of the stage of the same name."""


def check(params: Mapping[str, Any]) -> None:
    """Validate every section, and that the sections fit each other.

    Raises: ConfigError for the first thing that is wrong, in the order of the file.
    """
    _require_sections(params)
    runtime(params)
    settings(params, "data", DataSettings)
    settings(params, "model", ModelSettings)
    for name in _entries(params, "train", ("standard", "robust")):
        settings(params, f"train.{name}", TrainSettings)
    for needed in ("standard", "robust"):
        if needed not in params["train"]:
            raise ConfigError(f"params.yaml: train.{needed}: missing; every construction needs it")
    for name in _entries(params, "construct", tuple(DATASET_NAMES)):
        recipe = construct_settings(params["construct"][name], f"construct.{name}")
        trained = settings(params, f"train.{recipe.model}", TrainSettings).seeds
        construction_seeds(trained, recipe.source_seeds, model=recipe.model, key=f"construct.{name}")
    for name in _entries(params, "fit", tuple(DATASET_NAMES)):
        settings(params, f"fit.{name}", FitSettings)
        if name not in params["construct"]:
            raise ConfigError(f"params.yaml: fit.{name}: there is no construct.{name} to fit on")
    settings(params, "evaluate", SuiteSettings)
    for name, model in SCIENCE.items():
        settings(params, name, model)
    for name in _studies(params):
        sweep_settings(params, name)
    settings(params, "report", ReportSettings)


def _require_sections(params: Mapping[str, Any]) -> None:
    """Name all that a params.yaml from before some stage was added does not have; DVC would only list keys."""
    missing = [section for section in SECTIONS if section not in params]
    if missing:
        raise ConfigError(
            f"params.yaml: {', '.join(missing)}: missing; `notbugs preset NAME --missing` adds what a preset has there "
            f"and leaves the rest as it is"
        )


def _studies(params: Mapping[str, Any]) -> list[str]:
    studies = params.get("sweep")
    if not isinstance(studies, Mapping):
        raise ConfigError("params.yaml: sweep: must map studies to their settings; {} for none")
    for name in studies:
        if not isinstance(name, str):
            raise ConfigError(f"params.yaml: sweep.{name}: must be a text; put the name of the study in quotes")
    return list(studies)


def _entries(params: Mapping[str, Any], section: str, allowed: tuple[str, ...]) -> list[str]:
    entries = params.get(section)
    if not isinstance(entries, Mapping) or not entries:
        raise ConfigError(f"params.yaml: {section}: must map at least one of {', '.join(allowed)} to its settings")
    for name in entries:
        if name not in allowed:
            raise ConfigError(f"params.yaml: {section}.{name}: unknown key; allowed: {', '.join(allowed)}")
    return list(entries)
