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

    found = cleaning.remnants(project_root())
    chosen = [remnant for remnant in found if everything or not remnant.wanted]
    for remnant in found:
        mark = " " if remnant in chosen else "(stays unless --all) "
        place = remnant.path.relative_to(project_root())
        click.echo(f"{remnant.size / 1e6:9.1f} MB  {cleaning.in_words(remnant.age):>6}  {place}  {mark}{remnant.what}")
    if yes:
        for remnant in chosen:
            cleaning.remove(remnant)
        click.echo(f"removed: {len(chosen)}")
    elif chosen:
        click.echo(f"`notbugs clean --yes` removes {sum(remnant.size for remnant in chosen) / 1e6:.1f} MB")
    else:
        click.echo("nothing to remove")
