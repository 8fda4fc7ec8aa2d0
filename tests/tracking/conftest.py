"""Projects with a ready-made MLflow database: making a new one takes seconds, copying it does not."""

import shutil
from pathlib import Path

import pytest
from tracking_tools import Runs

from notbugs.tracking import live
from notbugs.tracking.store import mlflow_environment

FOREIGN = ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME", "NOTBUGS_TRACKING", "RANK")


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database."""
    file = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    with mlflow_environment(f"sqlite:///{file}"):
        from mlflow import MlflowClient

        MlflowClient(f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def bare_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder without a database; nothing of the surroundings' settings."""
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)
    return root


@pytest.fixture
def project(bare_project: Path, database: Path) -> Path:
    """A project folder with an empty database."""
    (bare_project / "mlruns").mkdir()
    shutil.copyfile(database, bare_project / "mlruns" / "mlflow.db")
    return bare_project


@pytest.fixture
def no_sender(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are only written into journals, as if the process that sends had been killed at once."""
    monkeypatch.setattr(live, "_start_sender", lambda *arguments: None)


@pytest.fixture
def runs(project: Path) -> Runs:
    """What MLflow holds of the project."""
    return Runs(project)
