"""What a module reaches by imports, beside what was loaded in the end."""

import ast
from collections.abc import Iterable
from pathlib import Path

from notbugs.runtime import imports


def parsed_imports(file: Path, module: str) -> set[str]:
    """Names that a file imports, by Python's own parser."""
    nodes = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)]
    return {name for node in nodes for name in imports._names(node, file, module)}


def assert_all_reached(loaded: Iterable[str], *modules: str) -> None:
    """Each of the package's modules that was loaded is reached by `modules`, or was loaded by what has no effect alone.

    Tracking, say, has helpers in `runtime` that nothing else imports.
    """
    files = imports.reached(*modules)[0]
    wanted = {name for reached, file in files.items() for name in parsed_imports(file, reached)}
    unreached = {name for name in loaded if not imports._has_no_effect(name)} - set(files)
    assert not unreached & wanted, modules
    assert all(name.startswith("notbugs.runtime.") for name in unreached), modules
