"""Reading params.yaml and turning it into the settings of a stage.

Every stage has one frozen model, kept beside the code that it configures. Here are only the base class, the
settings that all stages share, and what is said of a wrong one: one line naming the key, its value and what is allowed.
"""

import math
import re
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
)
from pydantic_core import ErrorDetails

from notbugs.runtime.errors import ConfigError, UserError, meant, raised
from notbugs.runtime.machine import project_folder
from notbugs.runtime.registry import allow, texts
from notbugs.runtime.yaml_loader import SafeLoader, require_shallow

DATASET_NAMES = {
    "robust": "D_R",
    "nonrobust": "D_NR",
    "rand": "D_rand",
    "det": "D_det",
    "rand_from_robust": "D_rand_from_robust",
    "det_from_robust": "D_det_from_robust",
}
"""Name of a construction in params.yaml -> its name in the paper, in results and in the report."""
TAKEN = ("raw", "test", "train", "validation")
"""Names of other folders of data/, which no construction can have."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def dataset_name(key: str) -> str:
    """Name in results and report of a construction's key in params.yaml: the paper's, else "D_" and the key."""
    return DATASET_NAMES.get(key, f"D_{key}")


def in_order_of_paper(keys: Iterable[str]) -> list[str]:
    """Keys of constructions: those of the paper's datasets as they stand in DATASET_NAMES, then the others as given."""
    given = list(keys)
    return [*(key for key in DATASET_NAMES if key in given), *(key for key in given if key not in DATASET_NAMES)]


def check_name(key: str) -> None:
    """Refuse a name of an entry of `train`, `construct`, `fit` or `science`, which files and stages are named after.

    Args:
        key: dotted, such as "construct.rand".
    Raises: ConfigError.
    """
    section, _, name = key.partition(".")
    if not _NAME.fullmatch(name):
        raise ConfigError(f"params.yaml: {key}: a name has letters, digits and _, at most 64, and begins with a letter")
    if section in ("train", "science"):
        return
    names = {dataset_name(other) for other in DATASET_NAMES if other != name}
    if name in TAKEN or name.endswith("still_y") or dataset_name(name) in names:
        raise ConfigError(f"params.yaml: {key}: the name is taken by something else; choose another one")


SUBSETS = ("full", "still_y", "baseline")
"""What a construction's recipe is fitted on: all its images; those that both judges still call y; and D itself."""
SOURCE = "source-"
"""Beginning of the name of a folder that belongs to one source model; its seed follows."""
EngineName = Literal["auto", "plain", "compiled"]
PrecisionName = Literal["auto", "float32", "bfloat16"]


class Settings(BaseModel):
    """Base of all settings: immutable, no unknown keys, no silent conversions."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)
    options: ClassVar[frozenset[str]] = frozenset()
    """Fields that nothing is written down of while they have their defaults: what was stored before there were any
    keeps its bytes."""

    @model_serializer(mode="wrap")
    def _written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = dump(self)
        for name in self.options & set(found):
            if getattr(self, name) == type(self).model_fields[name].get_default(call_default_factory=True):
                del found[name]
        return found


def _in_order(radii: tuple[float, ...]) -> tuple[float, ...]:
    if not all(0 < radius < math.inf for radius in radii):
        raise ValueError("a list of radii, each > 0")
    return tuple(sorted(set(radii)))


Radii = Annotated[tuple[float, ...], Field(strict=False, min_length=1), AfterValidator(_in_order)]
"""Radii of perturbation balls, each > 0; in rising order, each once."""


def _different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) != len(seeds):
        raise ValueError("seeds that differ from each other")
    return seeds


Seeds = Annotated[tuple[int, ...], Field(strict=False, min_length=1), AfterValidator(_different)]
"""Seeds, at least one, each once."""


class Runtime(Settings):
    """What all stages share."""

    experiment: str = Field(default="notbugs", min_length=1)
    """Name of the MLflow experiment that the runs are grouped under."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed from which every random stream is derived."""
    num_threads: int = Field(default=2, ge=1, le=1024)
    """CPU threads of torch; part of the result, since rounding depends on it."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """`auto` takes CUDA where there is one, else an Apple GPU (MPS) that computes right, else the CPU."""
    engine: EngineName = "auto"
    """How attacked networks run: `plain` (folded), `compiled` (torch.compile besides), or by the amount of work."""
    precision: PrecisionName = "auto"
    """Of the convolutions of attacks and training; part of the result. `auto` takes bfloat16 on a CPU that multiplies
    in it and is faster by it, on CUDA half precision, else float32. What a model says is always judged in float32."""
    processes: int = Field(default=1, ge=1, le=1024)
    """Processes that share a training, a construction, an evaluation (torchrun): one a GPU, or parts of a CPU."""
    jobs: int | Literal["auto"] = 1
    """Worker processes for the independent tasks of a stage: models, shards, measurements. `auto` takes one for each
    `num_threads` of the processors on the CPU, one on a GPU. The results do not depend on it."""

    @field_validator("jobs")
    @classmethod
    def _is_a_number_of_workers(cls, jobs: int | str) -> int | str:
        if isinstance(jobs, int) and not 1 <= jobs <= 1024:
            raise ValueError("auto, or a number from 1 to 1024")
        return jobs


SECTIONS = (
    *Runtime.model_fields,
    *("data", "model", "train", "construct", "fit", "evaluate"),
    *("diagnose", "transfer", "inversion", "diversity", "estimator", "features", "planted", "gaussian"),
    *("science", "sweep", "report"),
)
"""Every top-level key of params.yaml."""
AnySettings = TypeVar("AnySettings", bound=Settings)


class _Loader(SafeLoader):
    """YAML loader that reads 1e-3 as a number, as YAML 1.2 and DVC do (PyYAML reads a string), and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; PyYAML alone would silently take the last of two equal keys."""
        lines: dict[str, int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line = key.start_mark.line + 1
            if key.value in lines:
                raise ConfigError(f"{key.value}: twice in one section, in lines {lines[key.value]} and {line}")
            lines[key.value] = line
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def find_root() -> Path:
    """The project folder: the nearest one, from the current folder upwards, with a dvc.yaml or params.yaml.

    DVC's variable DVC_ROOT is no help: in the copies that `dvc exp run --temp` works in, it names the original.

    Raises: ConfigError if there is none.
    """
    here = Path.cwd()
    folder = project_folder(here)
    if folder is None:
        raise ConfigError(f"{here}: no params.yaml here or above; go to the project folder")
    return folder


def read_params(path: Path) -> dict[str, Any]:
    """Read params.yaml; what it names of the user's own may then be imported.

    Raises: ConfigError if the file is missing, empty, no YAML, no mapping, or has an unknown section.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: not found; `notbugs preset digits` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    params = parse_params(text, str(path))
    for key in params:
        if key not in SECTIONS:
            raise ConfigError(f"{path}: {key}: unknown key{suggestion(str(key), SECTIONS)}")
    allow(texts(params), path.parent)
    return params


