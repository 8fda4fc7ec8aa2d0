"""What the tests of unfinished work share: a tiny project of digits up to the source models."""

from pathlib import Path
from typing import Any

import yaml

from notbugs.pipeline.running.context import Context, open_project
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.files import sha256
from tiny import ATTACK, CONSTRUCT, EVALUATE, SHARED, TRAIN

PARAMS: dict[str, Any] = {
    **SHARED,
    "engine": "plain",
    "processes": 1,
    "train": {"standard": TRAIN, "robust": {**TRAIN, "seeds": [0], "attack": ATTACK}},
    "construct": {name: {**CONSTRUCT[name], "batch_size": 40, "shard_size": 80} for name in ("robust", "rand")},
    "fit": {"rand": {**TRAIN, "batch_size": 32, "early_stopping": 3, "baseline": True}},
    "evaluate": {**EVALUATE, "suite_seeds": 1},
}


def set_params(root: Path, **sections: Any) -> Context:
    """Change sections of params.yaml; the project opened again."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    for name, value in sections.items():
        params[name] = {**params.get(name, {}), **value} if isinstance(value, dict) else value
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return open_project(root)


def run_to_fits(project: Context) -> None:
    """The stages from `prepare` to `fit rand`."""
    for stage, name in (
        ("prepare", None),
        ("train", "standard"),
        ("train", "robust"),
        ("construct", "rand"),
        ("fit", "rand"),
    ):
        run_stage(project, stage, name)


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
