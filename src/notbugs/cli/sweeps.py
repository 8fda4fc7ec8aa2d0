"""`notbugs sweep`: studies run, joined, looked at, drawn and applied."""

from typing import Any

import click

from notbugs.cli.project import open_project, project_root
from notbugs.sweeps.stage import SWEEP


class _StudyOrCommand(click.Group):
    """`notbugs sweep NAME` is `notbugs sweep run NAME`."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        """The command that the arguments name; what is none is a study to run."""
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)


_STORAGE = click.option(
    "--storage",
    metavar="URL",
    help="Database of the study: sqlite:///FILE, or postgresql:// or mysql://USER:PASSWORD@HOST:PORT/DATABASE; "
    "else that of NOTBUGS_SWEEP_STORAGE, else sweeps/optuna.db.",
)


_HELP = f"""{SWEEP.help}

`notbugs sweep NAME --set 'eps=[0.5, 1.0]'` makes a new study in params.yaml and runs it.
"""


@click.group(cls=_StudyOrCommand, invoke_without_command=True, help=_HELP)
@click.pass_context
def sweep(ctx: click.Context) -> None:
    """Run every study, if no other command is given."""
    if ctx.invoked_subcommand is None:
        for name in open_project().names("sweep"):
            ctx.invoke(sweep_run, name=name)


@sweep.command("run")
@click.argument("name")
@click.option("--jobs", type=click.IntRange(1), help="Local worker processes; as many as the processors bear.")
@click.option("--replace", is_flag=True, help="Begin anew if the stored study has other settings or inputs.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="A new study: how it differs from the first."
)
@click.option("--scheduler", metavar="ADDRESS", help="Workers on this Dask cluster, which shares the project's folder.")
@_STORAGE
def sweep_run(
    name: str,
    jobs: int | None = None,
    scheduler: str | None = None,
    replace: bool = False,
    changes: tuple[str, ...] = (),
    storage: str | None = None,
) -> None:
    """Run the study NAME and draw it: what is done is not done again, an interrupted study goes on."""
    import os

    if changes:
        from notbugs.sweeps.editing import add_study

        add_study(project_root(), name, changes)
    from notbugs.sweeps.editing import best_points
    from notbugs.sweeps.session import run

    project, elsewhere = open_project(), None
    if scheduler is not None:
        from notbugs.pipeline.cluster.helpers import ClusterHelpers

        elsewhere = ClusterHelpers(project.root, project.runtime, scheduler)
    run(project, name, url=storage, jobs=jobs, replace=replace, elsewhere=elsewhere)
    click.echo(best_points(project_root(), name), err=True)
    if "DVC_STAGE" not in os.environ:  # the pipeline's report draws it too
        from notbugs.report.studies import write_figures

        write_figures(project_root(), name)
        click.echo(f"heatmaps and curves: sweeps/{name}/figures", err=True)


@sweep.command("worker")
@click.argument("name")
@_STORAGE
def sweep_worker(name: str, storage: str | None) -> None:
    """Be one more worker of the study NAME, on this or any other machine."""
    from notbugs.sweeps.session import join

    join(open_project(), name, url=storage)


@sweep.command("status")
@click.argument("name")
@_STORAGE
def sweep_status(name: str, storage: str | None) -> None:
    """Say how far the study NAME is, and what failed."""
    from notbugs.sweeps.session import status

    click.echo(status(open_project(), name, url=storage))


@sweep.command("apply")
@click.argument("name")
@click.option("--kind", help="Choose among the points of this dataset.")
@click.option("--eps", type=float, help="Choose among the points of this eps.")
@click.option("--num-steps", type=int, help="Choose among the points of so many steps.")
@click.option("--source-eps", type=float, help="Choose among the points of this eps of the source model.")
@click.option("--at", "axes", multiple=True, metavar="KEY=VALUE", help="Choose among the points of an axis's value.")
@click.option("--any", "any_point", is_flag=True, help="Also where fewer than 85% of the images still show y.")
def sweep_apply(
    name: str,
    kind: str | None,
    eps: float | None,
    num_steps: int | None,
    source_eps: float | None,
    axes: tuple[str, ...],
    any_point: bool,
) -> None:
    """Write the best point of the study NAME (by validation) into params.yaml; `dvc repro` then repeats it."""
    from notbugs.runtime.params_text import assignment
    from notbugs.sweeps.editing import apply

    wanted = {"kind": kind, "eps": eps, "num_steps": num_steps, "source_eps": source_eps}
    given = {key: value for key, value in wanted.items() if value is not None}
    given |= dict(assignment(item, " an axis of the study", option="--at") for item in axes)
    click.echo(apply(project_root(), name, given, any_point))


@sweep.command("figures")
@click.argument("name")
def sweep_figures(name: str) -> None:
    """Draw the heatmaps and curves of the study NAME again, into sweeps/NAME/figures."""
    from notbugs.report.studies import write_figures

    for file in write_figures(project_root(), name):
        click.echo(file)
