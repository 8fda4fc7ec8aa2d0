"""The command line. Imports are lazy: `notbugs --help` does not wait for torch."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from notbugs.errors import UserError
from notbugs.formats.commands import export_command, import_command

Command = TypeVar("Command", bound=Callable[..., Any])


class _OneLineErrors(click.Group):
    """Shows what the user can mend as one line, and what was interrupted without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
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


@click.group(cls=_OneLineErrors, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="notbugs")
def main() -> None:
    """A laboratory for robust and non-robust features.

    `dvc repro` runs the stages below in order, each only if something that it depends on changed; they can
    also be run one by one. Settings are read from params.yaml.
    """


main.add_command(export_command)
main.add_command(import_command)


def _project() -> Any:
    from notbugs.config import find_root
    from notbugs.stages.context import open_project

    return open_project(find_root())


def _headline_eps() -> float:
    """From params.yaml, without loading torch to validate all of it."""
    from notbugs.config import read_params
    from notbugs.errors import ConfigError

    params = read_params(_root() / "params.yaml")
    try:
        return float(params["evaluate"]["headline_eps"])
    except (KeyError, TypeError, ValueError):
        raise ConfigError("params.yaml: evaluate.headline_eps: must be given, a number > 0") from None


def _check_fingerprint(root: Path) -> str:
    """Changes with params.yaml and with the package: what was valid under both need not load torch again."""
    import hashlib

    params = root / "params.yaml"
    text = params.read_bytes() if params.is_file() else b""
    modules = sorted(Path(__file__).parent.rglob("*.py"))
    stats = [(module.name, module.stat().st_size, module.stat().st_mtime_ns) for module in modules]
    return hashlib.sha256(text + repr(stats).encode()).hexdigest()


def _root() -> Path:
    from notbugs.config import find_root

    return find_root()


@main.command()
def prepare() -> None:
    """Stage: read D from its source and split it into train, validation and test."""
    from notbugs.stages.prepare import prepare as stage

    stage(_project())


@main.command()
@click.argument("name")
def train(name: str) -> None:
    """Stage: train the source models NAME (standard or robust) on D."""
    from notbugs.stages.train import train as stage

    stage(_project(), name)


@main.command()
@click.argument("name")
def construct(name: str) -> None:
    """Stage: make the dataset NAME (robust, nonrobust, rand, det, ...) from D."""
    from notbugs.stages.construct import construct as stage

    stage(_project(), name)


@main.command()
@click.argument("name")
def fit(name: str) -> None:
    """Stage: train classifiers from scratch on the constructed dataset NAME."""
    from notbugs.stages.fit import fit as stage

    stage(_project(), name)


@main.command()
@click.option(
    "--model", metavar="FILE|MODULE:FACTORY", help="Measure one model instead: a file, or a network of yours."
)
@click.option("--weights", type=click.Path(path_type=Path), help="State of MODULE:FACTORY's network (.safetensors).")
@click.option("--data", type=click.Path(path_type=Path), help="Stored dataset to measure it on, such as data/test.")
@click.option("--level", type=click.Choice(["quick", "standard", "paper"]), help="How thoroughly; else params.yaml's.")
@click.option("--eps", "headline_eps", type=float, help="Radius of the attacks; else params.yaml's.")
@click.option("--norm", type=click.Choice(["l2", "linf"]), help="Norm of the attacks; else params.yaml's.")
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
    """Stage: measure every model on the test split. With --model and --data: measure that model."""
    given = {key: value for key, value in changes.items() if value is not None}
    if model is None and data is None:
        if weights or transfer_from or out or given:
            raise UserError("notbugs evaluate: options need --model and --data; without them it is the stage")
        from notbugs.stages.evaluate import evaluate as stage

        stage(_project())
        return
    if model is None or data is None:
        raise UserError("notbugs evaluate: --model and --data must be given together")
    from notbugs.one_model import measure_file, print_found, save_found

    found = measure_file(model, data, weights=weights, transfer_from=transfer_from, changes=given)
    print_found(found)
    if out is not None:
        save_found(found, out)


@main.command()
def transfer() -> None:
    """Stage: fit other architectures on D_rand and D_det, and try the source's adversarial examples on them."""
    from notbugs.stages.transfer import transfer as stage

    stage(_project())


@main.command()
def inversion() -> None:
    """Stage: look closely at inverted images: what they resemble, other objectives, overfitting."""
    from notbugs.stages.inversion import inversion as stage

    stage(_project())


@main.command()
def diversity() -> None:
    """Stage: measure how diverse D, D_R and D_NR are, class by class."""
    from notbugs.stages.diversity import diversity as stage

    stage(_project())


@main.command()
def estimator() -> None:
    """Stage: vary the model behind D_R: its eps, seed, architecture, training."""
    from notbugs.stages.estimator import estimator as stage

    stage(_project())


