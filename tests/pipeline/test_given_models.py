"""Models from elsewhere in the stage `train`: taken, measured, used like trained ones; and what is refused."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from resume_tools import contents, set_params
from safetensors.torch import load_file, save_file
from torch import nn

from notbugs.cli.check import check
from notbugs.data.store import load_dataset
from notbugs.evaluation.accuracy import predict
from notbugs.models import ModelError, create_model, load_model, save_model
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.models import source_seeds
from notbugs.pipeline.stages import STAGES, run_stage
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import sha256
from notbugs.runtime.registry import allow
from tiny import ATTACK, CONSTRUCT, TINY_PARAMS, TRAIN

FIT = {**TRAIN, "seeds": [0], "still_y": False}
DIGITS = tuple("0123456789")
OTHER = """
from torch import nn

def pixels(image_shape, num_classes, units=9):
    count = image_shape[0] * image_shape[1] * image_shape[2]
    return nn.Sequential(nn.Flatten(), nn.Linear(count, units), nn.ReLU(), nn.Linear(units, num_classes))
"""


@pytest.fixture
def given(project: Path) -> Path:
    """The tiny project with two trained models moved to `imported`, one of them weights alone."""
    (project / "imported").mkdir()
    trained = project / "models" / "train" / "standard"
    for seed, name in ((0, "first"), (1, "second")):
        for suffix in (".safetensors", ".json"):
            shutil.copy(trained / f"seed-{seed}{suffix}", project / "imported" / f"{name}{suffix}")
    torch.save(load_file(project / "imported" / "second.safetensors"), project / "imported" / "second.pt")
    return project


def entry(root: Path, **keys: Any) -> Context:
    return set_params(root, train={"given": keys})


def metrics_of(root: Path, name: str) -> Any:
    return json.loads((root / "metrics" / "train" / f"{name}.json").read_text())["full"]["seeds"]


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_they_are_measured_like_trained_ones(given: Path, jobs: int) -> None:
    """The weights of `standard`, from files: the same models, and the same validation accuracies."""
    set_params(given, jobs=jobs, train={"standard": {**TRAIN, "validation_attack": ATTACK}})
    lab = entry(given, **{"from": ["imported/first.safetensors", "imported/second.pt"], "validation_attack": ATTACK})
    assert source_seeds(lab, "given") == (0, 1)
    for name in ("standard", "given"):
        run_stage(lab, "train", name)
    data = load_dataset(given / "data" / "train")
    for seed in (0, 1):
        mine, trained = (load_file(lab.source_model(name, seed)) for name in ("given", "standard"))
        assert all(torch.equal(mine[key], trained[key]) for key in trained)
        found, known = (metrics_of(given, name)[str(seed)] for name in ("given", "standard"))
        for key in ("validation_accuracy", "validation_accuracy_shifted", "validation_adversarial_accuracy"):
            assert found[key] == known[key]
        called = predict(load_model(lab.source_model("given", seed)), data).argmax(dim=1)
        assert found["train_accuracy"] == pytest.approx(float((called == data.labels).double().mean()), abs=1e-6)
    facts = json.loads(lab.source_model("given", 1).with_suffix(".json").read_text())
    assert facts["origin"] == {"file": "second.pt", "sha256": sha256(given / "imported" / "second.pt")}
    assert facts["class_names"] == list(DIGITS)
    with (given / "plots/learning/train-given.csv").open() as file:
        assert [(row["seed"], row["epoch"]) for row in csv.DictReader(file)] == [("0", "0"), ("1", "0")]


def test_from_a_file_to_the_table(given: Path) -> None:
    """As the robust model: judge, source of a construction and of its fit, measured beside the others."""
    lab = set_params(
        given,
        train={"robust": {"from": "imported/first.safetensors", "seeds": [0], "attack": ATTACK}},
        construct={"weak": {**CONSTRUCT["rand"], "model": "robust", "eps": 0.25}},
        fit={"weak": FIT},
        evaluate={"suite_seeds": 0},
    )
    for stage, name in (("train", "robust"), ("construct", "weak"), ("fit", "weak"), ("evaluate", None)):
        run_stage(lab, stage, name)
    with (given / "metrics/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    clean = {row["estimator"]: row["accuracy"] for row in rows if row["attack"] == "clean" and row["seed"] == "0"}
    assert clean["robust"]
    assert ("D_weak", "0") in {(row["dataset"], row["source_seed"]) for row in rows}


def test_weights_alone_of_a_network_of_its_own(given: Path, fresh_names: None) -> None:
    """By the network's own names, behind the normalisation that the entry names."""
    source = given / "src" / "lab" / "nets.py"
    source.parent.mkdir(parents=True)
    source.write_text(OTHER)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10))
    save_file(network.state_dict(), given / "imported" / "pixels.safetensors")
    lab = entry(
        given,
        **{"from": "imported/pixels.safetensors", "architecture": "lab.nets:pixels", "kwargs": {"units": 5}},
        mean=[0.3],
        std=[0.5],
        seeds=[7],
    )
    run_stage(lab, "train", "given")
    allow(["lab.nets:pixels"], given)
    model = load_model(lab.source_model("given", 7))
    x = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(x), network((x - 0.3) / 0.5))
    assert model.representation(x).shape == (4, 5)


