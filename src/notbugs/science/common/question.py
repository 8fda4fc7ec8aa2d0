"""A question of the science, declared once: settings, study, what it reads; and those of one's own.

The built-in ones are stages (`pipeline.stages`); one of the user's own is an entry of the section `science`.
"""

import inspect
import math
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from notbugs.data.images import Images
from notbugs.evaluation.statements import CHART_KINDS, FINDINGS, Chart, Position, Verdict
from notbugs.runtime import foreign
from notbugs.runtime.config import Settings, in_order_of_paper
from notbugs.runtime.errors import ConfigError, UserError, one_line
from notbugs.runtime.registry import RegistryError
from notbugs.science.common.lab import Answer, Lab, UnfitError

Study = Callable[[Lab, Any], Answer]
"""(lab, settings) -> Answer."""
SPLITS = ("train", "validation", "test")
"""Folders of data/ that no construction makes."""
SOURCE_MODELS = ("models/train/standard", "models/train/robust")
DESCRIBED = "question"
"""Key of the metrics file that says what was asked, and what the study said."""
LARGEST = int(sys.float_info.max)
CHART_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
_INPUT = re.compile(r"data|models/train|(data|models/train|models/fit)/[A-Za-z]\w*")
_INPUTS = "data, data/NAME, models/train, models/train/NAME and models/fit/NAME"
Found = TypeVar("Found")


class QuestionError(UserError):
    """A question of one's own fails, or gives no answer."""


class QuestionSettings(Settings):
    """An entry of the section `science`; settings of one's own derive from it and add theirs."""

    study: str
    """Name of the question: built in, of a package, or package.module:attribute."""


@dataclass(frozen=True)
class Question:
    """A question of the science.

    Attributes:
        settings: of its entry in params.yaml, with a field `study`.
        study: (lab, settings) -> Answer.
        inputs: what the lab holds: "data/train", "data/det", "models/train/standard", "models/fit/det"; "data" is all
            constructions, train and test; "models/train" both source models.
        paired: source model -> the construction whose source seed it is taken of; None takes the lowest of all.
        title, says: for the report: a heading, and what is asked, in a sentence.
        position: whose side of the debate it puts to the data; None for a question of nobody's.
    """

    settings: type[Settings]
    study: Study
    inputs: tuple[str, ...] = ("data/train", "data/test", *SOURCE_MODELS)
    paired: Mapping[str, str] | None = None
    title: str = ""
    says: str = ""
    position: Position | None = None


def of_ones_own(given: Any) -> Question:
    """The question that a package or a user declares: an object or a class with the attributes of `Question`.

    Raises: RegistryError for the first that is missing or wrong; to be read after "must be".
    """
    lacking = " and ".join(f"`{name}`" for name in ("settings", "study") if not hasattr(given, name))
    if lacking:
        raise RegistryError(f"a question: a `Question` with `settings` and `study`; it has no {lacking}")
    settings, study = given.settings, given.study
    if not (isinstance(settings, type) and issubclass(settings, Settings) and "study" in settings.model_fields):
        raise RegistryError(f"a question whose `settings` is a class derived from QuestionSettings, not {settings!r}")
    if not callable(study):
        raise RegistryError(f"a question whose `study` is a function of (lab, settings), not {study!r}")
    try:
        inspect.signature(study).bind(None, None)
    except (TypeError, ValueError) as error:  # ValueError: it does not say what it takes
        raise RegistryError(f"a question whose `study` is a function of (lab, settings): {one_line(error)}") from None
    names = ("inputs", "paired", "title", "says", "position")
    more = {name: getattr(given, name) for name in names if hasattr(given, name)}
    for name in ("title", "says"):
        if not isinstance(more.get(name, ""), str):
            raise RegistryError(f"a question whose `{name}` is a text, not {more[name]!r}")
    if not isinstance(more.get("position"), Position | None):
        raise RegistryError(f"a question whose `position` is a `Position`, not {more['position']!r}")
    found = Question(settings, study, **more)
    _check_inputs(found)
    return found


def _check_inputs(question: Question) -> None:
    """Whether the lab can be filled.

    Raises: RegistryError.
    """
    inputs, paired = question.inputs, question.paired
    if not isinstance(inputs, tuple | list):
        raise RegistryError(f"a question whose `inputs` is a list of {_INPUTS}, not {inputs!r}")
    for path in inputs:
        if not (isinstance(path, str) and _INPUT.fullmatch(path)):
            raise RegistryError(f"a question whose `inputs` are among {_INPUTS}, not {path!r}")
    if paired is None:
        return
    models = {path.rpartition("/")[2] for path in each_input(inputs) if path.startswith("models/train/")}
    read = {path.rpartition("/")[2] for path in inputs if path.startswith(("data/", "models/fit/"))}
    pairs = (
        isinstance(paired, Mapping) and set(paired) == models and all(isinstance(one, str) for one in paired.values())
    )
    named = set(paired.values()) if pairs else set(SPLITS)
    if named & set(SPLITS) or not ("data" in inputs or named <= read):
        raise RegistryError(
            f"a question whose `paired` maps each source model of its `inputs` to a construction there, not {paired!r}"
        )


