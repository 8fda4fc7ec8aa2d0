"""A tiny project up to `fit`, for the stages of the science: 240 digits, quick constructions, one model each."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml

from notbugs.construction.building import construct
from notbugs.construction.settings import InvertSettings, TargetSettings
from notbugs.data.images import ImageData, make_generator
from notbugs.data.store import save_dataset
from notbugs.models import save_model
from tiny import CONSTRUCT, FEATURES

TRAIN = {"epochs": 2, "batch_size": 64, "lr": 0.1, "schedule": "one_cycle"}
PARAMS: dict[str, Any] = {
    "seed": 0,
    "num_threads": 1,
    "device": "cpu",
    "model": {"architecture": "small_cnn", "width": 4},
    "train": {"standard": {"seeds": [0], **TRAIN}, "robust": {"seeds": [0], **TRAIN}},
    "fit": {"robust": {"seeds": [0], **TRAIN}, "nonrobust": {"seeds": [0], **TRAIN}},
    "data": {"source": "digits"},
    "construct": CONSTRUCT,
    "features": FEATURES,
    "transfer": {
        "architectures": {
            "cnn": {"architecture": "small_cnn", "width": 4},
            "mlp": {"architecture": "mlp", "width": 16},
            "deep": {"architecture": "deep_cnn", "width": 4},
        },
        "seeds": [0, 1],
        "d": {**TRAIN, "epochs": 6},
        "rand": TRAIN,
        "det": TRAIN,
        "attack": {"eps": 1.0, "num_steps": 10},
    },
    "inversion": {
        "num_examples": 40,
        "num_test": 30,
        "num_steps": 10,
        "step_size": 0.2,
        "gap_attack": {"eps": 0.5, "num_steps": 3},
        "num_bootstrap": 20,
        "panel_classes": 3,
    },
    "diversity": {"num_bootstrap": 10, "num_neighbours": 2},
    "estimator": {
        "eps": [0, 0.5],
        "seeds": [0, 1],
        "num_examples": 40,
        "standard": TRAIN,
        "robust": {**TRAIN, "attack": {"eps": 1.0, "num_steps": 2}},
        "other": {"architecture": "mlp", "width": 16},
        "other_eps": 0.5,
        "num_steps": 3,
        "step_size": 0.2,
        "fit": {**TRAIN, "batch_size": 16},
        "attack": {"eps": 0.5, "num_steps": 3},
    },
}


def _save(folder: Path, data: ImageData) -> None:
    table = pd.DataFrame({"index": range(len(data)), "label": data.labels.numpy()})
    save_dataset(folder, data, table, name=folder.name, source="digits", settings={})


@pytest.fixture(scope="session")
def tiny_project(tmp_path_factory, digits, standard_model, robust_model) -> Path:
    """Read only; copy it to change it."""
    root = tmp_path_factory.mktemp("science")
    base, test = (part.select(torch.arange(count)) for part, count in zip(digits, (240, 60), strict=True))
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    models = {"standard": standard_model, "robust": robust_model}
    for name, model in models.items():
        save_model(model, root / f"models/train/{name}/seed-0.safetensors")
    invert = {"recipe": "invert", "num_steps": 10, "step_size": 0.2}
    target = {"model": "standard", "num_steps": 10, "step_size": 0.3, "eps": 1.0}
    for key, by in (("robust", "robust"), ("nonrobust", "standard")):
        config = InvertSettings(model=by, **invert)
        _save(
            root / "data" / key / "source-0",
            construct(models[by], base, **config.arguments(), generator=make_generator(0)).data,
        )
        save_model(standard_model, root / f"models/fit/{key}/full/source-0/seed-0.safetensors")
    for key, recipe in (("rand", "random_target"), ("det", "deterministic_target")):
        config = TargetSettings(recipe=recipe, **target)
        _save(
            root / "data" / key / "source-0",
            construct(standard_model, base, **config.arguments(), generator=make_generator(1)).data,
        )
    _save(root / "data" / "train", base)
    _save(root / "data" / "test", test)
    return root


@pytest.fixture(autouse=True)
def _untracked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")
