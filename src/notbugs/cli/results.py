"""`notbugs results` and `notbugs compare`: what was measured, printed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from notbugs.cli.project import PathFromHome, project_root


@click.command()
@click.option("--json", "form", flag_value="json", help="One object a measurement.")
@click.option("--csv", "form", flag_value="csv", help="One row a measurement.")
@click.option("--write-docs", "form", flag_value="docs", help="Write the numbers in README.md and docs/ anew.")
def results(form: str | None) -> None:
    """Print the accuracy table, or every measurement (--json, --csv)."""
    from notbugs.evaluation import results as module

    if form == "docs":
        from notbugs.report.documents import write_documents

        changed = write_documents(project_root())
        click.echo(f"written: {', '.join(changed)}" if changed else "README.md and docs/ say what the metrics say")
        return
    if form is None:
        print_accuracies(project_root())
        return
    table = module.load_results(project_root())
    if form == "json":
        click.echo(module.to_json(table))
    else:
        click.echo(module.to_csv(table), nl=False)


def print_accuracies(root: Path) -> None:
    """Print the accuracy table of a project whose pipeline has run up to `evaluate`, and where the rest stands.

    Raises: ResultsError, ConfigError.
    """
    from notbugs.evaluation import results as module
    from notbugs.evaluation.learnt import not_learnt
    from notbugs.report.absent import of_table, sentences
    from notbugs.report.verdicts import of_models, read_verdicts
    from notbugs.runtime.config import read_params
    from notbugs.runtime.outdated import outdated

    params = read_params(root / "params.yaml")
    with module.titled(params):
        stuck = not_learnt(root, params.get("fit") or {})
        old = outdated(root, params)
        ruled = of_models(read_verdicts(root, old))
        module.print_table(module.load_results(root), _headline_eps(params), not_learnt=stuck, verdicts=ruled)
    for line in sentences(of_table(old)):
        click.echo(f"not of the present settings: {line}", err=True)
    report = root / "reports" / "report.html"
    if report.exists():
        click.echo(f"report: {report.relative_to(root)}; runs side by side: notbugs ui", err=True)


def _headline_eps(params: Mapping[str, Any]) -> float:
    """Without loading torch to validate all of params.yaml."""
    try:
        return float(params["evaluate"]["headline_eps"])
    except (KeyError, TypeError, ValueError):
        from notbugs.runtime.errors import ConfigError

        raise ConfigError("params.yaml: evaluate.headline_eps: must be given, a number > 0") from None


@click.command()
@click.argument("run_a")
@click.argument("run_b")
@click.option("--out", type=PathFromHome(), help="Write every line as .html or .csv.")
def compare(run_a: str, run_b: str, out: Path | None) -> None:
    """Set two pipelines side by side: RUN_A and RUN_B are project folders or Git revisions.

    Prints settings that differ, accuracies, and what may explain how robust D_R is; --out also writes every metric.
    """
    from rich.console import Console

    from notbugs.report import compare as module

    lines = module.compare(module.read_run(run_a, project_root()), module.read_run(run_b, project_root()))
    if out is not None:
        module.write_comparison(lines, run_a, run_b, out)
        click.echo(f"written: {out}")
        return
    console = Console()
    console = console if console.is_terminal else Console(width=120)
    console.print(module.terminal_table(lines, run_a, run_b))
