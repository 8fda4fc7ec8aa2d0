"""The project that a command works in. Imports are lazy: only stages wait for torch."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from notbugs.stages.context import Context


def project_root() -> Path:
    """The project folder, from the current one upwards.

    Raises: ConfigError if there is none.
    """
    from notbugs.config import find_root

    return find_root()


def open_project() -> "Context":
    """The project with its params and its device; loads torch.

    Raises: ConfigError if there is none, or params.yaml is wrong.
    """
    from notbugs.stages import context

    return context.open_project(project_root())
