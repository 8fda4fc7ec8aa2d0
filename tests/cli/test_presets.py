"""Presets are valid, params.yaml is one of them, and writing one loses nothing."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from notbugs.cli import main
from notbugs.cli.check import check, deviations
from notbugs.cli.presets import Preset, add_missing, change, presets, write_preset
from notbugs.pipeline.construct import read_recipe
from notbugs.runtime.config import read_params
from notbugs.runtime.errors import ConfigError

ROOT = Path(__file__).parents[2]


def test_params_yaml_is_the_digits_preset() -> None:
    assert (ROOT / "params.yaml").read_text() == (ROOT / "presets" / "digits.yaml").read_text()


IN_LINF = {name: {"norm": "linf"} for name in ("rand", "det", "rand_from_robust", "det_from_robust")}
SHORTENED = {name: {"schedule": "linear", "momentum": 0.75} for name in ("robust", "nonrobust")}
DEVIATIONS: dict[str, dict[str, dict[str, Any]]] = {
    "planted": IN_LINF,
    **dict.fromkeys(("cifar10", "cifar10_laptop", "cifar10_quick"), SHORTENED),
    "digits_variants": {
        "det_ensemble": {"from": ["standard/0", "standard/1", "standard/2"]},
        "rand_noise": {"start": "noise"},
        "det_untouched": {"label": "source"},
    },
}
"""Preset -> construction -> what is not as in the paper."""


@pytest.mark.parametrize("preset", presets(ROOT), ids=lambda preset: preset.name)
def test_presets_are_valid_say_what_they_cost_and_deviate_where_it_is_told(preset: Preset) -> None:
    params = read_params(preset.path)
    check(params)
    assert any(line.startswith("Costs: ") for line in preset.summary)
    differs = {name: read_recipe(params, f"construct.{name}").deviations for name in params["construct"]}
    told = DEVIATIONS.get(preset.name, {})
    assert {name: found for name, found in differs.items() if found} == told
    assert [name for name in told if f"construct.{name}: " not in deviations(params)] == []


def test_writing_a_preset_says_what_deviates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_preset(tmp_path, "digits")
    monkeypatch.chdir(tmp_path)
    lines = CliRunner().invoke(main, ["preset", "digits_variants"]).output.splitlines()
    assert lines[1].startswith(
        'not the paper\'s: construct.det_ensemble: from = ["standard/0", "standard/1", "standard/2"];'
    )
    assert len(CliRunner().invoke(main, ["preset", "digits"]).output.splitlines()) == 1


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
    with pytest.raises(ConfigError, match="preset 'mnist': unknown; allowed: cifar10, cifar10_laptop, cifar10_paper, "):
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


@pytest.mark.parametrize("preset", presets(ROOT), ids=lambda preset: preset.name)
def test_a_change_leaves_every_other_line_byte_for_byte(tmp_path: Path, preset: Preset) -> None:
    """null, quotes, the blanks before comments, and long lines among them."""
    write_preset(tmp_path, preset.name, ["seed=7", "evaluate.headline_num_steps=77", "report.grid_examples=5"])
    before, after = preset.path.read_bytes().split(b"\n"), (tmp_path / "params.yaml").read_bytes().split(b"\n")
    assert len(before) == len(after)
    changed = [line.split(b"#")[0].strip() for line, old in zip(after, before, strict=True) if line != old]
    assert changed == [b"seed: 7", b"headline_num_steps: 77", b"grid_examples: 5"]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("construct.rnd.eps=1", r"digits: construct\.rnd: unknown key; did you mean rand\?; allowed: robust, nonr"),
        ("construct.rand.epz=1", r"digits: construct\.rand\.epz: unknown key; did you mean eps\?; allowed: recipe"),
        ("sed=1", r"digits: sed: unknown key; did you mean seed\?"),
        ("seed", r"--set seed: expected KEY=VALUE with a key of digits"),
        ("seed.x=1", r"digits: seed\.x: seed is a value, no section"),
        ("construct.rand.eps=-1", r"params\.yaml: construct\.rand\.eps = -1: must be greater than 0"),
        ("train.standard.seeds=3", r"params\.yaml: train\.standard\.seeds = 3: must be a list"),
        ("seed=[", r"--set seed=\[: the value is not valid YAML"),
        ("seed={a: 1, a: 2}", r"--set seed={a: 1, a: 2}: the value is not valid YAML"),
    ],
)
def test_an_impossible_change_is_an_error(item: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        change((ROOT / "presets" / "digits.yaml").read_text(), [item], "digits")
    assert "\n" not in str(caught.value)


def test_an_impossible_change_leaves_params_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 7\n")
    with pytest.raises(ConfigError):
        write_preset(tmp_path, "digits", ["seed=-1"])
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]
    assert (tmp_path / "params.yaml").read_text() == "seed: 7\n"


def test_a_second_params_file_of_ones_own_does_not_replace_the_first_kept(tmp_path: Path) -> None:
    for seed, name in ((7, "params.yaml.old"), (8, "params.yaml.old2"), (7, "params.yaml.old")):
        (tmp_path / "params.yaml").write_text(f"seed: {seed}\n")
        kept = write_preset(tmp_path, "digits")
        assert kept == tmp_path / name
        assert kept.read_text() == f"seed: {seed}\n"


@pytest.mark.parametrize("name", [preset.name for preset in presets(ROOT)])
def test_missing_sections_come_from_a_preset_and_the_rest_stays(tmp_path: Path, name: str) -> None:
    whole = next(preset.path for preset in presets(ROOT) if preset.name == name)
    path = tmp_path / "params.yaml"
    path.write_text("# mine\nseed: 7  # lucky\nevaluate:\n  eps: [0.5]\n  headline_eps: 0.5")
    with pytest.raises(ConfigError, match=r"experiment, num_threads, .*: missing; `notbugs preset NAME --missing`"):
        check(read_params(path))
    added = add_missing(tmp_path, name)
    params = read_params(path)
    check(params)
    assert {**read_params(whole), "seed": 7, "evaluate": {"eps": [0.5], "headline_eps": 0.5}} == params
    assert added == [section for section in params if section not in ("seed", "evaluate")]
    text = path.read_text()
    assert text.startswith("# mine\nseed: 7  # lucky\nevaluate:\n  eps: [0.5]\n")
    assert all(line in text for line in whole.read_text().splitlines() if "auto | cpu" in line)
    assert add_missing(tmp_path, name) == []


@pytest.mark.parametrize("preset", presets(ROOT), ids=lambda preset: preset.name)
def test_a_small_preset_is_valid_and_small(tmp_path: Path, preset: Preset) -> None:
    write_preset(tmp_path, preset.name, smoke=True)
    params = read_params(tmp_path / "params.yaml")
    check(params)
    assert params["experiment"].endswith("_smoke")
    assert params["sweep"] == {}
    sizes = params["data"].get("planted", params["data"])
    assert (sizes.get("max_train") or sizes["num_train"]) <= 300
    assert {trained["epochs"] for trained in (*params["train"].values(), *params["fit"].values())} == {1}
    assert {made["num_steps"] for made in params["construct"].values()} == {2}
    assert params["evaluate"]["eps"] == [params["evaluate"]["headline_eps"]]
    assert "# " in (tmp_path / "params.yaml").read_text()


def test_changes_come_after_making_small(tmp_path: Path) -> None:
    write_preset(tmp_path, "digits", ["fit.rand.epochs=3"], smoke=True)
    assert read_params(tmp_path / "params.yaml")["fit"]["rand"]["epochs"] == 3


def test_a_preset_on_pictures_of_ones_own(tmp_path: Path) -> None:
    write_preset(tmp_path, "cifar10", ["data.max_train=500"], pictures="raw/birds.tar.xz")
    params = read_params(tmp_path / "params.yaml")
    check(params)
    assert params["data"] == {
        "source": "folder",
        "path": "raw/birds.tar.xz",
        "image_size": 32,
        "channels": "rgb",
        "dtype": "uint8",
        "max_train": 500,
        "max_test": None,
        "validation_fraction": 0.1,
    }
    assert params["experiment"] == "birds"
    write_preset(tmp_path, "restricted_imagenet", pictures="birds")
    assert read_params(tmp_path / "params.yaml")["data"]["image_size"] == 224


def test_missing_sections_are_all_that_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_preset(tmp_path, "digits")
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(main, ["preset", "digits", "--missing", "--smoke"])
    assert found.exit_code != 0
    assert "--missing takes no --set, --pictures or --smoke" in f"{found.output}{found.exception}"
