"""A tiny project with its data, source models, D_rand and its fits, made once."""

import shutil
from pathlib import Path

import pytest
import yaml
from resume_tools import PARAMS, run_to_fits

from notbugs.pipeline.running.context import open_project
from projects import made_once


@pytest.fixture(scope="session")
def made_project(common: Path) -> Path:
    """Read only; `project` is a copy."""

    def make(root: Path) -> None:
        (root / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("NOTBUGS_TRACKING", "off")
            run_to_fits(open_project(root))

    return made_once(common / "made", make)


@pytest.fixture
def project(made_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny project, to be changed."""
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")
    return shutil.copytree(made_project, tmp_path / "project")
