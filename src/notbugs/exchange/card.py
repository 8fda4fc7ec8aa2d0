"""The card of an exported dataset: README.md, in the form that Hugging Face's hub reads."""

import json
from typing import Any

import torch

from notbugs.data.store import StoredDataset
from notbugs.exchange.base import EXAMPLES, MANIFEST, Written
from notbugs.exchange.provenance import Provenance, provenance

MEANINGS = {
    "D_train": "The base dataset D: its training split.",
    "D_validation": "The base dataset D: its validation split.",
    "D_test": "The base dataset D: its test split.",
    "D_R": "Robust features alone: images with the representation that a robust model gives x, under the label of x.",
    "D_NR": "Images with the representation that a standard model gives x, under the label of x.",
    "D_rand": "Adversarial images of a standard model towards a random class t, labelled t.",
    "D_det": "Adversarial images of a standard model towards the class t after y, labelled t.",
    "D_rand_from_robust": "A control: adversarial images of a robust model towards a random class t, labelled t.",
    "D_det_from_robust": "A control: adversarial images of a robust model towards the class t after y, labelled t.",
}
"""What a dataset is, by its name in the paper."""

LICENCES = {
    "digits": "The images derive from the UCI *Optical Recognition of Handwritten Digits* (E. Alpaydin and C. Kaynak, "
    "1998), as scikit-learn ships them; UCI offers them under CC BY 4.0: name the authors.",
    "cifar10": "The images derive from CIFAR-10 (A. Krizhevsky, *Learning Multiple Layers of Features from Tiny "
    "Images*, 2009), which names no licence and asks to be cited.",
    "planted": "The images were drawn by a program and derive from nobody's pictures.",
}
"""By source of D."""

_CITATION = """\
```bibtex
@inproceedings{ilyas2019adversarial,
  title     = {Adversarial Examples Are Not Bugs, They Are Features},
  author    = {Ilyas, Andrew and Santurkar, Shibani and Tsipras, Dimitris and Engstrom, Logan and
               Tran, Brandon and Madry, Aleksander},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019}
}
```
"""


def card(data: StoredDataset, form: str, written: Written) -> str:
    """The text of README.md: the same dataset and project give the same text."""
    manifest, known = data.manifest, provenance(data)
    shape = ", ".join(map(str, manifest.image_shape))
    parts = [
        _front_matter(data, written),
        f"# {manifest.name}, made from {manifest.source}\n",
        MEANINGS.get(manifest.name, "A dataset of notbugs.") + "\n",
        f"{manifest.num_examples} images ({shape}) in [0, 1], {len(manifest.class_names)} classes. "
        "Written by `notbugs export`.\n",
        f"## Files\n\n- {written.files}\n- `{EXAMPLES}`: one row an image: {_columns(data)}\n- `{MANIFEST}`: name, "
        "settings, and the checksums of the dataset that was exported\n",
        _kept(data, written),
        f"## Loading\n\n```python\n{written.loading}```\n\nBack into notbugs: "
        f"`notbugs import FOLDER --from {form} --out NEW_FOLDER`.\n",
        _settings(manifest.settings),
        _numbers(data, known),
        _lineage(known),
        "## Licence\n\n"
        + LICENCES.get(
            manifest.source,
            "The images derive from a collection of the user's own: its "
            "licence holds for them, and must be named here before they are passed on.",
        )
        + "\n",
        "## Citation\n\nThe construction is that of the paper:\n\n" + _CITATION,
    ]
    return "\n".join(parts)


def _front_matter(data: StoredDataset, written: Written) -> str:
    size = next(bound for limit, bound in _SIZES if limit is None or data.manifest.num_examples < limit)
    head = "license: other\ntask_categories:\n- image-classification\ntags:\n- adversarial-examples\n- notbugs\n"
    return f"---\n{head}size_categories:\n- {size}\n{written.front_matter}---\n"


_SIZES: tuple[tuple[int | None, str], ...] = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (None, "1M<n<10M"),
)


def _columns(data: StoredDataset) -> str:
    return ", ".join(f"`{name}`" for name in data.examples.columns)


def _kept(data: StoredDataset, written: Written) -> str:
    if written.rounding is None:
        return f"## Precision\n\nEvery bit of the images, stored as {data.manifest.dtype}, is kept.\n"
    lost = written.rounding
    if lost.value == 0:
        return "## Precision\n\n8 bits hold these images: every value is a 255th.\n"
    text = (
        "## Precision\n\n**Warning: rounded to 8 bits.** A pixel value changed by up to "
        f"{lost.value:.6f} and an image by up to {lost.image:.6f} in L2, measured on all images. "
    )
    table = data.examples
    if "delta_norm" in table:
        norm = float(table["delta_norm"].median())
        text += (
            f"The median perturbation is {norm:.6f} in L2, {norm / lost.image:.1f} times as much. "
            if lost.image
            else ""
        )
    return text + "What is learnt from such a copy can differ: measure on the exact one (`--encoding npy`).\n"


def _settings(settings: dict[str, Any]) -> str:
    rows = "".join(f"| `{key}` | {_cell(value)} |\n" for key, value in settings.items())
    return f"## Settings\n\n| key | value |\n|---|---|\n{rows}"


def _numbers(data: StoredDataset, known: Provenance) -> str:
    counts = torch.bincount(data.labels, minlength=len(data.class_names)).tolist()
    classes = ", ".join(f"{_cell(name)}: {count}" for name, count in zip(data.class_names, counts, strict=True))
    text = f"## Numbers\n\nImages under each label: {classes}.\n"
    if known.summary:
        rows = "".join(f"| {key} | {value:.6g} |\n" for key, value in known.summary)
        text += f"\nOf the construction:\n\n| measure | value |\n|---|---|\n{rows}"
    if known.accuracies:
        rows = "".join(
            f"| {attack} | {eps:g} | {labels} | {100 * mean:.1f} | {seeds} |\n"
            for attack, eps, labels, mean, seeds in known.accuracies
        )
        head = "| attack | eps | labels | accuracy % | fits |\n|---|---|---|---|---|\n"
        text += f"\nOf classifiers fitted on it, on the test split of D:\n\n{head}{rows}"
    return text


def _lineage(known: Provenance) -> str:
    if known.gap:
        return f"## Lineage\n\nUnknown. {known.gap}\n"
    rows = "".join(f"| {what} | `{value}` |\n" for what, value in known.lineage)
    return f"## Lineage\n\n| made from | hash |\n|---|---|\n{rows}"


def _cell(value: object) -> str:
    """A value in a cell of a Markdown table."""
    text = value if isinstance(value, str) else json.dumps(value)
    return " ".join(text.split()).replace("|", "\\|")