def each_input(inputs: Iterable[str], constructions: Iterable[str] = ()) -> Iterator[str]:
    """Inputs, one by one: "data" is train, test and all constructions, "models/train" both source models.

    Args:
        constructions: all that params.yaml has.
    """
    for path in inputs:
        if path == "data":
            yield from ("data/train", "data/test", *(f"data/{name}" for name in in_order_of_paper(constructions)))
        elif path == "models/train":
            yield from SOURCE_MODELS
        else:
            yield path


def asked(question: Question, lab: Lab, settings: Any, key: str, name: str = "") -> Answer:
    """The answer, after what settings ask of D has been checked.

    Args:
        key: place of the settings in params.yaml, for errors.
        name: of a question of one's own, whose failure is said in a line.
    Raises: ConfigError for settings that D is too small for; QuestionError.
    """

    def work() -> Answer:
        check_data(settings, lab.data, key)
        found = question.study(lab, settings)
        wrong = what_is_wrong(found) if name else ""
        if wrong:
            raise QuestionError(f"{key}: question {name}: {wrong}")
        return found

    return tried(key, name, work) if name else work()


def tried(key: str, name: str, work: Callable[[], Found]) -> Found:
    """What a question of one's own gives; its failure in one line, with the place of it.

    Args:
        key: place of its settings in params.yaml.
    Raises: QuestionError.
    """
    return foreign.tried(work, lambda line: QuestionError(f"{key}: question {name}: {line}"))


def check_data(settings: Any, data: Mapping[str, Images], key: str) -> None:
    """Whether D is large enough for settings with a method `check_data`, which is given D's train and test.

    Args:
        data: of these two at least those that the question reads.
        key: place of the settings in params.yaml.
    Raises: ConfigError; what the method raises.
    """
    if not hasattr(settings, "check_data"):
        return
    try:
        settings.check_data({split: data[split] for split in ("train", "test") if split in data})
    except UnfitError as error:
        raise ConfigError(f"params.yaml: {key}.{error}") from None


def what_is_wrong(found: Any) -> str:
    """Why this is no answer, in words; empty if it is one."""
    if not isinstance(found, Answer):
        return f"must give an Answer, not a {type(found).__name__}"
    if not isinstance(found.says, tuple | list) or not all(isinstance(line, str) for line in found.says):
        return f"must say a list of lines, not {reprlib.repr(found.says)}"
    if not all(map(_is_utf8, found.says)):
        return "must say lines that UTF-8 can hold"
    if not isinstance(found.metrics, dict):
        return f"must give metrics as a dict, not a {type(found.metrics).__name__}"
    if DESCRIBED in found.metrics:
        return f"must leave the key {DESCRIBED} of the metrics free"
    return next(_no_json("metrics", found.metrics), "") or _wrong_for_the_report(found)


def _wrong_for_the_report(found: Answer) -> str:
    """Why its charts or verdicts cannot be shown."""
    for name, kind in (("charts", Chart), ("verdicts", Verdict)):
        given = getattr(found, name)
        if not (isinstance(given, tuple | list) and all(isinstance(one, kind) for one in given)):
            return f"must give {name} as a list of {kind.__name__}, not {reprlib.repr(given)}"
        wrong = next(_no_json(name, [asdict(one) for one in given]), "")
        if wrong:
            return wrong
    for chart in found.charts:
        if not CHART_NAME.fullmatch(chart.name) or chart.kind not in CHART_KINDS:
            return f"must give charts a name of letters, digits, _ and -, and a kind of {', '.join(CHART_KINDS)}"
        for series in chart.series:
            if any(len(values) not in (0, len(series.x)) for values in (series.y, series.low, series.high)):
                return f"must give chart {chart.name} as many y, low and high as x, in {series.label!r}"
    for verdict in found.verdicts:
        if verdict.finding not in FINDINGS:
            return f"must give verdicts a finding of {', '.join(FINDINGS)}, not {verdict.finding!r}"
    return ""


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _no_json(place: str, value: Any) -> Iterator[str]:
    """What a metrics file cannot hold, and where."""
    if isinstance(value, dict):
        for key, part in value.items():
            if isinstance(key, str) and _is_utf8(key):
                yield from _no_json(f"{place}.{key}", part)
            else:
                yield f"must give {place} with texts as keys, not {key!r}"
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from _no_json(f"{place}.{number}", part)
    elif isinstance(value, int) and abs(value) > LARGEST:
        yield f"must give {place} as a number that a float can hold, not one of {value.bit_length()} bits"
    elif isinstance(value, float) and not math.isfinite(value):
        yield f"must give {place} as a finite number or None, not {value}"
    elif isinstance(value, str) and not _is_utf8(value):
        yield f"must give {place} as a text that UTF-8 can hold, not {value!a}"
    elif not isinstance(value, str | int | float | None):
        yield f"must give {place} as a number, text, list or dict, not a {type(value).__name__}"
