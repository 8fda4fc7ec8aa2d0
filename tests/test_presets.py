"""Presets are valid, params.yaml is one of them, and writing one loses nothing."""

from pathlib import Path

import pytest
import yaml

from notbugs.config import ConfigError, read_params
from notbugs.presets import change, presets, write_preset
from notbugs.stages.check import check

ROOT = Path(__file__).parents[1]


def test_params_yaml_is_the_digits_preset() -> None:
    assert (ROOT / "params.yaml").read_text() == (ROOT / "presets" / "digits.yaml").read_text()


@pytest.mark.parametrize("name", ["digits", "cifar10", "cifar10_paper", "folder", "planted", "restricted_imagenet"])
def test_presets_are_valid_and_say_what_they_cost(name: str) -> None:
    preset = next(preset for preset in presets(ROOT) if preset.name == name)
    check(read_params(preset.path))
    assert any(line.startswith("Costs: ") for line in preset.summary)


def test_every_line_that_sets_something_is_explained_once() -> None:
    """In the default each leaf is commented where its key first appears."""
    text = (ROOT / "presets" / "digits.yaml").read_text()
    seen: set[str] = set()
    for line in text.splitlines():
        key, colon, rest = line.strip().partition(":")
        if not colon or key.startswith("#") or not rest.strip():
            continue
        bare = key.removeprefix("- ")
        if bare not in seen:
            assert "#" in rest or bare in ("robust", "nonrobust", "rand", "det"), f"no comment: {line}"
        seen.add(bare)


def test_unknown_preset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="preset 'mnist': unknown; allowed: cifar10, cifar10_paper, digits"):
        write_preset(tmp_path, "mnist")
    assert not (tmp_path / "params.yaml").exists()


def test_writing_keeps_a_params_file_of_ones_own(tmp_path: Path) -> None:
    assert write_preset(tmp_path, "digits") is None
    assert write_preset(tmp_path, "cifar10") is None
    (tmp_path / "params.yaml").write_text("seed: 7\n")
    kept = write_preset(tmp_path, "digits")
    assert kept is not None
    assert kept.read_text() == "seed: 7\n"
    assert read_params(tmp_path / "params.yaml")["data"]["source"] == "digits"


def test_changes_keep_comments(tmp_path: Path) -> None:
    write_preset(tmp_path, "digits", ["construct.rand.eps=0.25", "evaluate.eps=[0.5, 1]", "data.max_train=null"])
    text = (tmp_path / "params.yaml").read_text()
    params = yaml.safe_load(text)
    assert params["construct"]["rand"]["eps"] == 0.25
    assert params["evaluate"]["eps"] == [0.5, 1]
    assert "# radius of the ball" in text


@pytest.mark.parametrize("item", ["construct.rnd.eps=1", "construct.rand.epz=1", "seed", "seed.x=1"])
def test_a_change_of_nothing_is_an_error(item: str) -> None:
    with pytest.raises(ConfigError, match=r"expected KEY=VALUE with a key of digits"):
        change((ROOT / "presets" / "digits.yaml").read_text(), [item], "digits")
