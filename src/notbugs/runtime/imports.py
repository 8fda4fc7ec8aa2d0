"""What a module really imports, read from the source: files of the package, and libraries with their versions.

Work that is kept is only as good as the code that did it. Which code that is, nobody writes down by hand: it is all
that the module doing the work imports, directly or not, at its top or inside a function.
"""

import ast
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

PACKAGE = __name__.partition(".")[0]
NO_EFFECT = tuple(
    f"{PACKAGE}.{part}"
    for part in (
        "cli",
        "pipeline.running.fork_server",
        "pipeline.running.jobs",
        "pipeline.running.probe",
        "runtime.machine",
        "runtime.memory",
        "runtime.process",
        "runtime.progress",
        "tracking",
    )
)
"""Parts of the package that start, show and send work: no result depends on them."""
_STATEMENT = re.compile(r"(?:^|[;:])[ \t]*((?:import|from)[ \t]+[\w.][^\n(]*(?:\([^)]*\))?)", re.MULTILINE)
_NAMED = re.compile(r"""\w\(\s*f?["']([A-Za-z_]\w*(?:\.\w+)*)\.?["'{]""")
"""A name, or how it begins, as the first argument of a call: so modules that use importlib say what they import."""


@cache
def made_with(*modules: str) -> dict[str, Any]:
    """What the work of some modules is made with: {"code": SHA-256, "libraries": {name: version}}.

    Args:
        modules: dotted names, of this package or anybody's own.
    """
    files, libraries = reached(*modules)
    return {"code": code_hash(files), "libraries": {name: version(name) for name in sorted(libraries)}}


def code_hash(files: Mapping[str, Path]) -> str:
    """SHA-256 of files and of the names that they are known by."""
    code = hashlib.sha256()
    for name in sorted(files):
        code.update(f"{name} {hashlib.sha256(source(files[name])).hexdigest()}\n".encode())
    return code.hexdigest()


@cache
def reached(*modules: str) -> tuple[dict[str, Path], frozenset[str]]:
    """All that importing some modules can load, themselves included: module -> source file, and names of libraries.

    Modules without an installed distribution are somebody's own code, and count like the package's.
    """
    files: dict[str, Path] = {}
    libraries: set[str] = set()
    todo = list(modules)
    while todo:
        name = todo.pop()
        top = name.partition(".")[0]
        if name in files or top in libraries or top in sys.stdlib_module_names or _has_no_effect(name):
            continue
        folder = _own_folder(top)
        if folder is None:
            if _spec_origin(top):
                libraries.add(top)
            continue
        file = _file(folder, name)
        if file is None:
            continue  # a name inside a module, which stands in the list too
        files[name] = file
        todo += [*_imported(file, name), *([name.rpartition(".")[0]] if "." in name else [])]
    return files, frozenset(libraries)


def _has_no_effect(name: str) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in NO_EFFECT)


@cache
def source(file: Path) -> bytes:
    """The bytes of a source file, read once."""
    return file.read_bytes()


@cache
def version(library: str) -> str | None:
    """Version of the distribution that a top-level module belongs to; None where it belongs to none."""
    if library == "torch":  # for what it was built is only known to itself
        import torch

        return str(torch.__version__)
    return _installed(library)


@cache
def _installed(library: str) -> str | None:
    """Version of an installed distribution, by what is noted of it; nothing is imported."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:  # scikit-learn, say, whose module is sklearn
        return _recorded_version(library)


def _recorded_version(library: str) -> str | None:
    """From the installed distribution that lists the module among its files; quicker than asking for all of them."""
    origin = _spec_origin(library)
    if origin is None:
        return None
    inside = f"{library}/__init__.py" if origin.name.startswith("__init__.") else origin.name
    folder = origin.parent.parent if "/" in inside else origin.parent
    wanted = f"\n{inside},".encode()
    for record in sorted(folder.glob("*.dist-info/RECORD")):
        if wanted in b"\n" + record.read_bytes():
            return record.parent.name.removesuffix(".dist-info").rpartition("-")[2]
    return None


def is_own(name: str) -> bool:
    """Whether a module is somebody's own code, of no installed distribution and not of this package."""
    top = name.partition(".")[0]
    return top != PACKAGE and top not in sys.stdlib_module_names and _own_folder(top) is not None


@cache
def _spec_origin(top: str) -> Path | None:
    """File that a top-level module is loaded from; None where there is none."""
    try:
        spec = util.find_spec(top)
    except (ImportError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.has_location else None


@cache
def _own_folder(top: str) -> Path | None:
    """Folder that holds a top-level module whose source counts as code; None for libraries and for nothing."""
    if top == PACKAGE:
        return Path(__file__).parents[2]
    origin = _spec_origin(top)
    if origin is None:
        return _namespace(top)
    if origin.suffix != ".py" or _installed(top) is not None:
        return None
    return origin.parents[1] if origin.name == "__init__.py" else origin.parent


def _namespace(top: str) -> Path | None:
    """Folder that holds a package without an __init__.py, unless it belongs to installed distributions."""
    try:
        spec = util.find_spec(top)
    except (ImportError, ValueError):
        return None
    places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    own = [place.parent for place in places if not {"site-packages", "dist-packages"} & set(place.parts)]
    return own[0] if own else None


@cache
def _file(folder: Path, name: str) -> Path | None:
    path = folder.joinpath(*name.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in candidates if file.is_file()), None)


@cache
def _imported(file: Path, module: str) -> frozenset[str]:
    """Dotted names that one file may import; of `from a import b` both a and a.b."""
    text = source(file).decode(errors="replace")
    found = {name for statement in _statements(text) for name in _names(statement, file, module)}
    if any(name.partition(".")[0] == "importlib" for name in found):
        found |= {name for name in _NAMED.findall(text) if name.partition(".")[0] != module}
    return frozenset(found)


def _statements(text: str) -> Iterator[ast.stmt]:
    """The import statements of a file; to parse no more than these takes a twentieth of the time."""
    for match in _STATEMENT.finditer(text.replace("\\\n", " ")):
        try:
            yield from ast.parse(match[1]).body
        except SyntaxError:
            continue  # a sentence of a docstring


def _names(statement: ast.stmt, file: Path, module: str) -> Iterator[str]:
    if isinstance(statement, ast.Import):
        yield from (alias.name for alias in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        base = statement.module or ""
        if statement.level:
            package = module if file.name == "__init__.py" else module.rpartition(".")[0]
            try:
                base = util.resolve_name("." * statement.level + base, package)
            except ImportError:  # beyond the top: whoever imports the module is told
                return
        yield base
        yield from (f"{base}.{alias.name}" for alias in statement.names)
