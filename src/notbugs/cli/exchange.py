"""`notbugs export`, `notbugs import` and `notbugs import-model`."""

import math
from pathlib import Path

import click

from notbugs.cli.project import PathFromHome
from notbugs.exchange import ENCODINGS, FORMATS, MODEL_FORMATS
from notbugs.runtime.errors import UserError


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

    manifest = import_dataset(folder, form, out, class_names=_names(classes), split=split)
    shape = ", ".join(map(str, manifest.image_shape))
    click.echo(f"{out}: {manifest.name}: {manifest.num_examples} images ({shape}), {len(manifest.class_names)} classes")


@click.command("import-model")
@click.argument("file", type=PathFromHome())
@click.option("--from", "form", type=click.Choice(MODEL_FORMATS), required=True, help="Whose checkpoint it is.")
@click.option("--architecture", metavar="NAME", required=True, help="Network, as params.yaml names it: resnet50, say.")
@click.option("--out", type=PathFromHome(), required=True, help=".safetensors file to make; nothing is overwritten.")
@click.option("--width", type=click.IntRange(1, 1024), help="Of a built-in network; else the usual one.")
@click.option("--kwargs", metavar="JSON", help="Further arguments of a network that is not built in.")
@click.option("--representation", metavar="MODULE", help="Of such a network, if not the last linear layer's input.")
@click.option("--image-size", type=click.IntRange(1), default=32, show_default=True, help="Side of its images, pixels.")
@click.option("--channels", type=click.IntRange(1, 16), default=3, show_default=True, help="Of its images.")
@click.option("--classes", metavar="NAME,NAME,...", help="Class names in label order; else numbers.")
@click.option("--mean", metavar="NUMBER,...", help="What is subtracted from images first, if the file does not say.")
@click.option("--std", metavar="NUMBER,...", help="What they are divided by then.")
def import_model_command(
    file: Path,
    form: str,
    architecture: str,
    out: Path,
    width: int | None,
    kwargs: str | None,
    representation: str | None,
    image_size: int,
    channels: int,
    classes: str | None,
    mean: str | None,
    std: str | None,
) -> None:
    """Make a model, which `load_model` and `train.<name>.from` take, of the released checkpoint FILE."""
    import json

    from notbugs.exchange.checkpoints import import_model
    from notbugs.runtime.registry import allow

    allow([architecture], Path.cwd())
    try:
        further = json.loads(kwargs or "{}")
    except ValueError:
        further = None
    if not isinstance(further, dict):
        raise UserError(f"--kwargs {kwargs}: must be a JSON object, such as '{{\"depth\": 3}}'")
    model = import_model(
        file,
        form,
        out,
        architecture=architecture,
        width=width,
        kwargs=further,
        representation=representation,
        image_shape=(channels, image_size, image_size),
        class_names=_names(classes),
        mean=_numbers(mean, "--mean"),
        std=_numbers(std, "--std"),
    )
    count = sum(parameter.numel() for parameter in model.parameters())
    mean_of, std_of = ([round(float(value), 4) for value in part.flatten()] for part in model.normalise.buffers())
    click.echo(
        f"{out}: {architecture} of {file}: {count:,} parameters, {len(model.description.class_names)} classes, "
        f"normalised by mean {mean_of} and std {std_of}"
    )


def _names(classes: str | None) -> list[str] | None:
    if classes is None:
        return None
    names = [name.strip() for name in classes.split(",")]
    if len(set(names)) < len(names) or not all(names):
        raise UserError(f"--classes {classes}: must be names with commas between them, each once")
    return names


def _numbers(text: str | None, option: str) -> list[float] | None:
    if text is None:
        return None
    try:
        found = [float(value) for value in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(map(math.isfinite, found)):
        raise UserError(f"{option} {text}: must be a number, or numbers with commas between them")
    return found
