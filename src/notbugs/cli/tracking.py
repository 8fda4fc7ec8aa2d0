"""`notbugs track`, `ui`, `register` and `push`: MLflow brought in line and served; what was run, sent to others."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from notbugs.cli.project import project_root
from notbugs.runtime.errors import UserError

if TYPE_CHECKING:
    from notbugs.runtime.dvc_lock import LockEntry


@click.command()
def track() -> None:
    """Bring MLflow in line with dvc.lock: add what an outage or DVC's run cache kept out of it.

    The runs of all stages are put into DVC's run cache too, so that going back to these settings restores them, and
    finished sweeps whose results came from Git into Optuna's database. Exits with 1 if MLflow, that database or the run
    cache could not be brought in line; nothing is lost then.
    """
    if not brought_in_line(project_root()):
        sys.exit(1)


def brought_in_line(root: Path) -> bool:
    """Whether MLflow, Optuna's database and DVC's run cache hold what dvc.lock says now; what is missing is said."""
    from notbugs.pipeline.running.run_cache import RunCacheError, keep_runs
    from notbugs.sweeps.restoring import finished_studies, restore
    from notbugs.tracking.reconcile import track as bring_in_line

    complete = True
    try:
        for name in restore(root):
            click.echo(f"sweep {name}: its trials in sweeps/{name} were put into Optuna's database", err=True)
    except ModuleNotFoundError as error:
        click.echo(
            f"notbugs: {error.name} is not installed, so finished sweeps are not put into its database", err=True
        )
    except UserError as error:
        click.echo(f"notbugs: {error}", err=True)
        complete = False
    summary = bring_in_line(root, studies=finished_studies(root), settings=settings_in_lock)
    if summary.changed or summary.skipped or not summary.ok:
        click.echo(str(summary), err=True)
    complete = complete and summary.ok
    try:
        keep_runs(root)
    except RunCacheError as error:  # another `dvc` at work, say: nothing is lost, and the next time makes it good
        click.echo(f"notbugs: {error}", err=True)
        complete = False
    return complete


def settings_in_lock(entry: "LockEntry") -> dict[str, Any] | None:
    """Settings of a stage in dvc.lock as a run of it has them; None where they are of another version.

    Slow at first, since it imports what the stages are made of; so it is asked only for runs that are missing.
    """
    from notbugs.pipeline.running.job import tracked_settings
    from notbugs.pipeline.stages import STAGES

    if entry.stage not in STAGES:
        return None
    try:
        return tracked_settings(STAGES[entry.stage], _nested(entry.params.get("params.yaml", {})), entry.name)
    except Exception:  # also what code of one's own raises that is not here any more: dvc.lock's own words will do
        return None


def _nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    """Params as params.yaml has them, from dvc.lock's dotted keys."""
    found: dict[str, Any] = {}
    for key, value in dotted.items():
        *parents, last = key.split(".")
        section = found
        for part in parents:
            section = section.setdefault(part, {})
        section[last] = value
    return found


@click.command()
@click.option("-r", "--remote", help="Name of the DVC remote; else the default one.")
def push(remote: str | None) -> None:
    """Send DVC's run cache, with all that it restores, to a remote; `dvc push` sends what dvc.lock names."""
    from notbugs.pipeline.running.run_cache import push_runs

    click.echo(push_runs(project_root(), remote))


@click.command()
@click.argument("name")
@click.option("--alias", help="Name that this version gets, such as champion; another version loses it.")
@click.option("--as", "registered", metavar="MODEL", help="Registered model; else EXPERIMENT-KIND: digits-standard.")
def register(name: str, alias: str | None, registered: str | None) -> None:
    """Register the model NAME in MLflow: standard/0, det/source-0/seed-1, or a path under models/."""
    from notbugs.tracking.registering import register as put

    click.echo(put(project_root(), name, alias, registered))


@click.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
def ui(port: int) -> None:
    """Serve the MLflow UI of this project on loopback."""
    from notbugs.sweeps.restoring import finished_studies
    from notbugs.tracking.server import serve

    serve(project_root(), port, studies=finished_studies(project_root()), settings=settings_in_lock)
