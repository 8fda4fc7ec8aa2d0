"""Bad settings get one line naming the key, the value and what is allowed."""

from pathlib import Path

import pytest
import yaml

from notbugs.cli.check import check
from notbugs.runtime.config import Runtime, find_root, read_params, runtime, settings
from notbugs.runtime.errors import ConfigError
from notbugs.training.settings import TrainSettings

PRESET = Path(__file__).parents[2] / "presets" / "digits.yaml"


def params() -> dict:
    return yaml.safe_load(PRESET.read_text())


def set_at(tree: dict, key: str, value: object) -> dict:
    *parents, last = key.split(".")
    place = tree
    for part in parents:
        place = place[part]
    place[last] = value
    return tree


def test_the_default_is_valid() -> None:
    check(params())


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("construct.rand.eps", -1.0, r"construct\.rand\.eps = -1\.0: must be greater than 0"),
        ("construct.rand.eps", True, r"construct\.rand\.eps = True: must be a valid number"),
        ("construct.rand.eps", "1.0", r"construct\.rand\.eps = '1\.0': must be a valid number"),
        ("construct.rand.eps", float("nan"), r"construct\.rand\.eps = nan: must be"),
        (
            "construct.rand.epz",
            1.0,
            r"construct\.rand\.epz: unknown key; did you mean eps\?; allowed: .*step_size",
        ),
        ("construct.rand.num_steps", 0, r"num_steps = 0: must be greater than or equal to 1"),
        ("construct.rand.num_steps", 2.5, r"num_steps = 2\.5: must be a valid integer"),
        (
            "construct.rand.recipe",
            "random",
            r"construct\.rand\.recipe = 'random': must be one of invert, random_t",
        ),
        ("train.standard.epoch", 1, r"train\.standard\.epoch: unknown key; did you mean epochs\?"),
        ("construct.rnd", {}, r"construct\.rnd\.recipe = None: must be one of invert, random_target"),
        ("model.architecture", "vgg", r"model\.architecture = 'vgg': must be one of small_cnn, deep_cnn, "),
        ("data.source", "mnist", r"data\.source = 'mnist': must be one of digits, cifar10"),
        (
            "train.robust.attack.eps",
            -0.5,
            r"train\.robust\.attack\.eps = -0\.5: must be greater than or equal to 0",
        ),
        ("train.robust.attack.ep", 1.0, r"train\.robust\.attack\.ep: unknown key; did you mean eps\?"),
        ("train.standard.seeds", [0, 0], r"train\.standard\.seeds = \[0, 0\]: must be seeds that differ"),
        (
            "train.robust.attack.num_restarts",
            2,
            r"attack\.num_restarts = 2: must be 1 where random_start is false",
        ),
        (
            "train.standard.milestones",
            [3],
            r"standard\.milestones = \[3\]: must be empty where schedule is one_cycle",
        ),
        ("train.standard.lr", None, r"train\.standard\.lr = None: must be a valid number"),
        ("evaluate.eps", [0.5, 0.0], r"evaluate\.eps = \[0\.5, 0\.0\]: must be a list of radii, each > 0"),
        ("evaluate.eps", [], r"evaluate\.eps = \(?\[?\]?\)?: must"),
        (
            "transfer.architectures.mlp.architecture",
            "vgg",
            r"transfer\.architectures\.mlp\.architecture = 'vgg': must be one of small_cnn",
        ),
        ("transfer.attack.eps", 0, r"transfer\.attack\.eps = 0: must be greater than 0"),
        ("transfer.det.seeds", [1], r"transfer\.det\.seeds = \[1\]: must be left out: the section's own"),
        ("transfer.det.early_stopping", 3, r"transfer\.det\.early_stopping = 3: must be null"),
        ("transfer.seeds", [1, 1], r"transfer\.seeds = \[1, 1\]: must be seeds that differ"),
        ("inversion.gap_attack.eps", -1.0, r"inversion\.gap_attack\.eps = -1\.0: must be greater than 0"),
        (
            "inversion.objectives",
            ["cosine"],
            r"inversion\.objectives = \['cosine'\]: must be different objectives, rep",
        ),
        ("inversion.objectives", ["l1"], r"inversion\.objectives\.0 = 'l1': must be 'representation', 'cosine' or"),
        ("diversity.num_neighbours", 0, r"diversity\.num_neighbours = 0: must be greater than or equal to 1"),
        ("estimator.eps", [0.5, 1.0], r"estimator\.eps = \[0\.5, 1\.0\]: must be a rising list of radii that begins"),
        ("estimator.eps", [0, -0.5], r"estimator\.eps = \[0, -0\.5\]: must be a rising list of radii"),
        ("estimator.other_eps", 0, r"estimator\.other_eps = 0: must be greater than 0"),
        ("estimator.attack.eps", 0.0, r"estimator\.attack\.eps = 0\.0: must be greater than 0"),
        ("estimator.fit.attack", {"eps": 1.0, "num_steps": 2}, r"estimator\.fit = .*must be without an attack"),
        ("estimator", None, r"estimator\.eps: missing; it must be given"),
        ("num_threads", 0, r"num_threads = 0: must be greater than or equal to 1"),
        ("device", "tpu", r"device = 'tpu': must be 'auto', 'cpu', 'cuda' or 'mps'"),
        ("train.standard.seeds", 3, r"train\.standard\.seeds = 3: must be a list$"),
        ("train.standard.seeds", [], r"train\.standard\.seeds = \[\]: must be a list of at least 1$"),
        ("gaussian.mu", [1.0, 2.0, 3.0], r"gaussian\.mu = \[1\.0, 2\.0, 3\.0\]: must be a list of at most 2$"),
        ("train.robust.attack", 3, r"train\.robust\.attack = 3: must be a mapping \(key: value\)$"),
        ("fit.rand.still_y", "yes", r"fit\.rand\.still_y = 'yes': must be true or false$"),
        ("experiment", "", r"experiment = '': must be a text of at least 1 character$"),
        ("sweep", {3: {}}, r"sweep\.3: must be a text; put the name in quotes"),
        ("fit", None, r"fit: must map at least one name to its settings"),
    ],
)
def test_bad_values_are_named(key: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check(set_at(params(), key, value))
    assert "\n" not in str(caught.value)


def test_a_misspelt_key_that_must_be_given_is_named_not_called_missing() -> None:
    tree = params()
    tree["construct"]["rand"]["steps"] = tree["construct"]["rand"].pop("num_steps")
    message = r"construct\.rand\.steps: unknown key; did you mean .*; allowed: .*num_steps"
    with pytest.raises(ConfigError, match=message):
        check(tree)


def test_sections_that_an_older_file_lacks_are_named_with_the_command_that_adds_them() -> None:
    tree = params()
    del tree["transfer"], tree["sweep"]
    message = r"^params\.yaml: transfer, sweep: missing; `notbugs preset NAME --missing` adds what a preset has there"
    with pytest.raises(ConfigError, match=message):
        check(tree)


def test_aliases_that_lie_in_aliases_are_not_written_out(tmp_path: Path) -> None:
    levels = "".join(f"  l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 25))
    (tmp_path / "params.yaml").write_text(f"data:\n  l0: &l0 [1]\n{levels}seed: *l24\n")
    with pytest.raises(ConfigError, match=r"seed = \[\[\[\.\.\.\], .*must be a valid integer"):
        runtime(read_params(tmp_path / "params.yaml"))


def test_a_fit_needs_its_construction() -> None:
    tree = params()
    del tree["construct"]["det"]
    with pytest.raises(ConfigError, match=r"fit\.det: there is no construct\.det"):
        check(tree)


def test_a_missing_section_names_what_is_there() -> None:
    with pytest.raises(ConfigError, match=r"train\.robust: not in params\.yaml; train has: standard"):
        settings({"train": {"standard": {}}}, "train.robust", TrainSettings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected sections .* found an empty file"),
        ("- 1\n", "found a list"),
        ("a: [1\n", "not valid YAML"),
        ("constract: {}\n", r"constract: unknown key; did you mean construct\?"),
        ("seed: 1\ntrain: {}\nseed: 2\n", r"seed: twice in one section, in lines 1 and 3"),
        ("train: {robust: {lr: 1, lr: 1}}\n", r"lr: twice in one section, in lines 1 and 1"),
        ("seed: 2020-99-99\n", r"not valid YAML: month must be in 1\.\.12"),
        ("[seed]: 1\n", r"not valid YAML: .*unhashable key"),
        ("[" * 5000, r"not valid YAML: sections within sections, more than 100 deep"),
        ("- " * 200_000, r"not valid YAML: sections within sections, more than 100 deep"),
        ("seed: !!python/object/apply:os.getpid []\n", r"not valid YAML: could not determine a constructor"),
    ],
)
def test_files_that_are_no_params(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_params(file)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not found; `notbugs preset digits` writes one"):
        read_params(tmp_path / "params.yaml")


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "params.yaml"
    file.write_text("train: {x: 1e-3, y: 5E2, z: 1.5e-4, name: e5}\n")
    assert read_params(file)["train"] == {"x": 1e-3, "y": 500.0, "z": 1.5e-4, "name": "e5"}


def test_runtime_reads_the_top_level_only() -> None:
    assert runtime({"seed": 3, "data": {}}) == Runtime(seed=3)
    with pytest.raises(ConfigError, match="seed = -1: must be greater"):
        runtime({"seed": -1})


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Runtime().seed = 1  # type: ignore[misc]


def test_the_root_is_found_from_below_whatever_dvc_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path.parent))
    monkeypatch.chdir(below)
    assert find_root() == tmp_path
    monkeypatch.chdir("/")
    with pytest.raises(ConfigError, match=r"no params\.yaml here or above"):
        find_root()
