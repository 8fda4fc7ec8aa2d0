"""Bad manifests and safetensors by the thousand: read, or refused in one line, and nothing else happens."""

import copy
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from fuzzing import EDITS, SCALARS, VALUES, Edits, Refusals, edited, fuzz, places, section_at
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from notbugs.data.images import ImageData, make_generator
from notbugs.data.store import DatasetError, load_dataset, save_dataset
from notbugs.models import ModelError, create_model, load_model, save_model
from notbugs.runtime.errors import UserError
from notbugs.runtime.state_file import StateError, load_state, save_state

DTYPES = st.sampled_from(["F32", "F16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "BF16", "x"]) | SCALARS
FIELDS = {
    "dtype": DTYPES,
    "shape": st.lists(st.integers(-1, 9) | st.just(2**62), max_size=5),
    "data_offsets": st.lists(st.sampled_from([0, 4, 32, 256, 288, 2**63, -1]), max_size=3),
}
TENSORS = ("images", "labels", "head.weight")
HEADERS = st.fixed_dictionaries(
    {},
    optional={
        name: VALUES | st.fixed_dictionaries({}, optional=FIELDS) for name in (*TENSORS, "__metadata__", "../evil")
    },
)
CONTENTS = st.sampled_from(
    [
        torch.zeros(4, 1, 4, 4),
        torch.full((4, 1, 4, 4), torch.nan),
        torch.full((4, 1, 4, 4), 2.0),
        torch.zeros(4, 1, 4, 4, dtype=torch.int16),
        torch.zeros(0),
        torch.arange(4),
        torch.full((4,), 9),
        torch.zeros(4),
        torch.tensor(3),
    ]
)
SOUND_FILES = st.fixed_dictionaries({}, optional=dict.fromkeys(TENSORS, CONTENTS)).map(
    lambda found: save({name: tensor.clone() for name, tensor in found.items()})
)


def packed(header: Any, data: bytes, length: int | None) -> bytes:
    text = json.dumps(header, default=str).encode("utf-8", "replace")
    return struct.pack("<Q", (len(text) if length is None else length) % 2**64) + text + data


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    data = ImageData(images, torch.arange(6) % 2, ("cat", "dog"))
    rows = pd.DataFrame({"index": range(6)})
    save_dataset(tmp_path / "x", data, rows, name="D_x", source="made", settings={"eps": 0.5}, shard_size=4)
    return tmp_path / "x"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    small = create_model("mlp", (1, 2, 2), ("a", "b"), width=2, generator=make_generator(0))
    save_model(small, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


def read_all(path: Path) -> None:
    stored = load_dataset(path, verify=False)
    assert len(stored.data()) == len(stored) == len(stored.examples) == len(stored.labels)
    stored.select(torch.tensor([len(stored) - 1, 0]))


def test_altered_bits_of_every_byte_of_a_manifest(dataset: Path) -> None:
    """A changed bit is refused, or changes nothing that the manifest says."""
    refusals = Refusals(dataset, DatasetError)
    file = dataset / "manifest.json"
    whole, said = file.read_bytes(), load_dataset(dataset).manifest

    def read() -> None:
        assert load_dataset(dataset, verify=False).manifest == said

    for position in range(len(whole)):
        for bit in (0, 5):  # another digit or letter; the same letter, large or small
            file.write_bytes(edited(whole, [("flip", (position + 0.5) / len(whole), bit)]))
            refusals.of(read)
    assert refusals.count >= 2 * len(whole) - 10 >= 1500


def test_manifests_of_any_content(dataset: Path) -> None:
    refusals = Refusals(dataset, DatasetError)
    file = dataset / "manifest.json"
    manifest = json.loads(file.read_bytes())
    del manifest["checksum"]  # so that not it alone refuses

    @fuzz(400)
    @given(st.sampled_from(places(manifest)), VALUES, EDITS, st.booleans())
    def run(place: tuple[Any, ...], value: Any, edits: Edits, structured: bool) -> None:
        tree = copy.deepcopy(manifest)
        if structured:
            try:
                section_at(tree, place)[place[-1]] = json.loads(json.dumps(value))
            except (TypeError, ValueError):
                return
        content = json.dumps(tree).encode()
        file.write_bytes(content if structured else edited(content, edits))
        refusals.of(lambda: read_all(dataset))

    run()
    assert refusals.count >= 180


def test_shards_of_any_header(dataset: Path) -> None:
    _fuzz_safetensors(dataset / "images-00000.safetensors", lambda: read_all(dataset), DatasetError)


def test_models_of_any_header(model: Path) -> None:
    _fuzz_safetensors(model, lambda: load_model(model), ModelError)


def test_states_of_any_header(tmp_path: Path) -> None:
    save_state(tmp_path / "state", {"weights": [torch.arange(60.0)], "epoch": 3})
    _fuzz_safetensors(tmp_path / "state", lambda: load_state(tmp_path / "state"), StateError)


def test_descriptions_of_any_content(model: Path) -> None:
    refusals = Refusals(model.parent, ModelError)
    file = model.with_suffix(".json")
    description = json.loads(file.read_bytes())

    @fuzz(300)
    @given(st.sampled_from(places(description)), SCALARS, EDITS, st.booleans())
    def run(place: tuple[Any, ...], value: Any, edits: Edits, structured: bool) -> None:
        tree = copy.deepcopy(description)
        if structured:
            section_at(tree, place)[place[-1]] = value
        content = json.dumps(tree, default=str).encode("utf-8", "replace")
        file.write_bytes(content if structured else edited(content, edits))
        refusals.of(lambda: load_model(model))

    run()
    assert refusals.count >= 250


def _fuzz_safetensors(file: Path, read: Callable[[], object], kind: type[UserError]) -> None:
    refusals = Refusals(file.parent, kind)
    whole = file.read_bytes()
    lengths = st.none() | st.integers(-1, 2**64)

    @fuzz(250)
    @given(
        st.one_of(
            st.builds(packed, HEADERS, st.binary(max_size=40), lengths),
            EDITS.map(lambda edits: edited(whole, edits)),
            EDITS.map(lambda edits: edited(whole[:200], edits) + whole[200:]),
            SOUND_FILES,
        )
    )
    def run(content: bytes) -> None:
        file.write_bytes(content)
        refusals.of(read)

    run()
    assert refusals.count >= 180
