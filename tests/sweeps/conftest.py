"""A tiny project with trained source models, and a real PostgreSQL server."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from sweep_tools import BINARIES, PARAMS, Postgres

import warm
from notbugs.evaluation.trials import MEASURED
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage
from notbugs.sweeps.trial import Trial
from projects import made_once


@pytest.fixture(scope="session")
def trained(common: Path) -> Path:
    """A project whose data and source models are there; not to be changed."""

    def make(root: Path) -> None:
        (root / "dvc.yaml").write_text("")
        (root / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
        with pytest.MonkeyPatch.context() as patched:
            patched.setenv("NOTBUGS_TRACKING", "off")
            run_stage(open_project(root), "prepare")
            for name in ("standard", "robust"):
                run_stage(open_project(root), "train", name)

    return made_once(common / "trained", make)


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it for one test, untracked, in the current folder."""
    root = shutil.copytree(trained, tmp_path / "project")
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI", "NOTBUGS_SWEEP_STORAGE", "NOTBUGS_SWEEP_SESSION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")
    monkeypatch.chdir(root)
    return root


warm.hurry_importance()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch, blank_pictures: None) -> list[str]:
    """Trials and pictures that take no time, with numbers that follow from the point; the list tells of each."""
    measured: list[str] = []

    def measure(self: Trial, seed: int, on_epoch: Any = None) -> dict[str, Any]:
        measured.append(f"{self.point} seed {seed}")
        accuracy = (self.point.eps or 0.0) / 10 + self.point.num_steps / 1000 + seed / 10000
        values = dict.fromkeys(MEASURED, accuracy)
        for epoch in (1, 2, 3):
            if on_epoch:
                on_epoch(seed, epoch, {f"validation_accuracy/seed-{seed}": accuracy})
        return {**values, "work": self.work, "curves": [], "seconds": {"fit": 0.1}}

    monkeypatch.setattr(Trial, "measure", measure)
    return measured


@pytest.fixture(scope="module")
def mysql() -> Iterator[str]:
    """URL of a MariaDB or MySQL server in a temporary folder, on a port of loopback."""
    program, install = (shutil.which(name) for name in ("mariadbd", "mariadb-install-db"))
    if program is None or install is None:
        pytest.skip("no MariaDB server binaries")
    pytest.importorskip("pymysql")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path("/tmp") / f"notbugs-mysql-{os.getpid()}"
    folder.mkdir(mode=0o700)
    user = ["--user=root"] if os.geteuid() == 0 else []
    places = ["--no-defaults", "--skip-name-resolve", f"--datadir={folder}/data", *user]
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        subprocess.run([install, *places, "--auth-root-authentication-method=normal"], check=True, **quiet)
        listen = ["--bind-address=127.0.0.1", f"--port={port}", f"--socket={folder}/socket", f"--pid-file={folder}/pid"]
        # as on a server of one's own: passwords are kept, nothing is written through to the disk at once
        more = ["--innodb-flush-log-at-trx-commit=0", f"--init-file={folder}/init"]
        (folder / "init").write_text(
            "CREATE DATABASE studies;\nCREATE USER me@'127.0.0.1' IDENTIFIED BY 'secret';\n"
            "GRANT ALL ON studies.* TO me@'127.0.0.1';\n"
        )
        server = subprocess.Popen([program, *places, *listen, *more], **quiet)
        try:
            deadline = time.monotonic() + 30
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    break
                assert time.monotonic() < deadline, "MariaDB does not answer"
                time.sleep(0.1)
            yield f"mysql://me:secret@127.0.0.1:{port}/studies"
        finally:
            server.kill()
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    if not BINARIES:
        pytest.skip("no PostgreSQL server binaries under /usr/lib/postgresql")
    pytest.importorskip("psycopg")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path("/tmp") / f"notbugs-postgres-{os.getpid()}"  # pytest's own folders are closed to other users
    folder.mkdir(mode=0o700)
    try:
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        server = Postgres(folder, BINARIES[-1], port)
        server.run("initdb", "-D", "data", "-U", "notbugs", "-A", "trust", "-E", "UTF8", "--no-sync")
        server.start()
        yield server
        with contextlib.suppress(subprocess.CalledProcessError):
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(_server: Postgres) -> Postgres:
    """A running server without studies."""
    import sqlalchemy

    with contextlib.suppress(subprocess.CalledProcessError):
        _server.start()
    engine = sqlalchemy.create_engine(_server.url.replace("postgresql", "postgresql+psycopg"))
    deadline = time.monotonic() + 20
    while True:
        try:
            with engine.begin() as connection:
                connection.execute(sqlalchemy.text("DROP SCHEMA public CASCADE; CREATE SCHEMA public"))
            break
        except sqlalchemy.exc.OperationalError:
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.2)
    engine.dispose()
    return _server
