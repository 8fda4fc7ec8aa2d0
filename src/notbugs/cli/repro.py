"""`notbugs repro`: the pipeline, with stages side by side."""

from typing import Any

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
@click.option("--track", is_flag=True, help="Then do what `notbugs track` does; if it cannot, nothing is lost.")
@click.option("--simulate", metavar="N,N,...", help="Run nothing; say what all of it would take with so many slots.")
def repro(
    targets: tuple[str, ...],
    jobs: int | None,
    scheduler: str | None,
    dashboard: bool,
    track: bool,
    simulate: str | None,
    **options: bool,
) -> None:
    """Do what `dvc repro` does, with the stages side by side whose inputs are ready.

    What is there afterwards is what `dvc repro` leaves. A stage that fails keeps back what depends on it; the others
    are finished. What a stage prints is in .notbugs/logs. After the whole pipeline the table of accuracies is printed.
    """
    from notbugs.cli.results import print_accuracies
    from notbugs.cli.tracking import brought_in_line
    from notbugs.pipeline.cluster.dvc_steps import Options
    from notbugs.pipeline.cluster.place import Place
    from notbugs.pipeline.cluster.repro import repro as run
    from notbugs.runtime.errors import ConfigError

    if jobs is not None and scheduler is not None:
        raise ConfigError("--jobs with --scheduler: a cluster has as many slots as its workers have threads; give one")
    if simulate is not None:
        _simulate(targets, Options(**options), simulate)
        return
    ran = run(project_root(), targets, Options(**options), Place(jobs, scheduler, dashboard))
    click.echo(f"{ran} stages run or restored" if ran else "nothing to do: data and pipelines are up to date", err=True)
    if track:
        brought_in_line(project_root())
    if not targets and (project_root() / "metrics" / "results.csv").exists():
        print_accuracies(project_root())


def _simulate(targets: tuple[str, ...], options: Any, numbers: str) -> None:
    """Print what the stages would take with some numbers of slots, by what they took here."""
    from notbugs.pipeline.cluster.dvc_steps import open_pipeline
    from notbugs.pipeline.cluster.schedule import read_costs
    from notbugs.pipeline.cluster.simulate import simulate
    from notbugs.runtime.errors import ConfigError

    try:
        slots = [int(number) for number in numbers.split(",")]
    except ValueError:
        slots = [0]
    if min(slots) < 1:
        raise ConfigError(f"--simulate {numbers}: numbers of slots, separated by commas; each at least 1")
    root = project_root()
    with open_pipeline(root, options) as pipeline:
        steps = pipeline.plan(targets)
    costs = read_costs(root)
    click.echo("simulated from what the stages took here, not run")
    click.echo(f"{'slots':>5} {'seconds':>8} {'busy':>5}  at least, and the longest chain")
    for found in (simulate(steps, costs, number) for number in slots):
        chain = " > ".join(found.chain)
        click.echo(f"{found.slots:5} {found.seconds:8.0f} {found.busy:5.0%}  {found.bound:.0f}: {chain}")
