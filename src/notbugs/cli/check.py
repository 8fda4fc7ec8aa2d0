"""Validating all of params.yaml at once, before the first stage runs."""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from notbugs.cli.stages import ALL_STAGES
from notbugs.construction.recipe import RecipeError
from notbugs.construction.settings import in_words
from notbugs.data.sources import DataSettings
from notbugs.data.store import StoredDataset, load_dataset, source_folders
from notbugs.models import ModelSettings
from notbugs.pipeline.construct import read_recipe
from notbugs.pipeline.questions import MADE_BY, QUESTIONS
from notbugs.pipeline.running.own_code import require_watched
from notbugs.pipeline.running.stage import Stage
from notbugs.runtime.config import DATASET_NAMES, SECTIONS, SOURCE, check_name, runtime, settings
from notbugs.runtime.errors import ConfigError, UserError
from notbugs.science.common import question
from notbugs.science.common.question import QuestionSettings, each_input, tried
from notbugs.training.settings import TrainSettings

SOURCE_MODELS = ("standard", "robust")
NAMED = ("train", "construct", "fit")
"""Sections that cannot be empty."""


def check(params: Mapping[str, Any], root: Path | None = None) -> None:
    """Validate every section, and that the sections fit each other.

    Args:
        root: of the project, whose imported datasets can be fitted on, too.
    Raises: ConfigError for the first thing that is wrong.
    """
    _require_sections(params)
    processes = runtime(params).processes
    settings(params, "model", ModelSettings)
    if "robust" not in (params["train"] or {}):
        raise ConfigError("params.yaml: train.robust: missing; it judges what every construction's images still show")
    for stage in ALL_STAGES.values():
        for entry in needed_entries(stage):
            section, _, needed = entry.partition(".")
            if needed not in params[section]:
                why = (
                    "every construction needs it"
                    if section == "train"
                    else f"the stage {stage.name} reads what it makes"
                )
                raise ConfigError(f"params.yaml: {entry}: missing; {why}")
        for name in _entries(params, stage):
            found = stage.read_settings(params, name)
            if isinstance(found, TrainSettings):
                _require_shares(found, stage.key(name), processes)
            if root is not None:
                require_watched(root, params, stage, name)
            if stage.name == "fit" and name not in params["construct"]:
                _require_imported(str(name), root)


def check_files(params: Mapping[str, Any], root: Path) -> bool:
    """Open the files that recipes read; against D, where it has been prepared by these settings.

    Returns: whether there are any.
    Raises: ConfigError for the first that is wrong.
    """
    data, found = prepared(params, root), False
    for name in params["construct"]:
        config = read_recipe(params, f"construct.{name}")
        found |= bool(config.files)
        try:
            config.check_files(root, data.get("train"))
        except RecipeError as error:
            raise ConfigError(f"params.yaml: construct.{name}.{error}") from None
    return found


def deviations(params: Mapping[str, Any]) -> str:
    """Where constructions are not made by the paper's recipes, in a line; empty if all are."""
    told = []
    for name in params["construct"]:
        differs = read_recipe(params, f"construct.{name}").deviations
        told += [f"construct.{name}: {in_words(differs)}"] if differs else []
    return f"not the paper's: {'; '.join(told)}" if told else ""


def needed_entries(stage: Stage) -> Iterator[str]:
    """Entries of params.yaml, such as "construct.rand", whose outputs a stage cannot do without."""
    for path in stage.inputs:
        folder, _, name = path.rpartition("/")
        if folder in MADE_BY and name in (*SOURCE_MODELS, *DATASET_NAMES):
            yield f"{MADE_BY[folder]}.{name}"


def check_data(params: Mapping[str, Any], root: Path) -> None:
    """Validate what valid settings ask of D, as far as D has been prepared by these settings.

    A stage that comes late would else stop a pipeline that has worked for hours.

    Raises: ConfigError for the first setting that D is too small for.
    """
    data = prepared(params, root)
    if not data:
        return
    train = data["train"]
    processes = runtime(params).processes
    if len(train) < 2 * processes:
        raise ConfigError(
            f"params.yaml: processes = {processes}: must be at most {len(train) // 2}: each learns from two "
            f"images of a batch, and D has {len(train)}"
        )
    for stage in ALL_STAGES.values():
        for name in _entries(params, stage):
            found = stage.read_settings(params, name)
            key = stage.key(name)
            if isinstance(found, QuestionSettings):
                read = set(each_input(QUESTIONS[found.study].inputs))
                of_it = {split: part for split, part in data.items() if f"data/{split}" in read}
                tried(key, found.study, partial(question.check_data, found, of_it, key))
            else:
                question.check_data(found, data, key)


def prepared(params: Mapping[str, Any], root: Path) -> dict[str, StoredDataset]:
    """D as it has been prepared by these settings: train and test; nothing before that."""
    asked = settings(params, "data", DataSettings).model_dump(mode="json")
    try:
        found = {split: load_dataset(root / "data" / split, verify=False) for split in ("train", "test")}
    except UserError:  # not made yet, or damaged: the stages say so
        return {}
    return found if all(part.manifest.settings == asked for part in found.values()) else {}


def _require_imported(name: str, root: Path | None) -> None:
    """Raises: ConfigError unless there is a dataset that no construction made, to be fitted on."""
    if root is None or not source_folders(root / "data" / name):
        raise ConfigError(
            f"params.yaml: fit.{name}: there is no construct.{name} to fit on, and no imported dataset in "
            f"data/{name}/{SOURCE}0"
        )


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


def _entries(params: Mapping[str, Any], stage: Stage) -> list[str | None]:
    """The names that a stage is run for; None for its whole section."""
    section = stage.section or stage.name
    if not stage.by_name:
        return [None]
    entries = params.get(section)
    if not isinstance(entries, Mapping) or (section in NAMED and not entries):
        what = "at least one name to its settings" if section in NAMED else "names to their settings; {} for none"
        raise ConfigError(f"params.yaml: {section}: must map {what}")
    for name in entries:
        if not isinstance(name, str):
            raise ConfigError(f"params.yaml: {section}.{name}: must be a text; put the name in quotes")
        if section != "sweep":
            check_name(f"{section}.{name}")
    return list(entries)
