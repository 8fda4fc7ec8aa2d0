"""`notbugs inspect`: a source of D looked at before anything is trained."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from notbugs.cli.project import PathFromHome

if TYPE_CHECKING:
    from notbugs.data.inspection import Facts

ROWS = 40
"""Classes that are listed at most."""


@click.command("inspect")
@click.argument("source", required=False)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="A setting of the section `data`.")
@click.option("--out", type=PathFromHome(), help="Where the picture goes; else .notbugs/inspect/<source>.png.")
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def inspect_command(source: str | None, changes: tuple[str, ...], out: Path | None, as_json: bool) -> None:
    """Look at SOURCE before anything is trained: its splits, values, classes and duplicates, and a grid of samples.

    SOURCE is what `data.source` may be (digits, torchvision:FashionMNIST, lab.data:read); without it, the section
    `data` of params.yaml is taken. --set path=pictures.zip gives what a source needs.
    """
    import json

    from notbugs.data.inspection import inspect_source
    from notbugs.data.sources import load_source
    from notbugs.report.source_grid import source_png
    from notbugs.runtime.cache import work_folder
    from notbugs.runtime.files import whole_file
    from notbugs.runtime.machine import project_folder
    from notbugs.runtime.progress import track

    root = project_folder(Path.cwd()) or Path.cwd()
    settings, seed = _settings(source, changes, root)
    data = load_source(settings, seed=seed, root=root, progress=track)
    facts = inspect_source(data, track)
    if out is None:
        name = "".join(letter if letter.isalnum() else "_" for letter in settings.source)
        out = work_folder(root, "inspect") / f"{name}.png"
    with whole_file(out) as temporary:
        temporary.write_bytes(source_png(data.train))
    if as_json:
        click.echo(json.dumps({**asdict(facts), "picture": str(out)}, indent=2))
        return
    for line in lines(facts):
        click.echo(line)
    click.echo(f"samples: {out}")


def _settings(source: str | None, changes: tuple[str, ...], root: Path) -> tuple[Any, int]:
    """Settings of D, and the seed that it is read with.

    Raises: ConfigError.
    """
    from notbugs.data.sources import DataSettings
    from notbugs.runtime.config import read_params, runtime, validate
    from notbugs.runtime.errors import ConfigError
    from notbugs.runtime.params_text import assignment
    from notbugs.runtime.registry import allow, texts

    file = root / "params.yaml"
    params = read_params(file) if source is None or file.exists() else {}
    section: dict[str, Any] = dict(params.get("data") or {}) if source is None else {"source": source}
    for change in changes:
        key, value = assignment(change, " the section data", tuple(DataSettings.model_fields))
        section[key] = value
    allow(texts(section), root)  # typed by somebody, as params.yaml is
    try:
        return validate(section, "data", DataSettings), runtime(params).seed
    except ConfigError as error:
        if source is None:
            raise
        raise ConfigError(str(error).replace("params.yaml: data", "notbugs inspect: data", 1)) from None


def lines(facts: "Facts") -> Iterator[str]:
    """What was found, in lines to be read."""
    shape = " x ".join(map(str, facts.image_shape))
    yield f"{facts.name}: {len(facts.class_names)} classes, images {shape} (channels, height, width)"
    yield ""
    yield f"{'':<12}{'images':>9}{'as':>10}{'values':>18}  mean (std) of each channel"
    for split, found in facts.splits.items():
        values = f"{found.low:.3f} .. {found.high:.3f}"
        moments = ", ".join(f"{mean:.3f} ({std:.3f})" for mean, std in zip(found.mean, found.std, strict=True))
        yield f"{split:<12}{found.count:>9}{found.kept_as:>10}{values:>18}  {moments}"
    yield ""
    yield from _balance(facts)
    yield ""
    yield from _duplicates(facts)
    for reason in facts.skipped:
        yield f"left out: {reason}"


def _balance(facts: "Facts") -> Iterator[str]:
    width = min(30, max(12, *(len(name) for name in facts.class_names)))
    yield f"{'class':<{width}}" + "".join(f"{split:>12}" for split in facts.splits)
    for label, name in list(enumerate(facts.class_names))[:ROWS]:
        counts = [found.class_counts[label] for found in facts.splits.values()]
        yield f"{name[:width]:<{width}}" + "".join(f"{count:>12}" for count in counts)
    if len(facts.class_names) > ROWS:
        yield f"and {len(facts.class_names) - ROWS} more classes"
    for split, found in facts.splits.items():
        low, high = min(found.class_counts), max(found.class_counts)
        if low == 0 or high / low >= 2:
            yield f"{split} is not balanced: a class has {low} to {high} images"


def _duplicates(facts: "Facts") -> Iterator[str]:
    found = []
    for split, facts_of in facts.splits.items():
        if facts_of.repeated:
            found.append(f"{facts_of.repeated} of {facts_of.count} {split} images repeat another of {split}")
    for split, count in facts.in_two_splits.items():
        place = "train or validation" if split == "test" else "train"
        if count:
            found.append(f"{count} of {facts.splits[split].count} {split} images are in {place} too")
    if facts.contradictory:
        found.append(f"{facts.contradictory} images lie there under several labels")
    yield from (f"duplicates: {line}, pixel by pixel" for line in found)
    if not found:
        yield "duplicates: none, within a split or across"
