"""A tiny pipeline through the real `dvc repro`, real MLflow and the real command line, without Git and with it."""

import csv
import json
import resource
import shutil
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import yaml

from notbugs.data.store import load_dataset
from notbugs.runtime.files import sha256
from projects import assert_same, copy_of, mlflow_runs, run

pytestmark = [pytest.mark.pipeline, pytest.mark.timeout(600)]
STAGES = [
    "prepare",
    "train@standard",
    "train@robust",
    "construct@robust",
    "construct@nonrobust",
    "construct@rand",
    "construct@det",
    "construct@weak",
    "fit@robust",
    "fit@nonrobust",
    "fit@rand",
    "fit@weak",
    "evaluate",
    "transfer",
    "inversion",
    "diversity",
    "estimator",
    "diagnose",
    "features",
    "planted",
    "gaussian",
    "sweep@small",
    "report",
]


@pytest.fixture
def project(finished_project: Path) -> Path:
    return finished_project


def rows(project: Path) -> list[dict[str, str]]:
    with (project / "metrics" / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_measurement_is_in_the_results(project: Path) -> None:
    found = rows(project)
    models = {(row["dataset"], row["estimator"], row["source_seed"], row["seed"]) for row in found}
    assert models >= {
        *(("D", estimator, "", seed) for estimator in ("standard", "robust") for seed in "01"),
        *(("D_R", "standard", source, "0") for source in "01"),
        *(("D", "as_D_R", source, "0") for source in "01"),
        *(("D_NR", "standard", "0", seed) for seed in "01"),
        *(("D_rand", "standard", source, seed) for source in "01" for seed in "01"),
        ("D_weak", "standard", "0", "0"),
    }
    every = {
        ("true", "clean", "0.0"),
        ("shifted", "clean", "0.0"),
        ("true", "pgd2", "0.25"),
        ("true", "pgd2", "0.5"),
        ("true", "pgd3", "0.5"),
    }
    level = {("true", attack, "0.5") for attack in ("pgd3x2", "ddn10", "apgd_t4", "square20", "worst")}
    kinds: dict[tuple[str, str], list[set[tuple[str, str, str]]]] = {}
    for model in sorted(models):
        own = [row for row in found if model == (row["dataset"], row["estimator"], row["source_seed"], row["seed"])]
        attacks = {(row["labels"], row["attack"], row["eps"]) for row in own}
        assert len(own) == len(attacks)
        kinds.setdefault(model[:2], []).append(attacks)
    for first, *others in kinds.values():  # suite_seeds: 1
        assert first == every | level
        assert all(attacks == every for attacks in others)
    for row in found:
        assert row["n"] == "60"
        assert 0 <= float(row["low"]) <= float(row["accuracy"]) <= float(row["high"]) <= 1
        eps = {"D_rand": "0.5", "D_rand_still_y": "0.5", "D_weak": "0.25"}
        assert row["construction_eps"] == eps.get(row["dataset"], "")
        assert (row["source_seed"] == "") == (row["dataset"] == "D" and row["estimator"] in ("standard", "robust"))


def test_metrics_agree_with_results(project: Path) -> None:
    metrics = json.loads((project / "metrics" / "evaluate.json").read_text())
    clean = [
        float(row["accuracy"])
        for row in rows(project)
        if (row["dataset"], row["estimator"], row["labels"], row["attack"]) == ("D", "standard", "true", "clean")
    ]
    assert metrics["D"]["standard"]["clean"] == pytest.approx(sum(clean) / len(clean), abs=1e-6)


def test_checks_and_examples_agree_with_results(project: Path) -> None:
    checks = json.loads((project / "metrics" / "checks.json").read_text())
    assert {tuple(row) for row in checks} == {("model", "check", "passed", "value", "threshold")}
    models = {"D/standard/seed-0", "D/robust/seed-0", "D/as_D_R/source-0/seed-0", "D_rand/standard/source-0/seed-0"}
    assert {row["model"] for row in checks} >= models
    examples = pd.read_parquet(project / "metrics" / "per_example.parquet")
    found = rows(project)
    key = ["dataset", "estimator", "source_seed", "seed", "labels", "attack", "eps"]
    examples["source_seed"] = examples["source_seed"].fillna(-1).astype(int)  # a missing key cannot be looked up
    shares = examples.groupby(key)["correct"].mean()
    assert len(shares) == len(found)
    for row in found:
        model = (row["dataset"], row["estimator"], int(row["source_seed"] or -1), int(row["seed"]))
        assert float(row["accuracy"]) == pytest.approx(
            shares[(*model, row["labels"], row["attack"], float(row["eps"]))]
        )
    norms = pd.read_parquet(project / "metrics" / "minimum_norms.parquet")
    own = norms[(norms["dataset"] == "D") & (norms["estimator"] == "robust")]
    assert len(own) == 60
    with (project / "plots" / "accuracy_vs_minimum_norm.csv").open() as file:
        curve = list(csv.DictReader(file))
    assert float(curve[0]["D_robust"]) == pytest.approx(float((own["distance"] > 0).mean()), abs=1e-6)


def test_constructions_are_what_they_say(project: Path) -> None:
    train, rand = load_dataset(project / "data" / "train"), load_dataset(project / "data" / "rand" / "source-1")
    table = rand.examples
    moved = (rand.data().images - train.data().images).flatten(1).norm(dim=1)
    assert float(moved.max()) <= 0.5 + 1e-5
    assert moved.tolist() == pytest.approx(table["delta_norm"].tolist(), abs=1e-5)
    assert rand.data().labels.tolist() == table["given_label"].tolist()
    assert train.data().labels.tolist() == table["true_label"].tolist()
    inverted = load_dataset(project / "data" / "robust" / "source-0").examples
    assert (inverted["start_index"] != inverted["source_index"]).all()
    assert (inverted["representation_distance"] < inverted["representation_distance_start"]).mean() > 0.9


def test_a_sweep_is_part_of_the_pipeline(project: Path, tmp_path: Path) -> None:
    with (project / "sweeps" / "small" / "trials.csv").open() as file:
        trials = list(csv.DictReader(file))
    assert [(row["eps"], row["num_steps"], row["state"]) for row in trials] == [
        (eps, steps, "COMPLETE") for eps in ("0.25", "0.5") for steps in ("1", "3")
    ]
    page = (project / "reports" / "report.html").read_text()
    assert "Study small (grid): 4 points (4 complete), 1 fit of each." in page
    copy = shutil.copytree(project, tmp_path / "copy", ignore=shutil.ignore_patterns("mlruns", ".notbugs", "*.db"))
    (copy / "mlruns").mkdir()
    run(copy, "notbugs", "sweep")
    for file in (project / "sweeps" / "small").glob("*.*"):
        assert file.read_bytes() == (copy / "sweeps" / "small" / file.name).read_bytes()
    parent, *others = [run for run in mlflow_runs(project) if run["tags"].get("notbugs.shared")]
    assert not others
    children = [run for run in mlflow_runs(project) if "sweep.trial" in run["tags"]]
    assert len(children) == 4
    for child in children:
        assert child["status"] == "FINISHED"
        assert child["tags"]["sweep.study"] == "small"
        assert child["tags"]["mlflow.parentRunId"] == parent["id"]
        assert child["tags"]["dvc.dep.data/train"].endswith(".dir")
        assert "dvc.dep.models/train/standard/seed-0.safetensors" in child["tags"]
        assert {"accuracy", "still_y", "learning/validation_accuracy", "seconds"} <= set(child["metrics"])


def test_the_report_stands_alone(project: Path) -> None:
    page = (project / "reports" / "report.html").read_text()
    assert "D_rand" in page
    assert 'src="http' not in page
    assert list((project / "plots" / "figures").glob("*.png"))


def test_a_second_run_does_nothing(project: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in project.glob("metrics/**/*.*")}
    started = time.monotonic()
    done = run(project, "dvc", "repro")
    run(project, "notbugs", "track")
    assert time.monotonic() - started < 60
    assert "Data and pipelines are up to date." in done.stdout + done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in project.glob("metrics/**/*.*")}


