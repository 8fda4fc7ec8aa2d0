"""A project of `notbugs new` with the built wheel in a fresh environment: the pipeline to its end, then own parts."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from projects import ROOT
from tiny import TINY_PARAMS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Place:
    """A folder, and an environment with nothing of the checkout in it.

    The wheel is built and installed without a network: the libraries are those of the environment of the tests.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        here = Path(sys.executable).parent
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("MLFLOW", "DVC", "PYTHON"))}
        self.environment = {**kept, "PATH": os.pathsep.join([str(folder / "fresh" / "bin"), str(here), kept["PATH"]])}
        self("hatchling", "build", "-t", "wheel", "-d", str(folder), at=ROOT)
        self("python", "-m", "venv", "--without-pip", "fresh")
        paths = {"base": str(folder / "fresh"), "platbase": str(folder / "fresh")}
        inside = Path(sysconfig.get_path("purelib", "venv", vars=paths))
        (inside / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
        (wheel,) = folder.glob("*.whl")
        python = str(folder / "fresh" / "bin" / "python")
        self("uv", "pip", "install", "--offline", "--no-deps", "--python", python, str(wheel))

    def __call__(self, *command: str, at: Path | None = None) -> str:
        """What a command prints; it must end well."""
        done = subprocess.run(
            command, cwd=at or self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
        return done.stdout


def running(printed: str) -> list[str]:
    """The stages that DVC ran."""
    return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage")]


def test_the_wheel_in_a_fresh_environment_runs_a_project_with_parts_of_ones_own(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place("notbugs", "new", "study")
    study = tmp_path / "study"
    assert str(tmp_path / "fresh") in place("python", "-c", "import notbugs; print(notbugs.__file__)", at=study)
    pipeline = (study / "dvc.yaml").read_text()

    def set_params(**sections: object) -> None:
        """Write params.yaml; nothing else of the project but a file of the user's is touched."""
        (study / "params.yaml").write_text(yaml.safe_dump({**TINY_PARAMS, **sections}, sort_keys=False))

    set_params()
    place("notbugs", "check", at=study)
    place("dvc", "repro", at=study)
    assert (study / "reports" / "report.html").stat().st_size > 10_000
    assert "D_rand" in place("notbugs", "results", at=study)
    assert "results:start" in (study / "README.md").read_text()
    place("notbugs", "track", at=study)
    assert running(place("dvc", "repro", at=study)) == ["code"]
    assert "3 passed" in place("make", "test", at=study)

    lab = study / "src" / "lab"
    shutil.copy(lab / "recipes.py", lab / "mine.py")
    mine = {"recipe": "lab.mine:Blend", "model": "standard", "share": 0.3, "source_seeds": [0]}
    constructs = {**TINY_PARAMS["construct"], "mine": mine}
    set_params(construct=constructs)
    assert running(place("dvc", "repro", "construct", at=study)) == ["code", "construct@mine"]
    (lab / "mine.py").write_text((lab / "mine.py").read_text() + "# another\n")
    assert running(place("dvc", "repro", "construct", at=study)) == ["code", "construct@mine"]

    (lab / "nets.py").write_text((lab / "networks.py").read_text())
    set_params(construct=constructs, model={"architecture": "lab.nets:wide", "kwargs": {"channels": 4}})
    stale = ["code", "train@robust", "train@standard"]  # DVC promises no order of these two
    assert sorted(running(place("dvc", "repro", "train", at=study))) == stale
    (lab / "nets.py").write_text((lab / "nets.py").read_text() + "# another\n")
    assert sorted(running(place("dvc", "repro", "train", "gaussian", "planted", at=study))) == stale

    (lab / "drawn.py").write_text((lab / "sources.py").read_text())
    set_params(construct=constructs, data={"source": "lab.drawn:bars", "kwargs": {"count": 200}})
    assert running(place("dvc", "repro", "prepare", at=study)) == ["code", "prepare"]
    (lab / "drawn.py").write_text((lab / "drawn.py").read_text() + "# another\n")
    assert running(place("dvc", "repro", "prepare", "gaussian", at=study)) == ["code", "prepare"]
    assert (study / "dvc.yaml").read_text() == pipeline
