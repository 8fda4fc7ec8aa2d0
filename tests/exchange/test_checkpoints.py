"""Released checkpoints, made up in their layouts, as models of our own: the same function; and what is refused."""

import argparse
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from released import (
    MEAN,
    STD,
    ReleasedPreAct,
    ReleasedResNet,
    ReleasedWide,
    lived_in,
    logits_of,
    of_robustness,
)
from torch import nn
from torchvision.models import resnet18

from notbugs.cli import main
from notbugs.models import load_model
from notbugs.runtime.files import sha256

RESNETS = {"resnet18": ((2, 2, 2, 2), (3, 3)), "resnet50": ((3, 4, 6, 3), (1, 3, 1))}


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["import-model", *map(str, arguments)])


def assert_same(network: nn.Module, file: Path, shape: tuple[int, int, int] = (3, 32, 32)) -> None:
    x = torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(load_model(file)(x), logits_of(network, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_a_cifar_network_of_robustness(architecture: str, tmp_path: Path) -> None:
    """Saved with dill, as the library does, and with objects beside the weights that no weights-only reader takes."""
    network = lived_in(ReleasedResNet(*RESNETS[architecture], width=8, classes=7))
    extras = {"args": argparse.Namespace(eps=0.5), "best": np.float64(53.0)}
    file, out = tmp_path / "checkpoint.pt.best", tmp_path / "robust.safetensors"
    torch.save(of_robustness(network, **extras), file, pickle_module=pytest.importorskip("dill"))
    given = (file, "--from", "robustness", "--architecture", architecture, "--width", 8, "--out", out)
    done = call(*given)
    assert done.exit_code == 0, done.output
    assert "7 classes, normalised by mean [0.4914, 0.4822, 0.4465] and std [0.2023, 0.1994, 0.201]" in done.output
    assert_same(network, out)
    facts = json.loads(out.with_suffix(".json").read_text())
    assert facts["origin"] == {"file": "checkpoint.pt.best", "format": "robustness", "sha256": sha256(file)}
    assert facts["class_names"] == list("0123456")
    again = call(*given)
    assert again.exit_code == 1
    assert again.stderr == f"error: --out {out}: is there already, and nothing is overwritten; name a new file\n"


def test_an_imagenet_network_of_robustness(tmp_path: Path) -> None:
    network = lived_in(resnet18(weights=None, num_classes=5))
    file, out = tmp_path / "imagenet.pt", tmp_path / "robust.safetensors"
    torch.save(of_robustness(network), file, _use_new_zipfile_serialization=False)  # as torch did before 1.6
    done = call(
        file, "--from", "robustness", "--architecture", "torchvision:resnet18", "--image-size", 64, "--out", out
    )
    assert done.exit_code == 0, done.output
    assert_same(network, out, (3, 64, 64))


@pytest.mark.parametrize(
    ("architecture", "network", "wrapped"),
    [
        ("preact_resnet18", ReleasedPreAct(4, 6, bare=False), {"mu": MEAN, "sigma": STD}),
        ("preact_resnet18_bare", ReleasedPreAct(4, 6, bare=True), {"normalize.mean": MEAN, "normalize.std": STD}),
        ("wide_resnet28", ReleasedWide(8, 6), {}),
        ("resnet18", ReleasedResNet(*RESNETS["resnet18"], width=4, classes=6), {"mu": MEAN, "sigma": STD}),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module.", "module.model."])
def test_a_network_of_robustbench(
    architecture: str, network: nn.Module, wrapped: dict[str, torch.Tensor], prefix: str, tmp_path: Path
) -> None:
    lived_in(network)
    width = network.block1["layer"][0].conv2.out_channels if isinstance(network, ReleasedWide) else 4  # type: ignore[index]
    state: dict[str, Any] = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    state.update({name: value.view(1, 3, 1, 1) for name, value in wrapped.items()})
    file, out = tmp_path / "Somebody2020Robust.pt", tmp_path / "robust.safetensors"
    torch.save({"state_dict": state, "epoch": 3} if prefix else state, file)
    normalisation = () if wrapped else ("--mean", "0.4914,0.4822,0.4465", "--std", "0.2023,0.1994,0.2010")
    given = (file, "--from", "robustbench", "--architecture", architecture, "--width", width, "--out", out)
    done = call(*given, "--classes", "a,b,c,d,e,f", *normalisation)
    assert done.exit_code == 0, done.output
    assert_same(network, out)
    assert load_model(out).description.class_names == tuple("abcdef")


class Malicious:
    """What runs a command when it is unpickled."""

    def __init__(self, call: Any, *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_runs_nothing(zipped: bool, tmp_path: Path) -> None:
    """Of the weights nothing is taken where the operating system is called; else what is no weight does nothing."""
    trace, out = tmp_path / "trace", tmp_path / "robust.safetensors"
    network = lived_in(ReleasedResNet(*RESNETS["resnet18"], width=4, classes=3))
    given = ("--from", "robustness", "--architecture", "resnet18", "--width", 4, "--out", out)
    by_eval = Malicious(eval, f"open({str(trace)!r}, 'w')")
    for number, thing in enumerate((Malicious(os.system, f"touch {trace}"), Malicious(os.mkdir, str(trace)), by_eval)):
        file = tmp_path / f"{number}.pt"
        torch.save({"model": thing}, file, _use_new_zipfile_serialization=zipped)
        done = call(file, *given)
        assert done.exit_code == 1
        assert done.stderr.startswith(f"error: {file}: holds ")
        assert len(done.stderr.splitlines()) == 1
        assert not out.exists()
    torch.save(of_robustness(network, schedule=by_eval), file, _use_new_zipfile_serialization=zipped)
    assert call(file, *given).exit_code == (0 if zipped else 1)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["resnet50", "--width", "4"],
            r"checkpoint\.pt: does not fit the network: lacks body\.3\.0\.conv3\.weight, .* and \d+ more$",
        ),
        (
            ["wide_resnet28", "--width", "4"],
            r"lacks body\.1\.0\.bn1\.weight, .* and \d+ more, and has .* besides; nearest to body\.\S+: \S+$",
        ),
        (["resnet18", "--width", "8"], r"body\.0\.weight is of shape \(4, 3, 3, 3\), not \(8, 3, 3, 3\)$"),
        (["resnet81"], r"architecture = 'resnet81': must be one of .*; did you mean resnet8\?$"),
        (["resnet18", "--width", "4", "--std", "0"], r"std: must be > 0 for every channel$"),
        (
            ["resnet18", "--width", "4", "--mean", "1,1"],
            r"mean = \[1\.0, 1\.0\]: must be one number, or one for",
        ),
        (["resnet18", "--mean", "half"], r"--mean half: must be a number, or numbers with commas between them$"),
        (["resnet18", "--mean", "0,nan,0"], r"--mean 0,nan,0: must be a number, or numbers with commas between them$"),
        (["resnet18", "--classes", "cat,dog,cat"], r"--classes cat,dog,cat: must be names .* each once$"),
        (["resnet18", "--kwargs", "depth=3"], r"--kwargs depth=3: must be a JSON object, such as"),
        (["resnet18", "--out", "here.pt"], r"--out here\.pt: must be a \.safetensors file$"),
    ],
)
def test_what_does_not_fit_is_one_line(options: list[str], message: str, tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pt"
    torch.save(of_robustness(ReleasedResNet(*RESNETS["resnet18"], width=4, classes=3)), file)
    done = call(file, "--from", "robustness", "--out", tmp_path / "made.safetensors", "--architecture", *options)
    assert done.exit_code == 1
    assert len(done.stderr.splitlines()) == 1
    assert re.search(message, done.stderr.strip()), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pt"]
