"""`notbugs code`: what code each stage runs, for DVC to watch where the package is no folder of the project.

code.json holds one hash for each stage, or for each entry of its section: of all files of the package that the stage
imports, and of the user's own modules that its params name. A change of either runs again what uses it, and no more.
"""

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import click

import notbugs
from notbugs.cli.project import project_root
from notbugs.cli.stages import ALL_STAGES
from notbugs.pipeline.running.stage import Stage

PACKAGE = Path(notbugs.__file__).parent


@click.command()
def code() -> None:
    """Stage of a project of `notbugs new`: write code.json, by which DVC sees an upgrade and your own code."""
    from importlib.metadata import version

    from notbugs.pipeline.running.own_code import CODE_FILE
    from notbugs.runtime.config import read_params
    from notbugs.runtime.files import write_json

    root = project_root()
    params = read_params(root / "params.yaml")
    stages = {name: _of_entries(params, stage) for name, stage in ALL_STAGES.items()}
    write_json(root / CODE_FILE, {"notbugs": version("notbugs"), "stages": stages})


def _of_entries(params: Mapping[str, Any], stage: Stage) -> str | dict[str, str]:
    """The hash of a stage's code; of one that is run by name, of each entry."""
    if not stage.by_name:
        return code_of(params, stage)
    entries = params.get(stage.section or stage.name)
    return {str(name): code_of(params, stage, str(name)) for name in entries} if isinstance(entries, Mapping) else {}


def code_of(params: Mapping[str, Any], stage: Stage, name: str | None = None) -> str:
    """SHA-256 of all code that a stage runs, and of the files that lie in the rooms of the package beside it."""
    from notbugs.pipeline.running.own_code import modules_named
    from notbugs.runtime.imports import code_hash, reached

    files = dict(reached(*stage.modules, *modules_named(params, stage.keys(name)))[0])
    rooms = {module.split(".")[1] for module in files if module.startswith("notbugs.")}
    for room in rooms:
        files |= _beside(room)
    if stage.name == "report":
        files |= _pages(params)
    return code_hash(files)


def _pages(params: Mapping[str, Any]) -> dict[str, Path]:
    """Templates that stand beside the modules of questions, which the report shows and no stage imports."""
    from notbugs.runtime.beside import page_of
    from notbugs.runtime.registry import own_modules

    found = {f"page of {module}": page_of(module) for module in own_modules(params.get("science"))}
    return {**_beside("science"), **{name: file for name, file in found.items() if file is not None}}


@cache
def _beside(room: str) -> dict[str, Path]:
    """Files of a room that are no Python: templates, lists."""
    found = [file for file in (PACKAGE / room).rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")]
    return {file.relative_to(PACKAGE).as_posix(): file for file in found}
