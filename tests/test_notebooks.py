"""The notebooks run from top to bottom, and find what their text says."""

import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def run_all(name: str) -> dict[str, Any]:
    """Names after all code cells ran, in one scope as in a kernel."""
    cells = json.loads((NOTEBOOKS / name).read_text(encoding="utf-8"))["cells"]
    found: dict[str, Any] = {}
    for number, cell in enumerate(cell for cell in cells if cell["cell_type"] == "code"):
        assert cell["outputs"] == []  # Git holds no outputs
        exec(compile("".join(cell["source"]), f"{name}, cell {number}", "exec"), found)
    return found


def test_every_notebook_is_tried_here() -> None:
    names = {file.name for file in NOTEBOOKS.glob("*.ipynb")}
    assert names == {"quickstart.ipynb", "own_data_and_network.ipynb", "det_diagnosed.ipynb"}


def test_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_all("quickstart.ipynb")
    assert found["fooled"].float().mean() > 0.9
    assert found["found"] > 0.3  # chance: 0.1
    assert "fitted on D_rand" in capsys.readouterr().out


def test_own_data_and_network() -> None:
    found = run_all("own_data_and_network.ipynb")
    clean = next(one.accuracy for one in found["measured"] if one.attack == "clean" and one.labels == "true")
    assert clean > 0.8
    assert 0 <= found["low"] <= float(found["withstood"].double().mean()) <= found["high"] < clean


def test_det_diagnosed(capsys: pytest.CaptureFixture[str]) -> None:
    found = run_all("det_diagnosed.ipynb")
    small, larger = found["small"], found["larger"]
    assert found["why"][0].says
    assert small.success < 0.5 < larger.success
    assert larger.on_y > small.on_y + 0.2
    assert "success" in capsys.readouterr().out
