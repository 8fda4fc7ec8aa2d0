"""The project that a command works in. Imports are lazy: only stages wait for torch."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from notbugs.pipeline.running.context import Context


class PathFromHome(click.Path):
    """A path that may begin with ~, which shells leave as it is behind a "=" (`--out=~/det`)."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """With the home of the user in its place."""
        return super().convert(os.path.expanduser(value), param, ctx)  # noqa: PTH111 (Path's raises for nobody's ~name)


def project_root() -> Path:
    """The project folder, from the current one upwards.

    Raises: ConfigError if there is none.
    """
    from notbugs.runtime.config import find_root

    return find_root()


def open_project() -> "Context":
    """The project with its params and its device; loads torch.

    Raises: ConfigError if there is none, or params.yaml is wrong.
    """
    from notbugs.pipeline.running import context

    return context.open_project(project_root())
