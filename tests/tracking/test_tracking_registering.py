"""`notbugs register`: a model of the project in MLflow's registry."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tracking_tools import Runs, silent_server

from notbugs.cli import main
from notbugs.models import create_model, save_model
from notbugs.tracking import live
from notbugs.tracking.reconcile import track
from notbugs.tracking.registering import RegisterError, register

pytestmark = pytest.mark.usefixtures("no_sender")
FILES = (
    "models/train/robust/seed-0.safetensors",
    "models/train/robust/seed-1.safetensors",
    "models/fit/robust/full/source-0/seed-1.safetensors",
    "models/fit/det/still_y/source-2/seed-0.safetensors",
)


@pytest.fixture
def trained(project: Path) -> Path:
    for number, file in enumerate(FILES):
        generator = torch.Generator().manual_seed(number)
        save_model(create_model("small_cnn", (1, 8, 8), ("a", "b"), width=1, generator=generator), project / file)
    (project / "params.yaml").write_text("experiment: digits, tried\n")
    return project


def versions(runs: Runs, name: str) -> dict[str, Any]:
    """Versions of a registered model -> aliases."""
    with runs.client() as client:
        return {
            str(one.version): sorted(client.get_model_version(name, one.version).aliases)
            for one in client.search_model_versions(f"name = '{name}'")
        }


def test_a_model_gets_a_name_a_version_and_an_alias(trained: Path, runs: Runs) -> None:
    """One that no run has logged is logged first; the alias moves on, and opens with the weights."""
    made = register(trained, "robust/0", "champion")
    assert (
        made
        == "registered robust/0 as digits-tried-robust version 1, alias champion: models:/digits-tried-robust@champion"
    )
    again = register(trained, str(trained / FILES[0]), "champion")
    assert again.startswith("robust/0 is digits-tried-robust version 1 already, alias champion: ")
    moved = register(trained, "models/train/robust/seed-1", "champion")
    assert "as digits-tried-robust version 2, alias champion, before version 1: " in moved
    assert versions(runs, "digits-tried-robust") == {"1": [], "2": ["champion"]}
    images = torch.rand(2, 1, 8, 8)
    with runs.client() as client:
        import mlflow

        loaded = mlflow.pyfunc.load_model("models:/digits-tried-robust@champion")
        model = client.get_logged_model(client.get_model_version("digits-tried-robust", "2").source.split("/")[-1])
    from notbugs.models import load_model

    with torch.no_grad():
        expected = load_model(trained / FILES[1])(images).numpy()
    assert (loaded.predict(images.numpy()) == expected).all()
    assert (model.name, model.tags["notbugs.file"]) == ("robust-1", FILES[1])


def test_kinds_are_told_apart_and_the_model_of_a_run_is_taken(trained: Path, runs: Runs) -> None:
    arguments: dict[str, Any] = {"root": trained, "experiment": "digits, tried", "seed": 0, "inputs": []}
    folder = trained / "models/fit/robust"
    with live.live_run("fit", "robust", params={}, outputs=[folder], metrics_file=None, **arguments) as run:
        run.model(folder)
    assert track(trained).sent == 1
    assert "as digits-tried-D_R version 1: models:/digits-tried-D_R/1" in register(trained, "robust/source-0/seed-1")
    assert "as digits-tried-D_det-still_y version 1" in register(trained, "det/still_y/source-2/seed-0")
    assert "as best version 1, alias a-1: models:/best@a-1" in register(trained, "robust/0", "a-1", "best")
    (fit,) = runs.all("digits, tried")
    with runs.client() as client:
        version = client.get_model_version("digits-tried-D_R", "1")
        models = client.search_logged_models([fit.info.experiment_id])
    assert version.run_id == fit.info.run_id
    assert sorted(model.name for model in models) == ["det-still_y-2-0", "robust-0", "robust-0-1"]


@pytest.mark.parametrize(
    ("name", "alias", "registered", "error"),
    [
        ("robust/7", None, None, "robust/7: no such model here; did you mean robust/1?; there is det/still_y/source-2"),
        ("models/fit/det", None, None, "models/fit/det: no such model here"),
        ("../robust/0", None, None, "../robust/0: no such model here"),
        ("robust/0", "v3", None, "--alias v3: must be of letters, digits, _ and -, and neither `latest` nor v and a"),
        ("robust/0", "Latest", None, "--alias Latest: must be"),
        ("robust/0", "a b", None, "--alias a b: must be"),
        ("robust/0", "", None, "--alias : must be"),
        ("robust/0", None, "a/b", "--as a/b: must be a name without / and :"),
    ],
)
def test_what_is_refused(trained: Path, name: str, alias: str | None, registered: str | None, error: str) -> None:
    with pytest.raises(RegisterError, match=re.escape(error)) as refused:
        register(trained, name, alias, registered)
    assert "\n" not in str(refused.value)


def test_what_is_there_is_said(trained: Path) -> None:
    with pytest.raises(RegisterError) as refused:
        register(trained, "x")
    assert str(refused.value) == (
        "x: no such model here; there is det/still_y/source-2/seed-0, robust/source-0/seed-1, robust/0 (first of 2)"
    )


def test_nothing_trained_and_no_server(bare_project: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_server(answers=False) as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        monkeypatch.chdir(trained)
        done = CliRunner().invoke(main, ["register", "robust/0", "--alias", "champion"])
    assert (done.exit_code, done.output) == (1, f"error: MLflow at http://127.0.0.1:{port}: connection refused\n")
    for file in (trained / "models").rglob("*.json"):
        file.unlink()
    with pytest.raises(RegisterError, match=r"robust/0: no models in .*; `dvc repro` trains them, `dvc pull` fetches"):
        register(trained, "robust/0")


def test_a_registered_model_opens_after_the_folder_was_moved(trained: Path) -> None:
    register(trained, "robust/0", "champion")
    moved = trained.rename(trained.with_name("moved"))
    assert register(moved, "robust/0", "champion").startswith("robust/0 is digits-tried-robust version 1 already")
    runs = Runs(moved)
    with runs.client():
        import mlflow

        loaded = mlflow.pyfunc.load_model("models:/digits-tried-robust@champion")
    assert loaded.predict(torch.zeros(1, 1, 8, 8).numpy()).shape == (1, 2)
