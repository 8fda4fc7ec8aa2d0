"""The template that stands beside the module of a question, and says in the report what its numbers mean.

`margin.html.j2` beside `margin.py`: a Jinja template with a macro `page(found)`, `found` being the metrics.
"""

from importlib.util import find_spec
from pathlib import Path

from notbugs.runtime.imports import PACKAGE
from notbugs.runtime.registry import named_modules

SUFFIX = ".html.j2"


def page_of(module: str) -> Path | None:
    """The template beside a module, which is not imported; None where there is none.

    A template can run code, so that of a module which is not the package's own counts only where params.yaml names it.
    """
    if not (module.startswith(f"{PACKAGE}.") or module in named_modules()):
        return None
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):  # ValueError: of a module without a specification
        return None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    file = Path(spec.origin)
    file = file.with_name(file.stem + SUFFIX)
    return file if file.is_file() else None


def has_page(module: str | None) -> bool:
    """Whether there is a template beside a module."""
    return bool(module) and page_of(str(module)) is not None
