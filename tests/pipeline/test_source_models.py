"""Several source models: a dataset and fits for each, pairs that share their random streams, and what is measured."""

import csv
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from resume_tools import set_params

from notbugs.cli.check import check
from notbugs.data.store import DatasetError, load_dataset, source_folders
from notbugs.evaluation.accuracy import called_by
from notbugs.evaluation.levels import SuiteSettings
from notbugs.exchange.exporting import export_dataset
from notbugs.models import load_model
from notbugs.pipeline.evaluate import _curves, _summary
from notbugs.pipeline.evaluate.measuring import Subject, _places
from notbugs.pipeline.running.context import Context, open_project
from notbugs.pipeline.running.models import construction_seeds, first_sources, judge_seed, source_model_of
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.errors import ConfigError
from tiny import CONSTRUCT, TINY_PARAMS, TRAIN

RAND = {**TRAIN, "batch_size": 32, "early_stopping": 3}


def examples(root: Path, name: str, source_seed: int) -> pd.DataFrame:
    return load_dataset(root / "data" / name / f"source-{source_seed}").examples


def results(root: Path) -> list[dict[str, str]]:
    with (root / "metrics" / "results.csv").open() as file:
        return list(csv.DictReader(file))


# Construction


def test_each_source_model_makes_its_own_dataset(project):
    folders = source_folders(project / "data" / "rand")
    assert list(folders) == [0, 1]
    first, second = (load_dataset(folder) for folder in folders.values())
    assert [part.manifest.settings["source_seed"] for part in (first, second)] == [0, 1]
    assert not torch.equal(first.data().images, second.data().images)
    assert not first.examples["given_label"].equals(second.examples["given_label"])
    metrics = json.loads((project / "metrics" / "construct" / "rand.json").read_text())
    assert list(metrics["sources"]) == ["0", "1"]
    for source, part in (("0", first), ("1", second)):
        assert metrics["sources"][source]["success_rate"] == pytest.approx(part.examples["success"].mean())
    mean = (metrics["sources"]["0"]["success_rate"] + metrics["sources"]["1"]["success_rate"]) / 2
    assert metrics["success_rate"] == pytest.approx(mean)


def test_success_is_told_for_the_other_seeds_of_the_kind(project):
    """Of D_rand from seed 0, the model of seed 1; D_R has one robust model, so no other."""
    made = load_dataset(project / "data" / "rand" / "source-0")
    other = load_model(project / "models" / "train" / "standard" / "seed-1.safetensors")
    called = called_by(other, made) == made.labels
    assert made.examples["success_other_seeds"].tolist() == called.float().tolist()
    metrics = json.loads((project / "metrics" / "construct" / "rand.json").read_text())
    assert metrics["sources"]["0"]["success_other_seeds"] == pytest.approx(float(called.double().mean()))
    run_stage(open_project(project), "construct", "robust")
    metrics = json.loads((project / "metrics" / "construct" / "robust.json").read_text())
    assert metrics["success_other_seeds"] is None
    assert examples(project, "robust", 0)["success_other_seeds"].isna().all()


def test_pairs_share_starts_and_targets(project):
    """D_R and D_NR of one source seed start from the same x'; D_rand and its control aim at the same t."""
    control = {**CONSTRUCT["rand"], "model": "robust", "eps": 0.7}
    lab = set_params(project, construct={"nonrobust": CONSTRUCT["nonrobust"], "rand_from_robust": control})
    for name in ("robust", "nonrobust", "rand_from_robust"):
        run_stage(lab, "construct", name)
    starts = examples(project, "nonrobust", 0)["start_index"]
    assert starts.equals(examples(project, "robust", 0)["start_index"])
    assert not starts.equals(examples(project, "nonrobust", 1)["start_index"])
    targets = examples(project, "rand", 0)["given_label"]
    assert targets.equals(examples(project, "rand_from_robust", 0)["given_label"])


def test_source_seeds_choose_the_sources(project):
    lab = set_params(project, construct={"rand": {**CONSTRUCT["rand"], "source_seeds": [1]}})
    before = examples(project, "rand", 1)["given_label"]
    run_stage(lab, "construct", "rand")
    assert list(source_folders(project / "data" / "rand")) == [1]
    assert examples(project, "rand", 1)["given_label"].equals(before)  # whatever other sources there are


def test_a_source_seed_that_is_not_trained_is_one_line(project):
    lab = set_params(project, construct={"rand": {**CONSTRUCT["rand"], "source_seeds": [1, 7]}})
    message = r"params\.yaml: construct\.rand\.source_seeds = \[1, 7\]: must be among train\.standard\.seeds: 0, 1$"
    with pytest.raises(ConfigError, match=message):
        run_stage(lab, "construct", "rand")
    params = {**TINY_PARAMS, "construct": {**TINY_PARAMS["construct"], "rand": lab.params["construct"]["rand"]}}
    with pytest.raises(ConfigError, match=message):
        check(params)


