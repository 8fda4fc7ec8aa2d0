"""One command a stage of dvc.yaml. `evaluate` and `sweep` can do more, and have modules of their own."""

import click

from notbugs.cli.project import open_project, project_root
from notbugs.pipeline.running.stage import Stage
from notbugs.pipeline.stages import STAGES
from notbugs.sweeps.stage import SWEEP

ALL_STAGES = {**STAGES, SWEEP.name: SWEEP}
"""Every stage of the pipeline, by name."""
WITH_MORE = ("evaluate", "sweep")
"""Stages whose commands have options."""


def stage_commands() -> list[click.Command]:
    """The commands of all others."""
    return [_command(stage) for stage in ALL_STAGES.values() if stage.name not in WITH_MORE]


def _command(stage: Stage) -> click.Command:
    def run(name: str | None = None) -> None:
        """Do the stage's work in the project here."""
        run_here(stage, name)

    params: list[click.Parameter] = [click.Argument(["name"])] if stage.by_name else []
    return click.Command(stage.name, callback=run, params=params, help=stage.help)


def run_here(stage: Stage, name: str | None = None) -> None:
    """Do a stage's work in the project that the current folder is in."""
    if stage.workers:
        from notbugs.pipeline.running.fork_server import begin_early

        begin_early(project_root())
    from notbugs.pipeline.running.job import perform

    perform(stage, open_project(), name)