def test_side_by_side_a_second_run_does_nothing_either_and_ends_with_the_table(project: Path) -> None:
    done = run(project, "notbugs", "repro", "--track")
    assert "nothing to do" in done.stderr
    assert done.stderr.splitlines()[-1] == "report: reports/report.html; runs side by side: notbugs ui"
    assert done.stdout == run(project, "notbugs", "results").stdout != ""
    assert not run(project, "notbugs", "repro", "prepare").stdout


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "copy", ignore=shutil.ignore_patterns("mlruns", ".notbugs"))
    (copy / "mlruns").mkdir()
    for command in (("train", "robust"), ("construct", "rand"), ("fit", "rand"), ("evaluate",), ("report",)):
        run(copy, "notbugs", *command)
    for folder in ("data", "models", "metrics", "plots", "reports"):
        for file in sorted((project / folder).rglob("*.*")):
            if file.is_file():
                assert sha256(file) == sha256(copy / file.relative_to(project)), file.relative_to(project)


@pytest.mark.slow
def test_what_new_interpreters_make_is_the_same(project: Path, tmp_path: Path) -> None:
    """A stage as a user runs it: nothing imported yet, the project's own code, another order of sets."""
    copy = copy_of(project, tmp_path)
    for stage in ("prepare", "construct@det"):
        done = run(copy, "dvc", "repro", "--force", "--single-item", stage, cold=True)
        assert f"Running stage '{stage}'" in done.stdout
    assert_same(project, copy)


