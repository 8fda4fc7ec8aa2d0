"""Parquet files that Hugging Face's `datasets.load_dataset` opens: data/<split>-00000-of-00001.parquet.

Images are Array3D of the stored precision, not encoded pictures, which hold 8 bits. Written by `datasets` (the
extra `huggingface`); read with pyarrow alone, so that nothing is fetched, cached or run.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pyarrow import types
from torch import Tensor

from notbugs.data.sources.parquet import arrays, class_names, is_encoded, split_of
from notbugs.data.store import StoredDataset
from notbugs.exchange.base import (
    CHUNK,
    EXAMPLES,
    MAX_EXAMPLES,
    Foreign,
    FormatError,
    Written,
    exported_dtype,
    exported_parts,
    readable,
)
from notbugs.exchange.pictures import decode_picture

SPLITS = {"D_test": "test", "D_validation": "validation"}
"""Name of a dataset -> its split; all others are for training."""
MAX_GROUP = 2**31
"""Bytes of a row group, uncompressed; a file with a larger one is not read."""
_IMAGES, _LABELS = ("image", "images", "img"), ("label", "labels", "fine_label")
_LOADING = """\
from pathlib import Path

from datasets import load_dataset

folder = str(Path(".").resolve())
dataset = load_dataset(folder, split="{split}").with_format("torch")  # dataset[0]["image"]: (C, H, W) in [0, 1]
"""


def write(data: StoredDataset, folder: Path, *, encoding: str) -> Written:
    """See `base.Format`. A shard becomes a file.

    Raises: FormatError if `datasets` is not installed.
    """
    hub = _library()
    split = SPLITS.get(data.manifest.name, "train")
    examples = pq.read_table(data.path / data.manifest.examples.file)
    examples = examples.drop_columns([name for name in ("image", "label") if name in examples.column_names])
    features = hub.Features(
        image=hub.Array3D(shape=data.manifest.image_shape, dtype=exported_dtype(data)),
        label=hub.ClassLabel(names=list(data.class_names)),
    )
    first, count = 0, len(data.manifest.shards)
    (folder / "data").mkdir()
    for number, (images, labels) in enumerate(exported_parts(data)):
        columns = {"image": images.numpy(), "label": labels.numpy()}
        rows = hub.Dataset.from_dict(columns, features=features)
        facts = hub.Dataset(examples.slice(first, len(labels)).replace_schema_metadata(None))
        file = folder / "data" / f"{split}-{number:05d}-of-{count:05d}.parquet"
        made = hub.concatenate_datasets([rows, facts], axis=1) if examples.num_columns else rows
        table = made.with_format("arrow")[:].cast(made.features.arrow_schema)  # whose metadata names the classes
        pq.write_table(table, file, row_group_size=CHUNK)
        first += len(labels)
    shape = ", ".join(map(str, data.manifest.image_shape))
    files = f"`data/*.parquet`: `image` ({shape}) {exported_dtype(data)}, `label`, and the table of the examples"
    head = f"configs:\n- config_name: default\n  data_files:\n  - split: {split}\n    path: data/{split}-*.parquet\n"
    return Written(files, _LOADING.format(split=split), front_matter=head)


def read(folder: Path, *, split: str | None) -> Foreign:
    """See `base.Format`. Parquet files, or the Arrow files of `Dataset.save_to_disk`."""
    files = _files(folder, split)
    schema = None
    tables = []
    for file in files:
        with readable(file):
            own = _schema(file)
        if schema is not None and own.remove_metadata() != schema.remove_metadata():
            raise FormatError(f"{file}: other columns than {files[0].name}; they must be alike")
        schema = own if schema is None else schema
    assert schema is not None
    image, label = _column(schema, _IMAGES, files[0]), _column(schema, _LABELS, files[0])
    scalars = [field.name for field in schema if field.name not in (image, label) and _is_scalar(field.type)]
    for file in files:
        with readable(file):
            tables += [batch.to_pandas() for batch in _batches(file, [label, *scalars])]
    table = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame({label: []})
    if len(table) > MAX_EXAMPLES:
        raise FormatError(f"{folder}: {len(table)} examples; at most {MAX_EXAMPLES}")
    if len(table) == 0 or table[label].dtype.kind not in "iu":
        raise FormatError(f"{files[0]}: column {label}: must be a ClassLabel or whole numbers, one a row")
    with readable(files[0]):
        names = class_names(schema, label)
    return Foreign(
        torch.from_numpy(table[label].to_numpy(np.int64, copy=True)),
        _images(files, image),
        names,
        table=table[scalars] if scalars else None,
        exact=not is_encoded(schema.field(image).type),
    )


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise FormatError("--to huggingface: needs `datasets`: pip install 'notbugs[huggingface]'") from None
    return datasets


def _files(folder: Path, split: str | None) -> list[Path]:
    """The data files of one split, in order."""
    found = sorted(file for file in folder.rglob("*") if file.suffix in (".parquet", ".arrow") and file.is_file())
    found = [file for file in found if file != folder / EXAMPLES]
    if not found:
        raise FormatError(f"{folder}: no .parquet or .arrow files")
    splits: dict[str, list[Path]] = {}
    for file in found:
        splits.setdefault(split_of(file, folder), []).append(file)
    if split is None and len(splits) > 1:
        raise FormatError(f"{folder}: several splits; choose by --split one of {', '.join(sorted(splits))}")
    chosen = split or next(iter(splits))
    if chosen not in splits:
        raise FormatError(f"--split {chosen}: not there; {folder} has {', '.join(sorted(splits))}")
    return splits[chosen]


def _schema(file: Path) -> pa.Schema:
    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as opened:
            groups = [opened.metadata.row_group(number) for number in range(opened.metadata.num_row_groups)]
            if any(group.total_byte_size > MAX_GROUP for group in groups):
                raise ValueError(f"a row group of more than {MAX_GROUP} bytes")
            return opened.schema_arrow
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_stream(source).schema


def _batches(file: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The rows of a file, at most CHUNK at a time."""
    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as opened:
            yield from opened.iter_batches(batch_size=CHUNK, columns=list(columns))
        return
    with pa.memory_map(str(file)) as source:
        for batch in pa.ipc.open_stream(source):
            rows = batch.select(list(columns))
            for start in range(0, len(rows), CHUNK):
                yield rows.slice(start, CHUNK)


def _images(files: Sequence[Path], column: str) -> Iterator[Tensor]:
    for file in files:
        with readable(file):
            for batch in _batches(file, [column]):
                values = batch.column(0)
                yield _decoded(values, file) if is_encoded(values.type) else arrays(values)


def _decoded(values: Any, file: Path) -> Tensor:
    """A column of encoded pictures; one that names a file instead of holding it is refused."""
    images = []
    for value in values.to_pylist():
        content = (value or {}).get("bytes")
        if not isinstance(content, bytes):
            raise FormatError(f"{file}: a picture in it is only the name of a file; export it with the files inside")
        images.append(decode_picture(content, file))
    if len({(image.shape, image.dtype) for image in images}) > 1:
        raise FormatError(f"{file}: pictures of different sizes or channels; all images must be alike")
    return torch.stack(images)


def _column(schema: pa.Schema, names: Sequence[str], file: Path) -> str:
    found = [name for name in names if name in schema.names]
    if len(found) != 1:
        raise FormatError(f"{file}: needs one column {' or '.join(names)}; it has {', '.join(schema.names[:20])}")
    return found[0]


def _is_scalar(kind: Any) -> bool:
    number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return number or types.is_string(kind) or types.is_large_string(kind)
