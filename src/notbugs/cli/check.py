"""Validating all of params.yaml at once, before the first stage runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from notbugs.construction.recipes import construct_settings
from notbugs.data.sources import DataSettings
from notbugs.data.store import load_dataset
from notbugs.evaluation.levels import SuiteSettings
from notbugs.models import ModelSettings
from notbugs.pipeline.running.source_models import construction_seeds
from notbugs.report import ReportSettings
from notbugs.runtime.config import DATASET_NAMES, SECTIONS, Settings, runtime, settings
from notbugs.runtime.errors import ConfigError, UserError
from notbugs.science.diversity import DiversitySettings, least_images
from notbugs.science.estimator import EstimatorSettings
from notbugs.science.features.study import FeaturesSettings
from notbugs.science.gaussian.theory import GaussianSettings
from notbugs.science.inversion.inverting import InversionSettings
from notbugs.science.planted.study import PlantedStudySettings
from notbugs.science.transfer import TransferSettings
from notbugs.sweeps.settings import sweep_settings
from notbugs.training.loop import FitSettings, TrainSettings

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
READ = {
    "transfer": ("construct.rand", "construct.det"),
    "inversion": ("construct.robust", "construct.nonrobust", "fit.robust", "fit.nonrobust"),
    "diversity": ("construct.robust", "construct.nonrobust"),
}
"""Stage -> entries of params.yaml whose outputs it cannot do without."""


def check(params: Mapping[str, Any]) -> None:
    """Validate every section, and that the sections fit each other.

    Raises: ConfigError for the first thing that is wrong, in the order of the file.
    """
    _require_sections(params)
    processes = runtime(params).processes
    settings(params, "data", DataSettings)
    settings(params, "model", ModelSettings)
    for name in _entries(params, "train", ("standard", "robust")):
        _require_shares(settings(params, f"train.{name}", TrainSettings), f"train.{name}", processes)
    for needed in ("standard", "robust"):
        if needed not in params["train"]:
            raise ConfigError(f"params.yaml: train.{needed}: missing; every construction needs it")
    for name in _entries(params, "construct", tuple(DATASET_NAMES)):
        recipe = construct_settings(params["construct"][name], f"construct.{name}")
        trained = settings(params, f"train.{recipe.model}", TrainSettings).seeds
        construction_seeds(trained, recipe.source_seeds, model=recipe.model, key=f"construct.{name}")
    for name in _entries(params, "fit", tuple(DATASET_NAMES)):
        _require_shares(settings(params, f"fit.{name}", FitSettings), f"fit.{name}", processes)
        if name not in params["construct"]:
            raise ConfigError(f"params.yaml: fit.{name}: there is no construct.{name} to fit on")
    for stage, entries in READ.items():
        for entry in entries:
            section, _, name = entry.partition(".")
            if name not in params[section]:
                raise ConfigError(f"params.yaml: {entry}: missing; the stage {stage} reads what it makes")
    settings(params, "evaluate", SuiteSettings)
    for name, model in SCIENCE.items():
        settings(params, name, model)
    for name in _studies(params):
        sweep_settings(params, name)
    settings(params, "report", ReportSettings)


def check_data(params: Mapping[str, Any], root: Path) -> None:
    """Validate what valid settings ask of D, as far as D has been prepared by these settings.

    A stage that comes late would else stop a pipeline that has worked for hours.

    Raises: ConfigError for the first setting that D is too small for.
    """
    data = settings(params, "data", DataSettings)
    try:
        train, test = (load_dataset(root / "data" / split, verify=False) for split in ("train", "test"))
    except UserError:  # not made yet, or damaged: the stages say so
        return
    if any(part.manifest.settings != data.model_dump(mode="json") for part in (train, test)):
        return
    counts = train.labels.bincount(minlength=len(train.class_names))
    classes, processes = int((counts > 0).sum()), runtime(params).processes
    if len(train) < 2 * processes:
        raise ConfigError(
            f"params.yaml: processes = {processes}: must be at most {len(train) // 2}: each learns from two "
            f"images of a batch, and D has {len(train)}"
        )
    _require_number(params, "inversion.num_examples", InversionSettings, classes, len(train))
    _require_number(params, "inversion.num_test", InversionSettings, classes, None)
    _require_number(params, "estimator.num_examples", EstimatorSettings, classes, len(train))
    _require_number(params, "features.max_examples", FeaturesSettings, classes, None)
    if len(test) < 2:
        raise ConfigError(f"data/test: {len(test)} image; the stage inversion begins at another one of them")
    neighbours, largest = settings(params, "diversity", DiversitySettings).num_neighbours, int(counts.max())
    if largest < least_images(neighbours):
        raise ConfigError(
            f"params.yaml: diversity.num_neighbours = {neighbours}: needs {least_images(neighbours)} images in a "
            f"class, and none of D's has more than {largest}"
        )


def _require_number(params: Mapping[str, Any], key: str, model: type[Settings], least: int, most: int | None) -> None:
    """Raises: ConfigError unless a number of images holds one of each class, and no more than there are."""
    section, _, field = key.partition(".")
    value = getattr(settings(params, section, model), field)
    if value is None or (least <= value and (most is None or value <= most)):
        return
    allowed = (
        f"in {least}..{most}, one of each class and no more than D has" if most else f"at least {least}, one a class"
    )
    raise ConfigError(f"params.yaml: {key} = {value}: must be {allowed}")


def _require_shares(recipe: TrainSettings, key: str, processes: int) -> None:
    """Raises: ConfigError unless each process gets two images of a batch, which BatchNorm needs."""
    if recipe.batch_size < 2 * processes:
        raise ConfigError(
            f"params.yaml: {key}.batch_size = {recipe.batch_size}: must be at least {2 * processes}, two images for "
            f"each of {processes} processes"
        )


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