def test_nobody_judges_its_own_work_if_there_is_another():
    assert [judge_seed((3, 5, 8), [("robust", seed)]) for seed in (3, 5, 8)] == [5, 3, 3]
    assert judge_seed((3, 5), [("standard", 3), ("robust", 5)]) == 3
    assert judge_seed((3,), [("robust", 3)]) == 3
    assert construction_seeds((4, 2, 9), None, model="robust", key="x") == (2, 4, 9)
    assert construction_seeds((4, 2, 9), (9, 4), model="robust", key="x") == (4, 9)


def test_a_stage_that_looks_at_one_source_takes_the_first_that_all_have(tmp_path, project):
    lab = open_project(project)
    for name, seed in (("rand", 2), ("det", 1), ("det", 2), ("robust", 5)):
        (project / "data" / name / f"source-{seed}").mkdir(parents=True)
    assert first_sources(lab, "rand", "det") == {"rand": 1, "det": 1}
    assert first_sources(lab, "rand", "robust") == {"rand": 0, "robust": 5}
    assert source_model_of(lab, "standard", 1).name == "seed-1.safetensors"
    assert source_model_of(lab, "robust", 1).name == "seed-0.safetensors"
    with pytest.raises(DatasetError, match=r"data/nonrobust: no dataset there .*`dvc repro` makes it"):
        first_sources(lab, "rand", "nonrobust")


def test_a_folder_of_sources_is_no_dataset(project, tmp_path):
    with pytest.raises(
        DatasetError, match=r"data/rand: holds a dataset for each source model: name one of source-0, so"
    ):
        export_dataset(project / "data" / "rand", "npz", tmp_path / "out")
    assert len(load_dataset(project / "data" / "rand" / "source-1")) == len(load_dataset(project / "data" / "train"))


# Fits


def test_every_fit_has_a_source_and_a_seed(project):
    models = sorted(
        path.relative_to(project).as_posix() for path in (project / "models" / "fit").rglob("*.safetensors")
    )
    assert models == [
        f"models/fit/rand/{subset}/source-{source}/seed-{seed}.safetensors"
        for subset in ("baseline", "full", "still_y")
        for source in (0, 1)
        for seed in (0, 1)
    ]
    metrics = json.loads((project / "metrics" / "fit" / "rand.json").read_text())
    assert metrics["dataset"]["source_seeds"] == [0, 1]
    for subset in ("full", "still_y", "baseline"):
        found = metrics[subset]
        assert set(found) == {"num_examples", "seeds", "mean", "std", "std_fits"}
        own = {
            source: [values["validation_accuracy"] for values in seeds.values()]
            for source, seeds in found["seeds"].items()
        }
        means = [sum(values) / 2 for values in own.values()]
        assert found["mean"]["validation_accuracy"] == pytest.approx(sum(means) / 2, abs=2e-6)
        assert found["std"]["validation_accuracy"] == pytest.approx(abs(means[0] - means[1]) / 2**0.5, abs=2e-6)
        within = sum((a - b) ** 2 / 2 for a, b in own.values())
        assert found["std_fits"]["validation_accuracy"] == pytest.approx((within / 2) ** 0.5, abs=2e-6)
    with (project / "plots" / "learning" / "fit-rand.csv").open() as file:
        curves = {(row["subset"], row["source_seed"], row["seed"]) for row in csv.DictReader(file)}
    assert len(curves) == 12


def test_fits_that_are_compared_differ_by_their_data_alone(project):
    """D in the place of D_rand, under two names: initialisation and batches are those of the baseline, to the byte."""
    shutil.rmtree(project / "data" / "rand")
    shutil.copytree(project / "data" / "train", project / "data" / "rand" / "source-1")
    shutil.copytree(project / "data" / "rand", project / "data" / "det")
    lab = set_params(
        project, fit={name: {**RAND, "still_y": False, "baseline": name == "rand"} for name in ("rand", "det")}
    )
    for name in ("rand", "det"):
        run_stage(lab, "fit", name)
    folder = project / "models" / "fit"
    weights = [
        (folder / place / "source-1" / "seed-1.safetensors").read_bytes()
        for place in ("rand/full", "rand/baseline", "det/full")
    ]
    assert weights[0] == weights[1] == weights[2]
    assert weights[0] != (folder / "rand/full/source-1/seed-0.safetensors").read_bytes()


def test_a_baseline_is_fitted_only_where_it_is_asked_for(project):
    run_stage(set_params(project, fit={"rand": {**RAND, "still_y": False}}), "fit", "rand")
    assert [path.name for path in (project / "models" / "fit" / "rand").iterdir()] == ["full"]


# Evaluation