@main.command()
def features() -> None:
    """Stage: measure the usefulness of features on D, under attack and on every constructed dataset."""
    from notbugs.stages.features import features as stage

    stage(_project())


@main.command()
def planted() -> None:
    """Stage: run the experiment in a small world whose features are known."""
    from notbugs.stages.planted import planted as stage

    stage(_project())


@main.command()
def gaussian() -> None:
    """Stage: the theory of two Gaussians, in closed form and checked."""
    from notbugs.stages.gaussian import gaussian as stage

    stage(_project())


class _StudyOrCommand(click.Group):
    """`notbugs sweep NAME` is `notbugs sweep run NAME`."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands:
            args = ["run", *args]
        return super().resolve_command(ctx, args)


_STORAGE = click.option(
    "--storage",
    metavar="URL",
    help="Database of the study: sqlite:///FILE or postgresql://USER:PASSWORD@HOST:PORT/DATABASE; else that of "
    "NOTBUGS_SWEEP_STORAGE, else sweeps/optuna.db.",
)


@main.group(cls=_StudyOrCommand, invoke_without_command=True)
@click.pass_context
def sweep(ctx: click.Context) -> None:
    """Stage: run the study NAME of the section `sweep` (without a name: every one of them).

    `notbugs sweep NAME --set 'eps=[0.5, 1.0]'` makes a new study in params.yaml and runs it.
    """
    if ctx.invoked_subcommand is None:
        for name in _project().names("sweep"):
            ctx.invoke(sweep_run, name=name)


@sweep.command("run")
@click.argument("name")
@click.option("--jobs", type=click.IntRange(1), help="Local worker processes; as many as the processors bear.")
@click.option("--replace", is_flag=True, help="Begin anew if the stored study has other settings or inputs.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="A new study: how it differs from the first."
)
@_STORAGE
def sweep_run(
    name: str,
    jobs: int | None = None,
    replace: bool = False,
    changes: tuple[str, ...] = (),
    storage: str | None = None,
) -> None:
    """Run the study NAME and draw it: what is done is not done again, an interrupted study goes on."""
    import os

    if changes:
        from notbugs.sweeps.editing import add_study

        add_study(_root(), name, changes)
    from notbugs.stages.sweep import sweep as stage

    stage(_project(), name, url=storage, jobs=jobs, replace=replace)
    if "DVC_STAGE" not in os.environ:  # the pipeline's report draws it too
        from notbugs.report.sweeps import write_figures

        write_figures(_root(), name)
        click.echo(f"heatmaps and curves: sweeps/{name}/figures", err=True)


@sweep.command("worker")
@click.argument("name")
@_STORAGE
def sweep_worker(name: str, storage: str | None) -> None:
    """Be one more worker of the study NAME, on this or any other machine."""
    from notbugs.sweeps.session import join

    join(_project(), name, url=storage)


@sweep.command("status")
@click.argument("name")
@_STORAGE
def sweep_status(name: str, storage: str | None) -> None:
    """Say how far the study NAME is, and what failed."""
    from notbugs.sweeps.session import status

    click.echo(status(_project(), name, url=storage))


@sweep.command("apply")
@click.argument("name")
@click.option("--kind", help="Choose among the points of this dataset.")
@click.option("--eps", type=float, help="Choose among the points of this eps.")
@click.option("--num-steps", type=int, help="Choose among the points of so many steps.")
@click.option("--source-eps", type=float, help="Choose among the points of this eps of the source model.")
@click.option("--any", "any_point", is_flag=True, help="Also where fewer than 85% of the images still show y.")
def sweep_apply(
    name: str,
    kind: str | None,
    eps: float | None,
    num_steps: int | None,
    source_eps: float | None,
    any_point: bool,
) -> None:
    """Write the best point of the study NAME (by validation) into params.yaml; `dvc repro` then repeats it."""
    from notbugs.sweeps.editing import apply

    wanted = {"kind": kind, "eps": eps, "num_steps": num_steps, "source_eps": source_eps}
    click.echo(apply(_root(), name, {key: value for key, value in wanted.items() if value is not None}, any_point))


@sweep.command("figures")
@click.argument("name")
def sweep_figures(name: str) -> None:
    """Draw the heatmaps and curves of the study NAME again, into sweeps/NAME/figures."""
    from notbugs.report.sweeps import write_figures

    for file in write_figures(_root(), name):
        click.echo(file)


@main.command()
def report() -> None:
    """Stage: write reports/report.html and the figures."""
    from notbugs.stages.report import report as stage

    stage(_project())


@main.command()
def check() -> None:
    """Validate params.yaml."""
    root = _root()
    mark, fingerprint = root / ".notbugs" / "checked", _check_fingerprint(root)
    if mark.exists() and mark.read_text(encoding="utf-8") == fingerprint:
        return
    from notbugs.config import read_params
    from notbugs.files import WriteError, write_text
    from notbugs.stages.check import check as validate

    validate(read_params(root / "params.yaml"))
    with contextlib.suppress(WriteError):  # it was only to save time
        write_text(mark, fingerprint)


@main.command()
@click.option("--json", "form", flag_value="json", help="One object a measurement.")
@click.option("--csv", "form", flag_value="csv", help="One row a measurement.")
def results(form: str | None) -> None:
    """Print the accuracy table, or every measurement (--json, --csv)."""
    from notbugs import results as module

    table = module.load_results(_root())
    if form == "json":
        click.echo(module.to_json(table))
    elif form == "csv":
        click.echo(module.to_csv(table), nl=False)
    else:
        module.print_table(table, _headline_eps())


@main.command()
@click.argument("run_a")
@click.argument("run_b")
@click.option("--out", type=click.Path(path_type=Path), help="Write every line as .html or .csv.")
def compare(run_a: str, run_b: str, out: Path | None) -> None:
    """Set two pipelines side by side: RUN_A and RUN_B are project folders or Git revisions.

    Prints settings that differ, accuracies, and what may explain how robust D_R is; --out also writes every metric.
    """
    from rich.console import Console

    from notbugs import compare as module

    lines = module.compare(module.read_run(run_a, _root()), module.read_run(run_b, _root()))
    if out is not None:
        module.write_comparison(lines, run_a, run_b, out)
        click.echo(f"written: {out}")
        return
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    console.print(module.terminal_table(lines, run_a, run_b))


@main.command()
@click.argument("name", required=False)
@click.option("--list", "list_them", is_flag=True, help="Show what each preset runs and costs.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a key on the way.")
@click.option("--missing", is_flag=True, help="Only add the sections that params.yaml lacks.")
def preset(name: str | None, list_them: bool, changes: tuple[str, ...], missing: bool) -> None:
    """Write params.yaml from the preset NAME; `dvc repro` then runs it."""
    from notbugs.presets import add_missing, presets, write_preset

    root = _root()
    if list_them or name is None:
        for item in presets(root):
            click.secho(item.name, bold=True)
            for line in item.summary:
                click.echo(f"    {line}")
        if name is None:
            return
    if missing:
        if changes:
            raise UserError("notbugs preset: --missing takes no --set")
        added = add_missing(root, name)
        click.echo(f"params.yaml: added {', '.join(added)}" if added else "params.yaml lacks nothing")
        return
    backup = write_preset(root, name, changes)
    click.echo(f"params.yaml is now the preset {name}; next: dvc repro")
    if backup:
        click.echo(f"your own params.yaml was kept as {backup.name}")


@main.command()
def track() -> None:
    """Bring MLflow in line with dvc.lock: add what an outage or DVC's run cache kept out of it."""
    from notbugs.tracking import track as bring_in_line

    summary = bring_in_line(_root())
    if summary.changed or summary.skipped or not summary.ok:
        click.echo(str(summary), err=True)


