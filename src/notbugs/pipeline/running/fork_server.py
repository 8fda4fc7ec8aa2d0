"""The process that worker processes are forked from (`pipeline.running.jobs`). Importing this is quick."""

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

from notbugs.runtime.config import read_params
from notbugs.runtime.errors import UserError

PRELOADED = [
    "notbugs.pipeline.train",
    "notbugs.pipeline.construct",
    "notbugs.pipeline.evaluate.measuring",
    "notbugs.pipeline.science",
    "notbugs.science.planted.study",
    "torch._dynamo",  # three seconds, which each worker would spend on its first optimizer
]
"""What it imports before it forks."""
ONLY = {"report": ["notbugs.report.page"]}
"""Stage -> what it imports instead, for workers that do not learn."""


_needed = True
"""Whether this process starts workers of its own."""


def leave_to_others() -> None:
    """Start none: others' workers do this process's tasks."""
    global _needed
    _needed = False


def context() -> ForkServerContext:
    """How workers are started."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


def begin_early(root: Path, stage: str) -> None:
    """Start it, where params.yaml asks for workers: it imports torch while the stage does so itself.

    What is wrong with params.yaml is for the stage to say.

    Args:
        root: of the project.
        stage: whose workers it is for.
    """
    if not _needed:
        return
    try:
        params = read_params(root / "params.yaml")
    except UserError:
        return
    if params.get("jobs", 1) != 1 and params.get("device") != "cuda":
        context().set_forkserver_preload(ONLY.get(stage, PRELOADED))
        forkserver.ensure_running()
