"""Bad params.yaml by the thousand: every one is read or refused in one line, and nothing else happens."""

import copy
from pathlib import Path
from typing import Any

import yaml
from fuzzing import EDITS, VALUES, Refusals, edited, fuzz, places, section_at
from hypothesis import example, given
from hypothesis import strategies as st

from notbugs.cli.check import check
from notbugs.cli.presets import change
from notbugs.runtime.config import read_params
from notbugs.runtime.errors import ConfigError

PRESET = Path(__file__).parents[2] / "presets" / "digits.yaml"
PARAMS = yaml.safe_load(PRESET.read_text())
BYTES = st.one_of(st.binary(max_size=60), st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
PIECE = "\n".join(PRESET.read_text().splitlines()[5:30]).encode()


def test_any_value_anywhere(folder: Path) -> None:
    refusals = Refusals(folder, ConfigError)

    @fuzz(500)
    @given(st.sampled_from(places(PARAMS)), VALUES, st.sampled_from(["value", "key", "gone"]))
    def run(place: tuple[Any, ...], value: Any, kind: str) -> None:
        tree = copy.deepcopy(PARAMS)
        section, last = section_at(tree, place), place[-1]
        if kind == "value" or isinstance(section, list):
            section[last] = value
        else:
            old = section.pop(last)
            if kind == "key":
                section[value if isinstance(value, str | int | float) else str(value)] = old
        refusals.of(lambda: check(tree))

    run()
    assert refusals.share >= 0.6


def test_files_of_any_bytes(folder: Path) -> None:
    refusals = Refusals(folder, ConfigError)
    file = folder / "params.yaml"

    @fuzz(350)
    @example(b"")
    @example(b"\xff\xfe\x00")
    @example(b"seed: &a [*a]")
    @example(b"!!python/object/apply:os.system [touch evil]")
    @given(BYTES | EDITS.map(lambda edits: edited(PIECE, edits)))
    def run(content: bytes) -> None:
        file.write_bytes(content)
        refusals.of(lambda: read_params(file))

    run()
    assert refusals.share >= 0.55


def test_assignments_of_any_text(folder: Path) -> None:
    refusals = Refusals(folder, ConfigError)
    text = "seed: 0 # of all\ntrain:\n  robust: {lr: 0.1, seeds: [0, 1]}\n"
    keys = st.sampled_from(["seed", "train.robust.lr", "train.robust.seeds", "train", "x", "", "."])

    @fuzz(100)
    @given(keys, st.text(max_size=12))
    def run(key: str, value: str) -> None:
        refusals.of(lambda: change(text, [f"{key}={value}"], "text"))

    run()
    assert refusals.share >= 0.95  # nearly all: the text lacks sections, so none is accepted