def with_another_eps(project: Path, folder: Path) -> Path:
    copy = shutil.copytree(project, folder / "copy", ignore=shutil.ignore_patterns("mlruns"))
    params = yaml.safe_load((copy / "params.yaml").read_text())
    params["construct"]["rand"]["eps"] = 0.25
    (copy / "params.yaml").write_text(yaml.safe_dump(params))
    return copy


def stages_run(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


def test_a_change_of_eps_reruns_what_depends_on_it(project: Path, tmp_path: Path) -> None:
    copy = with_another_eps(project, tmp_path)
    status = json.loads(run(copy, "dvc", "status", "--json").stdout)
    assert set(status) == {"construct@rand", "diagnose", "features", "sweep@small", "report"}
    done = run(copy, "dvc", "repro", "evaluate")
    assert stages_run(done.stdout) == {"construct@rand", "fit@rand", "evaluate"}
    assert {row["construction_eps"] for row in rows(copy) if row["dataset"].startswith("D_rand")} == {"0.25"}
    status = json.loads(run(copy, "dvc", "status", "--json").stdout)
    assert set(status) == {"diagnose", "transfer", "features", "sweep@small", "report"}


@pytest.mark.slow
def test_a_change_of_eps_leaves_a_study_of_its_own_as_it_is(project: Path, tmp_path: Path) -> None:
    copy = with_another_eps(project, tmp_path)
    done = run(copy, "dvc", "repro")
    rerun = {"construct@rand", "fit@rand", "evaluate", "diagnose", "transfer", "features", "sweep@small", "report"}
    assert stages_run(done.stdout) == rerun
    assert "sweep small: all 4 points are done" in done.stderr + done.stdout


def test_evaluate_measures_only_what_changed(project: Path) -> None:
    kept = project / ".notbugs" / "evaluate"
    before = {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    identity = ("dataset", "estimator", "source_seed", "seed")
    assert len(before) == len({tuple(row[key] for key in identity) for row in rows(project)})
    results = (project / "metrics" / "results.csv").read_bytes()
    run(project, "notbugs", "evaluate", NOTBUGS_TRACKING="off")  # the next test looks at the runs
    assert before == {path.name: path.stat().st_mtime_ns for path in kept.iterdir()}
    assert results == (project / "metrics" / "results.csv").read_bytes()


def test_mlflow_has_one_finished_run_a_stage(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "copy")
    found = [run for run in mlflow_runs(copy) if "pipeline.key" in run["tags"]]
    assert sorted(run["tags"]["mlflow.runName"] for run in found) == sorted(STAGES)
    assert {run["status"] for run in found} == {"FINISHED"}
    by_name = {run["tags"]["mlflow.runName"]: run for run in found}
    assert "learning_by_seed/validation_accuracy.seed-1" in by_name["train@standard"]["metrics"]
    assert by_name["evaluate"]["metrics"]
    for name in ("train@robust", "fit@rand"):  # measured by `evaluate`, and told to the run that trained the models
        assert {"accuracy", "accuracy_shifted", "adversarial_accuracy"} <= set(by_name[name]["metrics"])
    assert not any("/" not in name for name in by_name["evaluate"]["metrics"])  # it had to log no model itself


def test_runs_lost_to_mlflow_are_rebuilt(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "copy", ignore=shutil.ignore_patterns("mlruns", ".notbugs"))
    (copy / "mlruns").mkdir()
    params = (copy / "params.yaml").read_text()
    changed = yaml.safe_load(params)
    changed["gaussian"]["dimension"] += 1
    (copy / "params.yaml").write_text(yaml.safe_dump(changed))
    said = run(copy, "notbugs", "track").stderr
    assert "none for gaussian, report: of other settings or data than the project has now" in said
    assert not {"gaussian", "report"} & {one["tags"]["mlflow.runName"] for one in mlflow_runs(copy)}
    (copy / "params.yaml").write_text(params)
    for _ in range(2):  # the second call changes nothing
        run(copy, "notbugs", "track")
        runs = mlflow_runs(copy)
        trials = [run for run in runs if "sweep.trial" in run["tags"]]
        names = [run["tags"]["mlflow.runName"] for run in runs if run not in trials]
        assert sorted(names) == sorted(STAGES)
        assert len(trials) == len((copy / "sweeps" / "small" / "trials.csv").read_text().splitlines()) - 1


def test_dvc_shows_metrics_plots_params_and_graph(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "copy", ignore=shutil.ignore_patterns("mlruns", ".notbugs"))
    (copy / ".dvc" / "config.local").unlink()
    for command in (
        ("git", "init", "-q"),
        ("git", "add", "-A", ".dvc/config", "dvc.yaml", "dvc.lock", "params.yaml", "metrics", "plots"),
        ("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-qm", "x"),
    ):
        run(copy, *command)
    metrics = json.loads(run(copy, "dvc", "metrics", "show", "--json").stdout)
    assert list(metrics[""]["data"]) == ["metrics/headline.json"]
    assert metrics[""]["data"]["metrics/headline.json"]["data"]["D"]["standard"]["clean"] > 0
    assert "evaluate" in run(copy, "dvc", "dag", "--mermaid").stdout
    run(copy, "dvc", "plots", "show", "--no-html", check=False)
    page = run(copy, "dvc", "plots", "show").stdout.strip()
    html = Path(page.removeprefix("file://")).read_text()
    assert "accuracy_vs_eps" in html
    params = (copy / "params.yaml").read_text()
    (copy / "params.yaml").write_text(params.replace("num_steps: 3", "num_steps: 4"))
    assert "construct.rand.num_steps" in run(copy, "dvc", "params", "diff").stdout


def test_results_for_people_and_machines(project: Path) -> None:
    table = run(project, "notbugs", "results").stdout
    assert "D_rand" in table
    measurements = json.loads(run(project, "notbugs", "results", "--json").stdout)
    assert len(measurements) == len(rows(project))
    assert measurements[0]["source_seed"] is None
    assert run(project, "notbugs", "results", "--csv").stdout.splitlines()[0].startswith("dataset,estimator,seed")


def test_a_damaged_dataset_stops_a_stage_with_one_line(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "copy", ignore=shutil.ignore_patterns("mlruns", ".notbugs"))
    shard = copy / "data" / "rand" / "source-1" / "images-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.chmod(0o644)
    shard.write_bytes(content)
    models = sorted((copy / "models" / "fit" / "rand").rglob("*"))
    done = run(copy, "notbugs", "fit", "rand", check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")
    assert "images-00000.safetensors: truncated or altered" in done.stderr
    assert "Traceback" not in done.stderr
    assert models == sorted((copy / "models" / "fit" / "rand").rglob("*"))


def test_a_typo_in_params_stops_with_exit_code_2(project: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(project, tmp_path / "copy", ignore=shutil.ignore_patterns("mlruns", ".notbugs"))
    params = (copy / "params.yaml").read_text()
    run(copy, "notbugs", "check")
    (copy / "params.yaml").write_text(params.replace("step_size:", "stepsize:", 1))
    done = run(copy, "notbugs", "check", check=False)
    assert done.returncode == 2
    assert "stepsize: unknown key; did you mean step_size?" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_startup_is_quick(project: Path) -> None:
    """Help answers without torch; a stage with nothing to do costs little more than torch itself.

    In seconds of processor time, which other work on the machine does not stretch.
    """

    def seconds(*command: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run(project, *command, cold=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert any(seconds("notbugs", "evaluate", "--help") < 1.0 for _ in range(3))
    torch_alone = (sys.executable, "-c", "import torch")
    assert any(seconds("notbugs", "evaluate") < seconds(*torch_alone) + 2.0 for _ in range(3))
