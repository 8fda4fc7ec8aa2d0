"""Data and models on DVC remotes: a second clone gets them, has nothing to compute, and rebuilds MLflow.

Real `dvc` and real Git, on a pipeline of the first four stages; the S3 remote is a local server's.
"""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from notbugs.data.store import load_dataset, source_folders
from notbugs.runtime.files import sha256
from projects import git, make_project, mlflow_runs, run
from tiny import TINY_PARAMS

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(600)]
SECTIONS = ("prepare", "train", "construct")
STAGES = ["construct@rand", "prepare", "train@robust", "train@standard"]
TINY_TRAIN = {**TINY_PARAMS["train"]["standard"], "epochs": 2, "seeds": [0]}
PARAMS = {
    **TINY_PARAMS,
    "train": {"standard": TINY_TRAIN, "robust": {**TINY_TRAIN, "attack": {"eps": 0.5, "num_steps": 1}}},
    "construct": {"rand": TINY_PARAMS["construct"]["rand"]},
}
"""One model each, one dataset."""


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Git repository in which the first stages have run, with metrics and dvc.lock committed."""
    folder = make_project(tmp_path_factory.mktemp("original"))
    pipeline = yaml.safe_load((folder / "dvc.yaml").read_text())
    stages = {name: stage for name, stage in pipeline["stages"].items() if name in SECTIONS}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}, sort_keys=False))
    (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    (folder / ".dvc" / "config.local").unlink()  # it has Git
    shutil.copy(Path(__file__).parents[1] / ".gitignore", folder / ".gitignore")
    git(folder, "init", "-q")
    run(folder, "dvc", "repro")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "run")
    return folder


def clone(original: Path, folder: Path) -> Path:
    git(original, "clone", "-q", str(original), str(folder))
    assert not (folder / "data" / "rand").exists()
    assert not list((folder / "models").rglob("*.safetensors"))
    return folder


def outputs(project: Path) -> dict[str, str]:
    """Every file that DVC keeps -> its SHA-256."""
    files = [file for top in ("data", "models") for file in sorted((project / top).rglob("*")) if file.is_file()]
    return {str(file.relative_to(project)): sha256(file) for file in files if file.name != ".gitignore"}


def tracked(project: Path) -> list[str]:
    """Names of the finished MLflow runs of the stages."""
    found = [run for run in mlflow_runs(project) if "pipeline.key" in run["tags"]]
    assert {run["status"] for run in found} <= {"FINISHED"}
    return sorted(run["tags"]["mlflow.runName"] for run in found)


def assert_complete(copy: Path, original: Path) -> None:
    """Everything is there, nothing is left to compute, and MLflow has every stage."""
    assert outputs(copy) == outputs(original)
    assert len(source_folders(copy / "data" / "rand")) == 1
    for folder in source_folders(copy / "data" / "rand").values():
        assert len(load_dataset(folder)) == len(load_dataset(original / folder.relative_to(copy)))
    done = run(copy, "dvc", "repro")
    assert "Data and pipelines are up to date." in done.stdout + done.stderr
    assert tracked_nothing_yet(copy)
    run(copy, "notbugs", "track")
    assert tracked(copy) == STAGES


def tracked_nothing_yet(copy: Path) -> bool:
    return not (copy / "mlruns" / "mlflow.db").exists()


def test_a_second_clone_pulls_from_a_folder(original: Path, tmp_path: Path) -> None:
    git(original, "checkout", "-qb", "folder")
    run(original, "dvc", "remote", "add", "-d", "store", str(tmp_path / "remote"))
    run(original, "dvc", "push")
    git(original, "commit", "-qam", "Add the remote")
    copy = clone(original, tmp_path / "copy")
    run(copy, "dvc", "pull")
    assert_complete(copy, original)
    git(original, "checkout", "-q", "-")


def test_earlier_settings_are_restored(original: Path, tmp_path: Path) -> None:
    """`track` keeps the runs that DVC itself leaves out of its run cache, so nothing is trained twice."""
    copy = shutil.copytree(original, tmp_path / "copy")
    stage = ("dvc", "repro", "train@standard")
    run(copy, "notbugs", "track")
    earlier = (copy / "params.yaml").read_text()
    params = yaml.safe_load(earlier)
    params["train"]["standard"]["epochs"] = 1
    (copy / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert "Running stage 'train@standard'" in run(copy, *stage).stdout
    (copy / "params.yaml").write_text(earlier)
    restored = run(copy, *stage).stdout
    assert "Stage 'train@standard' is cached - skipping run, checking out outputs" in restored
    assert outputs(copy) == outputs(original)
    run(copy, "notbugs", "track")
    assert (copy / "dvc.lock").read_bytes() == (original / "dvc.lock").read_bytes()
    with Repo(str(copy)).lock:
        (copy / "dvc.lock").write_text((copy / "dvc.lock").read_text() + "\n")
        done = run(copy, "notbugs", "track", check=False)
    assert done.returncode == 1
    assert "notbugs: DVC: Unable to acquire lock" in done.stderr
    assert "(the run cache is not complete)" in done.stderr


def test_the_run_cache_restores_stages(original: Path, tmp_path: Path) -> None:
    """Without dvc.lock and metrics, as after a change of settings that a colleague has run already."""
    run(original, "dvc", "remote", "add", "-f", "--local", "store", str(tmp_path / "remote"))
    run(original, "notbugs", "push", "-r", "store")
    copy = clone(original, tmp_path / "copy")
    git(copy, "rm", "-rq", "dvc.lock", "metrics", "plots")
    run(copy, "dvc", "remote", "add", "--local", "-d", "store", str(tmp_path / "remote"))
    done = run(copy, "dvc", "repro", "--pull")
    for stage in STAGES:
        assert f"Stage '{stage}' is cached - skipping run, checking out outputs" in done.stdout
    assert "Running stage" not in done.stdout
    assert outputs(copy) == outputs(original)
    for file in (original / "metrics").rglob("*.json"):
        assert file.read_bytes() == (copy / file.relative_to(original)).read_bytes()
    assert tracked_nothing_yet(copy)
    run(copy, "notbugs", "track")
    assert tracked(copy) == STAGES
    locks = [yaml.safe_load((project / "dvc.lock").read_text()) for project in (copy, original)]
    assert locks[0] == locks[1]


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of an S3 server on loopback with an empty bucket `store`."""
    pytest.importorskip("dvc_s3", reason="needs the extra s3")
    server = pytest.importorskip("moto.server", reason="needs moto's server")
    import boto3

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    running.start()
    address = f"http://127.0.0.1:{port}"
    try:
        boto3.client("s3", endpoint_url=address).create_bucket(Bucket="store")
        yield address
    finally:
        running.stop()


@pytest.mark.filterwarnings("ignore")  # of the server's libraries
def test_a_second_clone_pulls_from_s3(original: Path, tmp_path: Path, s3: str) -> None:
    def add_remote(project: Path) -> None:
        run(project, "dvc", "remote", "add", "-f", "--local", "-d", "bucket", "s3://store/notbugs")
        run(project, "dvc", "remote", "modify", "--local", "bucket", "endpointurl", s3)

    add_remote(original)
    run(original, "dvc", "push")
    copy = clone(original, tmp_path / "copy")
    add_remote(copy)
    run(copy, "dvc", "pull")
    assert_complete(copy, original)
