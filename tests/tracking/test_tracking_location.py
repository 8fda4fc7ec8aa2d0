import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from tracking_tools import silent_server

from notbugs.tracking import location


def test_anchor_is_the_given_folder_or_the_dvc_root_above_it(bare_project: Path, tmp_path: Path) -> None:
    (bare_project / "part").mkdir()
    assert location.anchor(bare_project) == bare_project
    assert location.anchor(bare_project / "part") == bare_project
    assert location.anchor(tmp_path / "elsewhere") == tmp_path / "elsewhere"


@pytest.mark.parametrize("copy", [".dvc/tmp/exps/tmp123", ".dvc/tmp/exps/standalone/tmp123"])
def test_anchor_of_a_temporary_copy_is_the_project(bare_project: Path, copy: str) -> None:
    (bare_project / copy / ".dvc").mkdir(parents=True)
    assert location.anchor(bare_project / copy) == bare_project


def test_anchor_follows_dvc(bare_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(bare_project))
    assert location.anchor(tmp_path / "copy") == bare_project


def test_tracking_uri_is_the_projects_own_unless_the_user_says(
    bare_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert location.tracking_uri(bare_project) == f"sqlite:///{bare_project}/mlruns/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert location.tracking_uri(bare_project) == "http://127.0.0.1:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///sub/runs.db")
    assert location.tracking_uri(bare_project) == f"sqlite:///{bare_project}/sub/runs.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////data/runs.db")
    assert location.tracking_uri(bare_project) == "sqlite:////data/runs.db"


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ("localhost:5000", "http://localhost:5000"),
        ("mlflow.example:80/base", "http://mlflow.example:80/base"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("[::1]:5000", "http://[::1]:5000"),
        ("https://host", "https://host"),
        ("postgresql://ann:x@host:5433/runs", "postgresql://ann:x@host:5433/runs"),
        ("databricks", "databricks"),
        ("file:///tmp/mlruns", "file:///tmp/mlruns"),
    ],
)
def test_an_address_without_a_scheme_is_a_servers(
    bare_project: Path, monkeypatch: pytest.MonkeyPatch, given: str, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert location.tracking_uri(bare_project) == uri


def test_names_of_stores_hold_no_password_and_outlive_a_move(bare_project: Path, tmp_path: Path) -> None:
    remote = "postgresql://ann:secret@db.example:5433/runs"
    assert location.store_name(bare_project, remote) == "postgresql://ann:***@db.example:5433/runs"
    assert location.store_name(bare_project, location.tracking_uri(bare_project)) == "project"
    assert location.store_name(tmp_path, location.tracking_uri(tmp_path)) == "project"
    assert location.store_name(bare_project, location.tracking_uri(tmp_path)) != "project"


def test_a_closed_port_and_a_silent_server_are_problems() -> None:
    with silent_server(answers=False) as port:
        assert location.problem(f"http://127.0.0.1:{port}") == "connection refused"
        assert location.problem(f"postgresql+psycopg://ann:x@127.0.0.1:{port}/runs") == "connection refused"
    with silent_server(answers=True) as port:
        assert location.problem(f"http://127.0.0.1:{port}", timeout=0.3) == "no answer within 0.3 s"


def test_addresses_of_a_server_hold_no_password() -> None:
    assert location.endpoint("http://ann:x@host:5000/mlflow/", "/health") == "http://host:5000/mlflow/health"
    assert location.endpoint("https://host", "/health") == "https://host/health"


def test_plain_folders_are_a_problem_and_databases_are_not() -> None:
    for uri in ("mlruns", "file:///tmp/mlruns"):
        assert "no longer writes into plain folders" in str(location.problem(uri))
    assert location.problem("sqlite:////tmp/mlflow.db") is None


@pytest.fixture
def filled(project: Path) -> Path:
    """A project whose database knows one experiment, run and model with files in mlruns/artifacts."""
    artifacts = f"{location.artifact_root(project).as_uri()}/test"
    with closing(sqlite3.connect(project / "mlruns" / "mlflow.db")) as connection, connection:
        connection.execute(
            "INSERT INTO experiments (experiment_id, name, artifact_location, lifecycle_stage, workspace) "
            "VALUES (7, 'test', ?, 'active', 'default')",
            (artifacts,),
        )
        connection.execute(
            "INSERT INTO runs (run_uuid, experiment_id, status, lifecycle_stage, artifact_uri) "
            "VALUES ('r1', 7, 'FINISHED', 'active', ?)",
            (f"{artifacts}/r1/artifacts",),
        )
        connection.execute(
            "INSERT INTO runs (run_uuid, experiment_id, status, lifecycle_stage, artifact_uri) "
            "VALUES ('r2', 7, 'FINISHED', 'active', 's3://bucket/mlruns/artifacts/r2')"
        )
    return project


def addresses(project: Path) -> list[str]:
    with closing(sqlite3.connect(project / "mlruns" / "mlflow.db")) as connection:
        rows = connection.execute(
            "SELECT artifact_location FROM experiments WHERE experiment_id = 7 UNION ALL "
            "SELECT artifact_uri FROM runs ORDER BY 1"
        )
        return [row[0] for row in rows]


@pytest.mark.parametrize("name", ["moved", "with space, 100% ü #1"])
def test_artifacts_are_found_again_after_a_move(filled: Path, name: str) -> None:
    moved = filled.rename(filled.with_name(name))
    assert location.relocate_artifacts(moved, location.tracking_uri(moved)) == 2
    here = location.artifact_root(moved).as_uri()
    assert addresses(moved) == [f"{here}/test", f"{here}/test/r1/artifacts", "s3://bucket/mlruns/artifacts/r2"]
    assert location.relocate_artifacts(moved, location.tracking_uri(moved)) == 0


def test_a_copied_project_has_artifacts_of_its_own(filled: Path) -> None:
    copy = filled.with_name("copy")
    shutil.copytree(filled, copy)
    before = addresses(filled)
    assert location.relocate_artifacts(copy, location.tracking_uri(copy)) == 2
    assert all(str(copy) in address for address in addresses(copy)[:2])
    assert addresses(filled) == before


def test_only_the_projects_own_sound_database_is_touched(filled: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    os.link(filled / "mlruns" / "mlflow.db", other)
    before = addresses(filled)
    moved = filled.rename(filled.with_name("moved"))
    assert location.relocate_artifacts(moved, f"sqlite:///{other}") == 0
    assert addresses(moved) == before
    (moved / "mlruns" / "mlflow.db").write_bytes(b"this is no database" * 100)
    assert location.relocate_artifacts(moved, location.tracking_uri(moved)) == 0
