"""Which device is taken, and what an Apple GPU must show for it; there is none here, so fakes decide."""

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor

from notbugs.attacks.projections import lengths
from notbugs.pipeline.running import context, probe
from notbugs.pipeline.running.context import choose_device, choose_precision, open_project
from notbugs.runtime.config import Runtime
from notbugs.runtime.devices import TRAITS, has_bfloat16, traits, widened
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
    (tmp_path / "params.yaml").write_text("device: auto\nprecision: float32\n")
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


@pytest.mark.parametrize(
    ("asked", "device", "has", "gain", "expected"),
    [
        ("auto", "cpu", True, 1.9, "bfloat16"),
        ("auto", "cpu", True, 1.1, "float32"),
        ("auto", "cpu", False, None, "float32"),
        ("auto", "cuda", True, None, "usual"),
        ("auto", "mps", False, None, "usual"),
        ("float32", "cpu", True, None, "float32"),
        ("float32", "cuda", True, None, "float32"),
        ("bfloat16", "cpu", True, None, "bfloat16"),
    ],
)
def test_the_precision_that_is_taken(asked: str, device: str, has: bool, gain: float | None, expected: str) -> None:
    def probe() -> float:
        """What was measured; nothing is, unless a CPU has to be asked."""
        assert gain is not None
        return gain

    found = choose_precision(Runtime(precision=asked), torch.device(device), has_bfloat16=has, probe=probe)
    note = None if gain is None else f"precision: auto: {expected}; bfloat16 is {gain} times as fast as float32 here"
    assert found == (expected, note)


def test_a_precision_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"precision = 'bfloat16': this CPU has no instructions for it; allowed"):
        choose_precision(Runtime(precision="bfloat16"), CPU, has_bfloat16=False, probe=lambda: 2.0)


def test_processes_that_share_a_work_choose_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the flags alone: of two measurements one might fall short."""
    monkeypatch.setattr(context, "started_by_torchrun", lambda: True)
    found = choose_precision(Runtime(), CPU, has_bfloat16=True, probe=lambda: pytest.fail("was measured"))
    assert found == ("bfloat16", None)


def test_an_opened_project_computes_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    (tmp_path / "params.yaml").write_text("device: cpu\n")
    monkeypatch.setattr(context, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(context, "_bfloat16_gain", lambda: 2.0)
    assert open_project(tmp_path).precision == "bfloat16"
    assert traits(CPU).attack_precision == torch.bfloat16
    assert capsys.readouterr().err == "precision: auto: bfloat16; bfloat16 is 2.0 times as fast as float32 here\n"
    (tmp_path / "params.yaml").write_text("device: cpu\nprecision: float32\n")
    assert open_project(tmp_path).precision == "float32"
    assert traits(CPU).attack_precision is None


def test_the_gain_is_measured_quickly() -> None:
    """Whatever it comes to here: without the instructions bfloat16 is far slower."""
    started = time.monotonic()
    gain = probe.bfloat16_gain()
    assert gain > 0
    assert (gain > 1) == has_bfloat16(CPU)
    assert time.monotonic() - started < 10
