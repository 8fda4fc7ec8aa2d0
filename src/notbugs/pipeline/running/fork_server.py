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
    "notbugs.report.page",
    "torch._dynamo",  # three seconds, which each worker would spend on its first optimizer
]
"""What it imports before it forks."""


def context() -> ForkServerContext:
    """How workers are started."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload(PRELOADED)
    return found


def begin_early(root: Path) -> None:
    """Start it, where params.yaml asks for workers: it imports torch while the stage does so itself.

    What is wrong with params.yaml is for the stage to say.
    """
    try:
        params = read_params(root / "params.yaml")
    except UserError:
        return
    if params.get("jobs", 1) != 1 and params.get("device") != "cuda":
        context()
        forkserver.ensure_running()
