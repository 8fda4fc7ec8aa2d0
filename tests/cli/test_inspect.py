"""`notbugs inspect`: D looked at before anything is trained."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

from notbugs.cli import main
from notbugs.data.images import ImageData
from notbugs.report.source_grid import source_png

OWN = """
import torch
from torch.utils.data import TensorDataset

def read(root, seed, count=40):
    images = torch.rand(count, 2, 5, 5, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(images, torch.arange(count) % 4), None
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_names: None) -> Path:
    monkeypatch.chdir(tmp_path)
    data = {"source": "planted", "planted": {"num_train": 80, "num_test": 40}, "validation_fraction": 0.25}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"seed": 3, "data": data}))
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["inspect", *arguments])
    assert result.exit_code == code, result.output
    return result.output


def test_without_a_name_it_is_that_of_params(project: Path) -> None:
    said = run()
    assert said.startswith("planted: 4 classes, images 3 x 32 x 32 (channels, height, width)\n")
    assert "train              60   float32" in said
    assert "yellow                15           5          10\n" in said
    assert "duplicates: none, within a split or across\n" in said
    picture = project / ".notbugs" / "inspect" / "planted.png"
    assert said.endswith(f"samples: {picture}\n")
    assert Image.open(io.BytesIO(picture.read_bytes())).format == "PNG"
    assert "not balanced" not in said


def test_a_source_by_its_name(project: Path) -> None:
    before = (project / "params.yaml").read_bytes()
    said = run("digits", "--set", "classes=['3', '8']", "--out", "look.png")
    assert said.startswith("digits: 2 classes, images 1 x 8 x 8")
    assert Image.open(io.BytesIO((project / "look.png").read_bytes())).format == "PNG"
    assert (project / "params.yaml").read_bytes() == before


def test_duplicates_and_imbalance_are_told(project: Path) -> None:
    draw = np.random.default_rng(0)
    images, labels = draw.integers(0, 256, (30, 4, 4), dtype=np.uint8), np.arange(30) % 3 == 0
    images[:12] = images[0]
    np.savez("made.npz", x_train=images, y_train=labels.astype(np.int64), x_test=images[:5], y_test=np.arange(5) % 2)
    found = json.loads(run("npz", "--set", "path=made.npz", "--json"))
    assert found["splits"]["train"]["class_counts"] == [18, 9]
    assert found["splits"]["test"]["repeated"] == 4
    assert found["in_two_splits"]["test"] == 5
    assert found["contradictory"] == 1
    said = run("npz", "--set", "path=made.npz")
    assert "duplicates: 5 of 5 test images are in train or validation too, pixel by pixel\n" in said
    assert "duplicates: 4 of 5 test images repeat another of test, pixel by pixel\n" in said
    assert "train is not balanced: a class has 9 to 18 images\n" in said


def test_a_source_of_ones_own_is_imported_since_it_is_named(project: Path) -> None:
    (project / "src" / "lab").mkdir(parents=True)
    (project / "src" / "lab" / "inspected.py").write_text(OWN)
    said = run("lab.inspected:read", "--set", "kwargs={count: 60}")
    assert said.startswith("lab.inspected:read: 4 classes, images 2 x 5 x 5")
    assert "samples:" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digit"], "error: notbugs inspect: data.source = 'digit': must be one of digits, "),
        (["folder"], "error: notbugs inspect: data.path = None: must be given for source: folder"),
        (["folder", "--set", "path=x", "--set", "image_size=8"], "error: params.yaml: data.path = 'x': nothing there"),
        (["digits", "--set", "size=3"], "error: --set size=3: expected KEY=VALUE with a key of the section data"),
    ],
)
def test_what_cannot_be_read_is_one_line(project: Path, arguments: list[str], message: str) -> None:
    said = run(*arguments, code=1 if "nothing" in message else 2)
    assert said.startswith(message)
    assert said.count("\n") == 1


def test_the_picture_holds_a_row_a_class() -> None:
    """The first images of each class, dark ones above bright ones; the same images give the same bytes."""
    images = torch.cat([torch.zeros(4, 3, 8, 8), torch.ones(4, 3, 8, 8)])
    data = ImageData(images, torch.arange(8) // 4, ("dark $1", "bright"))
    png = source_png(data)
    assert source_png(data) == png
    values = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    middle = values[:, values.shape[1] // 2 :]
    black = (middle < 5).mean(axis=1)
    assert (black > 0.5)[: len(black) // 2].any()
    assert not (black > 0.5)[len(black) // 2 :].any()
