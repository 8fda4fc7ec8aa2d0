"""`notbugs export` and `notbugs import`."""

from pathlib import Path

import click

from notbugs.cli.project import PathFromHome
from notbugs.exchange import ENCODINGS, FORMATS


@click.command("export")
@click.argument("dataset", type=PathFromHome())
@click.option("--to", "form", type=click.Choice(FORMATS), required=True, help="The format.")
@click.option("--out", type=PathFromHome(), required=True, help="Folder to make; nothing is overwritten.")
@click.option(
    "--encoding",
    type=click.Choice(ENCODINGS),
    default="npy",
    show_default=True,
    help="Only imagefolder: exact arrays, or 8-bit pictures.",
)
def export_command(dataset: Path, form: str, out: Path, encoding: str) -> None:
    """Write the stored dataset DATASET (data/det, say) in another format, with a card (README.md)."""
    from notbugs.exchange.exporting import export_dataset

    written = export_dataset(dataset, form, out, encoding=encoding)
    click.echo(f"{out}: {dataset} as {form}; what it is and how to load it: {out / 'README.md'}")
    if written.rounding is not None and written.rounding.value > 0:
        lost = written.rounding
        click.echo(
            f"warning: rounded to 8 bits: a pixel value by up to {lost.value:.4g}, an image by up to {lost.image:.4g} "
            "in L2; what the perturbations carry may be lost (--encoding npy keeps every bit)",
            err=True,
        )


@click.command("import")
@click.argument("folder", type=PathFromHome())
@click.option("--from", "form", type=click.Choice(FORMATS), required=True, help="The format.")
@click.option("--out", type=PathFromHome(), required=True, help="Folder to make; nothing is overwritten.")
@click.option("--classes", metavar="NAME,NAME,...", help="Class names in label order, where the format has none.")
@click.option("--split", help="Only huggingface: which of several splits.")
def import_command(folder: Path, form: str, out: Path, classes: str | None, split: str | None) -> None:
    """Make a stored dataset, which `load_dataset` opens, of FOLDER in another format."""
    from notbugs.exchange.importing import import_dataset

    names = None if classes is None else [name.strip() for name in classes.split(",")]
    manifest = import_dataset(folder, form, out, class_names=names, split=split)
    shape = ", ".join(map(str, manifest.image_shape))
    click.echo(f"{out}: {manifest.name}: {manifest.num_examples} images ({shape}), {len(manifest.class_names)} classes")