@pytest.fixture(scope="module")
def measured(made_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Measured at a headline eps of 0.25; the robust model was trained at 0.5. Read only."""
    project = shutil.copytree(made_project, tmp_path_factory.mktemp("measured") / "project")
    evaluation = {"eps": [0.125, 0.25], "headline_eps": 0.25, "suite_seeds": None}
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("NOTBUGS_TRACKING", "off")
        run_stage(set_params(project, evaluate=evaluation), "evaluate")
    return project


def test_all_models_are_attacked_by_the_whole_level(measured):
    rows = results(measured)
    models = {(row["dataset"], row["estimator"], row["source_seed"], row["seed"]) for row in rows}
    fitted = {("D_rand", "standard"), ("D_rand_still_y", "standard"), ("D", "as_D_rand")}
    assert models == {
        ("D", "standard", "", "0"),
        ("D", "standard", "", "1"),
        ("D", "robust", "", "0"),
        *((*kind, source, seed) for kind in fitted for source in "01" for seed in "01"),
    }
    worst = [row for row in rows if row["attack"] == "worst"]
    assert len([row for row in worst if row["eps"] == "0.25"]) == len(models)
    assert {row["construction_eps"] for row in rows if row["estimator"] == "as_D_rand"} == {""}
    checks = json.loads((measured / "metrics" / "checks.json").read_text())
    assert {row["model"] for row in checks} == {
        "D/standard/seed-0",
        "D/robust/seed-0",
        *(f"{dataset}/{estimator}/source-0/seed-0" for dataset, estimator in fitted),
    }
    norms = pd.read_parquet(measured / "metrics" / "minimum_norms.parquet")
    assert len(norms.groupby(["dataset", "estimator"])) == 5
    assert len(norms) == 5 * 60
    curve = (measured / "plots" / "accuracy_vs_eps.csv").read_text().splitlines()[0]
    assert curve == "eps,D,D_robust,D_rand,D_rand_still_y,D_as_D_rand"


def test_the_source_models_are_attacked_at_the_training_eps_too(measured):
    """Where robustness is claimed by the robust model's own radius."""
    rows = [row for row in results(measured) if row["eps"] == "0.5"]
    models = {("D", "standard", "0"), ("D", "standard", "1"), ("D", "robust", "0")}
    assert {(row["dataset"], row["estimator"], row["seed"]) for row in rows} == models
    assert sorted({row["attack"] for row in rows}) == ["pgd3", "worst"]
    assert len(rows) == 6
    by_model = {(row["estimator"], row["seed"], row["attack"]): float(row["accuracy"]) for row in rows}
    for _, estimator, seed in models:
        assert by_model[estimator, seed, "worst"] <= by_model[estimator, seed, "pgd3"]


def test_suite_seeds_and_check_seeds_say_how_many(project):
    run_stage(set_params(project, evaluate={"suite_seeds": 2, "check_seeds": 2}), "evaluate")
    worst = [row for row in results(project) if row["attack"] == "worst"]
    assert len([row for row in worst if row["dataset"] == "D_rand"]) == 2
    checks = json.loads((project / "metrics" / "checks.json").read_text())
    assert {row["model"] for row in checks if row["model"].startswith("D_rand/")} == {
        "D_rand/standard/source-0/seed-0",
        "D_rand/standard/source-1/seed-0",
    }


def test_the_first_models_are_the_first_fits_of_all_sources():
    def subjects(dataset, *seeds):
        for source, seed in seeds:
            facts = {"dataset": dataset, "estimator": "standard", "source_seed": source, "seed": seed}
            yield Subject(Path(dataset, f"{source}-{seed}"), facts)

    fits = [(source, seed) for source in (3, 0, 7) for seed in (5, 1)]
    places = _places([*subjects("D_rand", *fits), *subjects("D", (None, 4), (None, 2))])
    in_order = sorted((file for file in places if file.parent.name == "D_rand"), key=places.__getitem__)
    assert [file.name for file in in_order] == ["3-5", "0-5", "7-5", "3-1", "0-1", "7-1"]
    assert [places[Path("D", name)] for name in ("None-4", "None-2")] == [0, 1]


def test_the_means_of_the_stage_are_over_fits_then_over_sources():
    """Source 0 has three fits of 0.9, source 1 one of 0.1: the mean is 0.5, not 0.7."""
    facts = {"dataset": "D_rand", "estimator": "standard"}
    models = [{**facts, "source_seed": source, "seed": seed} for source, seed in ((0, 0), (0, 1), (0, 2), (1, 0))]
    rows = [
        {**model, "labels": "true", "attack": "pgd2", "eps": 0.5, "accuracy": 0.1 if model["source_seed"] else 0.9}
        for model in models
    ]
    assert _summary(rows, [])["D_rand"]["standard"] == {"pgd2_eps_0.5": 0.5}
    (_, name), ((row),) = _curves(rows, SuiteSettings(eps=(0.5,), num_steps=2, headline_eps=0.5))
    assert row == {"eps": 0.5, name: 0.5}


def test_a_context_names_the_folders(tmp_path):
    lab = Context(tmp_path, {}, None, torch.device("cpu"))  # type: ignore[arg-type]
    assert lab.dataset("det") == tmp_path / "data/det"
    assert lab.dataset("det", 3) == tmp_path / "data/det/source-3"
    assert lab.fitted_model("det", "full", 3, 1) == tmp_path / "models/fit/det/full/source-3/seed-1.safetensors"
