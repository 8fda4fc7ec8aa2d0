"""What `evaluate` measured: on the models that it is of, and as means in the runs that trained them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tracking_tools import Runs, the_journal

from notbugs.models import create_model, save_model
from notbugs.runtime.dvc_lock import content, md5
from notbugs.tracking import live, location
from notbugs.tracking.journal import journals
from notbugs.tracking.measured import measured
from notbugs.tracking.reconcile import track

pytestmark = pytest.mark.usefixtures("no_sender")
FILES = {
    "models/train/robust/seed-0.safetensors": ("D", "robust", "", 0),
    "models/fit/rand/full/source-0/seed-0.safetensors": ("D_rand", "standard", "0", 0),
    "models/fit/rand/full/source-0/seed-1.safetensors": ("D_rand", "standard", "0", 1),
    "models/fit/rand/baseline/source-0/seed-0.safetensors": ("D", "as_D_rand", "0", 0),
}
ACCURACIES = (0.9, 0.5, 0.7, 0.8)
PARAMS = {"evaluate": {"headline_eps": 0.5, "headline_num_steps": 100}}
IN_LOCK = {"evaluate": PARAMS["evaluate"]}


def write_results(root: Path, *, robust: float = 0.1) -> None:
    """metrics/results.csv: each model's accuracy, on the shifted label, and under attacks."""
    rows = ["dataset,estimator,seed,source_seed,labels,attack,norm,eps,accuracy"]
    for (dataset, estimator, source, seed), accuracy in zip(FILES.values(), ACCURACIES, strict=True):
        own = f"{dataset},{estimator},{seed},{source}"
        rows += [f"{own},true,clean,l2,0.0,{accuracy}", f"{own},shifted,clean,l2,0.0,0.01"]
        rows += [f"{own},true,pgd20,l2,0.5,0.99", f"{own},true,pgd100,l2,0.5,{robust * accuracy}"]
        rows += [f"{own},true,worst,l2,0.5,0.05", f"{own},true,pgd100,l2,1.0,0.98"]
    (root / "metrics").mkdir(exist_ok=True)
    (root / "metrics/results.csv").write_text("\n".join(rows) + "\n")
    (root / "metrics/evaluate.json").write_text(json.dumps({"D_rand": {"standard": {"clean": 0.6}}}))


