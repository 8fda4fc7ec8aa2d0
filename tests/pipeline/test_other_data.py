"""Trials on data of other shapes and classes than digits': made-up archives in torchvision's formats."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from resume_tools import PARAMS, run_to_fits

from notbugs.data.store import load_dataset
from notbugs.models import load_model
from notbugs.pipeline.running.context import open_project
from torchvision_files import write_cifar100, write_fashion_mnist

SHORT = {"seeds": [0], "epochs": 1}


@pytest.mark.parametrize(
    ("source", "data", "shape", "classes"),
    [
        ("FashionMNIST", {}, (1, 28, 28), 10),
        ("CIFAR100", {"dtype": "uint8"}, (3, 32, 32), 100),
        ("CIFAR100", {"superclasses": {"low": ["kind 0", "kind 1"], "high": ["kind 99", "kind 98"]}}, (3, 32, 32), 2),
    ],
    ids=["FashionMNIST", "CIFAR100", "superclasses"],
)
def test_a_trial(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    data: dict[str, Any],
    shape: tuple[int, int, int],
    classes: int,
) -> None:
    """From the archive to a classifier that learnt from D_rand."""
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")
    write = {"FashionMNIST": write_fashion_mnist, "CIFAR100": write_cifar100}[source]
    write(tmp_path / "data" / "raw", monkeypatch)
    section = {"source": f"torchvision:{source}", "validation_fraction": 0.25, **data}
    train = {name: {**settings, **SHORT} for name, settings in PARAMS["train"].items()}
    fit = {name: {**settings, **SHORT, "early_stopping": None} for name, settings in PARAMS["fit"].items()}
    params = {**PARAMS, "data": section, "train": train, "fit": fit}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    project = open_project(tmp_path)
    run_to_fits(project)
    made = load_dataset(tmp_path / "data" / "rand" / "source-0")
    assert made.image_shape == shape
    assert len(made.class_names) == classes
    model = load_model(project.fitted_model("rand", "full", 0, 0))
    assert model(made.data().images[:2]).shape == (2, classes)
