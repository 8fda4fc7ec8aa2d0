"""One trial: the numbers of the pipeline, to the last digit, and nothing computed twice."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from sweep_tools import ONE_SEED, PARAMS, set_params

from notbugs.data.images import make_generator
from notbugs.data.store import load_dataset
from notbugs.evaluation import suite
from notbugs.evaluation.levels import RANDOM_STARTS
from notbugs.models import load_model
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.cache import ResultCache
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import sha256
from notbugs.sweeps import trial as module
from notbugs.sweeps.plan import make_plan
from notbugs.sweeps.points import Point, changes
from notbugs.sweeps.settings import SweepError, changed_params
from notbugs.sweeps.trial import Laboratory, Trial


def laboratory(root: Path) -> Laboratory:
    return Laboratory.of(open_project(root))


def results_row(root: Path, dataset: str, source_seed: int, seed: int, attack: str, labels: str = "true") -> float:
    with (root / "metrics" / "results.csv").open() as file:
        found = list(csv.DictReader(file))
    mine = {"dataset": dataset, "source_seed": str(source_seed), "seed": str(seed)}
    rows = [row for row in found if mine.items() <= row.items()]
    return float(next(row["accuracy"] for row in rows if (row["attack"], row["labels"]) == (attack, labels)))


def rerun_by_stages(root: Path, kind: str, changed: dict[str, Any]) -> None:
    """What `dvc repro` would run again after `notbugs sweep apply`."""
    sections = {key: value for key, value in changed_params(PARAMS, changed).items() if key != "sweep"}
    sections["fit"] = {kind: sections["fit"][kind]}
    set_params(root, **sections)
    if "train.robust.attack.eps" in changed:
        run_stage(open_project(root), "train", "robust")
    run_stage(open_project(root), "construct", kind)
    run_stage(open_project(root), "fit", kind)
    run_stage(open_project(root), "evaluate")


@pytest.mark.parametrize(
    "point",
    [
        Point("rand", 0.8, 3, 2.5 * 0.8 / 3),
        Point("det", 0.5, 7, 0.11),
        Point("robust", None, 3, 0.2),
        Point("det", 0.8, 2, 1.0, source_eps=0.25),
    ],
    ids=str,
)
def test_the_stages_give_the_same_numbers(project: Path, point: Point) -> None:
    seeds = (0, 1)
    found = {seed: Trial(laboratory(project), point, seeds).measure(seed) for seed in seeds}
    rerun_by_stages(project, point.kind, changes(PARAMS, point, seeds))
    all_fitted = json.loads((project / f"metrics/fit/{point.kind}.json").read_text())["full"]["seeds"]
    all_made = json.loads((project / f"metrics/construct/{point.kind}.json").read_text())["sources"]
    dataset = {"rand": "D_rand", "det": "D_det", "robust": "D_R"}[point.kind]
    for seed, result in found.items():  # fit k learns from the dataset of source model k
        fitted, made = all_fitted[str(seed)], all_made[str(seed)]
        for name in ("validation_accuracy", "validation_accuracy_shifted"):
            assert result[name] == fitted[str(seed)][name]
        assert result["accuracy"] == results_row(project, dataset, seed, seed, "clean")
        assert result["accuracy_shifted"] == results_row(project, dataset, seed, seed, "clean", "shifted")
        assert result["adversarial_accuracy"] == results_row(project, dataset, seed, seed, "pgd3")
        assert result["attack_success"] == made["success_rate"]
        assert result["mean_delta_norm"] == made["delta_norm"]["mean"]
        if not point.source_eps:  # there the judge, the robust model, is another one too
            assert result["still_y"] == made["robust_model"]["still_y"]  # among those called y before
            assert result["still_y_both"] == made["still_y_both"]
        assert result["still_y_neighbour"] == made["nearest_neighbour"]["still_y"]
    assert found[0]["attack_success"] != found[1]["attack_success"] or point.kind == "robust"
    assert found[0]["work"] == 190 * point.num_steps


def test_a_trial_is_measured_part_by_part_with_the_streams_of_the_stage(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random starts go by the part of the split that an image is in, as in the stage `evaluate`."""
    lab = laboratory(project)
    seen = []
    real = suite.find

    def find(model: Any, data: Any, *args: Any, generator: torch.Generator, first: int, **more: Any) -> Any:
        seen.append((first, len(data), generator.initial_seed()))
        return real(model, data, *args, generator=generator, first=first, **more)

    monkeypatch.setattr(suite, "find", find)
    monkeypatch.setattr(suite, "PART", 40)
    model = load_model(lab.project.source_model("standard", 0))
    clean, shifted, attacked = Trial(lab, Point("rand", 0.5, 3, 0.2), (0,))._evaluation("test", model)
    test = lab.splits["test"]
    starts = range(0, len(test), 40)
    stream = make_generator(lab.project.seed, *RANDOM_STARTS)
    expected = [
        (first, min(40, len(test) - first), suite.generator_of_part(stream, first).initial_seed()) for first in starts
    ]
    assert seen == expected
    assert len(seen) > 1
    assert (clean.attack, shifted.labels, attacked.attack) == ("clean", "shifted", "pgd3")
    assert {one.n for one in (clean, shifted, attacked)} == {len(test)}