def test_a_changed_file_is_taken_anew(given: Path) -> None:
    """The file's SHA-256 is part of what the stage's work is known by, and of what MLflow is told."""
    lab = entry(given, **{"from": "imported/second.pt"})
    run_stage(lab, "train", "given")
    before = contents(given / "models" / "train" / "given")
    run_stage(lab, "train", "given")
    assert contents(given / "models" / "train" / "given") == before
    torch.save(load_file(given / "imported" / "first.safetensors"), given / "imported" / "second.pt")
    run_stage(lab, "train", "given")
    after = contents(given / "models" / "train" / "given")
    assert all(after[name] != before[name] for name in before)


def test_dvc_must_watch_the_file(given: Path) -> None:
    def watch(*deps: str) -> None:
        stages = {"train": {"foreach": "${train}", "do": {"cmd": "x", "deps": ["data/train", *deps]}}}
        (given / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))

    lab = entry(given, **{"from": "imported/second.pt"})
    watch()
    message = r"^params\.yaml names imported/second\.pt: must be among the deps of stage train in dvc\.yaml"
    with pytest.raises(ConfigError, match=message):
        run_stage(lab, "train", "given")
    assert not (given / "models" / "train" / "given").exists()
    watch("imported")
    run_stage(lab, "train", "given")
    lab = entry(given, **{"from": "imported/first.safetensors"})
    watch("imported/first.safetensors")
    with pytest.raises(ConfigError, match=r"^params\.yaml names imported/first\.json: must be among the deps"):
        run_stage(lab, "train", "given")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"from": []}, r"train\.given\.from = \[\]: must be a list of at least 1"),
        ({"from": 3}, r"train\.given\.from = 3: must be a list"),
        (
            {"from": "a.pt", "seeds": [0, 1]},
            r"seeds = \[0, 1\]: must be a list of 1 different seeds, one for",
        ),
        ({"from": ["a.pt", "a.pt"], "seeds": [0, 1]}, r"from = \['a.pt', 'a.pt'\]: must be a list of different files"),
        ({"from": ["a.pt", "b.pt"], "seeds": [3, 3]}, r"seeds = \[3, 3\]: must be a list of 2 different seeds"),
        ({"from": "a.pt", "epochs": 3}, r"train\.given\.epochs: unknown key; allowed: .*from"),
        ({"from": "a.pt", "width": 3}, r"train\.given\.architecture: missing; it must be given beside"),
        (
            {"from": "a.pt", "architecture": "small_cn"},
            r"architecture = 'small_cn': must be .* mean small_cnn\?",
        ),
    ],
)
def test_entries_that_cannot_be_are_one_line(keys: dict[str, Any], message: str) -> None:
    params = {**TINY_PARAMS, "train": {**TINY_PARAMS["train"], "given": keys}}
    with pytest.raises(ConfigError, match=rf"^params\.yaml: .*{message}") as raised:
        STAGES["train"].read_settings(params, "given")
    assert "\n" not in str(raised.value)