@pytest.fixture
def trained(project: Path) -> Path:
    """A project with models, their metrics files, and a test split; nothing is in MLflow."""
    for number, file in enumerate(FILES):
        generator = torch.Generator().manual_seed(number)
        save_model(create_model("small_cnn", (1, 8, 8), ("a", "b"), width=1, generator=generator), project / file)
    for name in ("train/robust", "fit/rand"):
        (project / "metrics" / name).parent.mkdir(parents=True, exist_ok=True)
        (project / f"metrics/{name}.json").write_text("{}")
    (project / "data/test").mkdir(parents=True)
    (project / "data/test/manifest.json").write_text('{"name": "D_test"}')
    params = {"experiment": "test", **IN_LOCK, "fit": {"rand": {"lr": 0.1}}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    write_results(project)
    return project


def run_stage(root: Path, of: str, name: str) -> None:
    """Train: only the models are handed in."""
    folder = root / "models" / of / name
    arguments = {"root": root, "experiment": "test", "seed": 0, "inputs": [], "metrics_file": None}
    with live.live_run(of, name, params={of: {name: {"lr": 0.1}}}, outputs=[folder], **arguments) as run:  # type: ignore[arg-type]
        run.model(folder)


def evaluate(root: Path) -> None:
    outputs = [root / "metrics/results.csv", root / "metrics/evaluate.json"]
    arguments = {"root": root, "experiment": "test", "seed": 0, "params": PARAMS, "metrics_file": outputs[1]}
    with live.live_run("evaluate", None, inputs=[root / "data/test"], outputs=outputs, **arguments):  # type: ignore[arg-type]
        pass


def write_lock(root: Path, *stages: str) -> None:
    """dvc.lock of these stages over the files in the workspace."""
    outs = {"evaluate": ["metrics/results.csv", "metrics/evaluate.json"], "fit@rand": ["models/fit/rand"]}
    entries = {}
    for address in stages:
        described = [{"path": out, "hash": "md5", **hashes(root / out)} for out in outs[address]]
        deps = [{"path": "data/test", "hash": "md5", **hashes(root / "data/test")}]
        params = {"params.yaml": IN_LOCK if address == "evaluate" else {"fit.rand": {"lr": 0.1}}}
        entries[address] = {"cmd": f"notbugs {address}", "deps": deps, "params": params, "outs": described}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": entries}, sort_keys=False))


def hashes(path: Path) -> dict[str, Any]:
    there = content(path)
    assert there is not None
    return {key: value for key, value in vars(there).items() if value is not None}


@pytest.fixture
def models(runs: Runs) -> "Models":
    return Models(runs)


class Models:
    """MLflow's models by their names."""

    def __init__(self, runs: Runs) -> None:
        self.runs = runs

    def __call__(self) -> dict[str, Any]:
        with self.runs.client() as client:
            experiment = client.get_experiment_by_name("test")
            found = list(client.search_logged_models([experiment.experiment_id]))
        assert len({model.name for model in found}) == len(found)
        return {model.name: model for model in found}

    def numbers(self, name: str) -> dict[str, float]:
        return {metric.key: metric.value for metric in self()[name].metrics}


def named(runs: Runs, name: str) -> Any:
    (found,) = (run for run in runs.all() if run.info.run_name == name)
    return found


def test_models_have_their_numbers_and_their_run_the_means(trained: Path, runs: Runs, models: Models) -> None:
    run_stage(trained, "train", "robust")
    run_stage(trained, "fit", "rand")
    evaluate(trained)
    assert track(trained).sent == 3
    assert sorted(models()) == ["rand-0-0", "rand-0-1", "rand-baseline-0-0", "robust-0"]
    assert models.numbers("rand-0-1") == pytest.approx(
        {"accuracy": 0.7, "accuracy_shifted": 0.01, "adversarial_accuracy": 0.07, "worst_case_accuracy": 0.05}
    )
    model = models()["rand-0-1"]
    assert {(metric.dataset_name, metric.dataset_digest) for metric in model.metrics} == {
        ("D_test", hashes(trained / "data/test")["md5"])
    }
    assert model.params == {
        "lr": "0.1", "dataset.name": "D_rand", "seed": "1", "source_seed": "0", "subset": "full"
    }  # fmt: skip
    assert model.tags["evaluate.attack"] == "PGD, 100 steps, l2, eps 0.5"
    assert model.tags["notbugs.md5"] == md5(trained / "models/fit/rand/full/source-0/seed-1.safetensors")
    fit = named(runs, "fit@rand")
    assert model.source_run_id == fit.info.run_id
    measured = {key: value for key, value in fit.data.metrics.items() if "accuracy" in key}
    assert measured == pytest.approx({
        "accuracy": 0.6, "accuracy_shifted": 0.01, "adversarial_accuracy": 0.06, "worst_case_accuracy": 0.05,
        "baseline_accuracy": 0.8, "baseline_accuracy_shifted": 0.01, "baseline_adversarial_accuracy": 0.08,
        "baseline_worst_case_accuracy": 0.05,
    })  # fmt: skip
    assert fit.data.tags["evaluate.attack"] == "PGD, 100 steps, l2, eps 0.5"
    assert named(runs, "train@robust").data.metrics["adversarial_accuracy"] == pytest.approx(0.09)
    evaluation = named(runs, "evaluate")
    assert evaluation.data.metrics == {"accuracy/D_rand.standard": 0.6}
    assert evaluation.outputs.model_outputs == []
    with runs.client() as client:
        import mlflow

        file = mlflow.artifacts.download_artifacts(run_id=evaluation.info.run_id, artifact_path="models.csv")
        ranked = client.search_logged_models(
            [evaluation.info.experiment_id],
            order_by=[{"field_name": "metrics.adversarial_accuracy", "ascending": False, "dataset_name": "D_test"}],
        )
    rows = [line.split(",")[:2] for line in Path(file).read_text().splitlines()]
    assert rows == [["rank", "model"], ["1", "robust/0"], ["2", "rand/baseline/source-0/seed-0"],
                    ["3", "rand/source-0/seed-1"], ["4", "rand/source-0/seed-0"]]  # fmt: skip
    assert [model.name for model in ranked] == ["robust-0", "rand-baseline-0-0", "rand-0-1", "rand-0-0"]


def test_a_later_evaluation_counts_and_the_same_again_changes_nothing(
    trained: Path, runs: Runs, models: Models
) -> None:
    run_stage(trained, "fit", "rand")
    for robust in (0.1, 0.2):
        write_results(trained, robust=robust)
        evaluate(trained)
    track(trained)
    assert named(runs, "fit@rand").data.metrics["adversarial_accuracy"] == pytest.approx(0.12)
    before = [(m.key, m.value, m.timestamp) for m in models()["rand-0-1"].metrics]
    assert len(before) == 8
    for journal in journals(location.work_folder(trained), "evaluate"):
        state = journal.state
        (trained / ".notbugs" / "tracked.json").unlink(missing_ok=True)
        journal.set_state(phase="failed", offset=0, run_id=state["run_id"])
    evaluate(trained)
    track(trained)
    again = [(m.key, m.value, m.timestamp) for m in models()["rand-0-1"].metrics]
    assert set(before) < set(again)
    assert len(again) == 12


def test_weights_that_mlflow_has_are_not_logged_again(trained: Path, runs: Runs, models: Models) -> None:
    """A stage that makes the same once more has the same models, and the newest run gets the means."""
    for _ in range(2):
        run_stage(trained, "fit", "rand")
    run_stage(trained, "train", "robust")
    evaluate(trained)
    track(trained)
    assert len(models()) == 4
    fits = [run for run in runs.all() if run.info.run_name == "fit@rand"]
    first, second = sorted(fits, key=lambda run: run.info.start_time)
    assert {m.model_id for m in first.outputs.model_outputs} == {m.model_id for m in second.outputs.model_outputs}
    assert "accuracy" not in first.data.metrics
    assert second.data.metrics["accuracy"] == pytest.approx(0.6)
    changed = trained / "models/fit/rand/full/source-0/seed-0.safetensors"
    shutil.copyfile(trained / "models/train/robust/seed-0.safetensors", changed)
    run_stage(trained, "fit", "rand")
    track(trained)
    with runs.client() as client:
        found = client.search_logged_models([first.info.experiment_id])
    names = ["rand-0-0", "rand-0-0", "rand-0-1", "rand-baseline-0-0", "robust-0"]
    assert sorted(model.name for model in found) == names


def test_the_run_that_has_the_measured_weights_gets_the_means(trained: Path, runs: Runs) -> None:
    """Not the newest one, where the project went back to former weights."""
    weights = trained / "models/fit/rand"
    run_stage(trained, "fit", "rand")
    kept = shutil.copytree(weights, trained / "kept")
    for file in weights.rglob("*.safetensors"):
        shutil.copyfile(trained / "models/train/robust/seed-0.safetensors", file)
    run_stage(trained, "fit", "rand")
    shutil.rmtree(weights)
    kept.rename(weights)
    evaluate(trained)
    track(trained)
    fits = [run for run in runs.all() if run.info.run_name == "fit@rand"]
    first, second = sorted(fits, key=lambda run: run.info.start_time)
    assert first.data.metrics["accuracy"] == pytest.approx(0.6)
    assert "accuracy" not in second.data.metrics


def test_the_evaluation_logs_models_that_no_run_has(trained: Path, runs: Runs, models: Models) -> None:
    """Tracking was off while they were trained; later `track` makes their run, which gets the same models and means."""
    evaluate(trained)
    assert track(trained).sent == 1
    evaluation = named(runs, "evaluate")
    assert len(evaluation.outputs.model_outputs) == 4
    assert models.numbers("rand-0-0")["accuracy"] == 0.5
    write_lock(trained, "evaluate", "fit@rand")
    summary = track(trained)
    assert (summary.claimed, summary.rebuilt) == (1, 1)
    fit = named(runs, "fit@rand")
    assert len(models()) == 4
    assert len(fit.outputs.model_outputs) == 3
    assert fit.data.metrics["accuracy"] == pytest.approx(0.6)
    assert track(trained).changed is False


def test_a_rebuilt_evaluation_is_as_a_live_one(trained: Path, runs: Runs, models: Models) -> None:
    run_stage(trained, "train", "robust")
    run_stage(trained, "fit", "rand")
    evaluate(trained)
    track(trained)
    live_run = named(runs, "evaluate")
    fit = named(runs, "fit@rand").data.metrics
    numbers = {name: models.numbers(name) for name in models()}
    shutil.rmtree(trained / ".notbugs")
    with runs.client() as client:
        client.delete_run(live_run.info.run_id)
        client.delete_run(named(runs, "fit@rand").info.run_id)
    write_lock(trained, "evaluate", "fit@rand")
    assert track(trained).rebuilt == 2
    rebuilt = named(runs, "evaluate")
    assert (rebuilt.data.params, rebuilt.data.metrics) == (live_run.data.params, live_run.data.metrics)
    for key in ("stage", "mlflow.note.content", "mlflow.source.name", "dvc.out.metrics/results.csv"):
        assert rebuilt.data.tags[key] == live_run.data.tags[key]
    assert named(runs, "fit@rand").data.metrics == fit
    assert {name: models.numbers(name) for name in models()} == numbers


def test_without_models_here_the_run_still_gets_the_means(trained: Path, runs: Runs) -> None:
    """A fresh clone before `dvc pull`: it has the table, and no weights."""
    write_lock(trained, "evaluate", "fit@rand")
    lock = yaml.safe_load((trained / "dvc.lock").read_text())
    shutil.rmtree(trained / "models")
    assert lock["stages"]["fit@rand"]["outs"][0]["path"] == "models/fit/rand"
    assert track(trained).rebuilt == 2
    fit = named(runs, "fit@rand")
    assert fit.outputs.model_outputs == []
    assert fit.data.metrics["accuracy"] == pytest.approx(0.6)


def test_numbers_wait_for_the_run_that_logs_the_models(
    trained: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal has ended and is not sent: whoever sends the evaluation's leaves the models to it for a while."""
    from notbugs.tracking import sending
    from notbugs.tracking.store import open_store

    evaluate(trained)
    evaluation = the_journal(trained)
    run_stage(trained, "fit", "rand")
    with open_store(location.tracking_uri(trained), "test", trained) as store:
        assert sending.send(store, evaluation) is False
        assert named(runs, "evaluate").info.status == "RUNNING"
        assert named(runs, "evaluate").outputs.model_outputs == []
        monkeypatch.setattr(sending, "OTHERS_SECONDS", 0.0)
        assert sending.send(store, evaluation) is True
    assert len(named(runs, "evaluate").outputs.model_outputs) == 4


@pytest.fixture
def table(tmp_path: Path) -> Path:
    (tmp_path / "metrics/train").mkdir(parents=True)
    (tmp_path / "metrics/train/robust.json").write_text("{}")
    return tmp_path / "metrics/results.csv"


def test_a_table_of_another_kind_is_refused(table: Path) -> None:
    table.write_text("dataset,accuracy\nD,0.5\n")
    with pytest.raises(KeyError):
        measured(table.parents[1], {"headline_eps": "0.5", "headline_num_steps": "100"})
    with pytest.raises(KeyError):
        measured(table.parents[1], {})


def test_rows_of_models_that_nobody_trained_are_left_out(table: Path) -> None:
    head = "dataset,estimator,seed,source_seed,labels,attack,norm,eps,accuracy\n"
    table.write_text(head + "D,robust,3,,true,clean,l2,0,0.5\nD_gone,standard,0,0,true,clean,l2,0,0.5\n")
    found = measured(table.parents[1], {"headline_eps": "0.5", "headline_num_steps": "100"})
    assert [(model.run, model.file, model.values) for model in found.models] == [
        ("train@robust", "models/train/robust/seed-3.safetensors", {"accuracy": 0.5})
    ]
