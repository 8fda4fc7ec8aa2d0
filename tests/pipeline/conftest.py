"""A tiny project with its data, source models, D_rand and its fits, made once."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from resume_tools import PARAMS

from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage


@pytest.fixture(scope="session")
def made_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Read only; `project` is a copy."""
    root = tmp_path_factory.mktemp("made") / "project"
    root.mkdir()
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    tracking = os.environ.get("NOTBUGS_TRACKING")
    os.environ["NOTBUGS_TRACKING"] = "off"
    try:
        project = open_project(root)
        run_stage(project, "prepare")
        for name in ("standard", "robust"):
            run_stage(project, "train", name)
        run_stage(project, "construct", "rand")
        run_stage(project, "fit", "rand")
    finally:
        os.environ.pop("NOTBUGS_TRACKING") if tracking is None else os.environ.update(NOTBUGS_TRACKING=tracking)
    return root


@pytest.fixture
def project(made_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny project, to be changed."""
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")
    return shutil.copytree(made_project, tmp_path / "project")
