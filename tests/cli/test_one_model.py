"""`notbugs evaluate --model`: a model of the registry, a network of one's own, and what may go wrong."""

import argparse
import json
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from notbugs.cli import main, one_model
from notbugs.data.images import ImageData
from notbugs.data.store import load_dataset, save_dataset
from notbugs.models import save_model
from notbugs.models.base import Classifier
from notbugs.pipeline.running import context

FACTORY = """
import torch
from torch import nn

def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))

def small():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def wide(image_shape, num_classes, hidden=8):
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(image_shape[1] ** 2, hidden), nn.Linear(hidden, num_classes))

class Deep(nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))

def broken():
    raise RuntimeError("no such thing")

number = 3
"""


@pytest.fixture
def folder(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    standard_model: Classifier,
    robust_model: Classifier,
    digits: tuple[ImageData, ImageData],
) -> Path:
    """A folder without params.yaml: two models of the registry, thirty test images, a module of one's own."""
    data = digits[1].select(torch.arange(30))
    table = pd.DataFrame({"index": range(30)})
    save_dataset(tmp_path / "test", data, table, name="D", source="digits", settings={})
    save_model(standard_model, tmp_path / "standard.safetensors")
    save_model(robust_model, tmp_path / "robust.safetensors")
    (tmp_path / "mine.py").write_text(FACTORY)
    weights = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    save_file({"1.weight": weights, "1.bias": torch.zeros(10)}, tmp_path / "mine.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # the tests' own number stays
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    return tmp_path


def call(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["evaluate", *arguments])
    return done.exit_code, done.output


def test_a_model_of_the_registry(folder: Path) -> None:
    code, text = call(
        "--model", "robust.safetensors", "--data", "test", "--eps", "0.5",
        "--transfer-from", "standard.safetensors", "--out", "found.json",
    )  # fmt: skip
    assert code == 0, text
    assert "apgd_t4" in text
    assert "FAIL" not in text
    found = json.loads((folder / "found.json").read_text())
    assert (found["model"], found["data"], found["n"]) == ("robust.safetensors", "test", 30)
    assert found["settings"]["level"] == "quick"
    assert found["settings"]["eps"] == [0.125, 0.25, 0.5, 0.75]
    rows = {(row["attack"], row["eps"]): row for row in found["accuracies"] if row["labels"] == "true"}
    assert 0 < rows["worst", 0.5]["accuracy"] <= rows["pgd100", 0.5]["accuracy"] < rows["clean", 0.0]["accuracy"]
    assert len(found["checks"]) == 12
    assert all(check["passed"] for check in found["checks"])
    assert 0.3 < found["minimum_norms"]["smallest"]["median"] < 2


def test_a_network_of_ones_own(folder: Path) -> None:
    given = (
        "--model",
        "mine:make",
        "--weights",
        "mine.safetensors",
        "--data",
        "test",
        "--norm",
        "linf",
        "--eps",
        "0.1",
    )
    code, text = call(*given, "--out", "found.json")
    assert code == 0, text
    assert "Weights: as" not in text
    found = json.loads((folder / "found.json").read_text())
    assert found["weights"] == "mine.safetensors"
    weights = torch.randn(10, 64, generator=torch.Generator().manual_seed(0))
    data = load_dataset(folder / "test").data()
    called = (data.images.flatten(1) @ weights.T).argmax(dim=1)
    clean = next(row for row in found["accuracies"] if row["attack"] == "clean" and row["labels"] == "true")
    assert clean["accuracy"] == pytest.approx(float((called == data.labels).double().mean()))
    assert {row["norm"] for row in found["accuracies"]} == {"linf"}
    assert call(*given, "--out", "again.json")[0] == 0
    assert (folder / "again.json").read_bytes() == (folder / "found.json").read_bytes()


@pytest.mark.parametrize("name", ["wide", "Deep"])
def test_an_architecture_of_the_pipeline_is_given_the_shape_and_the_classes(folder: Path, name: str) -> None:
    """One factory serves params.yaml and the command; without weights the command says whose it measured."""
    code, text = call("--model", f"mine:{name}", "--data", "test", "--eps", "0.1", "--out", "found.json")
    assert code == 0, text
    assert f"Weights: as mine:{name} gives them." in text
    assert json.loads((folder / "found.json").read_text())["weights"] is None


@pytest.mark.usefixtures("fresh_names")
@pytest.mark.parametrize("option", ["norm", "loss"])
def test_a_norm_and_a_loss_of_ones_own_are_named_on_the_command_line(folder: Path, option: str) -> None:
    """What a person names there may be imported, as if params.yaml named it; what is not there is one line."""
    (folder / f"own_{option}.py").write_text(
        "from notbugs.attacks.losses import margin\nfrom notbugs.attacks.norms import L1Ball\n"
        "class Tenth(L1Ball):\n    quantile = 0.9\n"
    )
    given = ("--model", "standard.safetensors", "--data", "test", "--eps", "1", "--out", "found.json")
    name = f"own_{option}:{'Tenth' if option == 'norm' else 'margin'}"
    code, text = call(*given, f"--{option}", name)
    assert code == 0, text
    assert json.loads((folder / "found.json").read_text())["settings"][option] == name
    code, text = call(*given, f"--{option}", "l4")
    assert code == 2
    assert f"evaluate.{option} = 'l4': must be one of " in text


def test_settings_come_from_params_where_there_are_some(folder: Path) -> None:
    (folder / "params.yaml").write_text(
        "evaluate: {eps: [0.3], headline_eps: 0.3, num_steps: 2, headline_num_steps: 3}\n"
    )
    code, text = call("--model", "standard.safetensors", "--data", "test")
    assert code == 0, text
    assert "pgd2 " in text
    assert "pgd3 " in text


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "evaluate: {eps: [0.3], headline_eps: 0.3, level: quik}\n",
            "evaluate.level = 'quik': must be 'quick', 'standard' or 'paper'",
        ),
        ("evaluate: {eps: [0.3], headline_eps: 0.3}\ntrian: {}\n", "params.yaml: trian: unknown key"),
        ("seed: -1\nevaluate: {eps: [0.3], headline_eps: 0.3}\n", "seed = -1: must be"),
        ("evaluate: {eps: [0.3\n", "params.yaml: not valid YAML"),
    ],
)
def test_what_is_wrong_in_params_is_not_passed_over(folder: Path, text: str, problem: str) -> None:
    (folder / "params.yaml").write_text(text)
    code, said = call("--model", "standard.safetensors", "--data", "test", "--eps", "0.3", "--out", "found.json")
    assert code == 2
    assert problem in said
    assert not (folder / "found.json").exists()


