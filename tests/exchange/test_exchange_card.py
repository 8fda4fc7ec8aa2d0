"""The card tells settings, numbers and lineage, and of these only what dvc.lock ties to the files at hand."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from notbugs.evaluation.results import COLUMNS
from notbugs.exchange.exporting import export_dataset
from notbugs.runtime.dvc_lock import content
from notbugs.runtime.files import sha256

SUMMARY = {"success_rate": 0.75, "robust_model": {"still_y": 0.875}, "nothing": None}


def locked(root: Path, *paths: str) -> list[dict[str, object]]:
    """Files and folders as dvc.lock describes them."""
    described = []
    for path in paths:
        found = content(root / path)
        assert found is not None
        described.append({"path": path, "hash": "md5", "md5": found.md5, "size": found.size})
    return described


def result(accuracy: float, **changes: object) -> dict[str, object]:
    row = dict.fromkeys(COLUMNS, "") | {
        "dataset": "D_det",
        "estimator": "standard",
        "seed": 0,
        "architecture": "mlp",
        "source": "digits",
        "labels": "true",
        "attack": "clean",
        "norm": "l2",
        "eps": 0.0,
        "accuracy": accuracy,
        "low": 0.0,
        "high": 1.0,
        "n": 100,
    }
    return row | changes


@pytest.fixture
def project(store, tmp_path):
    """A project with data/det and what it was made from."""
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    store().rename(root / "data" / "det")
    files = {
        "data/train/manifest.json": "{}",
        "models/train/standard/seed-0.safetensors": "weights",
        "metrics/construct/det.json": json.dumps(SUMMARY),
        "metrics/fit/det.json": "{}",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    manifest = root / "data" / "det" / "manifest.json"
    settings = {"recipe": "deterministic_target", "eps": 0.5, "model": "standard", "source_seed": 0}
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"settings": settings, "checksum": None}))
    rows = [result(0.5), result(0.7, seed=1), result(0.25, labels="shifted"), result(0.1, attack="pgd20", eps=0.6)]
    pd.DataFrame([*rows, result(0.99, dataset="D")]).to_csv(root / "metrics" / "results.csv", index=False)
    lock(root)
    return root


def lock(root: Path) -> None:
    stages = {
        "construct@det": {
            "cmd": "notbugs construct det",
            "deps": locked(root, "data/train", "models/train/standard"),
            "outs": locked(root, "data/det", "metrics/construct/det.json"),
        },
        "fit@det": {"cmd": "x", "deps": locked(root, "data/det"), "outs": locked(root, "metrics/fit/det.json")},
        "evaluate": {"cmd": "x", "deps": locked(root, "metrics/fit"), "outs": locked(root, "metrics/results.csv")},
    }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


def card(root: Path, tmp_path: Path, name: str = "out") -> str:
    export_dataset(root / "data" / "det", "npz", tmp_path / name)
    text = (tmp_path / name / "README.md").read_text()
    assert str(tmp_path) not in text
    return text


def test_settings_numbers_and_lineage(project, tmp_path):
    text = card(project, tmp_path)
    head = yaml.safe_load(text.split("---")[1])
    assert head["license"] == "other"
    assert head["size_categories"] == ["n<1K"]
    assert "# D_det, made from digits" in text
    assert "| `recipe` | deterministic_target |\n| `eps` | 0.5 |" in text
    assert "cat: 3, dog: 2, owl: 2." in text
    assert "| success_rate | 0.75 |\n| robust_model.still_y | 0.875 |" in text
    assert "| clean | 0 | y | 60.0 | 2 |\n| clean | 0 | y + 1 | 25.0 | 1 |\n| pgd20 | 0.6 | y | 10.0 | 1 |" in text
    assert "99.0" not in text
    for path in ("data/train", "models/train/standard"):
        assert f"| `{path}` (MD5, as in dvc.lock) | `{content(project / path).md5}` |" in text
    weights = sha256(project / "models" / "train" / "standard" / "seed-0.safetensors")
    assert f"| source model `models/train/standard/seed-0.safetensors` (SHA-256) | `{weights}` |" in text
    assert sha256(project / "data" / "train" / "manifest.json") in text
    assert "Optical Recognition of Handwritten Digits" in text
    assert "ilyas2019adversarial" in text
    assert "Every bit of the images, stored as float32, is kept." in text


def test_an_altered_dataset_has_no_lineage(project, tmp_path):
    (project / "data" / "det" / "more").write_text("x")
    text = card(project, tmp_path)
    assert "Unknown. The project's dvc.lock does not describe these files." in text
    assert "success_rate" not in text
    assert "60.0" not in text


def test_an_altered_source_model_is_not_named(project, tmp_path):
    before = content(project / "models" / "train" / "standard").md5
    (project / "models" / "train" / "standard" / "seed-0.safetensors").write_text("other weights")
    text = card(project, tmp_path)
    assert "source model" not in text
    assert f"`{before}`" in text  # the dataset was made from it, whatever lies there now


def test_stale_numbers_are_left_out(project, tmp_path):
    results = project / "metrics" / "results.csv"
    results.write_text(results.read_text().replace("0.7", "0.9"))
    (project / "metrics" / "construct" / "det.json").write_text('{"success_rate": 0.99}')
    text = card(project, tmp_path)
    assert "of classifiers" not in text.lower()
    assert "success_rate" not in text
    assert "models/train/standard" in text


def test_outside_a_project_nothing_is_claimed(store, tmp_path):
    export_dataset(store(), "npz", tmp_path / "out")
    assert "Unknown. The dataset lies in no project with a dvc.lock." in (tmp_path / "out" / "README.md").read_text()


def test_pictures_of_ones_own_need_a_licence_of_ones_own(project, tmp_path):
    manifest = project / "data" / "det" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"source": "folder:holiday", "checksum": None}))
    assert "a collection of the user's own: its licence holds" in card(project, tmp_path)
