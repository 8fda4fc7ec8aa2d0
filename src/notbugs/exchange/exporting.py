"""A stored dataset written in another format, with a card that says what it is."""

import json
import shutil
from pathlib import Path

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from notbugs.data.store import StoredDataset, load_dataset
from notbugs.exchange.base import CARD, EXAMPLES, MANIFEST, FormatError, Written, get_format, new_folder, refuse_taken
from notbugs.exchange.provenance import provenance
from notbugs.runtime.files import write_text

_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M"}
"""Number of images that is not reached -> how the hub calls the size."""


def export_dataset(dataset: Path, form: str, out: Path, *, encoding: str = "npy") -> Written:
    """Write a stored dataset in another format, whole or not at all.

    Beside the files of the format lie README.md (the card), notbugs.json (the manifest as it was) and
    examples.parquet (the table as it was), by which `import_dataset` restores it to the byte.

    Args:
        dataset: folder of the stored dataset.
        form: one of FORMATS.
        out: folder to be made.
        encoding: one of ENCODINGS; only imagefolder has a choice.
    Raises: DatasetError if the dataset is damaged; FormatError if `out` holds something or cannot be written.
    """
    if encoding != "npy" and form != "imagefolder":
        raise FormatError(f"--encoding {encoding}: only --to imagefolder has a choice of files")
    refuse_taken(out)
    data = load_dataset(dataset)
    if out.resolve().is_relative_to(dataset.resolve()):
        raise FormatError(f"--out {out}: lies in the dataset itself; name a folder outside it")
    with new_folder(out) as folder:
        written = get_format(form).write(data, folder, encoding=encoding)
        shutil.copyfile(dataset / "manifest.json", folder / MANIFEST)
        shutil.copyfile(dataset / data.manifest.examples.file, folder / EXAMPLES)
        write_text(folder / CARD, card(data, form, written))
    return written


def card(data: StoredDataset, form: str, written: Written) -> str:
    """The text of README.md, in the form that Hugging Face's hub reads: the same inputs give the same text."""
    counts = torch.bincount(data.labels, minlength=len(data.class_names)).tolist()
    table = data.examples
    templates = Environment(
        loader=PackageLoader("notbugs.exchange"),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters["cell"] = _cell
    return templates.get_template("card.md.j2").render(
        manifest=data.manifest,
        form=form,
        written=written,
        known=provenance(data),
        size=next((name for bound, name in _SIZES.items() if len(data) < bound), "1M<n<10M"),
        columns=", ".join(f"`{name}`" for name in table.columns),
        norm=float(table["delta_norm"].median()) if "delta_norm" in table else None,
        labels=", ".join(f"{_cell(name)}: {count}" for name, count in zip(data.class_names, counts, strict=True)),
        table_file=EXAMPLES,
        manifest_file=MANIFEST,
    )


def _cell(value: object) -> str:
    """A value in a cell of a Markdown table."""
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split()).replace("|", "\\|")
