"""The card of an exported dataset: README.md, in the form that Hugging Face's hub reads."""

import json

import torch
from jinja2 import Environment, PackageLoader, StrictUndefined

from notbugs.data.store import StoredDataset
from notbugs.exchange.base import EXAMPLES, MANIFEST, Written
from notbugs.exchange.provenance import provenance

_SIZES = {10**3: "n<1K", 10**4: "1K<n<10K", 10**5: "10K<n<100K", 10**6: "100K<n<1M"}
"""Number of images that is not reached -> how the hub calls the size."""


def card(data: StoredDataset, form: str, written: Written) -> str:
    """The text of README.md: the same dataset and project give the same text."""
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
