"""One command a stage of dvc.yaml. `evaluate` can measure one model, too; `sweep` has a module of its own."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from notbugs.cli.project import open_project, project_root
from notbugs.pipeline.running.stage import Stage
from notbugs.pipeline.stages import STAGES
from notbugs.runtime.errors import UserError
from notbugs.sweeps.stage import SWEEP

if TYPE_CHECKING:
    import torch

ALL_STAGES = {**STAGES, SWEEP.name: SWEEP}
"""Every stage of the pipeline, by name."""
WITH_MORE = ("evaluate", "diagnose", "sweep")
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

        begin_early(project_root(), stage.name)
    from notbugs.pipeline.running.job import perform

    perform(stage, open_project(), name)


@click.command(help=STAGES["evaluate"].help)
@click.option(
    "--model", metavar="FILE|MODULE:FACTORY", help="Measure one model instead: a file, or a network of yours."
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="Weights of MODULE:FACTORY's network: .safetensors, or what torch.save wrote.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Stored dataset to measure it on, such as data/test.")
@click.option("--level", type=click.Choice(["quick", "standard", "paper"]), help="How thoroughly; else params.yaml's.")
@click.option("--eps", "headline_eps", type=float, help="Radius of the attacks; else params.yaml's.")
@click.option("--norm", metavar="NAME", help="Norm of the attacks: l2, linf, l1 or your own; else params.yaml's.")
@click.option("--loss", metavar="NAME", help="What PGD climbs: cross_entropy, margin or your own; else params.yaml's.")
@click.option("--transfer-from", type=click.Path(path_type=Path), help="A model file whose adversarial images to try.")
@click.option("--out", type=click.Path(path_type=Path), help="Write what was found as JSON.")
def evaluate(
    model: str | None,
    weights: Path | None,
    data: Path | None,
    transfer_from: Path | None,
    out: Path | None,
    **changes: str | float | None,
) -> None:
    """Run the stage, or measure one model."""
    given = {key: value for key, value in changes.items() if value is not None}
    if model is None and data is None:
        if weights or transfer_from or out or given:
            raise UserError("notbugs evaluate: options need --model and --data; without them it is the stage")
        run_here(STAGES["evaluate"])
        return
    if model is None or data is None:
        raise UserError("notbugs evaluate: --model and --data must be given together")
    from notbugs.cli.one_model import measure_file, print_found, save_found

    found = measure_file(
        model, data, weights=weights, transfer_from=transfer_from, changes=given, device=_device_of_params()
    )
    print_found(found)
    if out is not None:
        save_found(found, out)


@click.command(help=STAGES["diagnose"].help)
@click.argument("name", required=False)
def diagnose(name: str | None) -> None:
    """Run the stage, or print the diagnosis of one construction."""
    if name is None:
        run_here(STAGES["diagnose"])
        return
    from notbugs.pipeline.diagnose import diagnosis_of
    from notbugs.science.causes import lines

    for line in lines(name, *diagnosis_of(open_project(), name)):
        click.echo(line)


def _device_of_params() -> "torch.device":
    """Set torch up as params.yaml here asks for, if there is one; else by its defaults, in float32."""
    from notbugs.cli.one_model import params_here
    from notbugs.pipeline.running.context import set_up_torch
    from notbugs.runtime.config import Runtime, runtime

    params = params_here()
    return set_up_torch(runtime(params) if params else Runtime(precision="float32"))[0]