def parse_params(text: str, place: str) -> dict[str, Any]:
    """The sections that a YAML text holds; `place` is what errors call it.

    Raises: ConfigError if it is empty, no YAML, no mapping, or has a key twice.
    """
    try:
        require_shallow(text)
        params = yaml.load(text, Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None
    except (yaml.YAMLError, ValueError, TypeError) as error:  # also an impossible date, a list as key
        raise ConfigError(f"{place}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(params, dict) or not params:
        found = "an empty file" if params is None else f"a {type(params).__name__}"
        raise ConfigError(f"{place}: expected sections ({', '.join(SECTIONS)}), found {found}")
    return params


def value_at(params: Mapping[str, Any], key: str) -> Any:
    """What params.yaml holds under a dotted key; None where there is nothing, as DVC says it."""
    found: Any = params
    for name in key.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def settings(params: Mapping[str, Any], key: str, model: type[AnySettings]) -> AnySettings:
    """Validate the section `key` (dotted, such as "construct.rand") of params.yaml.

    Raises: ConfigError naming the key, the value and what is allowed.
    """
    section: Any = params
    place = ""
    for part in key.split("."):
        if not isinstance(section, Mapping) or part not in section:
            have = ", ".join(map(str, section)) if isinstance(section, Mapping) else ""
            raise ConfigError(f"{key}: not in params.yaml; {place or 'params.yaml'} has: {have or 'nothing'}")
        section, place = section[part], f"{place}.{part}".lstrip(".")
    return validate(section, key, model)


def validate(section: Any, key: str, model: type[AnySettings]) -> AnySettings:
    """Validate one mapping as `model`; `key` is its dotted place, for the error."""
    try:
        return model.model_validate({} if section is None else section)
    except ValidationError as error:
        raise ConfigError(_explain(error, key, model)) from None
    except UserError:
        raise
    except Exception as error:  # of a validator of somebody's own
        raise ConfigError(f"params.yaml: {key}: {raised(error)}") from error


def runtime(params: Mapping[str, Any]) -> Runtime:
    """Settings shared by all stages, from the top level of params.yaml."""
    shared = {key: params[key] for key in Runtime.model_fields if key in params}
    return validate(shared, "", Runtime)


_IN_YAML = {
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping (key: value)",
    "model_type": "a mapping (key: value)",
    "model_attributes_type": "a mapping (key: value)",
    "bool_type": "true or false",
}
"""Kind of pydantic's error -> what is allowed."""


def _explain(error: ValidationError, key: str, model: type[BaseModel]) -> str:
    """One line for the first thing that is wrong."""
    errors = error.errors(include_url=False)
    # A misspelt key is also a missing one: say what was misspelt.
    first = next((item for item in errors if item["type"] == "extra_forbidden"), errors[0])
    place = ".".join([*([key] if key else []), *(str(part) for part in first["loc"])])
    kind, value = first["type"], first["input"]
    if kind == "extra_forbidden":
        allowed = _fields_at(model, first["loc"][:-1])
        return f"params.yaml: {place}: unknown key{suggestion(str(first['loc'][-1]), allowed)}"
    if kind == "missing":
        return f"params.yaml: {place}: missing; it must be given"
    return f"params.yaml: {place} = {_shown(value)}: must be {_allowed(first)}"


def _allowed(error: ErrorDetails) -> str:
    """What pydantic would have taken, in the words of YAML."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in ("too_short", "too_long", "string_too_short"):
        bound = f"at most {context['max_length']}" if kind == "too_long" else f"at least {context['min_length']}"
        return f"a text of {bound} character" if kind.startswith("string") else f"a list of {bound}"
    return _IN_YAML.get(kind) or error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")


def _fields_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Field names of the (nested) model that an error location points into."""
    for part in loc:
        field = model.model_fields.get(str(part))
        inner = _model_in(field.annotation) if field else None
        if inner is None:
            break
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    candidates = [annotation, *getattr(annotation, "__args__", ())]
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)


def _shown(value: Any) -> str:
    short = reprlib.Repr()  # repr() alone would write out aliases that lie in aliases
    short.maxlevel, short.maxstring, short.maxother = 2, 60, 60
    text = " ".join(short.repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."


def suggestion(key: str, allowed: "tuple[str, ...] | list[str]") -> str:
    """What may have been meant by an unknown key, and what is allowed; for the end of an error."""
    return f"{meant(key, allowed)}; allowed: {', '.join(allowed)}"