def test_params_of_another_tool_are_not_ours(folder: Path) -> None:
    (folder / "params.yaml").write_text("prepare: {split: 0.2}\nfeaturize: {max_features: 100}\n")
    given = ("--model", "standard.safetensors", "--data", "test")
    code, text = call(*given)
    assert code == 1
    assert "--eps: must be given where no params.yaml has a section evaluate" in text
    assert call(*given, "--eps", "0.3")[0] == 0


def test_the_seed_is_that_of_params(folder: Path) -> None:
    """So that random starts are the stage's; 0 where there are no params."""
    given = ("--model", "standard.safetensors", "--data", "test", "--eps", "0.3", "--out", "found.json")
    assert call(*given)[0] == 0
    assert json.loads((folder / "found.json").read_text())["seed"] == 0
    (folder / "params.yaml").write_text("seed: 7\nevaluate: {eps: [0.3], headline_eps: 0.3, num_steps: 2}\n")
    assert call(*given)[0] == 0
    assert json.loads((folder / "found.json").read_text())["seed"] == 7


def test_device_and_threads_are_those_of_params(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device stands for one that is not the CPU."""
    asked: list[int] = []
    placed: list[torch.device] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    (folder / "params.yaml").write_text("num_threads: 3\nevaluate: {eps: [0.3], headline_eps: 0.3, num_steps: 2}\n")
    given = ("--model", "standard.safetensors", "--data", "test")
    assert call(*given)[0] == 0
    assert asked == [3]
    monkeypatch.setattr(context, "choose_device", lambda *_, **__: (torch.device("meta"), None))
    monkeypatch.setattr(one_model, "_check_fits", lambda network, *_: placed.append(next(network.parameters()).device))
    call(*given)
    assert placed == [torch.device("meta")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_device_that_is_not_there_is_one_line(folder: Path) -> None:
    (folder / "params.yaml").write_text("device: cuda\nevaluate: {eps: [0.3], headline_eps: 0.3, num_steps: 2}\n")
    code, text = call("--model", "standard.safetensors", "--data", "test")
    assert code == 2
    assert "params.yaml: device = 'cuda': this machine has no CUDA device" in text


def test_weights_of_torch_save(folder: Path) -> None:
    """A checkpoint with more in it than weights is taken as a .safetensors file is."""
    state = load_file(folder / "mine.safetensors")
    torch.save({"state_dict": state, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, folder / "mine.pt")
    data = load_dataset(folder / "test")
    images = data.data().images
    logits = [one_model._load("mine:make", folder / name, data)(images) for name in ("mine.pt", "mine.safetensors")]
    assert torch.equal(*logits)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "standard.safetensors"], "--model and --data must be given together"),
        (["--level", "paper"], "options need --model and --data"),
        (["--model", "standard.safetensors", "--data", "test"], "--eps: must be given"),
        (
            ["--model", "none.safetensors", "--data", "test", "--eps", "1"],
            "none.safetensors: no model there; those that",
        ),
        (["--model", "standard.safetensors", "--data", "nowhere", "--eps", "1"], "nowhere: no dataset there"),
        (["--model", "standard.safetensors", "--data", "test", "--eps", "-1"], "--eps -1: must be a number > 0"),
        (["--model", "mine", "--data", "test", "--eps", "1"], "must be a .safetensors file or package.module:factory"),
        (["--model", "mine:nothing", "--data", "test", "--eps", "1"], "mine:nothing: AttributeError"),
        (["--model", "mine:broken", "--data", "test", "--eps", "1"], "mine:broken: RuntimeError: no such thing"),
        (["--model", "mine:number", "--data", "test", "--eps", "1"], "mine:number: TypeError"),
        (["--model", "nomodule:make", "--data", "test", "--eps", "1"], "nomodule:make: ModuleNotFoundError"),
        (["--model", "mine:small", "--data", "test", "--eps", "1"], "not one logit for each of 10 classes"),
        (
            ["--model", "mine:small", "--weights", "mine.safetensors", "--data", "test", "--eps", "1"],
            "mine.safetensors: does not fit the network",
        ),
        (
            ["--model", "mine:make", "--weights", "no.safetensors", "--data", "test", "--eps", "1"],
            "no.safetensors: no such file",
        ),
        (
            ["--model", "standard.safetensors", "--weights", "mine.safetensors", "--data", "test", "--eps", "1"],
            "only with --model package.module:factory",
        ),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, folder: Path) -> None:
    code, text = call(*arguments)
    assert code in (1, 2)
    assert text.startswith("error: ")
    assert message in " ".join(text.split())
    assert len(text.strip().splitlines()) == 1


def test_a_network_that_takes_other_images_is_refused(folder: Path) -> None:
    (folder / "mine.py").write_text("from torch import nn\n\ndef make():\n    return nn.Conv2d(3, 10, 3)\n")
    code, text = call("--model", "mine:make", "--data", "test", "--eps", "1")
    assert code == 1
    assert "does not take images (1, 8, 8)" in text
