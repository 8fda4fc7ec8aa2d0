"""Names in params.yaml, and the parts that they stand for: built in, of a library, of a package, or the user's own.

    architecture: small_cnn               # built in
    architecture: torchvision:resnet34    # of a library, after its prefix
    architecture: their_network           # of an installed package: an entry point of the group notbugs.models
    architecture: lab.networks:wide       # the user's own: `wide` of the module lab.networks, in the project or its src

Code that is not the package's own is imported only because params.yaml (or a call of `allow`) names it. A stored file
can name it too, a model's description, say; that alone imports nothing.
"""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from notbugs.runtime.errors import UserError, meant, raised
from notbugs.runtime.imports import is_own

Part = TypeVar("Part")
OWN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
"""What the name of a part of the user's own looks like: package.module:attribute."""
_allowed: set[str] = set()
_folders: list[str] = []


class RegistryError(UserError):
    """A name that stands for nothing here. The message says what is allowed, to be read after "must be"."""


class Registry(Generic[Part]):
    """Parts of one kind by their names.

    Args:
        kind: what they are, in the plural; packages add theirs under the entry-point group notbugs.<kind>.
        built_in: name -> part.
        libraries: prefix -> what makes a part of the name behind it; a library is imported only then.
        adapt: what makes a part of what a package or a user gives; None takes it as it is.
    """

    def __init__(
        self,
        kind: str,
        built_in: Mapping[str, Part],
        *,
        libraries: Mapping[str, Callable[[str], Part]] | None = None,
        adapt: Callable[[Any], Part] | None = None,
    ) -> None:
        self.kind, self.built_in, self.libraries = kind, dict(built_in), dict(libraries or {})
        self._adapt = adapt or (lambda given: given)

    def __iter__(self) -> Iterator[str]:
        """The names that are built in."""
        return iter(self.built_in)

    def __len__(self) -> int:
        """How many are built in."""
        return len(self.built_in)

    def __contains__(self, name: object) -> bool:
        """Whether a name is built in."""
        return name in self.built_in

    def __getitem__(self, name: str) -> Part:
        """The part of a name.

        Raises: RegistryError if there is none, or if it cannot be imported.
        """
        if name in self.built_in:
            return self.built_in[name]
        prefix, _, rest = name.partition(":")
        if rest and prefix in self.libraries:
            return self.libraries[prefix](rest)
        if rest and OWN.fullmatch(name):
            _require_allowed(name)
            return self._adapted(name, _attribute(name))
        packaged = _packaged(f"notbugs.{self.kind}")
        if name in packaged:
            _require_allowed(name)
            return self._adapted(name, _loaded(packaged[name]))
        raise RegistryError(self._choices(name, packaged))

    def _adapted(self, name: str, given: Any) -> Part:
        try:
            return self._adapt(given)
        except UserError:
            raise
        except Exception as error:  # of an attribute that is computed
            raise RegistryError(f"usable: {name} {raised(error)}") from None

    def check(self, name: str) -> str:
        """The name, if it stands for a part; what pydantic calls for a setting.

        Raises: RegistryError.
        """
        self[name]
        return name

    def _choices(self, name: str, packaged: Iterable[str]) -> str:
        """What is allowed, and what was perhaps meant."""
        known = [*self.built_in, *packaged]
        listed = [*known, *(f"{prefix}:NAME" for prefix in self.libraries)]
        return f"one of {', '.join(listed)} or package.module:attribute of your own{meant(name, known)}"


def allow(names: Iterable[str], folder: Path | None = None) -> None:
    """Let names of the user's own, and of installed packages, be imported.

    Args:
        names: what was named by a person: the texts of params.yaml.
        folder: of the project: modules are looked for there and in its src, besides where Python looks.
    """
    _allowed.update(names)
    for place in () if folder is None else (folder / "src", folder):
        text = str(place.resolve())
        if text not in sys.path:
            sys.path.append(text)
        if text not in _folders:
            _folders.append(text)


def texts(value: Any) -> set[str]:
    """All texts in nested settings, but for keys; what an alias of YAML repeats, itself even, is looked at once."""
    found: set[str] = set()
    seen: set[int] = set()
    left = [value]
    while left:
        one = left.pop()
        if isinstance(one, str):
            found.add(one)
        elif isinstance(one, Mapping | list | tuple) and id(one) not in seen:
            seen.add(id(one))
            left += one.values() if isinstance(one, Mapping) else one
    return found


def own_modules(value: Any) -> set[str]:
    """Modules of the user's own that nested settings name: those that can be found, without importing them."""
    named = {text.partition(":")[0] for text in texts(value) if OWN.fullmatch(text) and text in _allowed}
    return {name for name in named if is_own(name)}


def named_modules() -> set[str]:
    """Modules that may be imported because somebody named what is in them, or an entry point of theirs."""
    named = {text.partition(":")[0] for text in _allowed if OWN.fullmatch(text)}
    groups = entry_points()
    for group in groups.groups:
        if group.startswith("notbugs."):
            named |= {entry.module for entry in groups.select(group=group) if entry.name in _allowed}
    return named


def _require_allowed(name: str) -> None:
    if name not in _allowed:
        raise RegistryError(
            f"named in params.yaml, too, to be imported (in a notebook: notbugs.allow([{name!r}])): a stored file "
            "alone runs nobody's code"
        )


def _attribute(name: str) -> Any:
    """What package.module:attribute names.

    Raises: RegistryError.
    """
    module_name, _, path = name.partition(":")
    found: Any = _module(module_name)
    for part in path.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            there = [key for key in vars(found) if not key.startswith("_")] if hasattr(found, "__dict__") else []
            place = getattr(sys.modules[module_name], "__file__", module_name)
            raise RegistryError(f"something that is there: {place} has no {part}{meant(part, there)}") from None
        except Exception as error:  # of a module's own `__getattr__`
            raise RegistryError(f"importable: {name} {raised(error)}") from None
    return found


def _module(name: str) -> ModuleType:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            places = ", ".join([*_folders, "the installed packages"])
            raise RegistryError(f"something that is there: no module {error.name} in {places}") from None
        raise RegistryError(f"importable: {name} {raised(error)}") from None
    except (Exception, SystemExit) as error:
        raise RegistryError(f"importable: {name} {raised(error)}") from None


def _loaded(entry: EntryPoint) -> Any:
    try:
        return entry.load()
    except (Exception, SystemExit) as error:
        raise RegistryError(f"importable: {entry.value} {raised(error)}") from None


@cache
def _packaged(group: str) -> dict[str, EntryPoint]:
    """Name -> entry point of what installed packages add."""
    return {entry.name: entry for entry in entry_points(group=group)}
