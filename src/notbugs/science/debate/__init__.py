"""The debate about the paper: what each side measured, put to this pipeline's data and models.

A part is a module of this folder with a `QUESTION`, and a template of the same name for its section of the report;
params.yaml asks for it by the module's name: `science: {leakage: {study: leakage, ...}}`.
"""

from importlib import import_module
from pkgutil import iter_modules

from notbugs.science.common.question import Question


def questions() -> dict[str, Question]:
    """Every part, by the name of its module."""
    names = (module.name for module in iter_modules(__path__) if not module.name.startswith("_"))
    return {name: import_module(f"notbugs.science.debate.{name}").QUESTION for name in names}
