"""`notbugs push` after `dvc gc`, and the exit code of `notbugs track`; with real DVC, on stages that take no time."""

from pathlib import Path

import pytest
import yaml

from projects import fail, run

STAGE = {"cmd": "cp params.yaml out && cp params.yaml table", "params": ["seed"]}
PIPELINE = {"stages": {"copy": {**STAGE, "outs": ["out", {"table": {"cache": False}}]}}}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One stage, with an output that Git would hold."""
    folder = tmp_path / "repository"
    folder.mkdir()
    run(folder, "dvc", "init", "-q", "--no-scm")
    (folder / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE))
    run(folder, "dvc", "remote", "add", "-d", "store", str(tmp_path / "remote"))
    (folder / "params.yaml").write_text("seed: 0\n")
    run(folder, "dvc", "repro")
    return folder


def change_seed(folder: Path, seed: int) -> None:
    (folder / "params.yaml").write_text(f"seed: {seed}\n")
    run(folder, "dvc", "repro")


@pytest.mark.slow
def test_what_gc_removed_keeps_nobody_from_sending_the_rest(repository: Path, tmp_path: Path) -> None:
    run(repository, "notbugs", "track", NOTBUGS_TRACKING="off")
    change_seed(repository, 1)
    assert run(repository, "notbugs", "push").stdout == "2 runs sent\n"
    run(repository, "notbugs", "track", NOTBUGS_TRACKING="off")
    change_seed(repository, 2)
    run(repository, "dvc", "gc", "-w", "-f")
    sent = len(list((tmp_path / "remote").rglob("*")))
    for _ in range(2):
        said = run(repository, "notbugs", "push").stdout
        assert said.startswith("1 runs sent; 2 others are restored only where a remote has their outputs")
    assert len(list((tmp_path / "remote").rglob("*"))) > sent
    clone = tmp_path / "clone"
    clone.mkdir()
    run(clone, "dvc", "init", "-q", "--no-scm")
    run(clone, "dvc", "remote", "add", "-d", "store", str(tmp_path / "remote"))
    (clone / "dvc.yaml").write_text((repository / "dvc.yaml").read_text())
    for seed in (0, 1, 2):  # those whose outputs were sent before, and the one of now
        (clone / "params.yaml").write_text(f"seed: {seed}\n")
        assert "is cached - skipping run" in run(clone, "dvc", "repro", "--pull").stdout
        assert (clone / "table").read_text() == f"seed: {seed}\n"


def test_track_fails_where_it_cannot_do_its_work(repository: Path) -> None:
    done = run(repository, "notbugs", "track", check=False, MLFLOW_TRACKING_URI="localhost:9")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("MLflow at http://localhost:9: ")
    assert "nothing is lost, `notbugs track` adds it later" in done.stderr
    (repository / "dvc.lock").write_text("schema: [")
    done = run(repository, "notbugs", "track", check=False)
    assert done.returncode == 1
    assert "dvc.lock" in done.stderr
    assert "Traceback" not in done.stderr
    assert fail(repository, "notbugs", "push", "-r", "nowhere")
