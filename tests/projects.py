"""A tiny project and copies of it, commands in them, and how they compare."""

import inspect
import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from filelock import FileLock

import warm
from notbugs.data.images import ImageData, make_generator
from notbugs.data.store import save_dataset
from notbugs.models import create_model, save_model
from notbugs.runtime import imports
from notbugs.runtime.files import sha256
from tiny import CONSTRUCT, SHARED, TINY_PARAMS, TRAIN

OUTPUTS = ("data", "models", "metrics", "plots", "reports", "sweeps")
ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src"
RUNS = Path(".dvc") / "cache" / "runs"


def make_project(folder: Path) -> Path:
    """What a tarball of the repository holds, with tiny params and no Git."""
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(ROOT / name, folder / name)
    for name in ("src", "presets"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("data", "metrics", "mlruns", "models", "plots", "reports", "sweeps", ".dvc"):
        (folder / name).mkdir()
        if (ROOT / name / ".gitignore").exists():
            shutil.copy(ROOT / name / ".gitignore", folder / name)
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
    (folder / "params.yaml").write_text(yaml.safe_dump(TINY_PARAMS, sort_keys=False))
    run(folder, "dvc", "config", "--local", "core.no_scm", "true")
    return folder


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that one of the workers of pytest-xdist fills, for all of them.

    Args:
        folder: in one that they share.
        make: fills it.
    """
    with FileLock(folder.with_suffix(".lock")):
        if not folder.with_suffix(".done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            folder.with_suffix(".done").touch()
    return folder


def write_lab(root: Path, **sections: Any) -> Path:
    """A made-up project without D's source: random images of two classes, constructions, untrained models.

    Args:
        sections: of params.yaml, beside those of the tiny pipeline.
    """
    params = {**SHARED, "train": {}, "construct": {}, "fit": {"rand": {**TRAIN, "seeds": [0]}}, **sections}
    params["train"] = {name: {**TRAIN, "seeds": [0, 1]} for name in ("standard", "robust")}
    params["construct"] = {name: CONSTRUCT[name] for name in ("robust", "nonrobust", "rand")}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    draw = make_generator(0, "test")
    folders = ("train", "test", *(f"{name}/source-{seed}" for name in params["construct"] for seed in (0, 1)))
    for folder in folders:
        labels = torch.arange(32) % 2
        images = ImageData(torch.rand(32, 1, 8, 8, generator=draw), labels, ("a", "b"))
        table = pd.DataFrame({"index": range(32), "label": labels.numpy()})
        save_dataset(root / "data" / folder, images, table, name=folder, source="made up", settings={})
    models = [f"train/{name}/seed-{seed}" for name in params["train"] for seed in (0, 1)]
    for name in (*models, "fit/rand/full/source-0/seed-0"):
        model = create_model("small_cnn", (1, 8, 8), ("a", "b"), width=2, generator=draw).eval()
        save_model(model, root / "models" / f"{name}.safetensors")
    return root


def copy_of(project: Path, folder: Path) -> Path:
    """The project without DVC's run cache, which would restore a stage instead of running it."""
    copy = shutil.copytree(project, folder / "copy", ignore=shutil.ignore_patterns("*.lock"))
    shutil.rmtree(copy / RUNS, ignore_errors=True)
    shutil.copy(project / "dvc.lock", copy)
    return copy


def environment(**changes: str) -> dict[str, str]:
    """Of a command: this Python and this package first, tracked into the project's own store."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "DVC"))}
    kept["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{kept['PATH']}"
    kept["PYTHONPATH"] = os.pathsep.join([str(SOURCE), *filter(None, [kept.get("PYTHONPATH")])])
    return {**kept, "COLUMNS": "160", **changes}


def warm_environment(**changes: str) -> dict[str, str]:
    """Of a command that need not start Python anew for `notbugs` and `dvc`; see `warm`."""
    found = environment(**changes)
    return {**found, "PATH": f"{Path(warm.program('python')).parent}{os.pathsep}{found['PATH']}"}


def run(
    project: Path, *command: str, check: bool = True, own_session: bool = False, cold: bool = False, **changes: str
) -> "subprocess.CompletedProcess[str]":
    """A command of this environment in the project.

    Args:
        check: fail the test if the command fails.
        own_session: a signal to its group does not reach the tests.
        cold: start Python anew for `notbugs` and `dvc`, as a user does, which takes seconds; see `warm`.
        changes: of the environment.
    """
    surroundings = environment(**changes) if cold else warm_environment(**changes)
    done = subprocess.run(
        command,
        cwd=project,
        env=surroundings,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        start_new_session=own_session,
    )
    if check and done.returncode:
        pytest.fail(f"{' '.join(command)} exited with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    return done


def forget_own_modules() -> None:
    """As a new process, which has imported nothing of the user's package `lab` and read no source."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "lab"]:
        del sys.modules[name]
    for cached in (imports.made_with, imports.reached, imports.source, imports._imported, imports._own_folder):
        cached.cache_clear()
    for cached in (imports._spec_origin, imports._file):  # where another test had its modules
        cached.cache_clear()
    inspect._filesbymodname.pop("lab", None)  # type: ignore[attr-defined]  # a namespace after a package is none to it


def leave_blank(patched: pytest.MonkeyPatch) -> None:
    """Figures are made, but all are saved as the same small picture: drawing them takes most of a report's time."""
    for module in ("page", "studies"):
        patched.setattr(f"notbugs.report.{module}.to_png", warm.blank_png)
    patched.setattr("notbugs.report.page.script", lambda root: "")  # made in seconds; without it no chart is live


def git(folder: Path, *arguments: str) -> None:
    run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments)


