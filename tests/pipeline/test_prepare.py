"""What `prepare` says of D besides making it."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(path)


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_picture_in_two_splits_is_noted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")
    for label, name in enumerate(("cat", "dog")):
        for number in range(10):
            picture(tmp_path / "pics" / "train" / name / f"{number}.png", 100 * label + number)
        for number in range(4):
            picture(tmp_path / "pics" / "test" / name / f"{number}.png", 100 * label + 50 + number)
    picture(tmp_path / "pics" / "test" / "cat" / "again.png", 3)
    picture(tmp_path / "pics" / "test" / "cat" / "elsewhere.png", 104)  # a dog there
    data = {"source": "folder", "path": "pics", "image_size": 8, "validation_fraction": 0.5, "dtype": dtype}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"device": "cpu", "data": data}))
    run_stage(open_project(tmp_path), "prepare")
    metrics = json.loads((tmp_path / "metrics" / "prepare.json").read_text())
    assert metrics["duplicates"] == {"validation": 0, "test": 2}
    said = capsys.readouterr().err
    assert "prepare: 2 of 10 test images are in train or validation too, pixel by pixel\n" in said
    assert "validation images are in train" not in said

    for number in range(20):  # half of them go to validation
        picture(tmp_path / "pics" / "train" / "cat" / f"{number}.png", 7)
    run_stage(open_project(tmp_path), "prepare")
    metrics = json.loads((tmp_path / "metrics" / "prepare.json").read_text())
    assert metrics["duplicates"] == {"validation": 10, "test": 1}
    assert "prepare: 10 of 15 validation images are in train too, pixel by pixel\n" in capsys.readouterr().err


def test_digits_have_none(project: Path) -> None:
    assert json.loads((project / "metrics" / "prepare.json").read_text())["duplicates"] == {"validation": 0, "test": 0}
