"""The stage `science`: questions by their names in params.yaml, the built-in ones and those of one's own."""

import reprlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from pydantic import create_model

from notbugs.pipeline.running.job import Job
from notbugs.pipeline.running.stage import Stage
from notbugs.pipeline.science import answer, declared
from notbugs.pipeline.stages import QUESTIONS as BUILT_IN
from notbugs.pipeline.stages import STAGES
from notbugs.runtime.beside import has_page
from notbugs.runtime.config import Settings, check_name, settings, value_at
from notbugs.runtime.errors import ConfigError, meant, one_line
from notbugs.runtime.registry import Registry, RegistryError
from notbugs.science import debate, diversity, estimator, inversion, transfer  # noqa: F401  # so that DVC sees them change
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.question import (
    DESCRIBED,
    SPLITS,
    Question,
    QuestionSettings,
    Study,
    asked,
    each_input,
    of_ones_own,
)
from notbugs.science.features import study as _features  # noqa: F401
from notbugs.science.gaussian import study as _gaussian  # noqa: F401
from notbugs.science.planted import study as _planted  # noqa: F401

MADE_BY = {"data": "construct", "models/train": "train", "models/fit": "fit"}
"""Folder of inputs -> section whose entries make them."""


def _built_in(stage: Stage) -> Question:
    """The question of a stage, as an entry of `science` asks it: with `study` among its settings."""
    found = declared(stage)
    study = partial(_without_name, found.settings, found.study)
    return replace(found, settings=_with_name(found.settings), study=study)


def _with_name(own: type[Settings]) -> type[Settings]:
    """Settings of a stage, and `study`."""
    return create_model(own.__name__, __base__=(QuestionSettings, own))


def _without_name(own: type[Settings], study: Study, lab: Lab, given: Settings) -> Answer:
    """What a study finds by its own settings, which worker processes know."""
    return study(lab, own.model_construct(**{name: getattr(given, name) for name in own.model_fields}))


QUESTIONS = Registry(
    "science", {**{name: _built_in(STAGES[name]) for name in BUILT_IN}, **debate.questions()}, adapt=of_ones_own
)
"""The questions by their names in params.yaml."""


def read_question(params: Mapping[str, Any], key: str) -> Settings:
    """Validate one entry of the section `science`; what its question reads is made by entries that are there.

    Raises: ConfigError naming the key, the value and what is allowed.
    """
    check_name(key)
    section = value_at(params, key)
    if not isinstance(section, Mapping):
        return settings(params, key, QuestionSettings)  # which says what is wrong
    if "study" not in section:
        near = next((name for name in section if isinstance(name, str) and meant(name.lower(), ["study"])), None)
        meaning = "" if near is None else f", and {near} is no key"
        raise ConfigError(f"params.yaml: {key}.study: missing; it must be given{meaning}")
    name = section["study"]
    try:
        question = QUESTIONS[name if isinstance(name, str) else ""]
    except RegistryError as error:
        raise ConfigError(f"params.yaml: {key}.study = {reprlib.repr(name)}: must be {error}") from None
    found = settings(params, key, question.settings)
    _require_json(found, key)
    pairs = [f"data/{construction}" for construction in (question.paired or {}).values()]
    for path in [*each_input(question.inputs, params.get("construct") or {}), *pairs]:
        folder, _, entry = path.rpartition("/")
        made = {**(params.get(MADE_BY[folder]) or {}), **(params.get("fit") or {} if folder == "data" else {})}
        if entry not in made and not (folder == "data" and entry in SPLITS):
            raise ConfigError(f"params.yaml: {key}: {MADE_BY[folder]}.{entry}: missing; {name} reads {path}")
    return found


def _require_json(found: Settings, key: str) -> None:
    """Raises: ConfigError for settings of one's own that cannot be written down, which makes kept work known."""
    try:
        found.model_dump_json()
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"params.yaml: {key}: must be numbers, texts, lists and mappings: {one_line(error)}"
        ) from None


def answer_entry(job: Job) -> None:
    """Answer the question of an entry; the metrics file says beside the numbers what was asked, and what was said."""
    name = job.settings.study
    question = QUESTIONS[name]

    def study(lab: Lab, given: Any) -> Answer:
        found = asked(question, lab, given, job.stage.key(job.name), "" if name in QUESTIONS else name)
        return Answer({**found.metrics, DESCRIBED: _described(question, found, job.name)}, found.says)

    answer(job, replace(question, study=study))


def _described(question: Question, found: Answer, name: str | None) -> dict[str, Any]:
    """What the report says of an answer besides its numbers.

    Args:
        name: of the entry.
    """
    about: dict[str, Any] = {"title": question.title or name, "says": question.says, "found": list(found.says)}
    if question.position is not None:
        about["position"] = asdict(question.position)
    for key, given in (("verdicts", found.verdicts), ("charts", found.charts)):
        if given:
            about[key] = [asdict(one) for one in given]
    module = getattr(question.study, "__module__", None)
    if has_page(module):
        about["page"] = module
    return about
