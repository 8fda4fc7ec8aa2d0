"""Which device is taken, and what an Apple GPU must show for it; there is none here, so fakes decide."""

import pytest
import torch
from torch import Tensor

from notbugs.attacks.projections import lengths
from notbugs.pipeline.running import context, probe
from notbugs.pipeline.running.context import choose_device, open_project
from notbugs.runtime.config import Runtime
from notbugs.runtime.devices import TRAITS, widened
from notbugs.runtime.errors import ConfigError

CPU = torch.device("cpu")


def never() -> str | None:
    pytest.fail("MPS was tried")


@pytest.mark.parametrize(
    ("asked", "cuda", "mps", "expected"),
    [
        ("auto", True, True, "cuda"),
        ("auto", False, False, "cpu"),
        ("auto", False, True, "mps"),
        ("cpu", True, True, "cpu"),
        ("cuda", True, True, "cuda"),
        ("mps", True, True, "mps"),
    ],
)
def test_the_device_that_is_taken(asked: str, cuda: bool, mps: bool, expected: str) -> None:
    tries = never if expected != "mps" else lambda: None
    assert choose_device(Runtime(device=asked), cuda=cuda, mps=mps, probe=tries) == (torch.device(expected), None)


def test_an_apple_gpu_that_computes_wrong_is_named_and_not_taken() -> None:
    found = choose_device(Runtime(), cuda=False, mps=True, probe=lambda: "its logits differ from the CPU's by 0.2")
    assert found == (CPU, "device: auto: the CPU, not MPS: its logits differ from the CPU's by 0.2")
    with pytest.raises(ConfigError, match=r"device = 'mps': its logits differ; allowed: auto, cpu"):
        choose_device(Runtime(device="mps"), cuda=False, mps=True, probe=lambda: "its logits differ")
    found = choose_device(Runtime(processes=2), cuda=False, mps=True, probe=never)
    assert found == (CPU, "device: auto: the CPU, not MPS: several processes cannot share it")


@pytest.mark.parametrize("asked", ["cuda", "mps"])
def test_a_device_that_is_not_there(asked: str) -> None:
    with pytest.raises(ConfigError, match=rf"device = '{asked}': this machine has no {asked.upper()} device; allowed"):
        choose_device(Runtime(device=asked), cuda=False, mps=False, probe=never)


def test_opening_a_project_says_once_why(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "params.yaml").write_text("device: auto\n")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(context, "_probe_mps", lambda: "it cannot")
    assert open_project(tmp_path).device == CPU
    assert capsys.readouterr().err == "device: auto: the CPU, not MPS: it cannot\n"
    monkeypatch.setattr(context, "_probe_mps", lambda: None)
    assert open_project(tmp_path).device == torch.device("mps")
    assert capsys.readouterr().err == ""


# What it must show


def test_the_cpu_passes() -> None:
    assert probe.probe(CPU) is None


def test_what_a_backend_lacks_is_the_reason() -> None:
    assert str(probe.probe(torch.device("meta"))).startswith("it cannot do what is needed: ")


@pytest.mark.parametrize("name", ["logits", "gradients", "adversarial images (l2)", "weights after a step"])
def test_another_result_is_the_reason(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    right = probe._work(CPU)
    wrong = {**right, name: right[name] + 0.05}
    answers = iter([right, wrong])
    monkeypatch.setattr(probe, "_work", lambda device: next(answers))
    assert probe.probe(torch.device("mps")) == f"its {name} differ from the CPU's by 0.05"
    answers = iter([right, {**right, name: right[name] * torch.nan}])
    assert "differ" in str(probe.probe(torch.device("mps")))


# Without float64, as there


def test_all_of_it_runs_without_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU with the traits of MPS, and the same results to rounding."""
    expected = probe._work(CPU)
    monkeypatch.setitem(TRAITS, "cpu", TRAITS["mps"])
    for name, value in probe._work(CPU).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-4)
    assert widened(torch.zeros(2)).dtype == torch.float32


@pytest.mark.parametrize("scale", [1e-38, 1e-25, 1.0, 1e25])
def test_lengths_without_float64_neither_underflow_nor_overflow(monkeypatch: pytest.MonkeyPatch, scale: float) -> None:
    tensor = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * scale
    tensor[3] = 0
    expected: Tensor = lengths(tensor)
    monkeypatch.setitem(TRAITS, "cpu", TRAITS["mps"])
    found = lengths(tensor)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double() / scale, expected / scale, rtol=1e-5, atol=0)
    assert float(found[3]) == 0
    assert lengths(tensor[:, 0, 0, 0]).dtype == torch.float32
