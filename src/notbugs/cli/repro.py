"""`notbugs repro`: the pipeline, with stages side by side."""

import click

from notbugs.cli.project import project_root


@click.command()
@click.argument("targets", nargs=-1)
@click.option("-j", "--jobs", type=click.IntRange(1), help="Stages, or tasks of them, at a time; as many as fit here.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on this Dask cluster, which shares the project's folder.")
@click.option("--dashboard", is_flag=True, help="Show Dask's own page, on loopback.")
@click.option("-f", "--force", is_flag=True, help="Run stages that did not change, too.")
@click.option("--force-downstream", is_flag=True, help="Run all that depends on a stage that ran.")
@click.option("-s", "--single-item", is_flag=True, help="Only TARGETS, not what they depend on.")
@click.option("--downstream", is_flag=True, help="TARGETS, and all that depends on them.")
@click.option("--pull", is_flag=True, help="Fetch from the remote what is missing.")
def repro(targets: tuple[str, ...], jobs: int | None, scheduler: str | None, dashboard: bool, **options: bool) -> None:
    """Do what `dvc repro` does, with the stages side by side whose inputs are ready.

    What is there afterwards is what `dvc repro` leaves. A stage that fails keeps back what depends on it; the others
    are finished. What a stage prints is in .notbugs/logs.
    """
    from notbugs.cluster.pipeline import Options
    from notbugs.cluster.place import Place
    from notbugs.cluster.repro import repro as run
    from notbugs.runtime.errors import ConfigError

    if jobs is not None and scheduler is not None:
        raise ConfigError("--jobs with --scheduler: a cluster has as many slots as its workers have threads; give one")
    ran = run(project_root(), targets, Options(**options), Place(jobs, scheduler, dashboard))
    click.echo(f"{ran} stages run or restored" if ran else "nothing to do: data and pipelines are up to date", err=True)
