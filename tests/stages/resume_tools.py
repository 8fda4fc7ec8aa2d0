"""What the tests of unfinished work share: a tiny project of digits up to the source models."""

from pathlib import Path
from typing import Any

import yaml

from notbugs.files import sha256
from notbugs.stages.context import Context, open_project

TINY = {"seeds": [0, 1], "epochs": 4, "batch_size": 64, "lr": 0.1, "schedule": "one_cycle", "measure_every": 2}
INVERT = {"recipe": "invert", "model": "robust", "num_steps": 3, "step_size": 0.1}
TARGET = {"recipe": "random_target", "model": "standard", "eps": 0.5, "num_steps": 3, "step_size": 0.2}
PARAMS: dict[str, Any] = {
    "experiment": "tiny",
    "seed": 0,
    "num_threads": 1,
    "device": "cpu",
    "engine": "plain",
    "processes": 1,
    "data": {"source": "digits", "max_train": 320, "max_test": 60, "validation_fraction": 0.2},
    "model": {"architecture": "small_cnn", "width": 4},
    "train": {"standard": TINY, "robust": {**TINY, "seeds": [0], "attack": {"eps": 0.5, "num_steps": 2}}},
    "construct": {
        "robust": {**INVERT, "batch_size": 40, "shard_size": 80},
        "rand": {**TARGET, "batch_size": 40, "shard_size": 80},
    },
    "fit": {"rand": {**TINY, "batch_size": 32, "early_stopping": 3}},
    "evaluate": {"eps": [0.25, 0.5], "num_steps": 2, "headline_eps": 0.5, "headline_num_steps": 3},
}


def set_params(root: Path, **sections: Any) -> Context:
    """Change sections of params.yaml; the project opened again."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    for name, value in sections.items():
        params[name] = {**params[name], **value} if isinstance(value, dict) else value
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return open_project(root)


def contents(*folders: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every file."""
    return {
        f"{folder.name}/{file.relative_to(folder)}": sha256(file)
        for folder in folders
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


def unfinished(root: Path) -> list[str]:
    """Names of the folders of unfinished work, without their keys."""
    return sorted(path.name.rpartition("-")[0] for path in (root / ".notbugs" / "unfinished").glob("*"))