@main.command()
@click.option("--yes", is_flag=True, help="Remove it; without this it is only shown.")
@click.option("--all", "everything", is_flag=True, help="Kept measurements, sweeps' results and journals too.")
def clean(yes: bool, everything: bool) -> None:
    """Show unfinished work and what killed writes left, with age and size; remove it with --yes.

    Data, models, metrics and MLflow's runs are not touched. Let no stage run meanwhile.
    """
    from notbugs import cleaning

    found = cleaning.remnants(_root())
    chosen = [remnant for remnant in found if everything or not remnant.wanted]
    for remnant in found:
        mark = " " if remnant in chosen else "(stays unless --all) "
        place = remnant.path.relative_to(_root())
        click.echo(f"{remnant.size / 1e6:9.1f} MB  {cleaning.in_words(remnant.age):>6}  {place}  {mark}{remnant.what}")
    if yes:
        for remnant in chosen:
            cleaning.remove(remnant)
        click.echo(f"removed: {len(chosen)}")
    elif chosen:
        click.echo(f"`notbugs clean --yes` removes {sum(remnant.size for remnant in chosen) / 1e6:.1f} MB")
    else:
        click.echo("nothing to remove")


@main.command()
@click.option("-r", "--remote", help="Name of the DVC remote; else the default one.")
def push(remote: str | None) -> None:
    """Send DVC's run cache, with all that it restores, to a remote; `dvc push` sends what dvc.lock names."""
    from notbugs.tracking.sharing import push_runs

    click.echo(f"{push_runs(_root(), remote)} runs sent")


@main.command()
@click.option("--port", default=5000, show_default=True, type=click.IntRange(1, 65535))
def ui(port: int) -> None:
    """Serve the MLflow UI of this project on loopback."""
    from notbugs.tracking import serve

    serve(_root(), port)