def mlflow_runs(project: Path) -> list[dict]:
    """Runs of the project's own store as plain tags and metrics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own: deprecated calls of SQLAlchemy
        from mlflow import MlflowClient

        client = MlflowClient(f"sqlite:///{project / 'mlruns' / 'mlflow.db'}")
        ids = [experiment.experiment_id for experiment in client.search_experiments()]
        return [
            {"id": run.info.run_id, "status": run.info.status, "tags": run.data.tags, "metrics": run.data.metrics}
            for run in client.search_runs(ids, max_results=1000)
        ]


def fail(project: Path, *command: str, **changes: str) -> str:
    """The one line of a `notbugs` command that ended with an error."""
    done = run(project, *command, check=False, **changes)
    lines = [line for line in done.stderr.splitlines() if not line.startswith("notbugs: tracking: ")]
    assert done.returncode in (1, 2), f"{' '.join(command)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    assert lines[-1].startswith("error: ")
    assert sum(line.startswith("error: ") for line in lines) == 1
    return lines[-1]


def contents(project: Path) -> dict[str, str]:
    """SHA-256 of every file that the pipeline writes, by name; databases and lock files are left out."""
    files = (file for folder in OUTPUTS for file in (project / folder).rglob("*") if file.is_file())
    return {
        file.relative_to(project).as_posix(): sha256(file)
        for file in files
        if file.suffix not in (".db", ".lock") and file.name != ".gitignore"
    }


def assert_same(project: Path, copy: Path, *, but_for: tuple[str, ...] = ()) -> None:
    """All outputs are there with the bytes of the undisturbed project, and nothing else.

    Args:
        but_for: beginnings of names whose bytes may differ.
    """
    mine, other = contents(project), contents(copy)
    assert sorted(mine) == sorted(other)
    assert [name for name in mine if mine[name] != other[name] and not name.startswith(but_for)] == []


def flip(file: Path) -> None:
    """Change one bit in the middle of a file."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o644)
    file.write_bytes(content)


def cut(file: Path) -> None:
    """Cut off the second half of a file."""
    file.chmod(0o644)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def can_mount() -> bool:
    """Whether this user may mount file systems, as root or in a namespace of its own."""
    try:
        done = subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


needs_mount = pytest.mark.skipif(not can_mount(), reason="needs `unshare -rm` and tmpfs, which only Linux has")