def test_points_differ(project: Path) -> None:
    lab = laboratory(project)
    small, large = (Trial(lab, Point("rand", eps, 3, 0.4), (0,)).measure(0) for eps in (0.3, 1.2))
    assert small["mean_delta_norm"] <= 0.3 < large["mean_delta_norm"] <= 1.2
    assert small["attack_success"] < large["attack_success"]


def test_a_known_result_is_not_computed_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = Point("rand", 0.5, 3, 0.2)
    first = Trial(laboratory(project), point, (0,)).measure(0)
    monkeypatch.setattr(module, "build", lambda *_, **__: pytest.fail("constructed again"))
    monkeypatch.setattr(module, "learn", lambda *_, **__: pytest.fail("trained again"))
    epochs: list[tuple[int, int]] = []
    again = Trial(laboratory(project), point, (0, 1)).measure(
        0, lambda seed, epoch, values: epochs.append((seed, epoch))
    )
    assert again == json.loads(json.dumps(first))
    assert epochs == [(0, 1), (0, 2), (0, 3), (0, 4)]  # the curves are told again


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("seed", 1),
        ("fit", {**PARAMS["fit"], "rand": {**ONE_SEED, "lr": 0.2}}),
        ("model", {"architecture": "small_cnn", "width": 5}),
    ],
)
def test_other_settings_are_another_result(project: Path, section: str, value: Any) -> None:
    point = Point("rand", 0.5, 3, 0.2)
    Trial(laboratory(project), point, (0,)).measure(0)
    set_params(project, **{section: value})
    Trial(laboratory(project), point, (0,)).measure(0)
    assert len(list((project / ".notbugs/sweeps/results").glob("*.json"))) == 2


