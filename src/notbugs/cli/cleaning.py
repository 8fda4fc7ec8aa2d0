"""`notbugs clean`: unfinished work shown and removed."""

import click

from notbugs.cli.project import project_root


@click.command()
@click.option("--yes", is_flag=True, help="Remove it; without this it is only shown.")
@click.option("--all", "everything", is_flag=True, help="Kept measurements, sweeps' results and journals too.")
def clean(yes: bool, everything: bool) -> None:
    """Show unfinished work and what killed writes left, with age and size; remove it with --yes.

    Data, models, metrics and MLflow's runs are not touched. Let no stage run meanwhile.
    """
    from notbugs.runtime import cleaning

    found = cleaning.leftovers(project_root())
    chosen = [leftover for leftover in found if everything or not leftover.wanted]
    for leftover in found:
        mark = " " if leftover in chosen else "(stays unless --all) "
        place = leftover.path.relative_to(project_root())
        click.echo(
            f"{leftover.size / 1e6:9.1f} MB  {cleaning.in_words(leftover.age):>6}  {place}  {mark}{leftover.what}"
        )
    if yes:
        for leftover in chosen:
            cleaning.remove(leftover)
        click.echo(f"removed: {len(chosen)}")
    elif chosen:
        click.echo(f"`notbugs clean --yes` removes {sum(leftover.size for leftover in chosen) / 1e6:.1f} MB")
    else:
        click.echo("nothing to remove")