def test_check_takes_them_and_names_what_others_lack() -> None:
    """dvc.yaml names the seeds of the two models that stages depend on: DVC would stop there."""
    train = {**TINY_PARAMS["train"], "robust": {"from": ["a.pt", "b.pt"], "seeds": [0, 1], "attack": ATTACK}}
    check({**TINY_PARAMS, "train": train})
    with pytest.raises(ConfigError, match=r"train\.robust\.seeds: missing; stages depend on it: must be \[0\], say$"):
        check({**TINY_PARAMS, "train": {**train, "robust": {"from": "a.pt"}}})
    sweep = {"small": {**TINY_PARAMS["sweep"]["small"], "source_eps": [0.5]}}
    with pytest.raises(ConfigError, match=r"source_eps: must be null where train\.robust takes its models from files"):
        check({**TINY_PARAMS, "train": train, "sweep": sweep})


@pytest.mark.parametrize(
    ("file", "keys", "message"),
    [
        ("none.pt", {}, r"params\.yaml names imported/none\.pt: must be a file; there is none at "),
        (
            "first.safetensors",
            {"architecture": "mlp"},
            r"mean and std must be left out: the \.json beside",
        ),
        (
            "second.pt",
            {"architecture": "mlp", "width": 4},
            r"second\.pt: does not fit the network: lacks body\.2\.weight, .* and 9 more, and",
        ),
        ("colour.safetensors", {}, r"for images of shape \(3, 8, 8\), not \(1, 8, 8\) as in data/train"),
        ("few.safetensors", {}, r"for 3 classes, not 10 as in data/train"),
        ("turned.safetensors", {}, r"its classes are not data/train's in their order: '9' where D has '0'"),
        ("text.pt", {}, r"text\.pt: must be a \.safetensors file, or one that torch\.save wrote"),
        ("numbers.pt", {}, r"numbers\.pt: holds no state dict"),
        ("wild.pt", {}, r"wild\.pt: head\.bias holds numbers that are not finite"),
        ("huge.pt", {}, r"huge\.pt: gives logits that are not finite"),
        (
            "headless.pt",
            {},
            r"lacks head\.weight, and has heed\.weight besides; nearest to .*: heed\.weight$",
        ),
    ],
)
def test_files_that_do_not_fit_are_one_line(given: Path, file: str, keys: dict[str, Any], message: str) -> None:
    make(given / "imported", file)
    lab = entry(given, **{"from": f"imported/{file}", **keys})
    with pytest.raises((ModelError, ConfigError), match=message) as raised:
        run_stage(lab, "train", "given")
    assert "\n" not in str(raised.value)
    assert not (given / "models" / "train" / "given").exists()
    assert not (given / "metrics" / "train" / "given.json").exists()


def make(folder: Path, name: str) -> None:
    """A file that does not fit, by its name."""
    state = load_file(folder / "second.safetensors")
    networks = {"colour": ((3, 8, 8), DIGITS), "few": ((1, 8, 8), DIGITS[:3]), "turned": ((1, 8, 8), DIGITS[::-1])}
    stem = name.partition(".")[0]
    if stem in networks:
        shape, names = networks[stem]
        save_model(create_model("small_cnn", shape, names, width=4), folder / name)
    elif stem == "text":
        (folder / name).write_text("no weights")
    elif stem == "numbers":
        torch.save({"epoch": 3, "model": [1, 2]}, folder / name)
    elif stem == "headless":
        state["heed.weight"] = state.pop("head.weight")
        torch.save(state, folder / name)
    elif stem in ("wild", "huge"):
        state["head.bias"] = torch.full((10,), float("nan") if stem == "wild" else 3e38)
        state["head.weight"] = 3e38 * torch.ones_like(state["head.weight"])
        torch.save(state, folder / name)
