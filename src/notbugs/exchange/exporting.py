"""A stored dataset written in another format, with a card that says what it is."""

import shutil
from pathlib import Path

from notbugs.data.store import load_dataset
from notbugs.exchange.base import CARD, EXAMPLES, MANIFEST, FormatError, Written, get_format, new_folder, refuse_taken
from notbugs.exchange.card import card
from notbugs.runtime.files import write_text


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
