"""The command line, a module for each kind of command.

Commands import what they need when they run: `notbugs --help` does not wait for torch.
"""

import sys
from typing import Any

import click

from notbugs.cli import (
    cleaning,
    code,
    copying,
    exchange,
    inspect,
    new,
    params,
    plots,
    recording,
    repro,
    results,
    stages,
    sweeps,
    tracking,
)
from notbugs.cli.own_source import run_own_source
from notbugs.runtime.errors import UserError
from notbugs.runtime.machine import refuse_windows

GROUPS = {
    "Pipeline": ("repro", "results", "plots", "diagnose", "track", "ui", "register", "check"),
    "Project": ("new", "preset", "copy", "record", "compare", "clean", "push", "code"),
    "Data and models": ("inspect", "export", "import", "import-model"),
    "Sweeps": ("sweep",),
    "Stages, which `notbugs repro` and `dvc repro` run": (
        *("prepare", "train", "construct", "fit", "evaluate", "transfer", "inversion", "diversity", "estimator"),
        *("features", "planted", "gaussian", "science", "report"),
    ),
}
"""Heading of `notbugs --help` -> commands, in the order in which one wants them."""


class _OneLineErrors(click.Group):
    """Shows what the user can mend as one line, and what was interrupted without a traceback."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands in groups; one that no group names stands at the end."""
        named = {name for group in GROUPS.values() for name in group}
        others = tuple(name for name in self.list_commands(ctx) if name not in named)
        for heading, names in {**GROUPS, "Others": others}.items():
            there = {name: self.get_command(ctx, name) for name in names}
            rows = [(name, _in_short(command)) for name, command in there.items() if command is not None]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def main(self, args: Any = None, *others: Any, **settings: Any) -> Any:
        """Begin: on a system that the package runs on and, from a terminal, with the project's own code."""
        try:
            refuse_windows()
            if args is None:  # typed by somebody, not called from Python
                run_own_source()
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            sys.exit(error.exit_code)
        return super().main(args, *others, **settings)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; it exits with the error's own code, 1 for a failing disk, 130 if interrupted."""
        try:
            return super().invoke(ctx)
        except UserError as error:
            click.echo(f"error: {error}", err=True)
            ctx.exit(error.exit_code)
        except OSError as error:  # a folder where a file should be, a disk that fails
            if error.errno is None or isinstance(error, BrokenPipeError):  # `| head`: click sees to it
                raise
            place = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {place}{str(error.strerror).lower()}", err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(130)


def _in_short(command: click.Command) -> str:
    """The first sentence of its help, without the word that all stages begin with."""
    said = command.get_short_help_str(limit=200).removeprefix("Stage: ").partition(". ")[0]
    return said[:1].upper() + said[1:]


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="notbugs")
def main() -> None:
    """A laboratory for robust and non-robust features.

    `notbugs repro` runs the stages side by side, `dvc repro` one after another, each only if something that it
    depends on changed. Settings are read from params.yaml. `notbugs COMMAND --help` says more.
    """


for command in (
    *stages.stage_commands(),
    repro.repro,
    stages.evaluate,
    stages.diagnose,
    sweeps.sweep,
    params.check,
    params.preset,
    inspect.inspect_command,
    results.results,
    results.compare,
    plots.plots,
    recording.record,
    exchange.export_command,
    exchange.import_command,
    exchange.import_model_command,
    tracking.track,
    tracking.push,
    tracking.ui,
    tracking.register,
    cleaning.clean,
    new.new,
    copying.copy,
    code.code,
):
    main.add_command(command)