@pytest.mark.parametrize(
    ("asked", "seeds", "expected"),
    [
        (None, (0, 1), (0, 1)),
        (None, (1, 0), (1, 0)),
        (None, (0, 1, 2, 3), (0, 1, 0, 1)),  # only two are trained
        ([1], (0, 1, 2), (1, 1, 1)),
        ([0], (1,), (0,)),
    ],
)
def test_the_source_model_behind_a_fit(
    project: Path, asked: list[int] | None, seeds: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    set_params(
        project, construct={**PARAMS["construct"], "rand": {**PARAMS["construct"]["rand"], "source_seeds": asked}}
    )
    trial = Trial(laboratory(project), Point("rand", 0.5, 3, 0.2), seeds)
    assert tuple(trial.source_seed(seed) for seed in seeds) == expected


def test_a_source_seed_that_is_not_trained(project: Path) -> None:
    set_params(project, construct={**PARAMS["construct"], "rand": {**PARAMS["construct"]["rand"], "source_seeds": [7]}})
    with pytest.raises(
        ConfigError, match=r"construct.rand.source_seeds = \[7\]: must be among train.standard.seeds: 0, 1"
    ):
        make_plan(open_project(project), "small")


def test_one_construction_for_each_source_model(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    build = module.build
    monkeypatch.setattr(module, "build", lambda *a, **k: built.append(1) or build(*a, **k))
    set_params(project, construct={**PARAMS["construct"], "rand": {**PARAMS["construct"]["rand"], "source_seeds": [1]}})
    trial = Trial(laboratory(project), Point("rand", 0.5, 3, 0.2), (0, 1))
    results = [trial.measure(seed) for seed in (0, 1)]
    assert len(built) == 1
    assert results[0]["curves"] != results[1]["curves"]
    set_params(project, construct=PARAMS["construct"])
    trial = Trial(laboratory(project), Point("rand", 0.5, 3, 0.2), (0, 1))
    assert trial.measure(1) == json.loads(json.dumps(results[1]))  # known: the same source model, the same fit
    assert trial.measure(0)["attack_success"] != results[0]["attack_success"]
    assert len(built) == 2


def test_a_source_model_of_another_eps_is_trained_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for steps in (1, 2):
        Trial(laboratory(project), Point("rand", 0.5, steps, 0.5, source_eps=0.25), (0,)).measure(0)
    models = list((project / ".notbugs/sweeps/models").rglob("*.safetensors"))
    assert len(models) == 1
    ours = Trial(laboratory(project), Point("rand", 0.5, 1, 0.5, source_eps=0.5), (0,))
    assert ours.source_files(0) == [
        project / "models/train/robust/seed-0.safetensors"
    ]  # eps of params.yaml: the pipeline's own
    assert sha256(models[0]) != sha256(ours.source_files(0)[0])


def test_datasets_are_thrown_away_unless_asked_for(project: Path) -> None:
    point = Point("det", 0.5, 3, 0.2)
    before = sorted(path.name for path in (project / "data").iterdir())
    Trial(laboratory(project), point, (0,)).measure(0)
    assert sorted(path.name for path in (project / "data").iterdir()) == before
    assert not (project / ".notbugs/sweeps/datasets").exists()
    shutil.rmtree(project / ".notbugs/sweeps/results")
    Trial(laboratory(project), point, (0,), keep_dataset=True).measure(0)
    (folder,) = (project / ".notbugs/sweeps/datasets").iterdir()
    kept = load_dataset(folder)
    assert len(kept) == 190
    assert kept.manifest.settings["eps"] == 0.5
    assert kept.manifest.settings["source_seed"] == 0
    assert kept.examples["delta_norm"].max() <= 0.5 + 1e-5


def test_missing_inputs_name_the_command(project: Path) -> None:
    (project / "models/train/standard/seed-0.safetensors").unlink()
    trial = Trial(laboratory(project), Point("rand", 0.5, 1, 0.5), (0,))
    with pytest.raises(SweepError, match=r"source model is missing; `dvc repro train@standard` makes it"):
        trial.measure(0)
    shutil.rmtree(project / "data/test")
    with pytest.raises(SweepError, match=r"`dvc repro prepare` makes it"):
        laboratory(project)


def test_two_processes_compute_a_thing_once(tmp_path: Path) -> None:
    """The second one waits for the first and takes its result."""
    mark = tmp_path / "computed"
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:

                def compute() -> dict[str, int]:
                    import time

                    time.sleep(0.3)
                    with mark.open("a") as file:
                        file.write("x")
                    return {"value": 7}

                os._exit(0 if ResultCache(tmp_path / "kept").get_or_compute({"key": 1}, compute) == {"value": 7} else 1)
            except BaseException:
                os._exit(2)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    assert mark.read_text() == "x"


def test_the_laboratory_shows_no_progress(project: Path) -> None:
    lab = laboratory(project)
    assert replace(lab.project).progress is not open_project(project).progress
