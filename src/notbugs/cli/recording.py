"""`notbugs record`: what Git is to hold of a finished run whose data and models are too large for it."""

from pathlib import Path

import click

from notbugs.cli.project import PathFromHome, project_root


@click.command()
@click.argument("folder", type=PathFromHome())
@click.option("--title", help="What D is called; else the name of its source.")
def record(folder: Path, title: str | None) -> None:
    """Write a recording of this project's finished run into FOLDER, in place of an earlier one.

    It holds params.yaml, dvc.lock with the hashes of all data and models, the metrics, the report, and what each stage
    took, on which machine.
    """
    from notbugs.pipeline.cluster.schedule import read_costs
    from notbugs.report.recording import require_recordable, write_recording
    from notbugs.runtime.dvc_lock import read_lock
    from notbugs.runtime.errors import UserError
    from notbugs.runtime.machine import usable_processors
    from notbugs.tracking.costs import StageCost, stage_costs
    from notbugs.tracking.store import TrackingError

    root = project_root()
    require_recordable(root, folder)
    try:
        costs = stage_costs(root)
    except TrackingError as error:
        raise UserError(f"MLflow, which knows what each stage took: {error}") from None
    tracked = {cost.command for cost in costs}
    last = read_costs(root)  # of a run without tracking `notbugs repro` knows the last of each
    for entry in read_lock(root / "dvc.lock"):
        if entry.command not in tracked and entry.address in last:
            costs.append(StageCost(entry.command, 1, last[entry.address].at_least(usable_processors())))
    write_recording(root, folder, [vars(cost) for cost in costs], title=title)
    minutes = sum(cost.seconds for cost in costs) / 60
    click.echo(f"written: {folder}, a run of {len(costs)} stages in {minutes:.0f} minutes")
