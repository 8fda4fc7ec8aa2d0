"""Axes: any leaf that a trial reads is varied, refused in one line, retrained for, recorded, put back and applied."""

import shutil
import statistics
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import yaml
from optuna.artifacts import get_all_artifact_meta
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from sweep_tools import PARAMS, set_params

from notbugs.evaluation.trials import MEASURED
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.files import sha256
from notbugs.sweeps import trial as module
from notbugs.sweeps.axes import changed_params
from notbugs.sweeps.editing import apply
from notbugs.sweeps.points import Point, changes, grid, resolve
from notbugs.sweeps.recorded import recorded_study
from notbugs.sweeps.restoring import restore
from notbugs.sweeps.session import run
from notbugs.sweeps.settings import SweepError, most_epochs, sweep_settings
from notbugs.sweeps.storage import artifact_folder, open_storage, storage_url
from notbugs.sweeps.study import distribution, pruner
from notbugs.sweeps.trial import Laboratory, Trial

LR = {"fit.rand.lr": [0.1, 0.3]}
SAMPLED = {"sampler": "random", "trials": 2}


def checked(axes: dict[str, Any], **changed: Any) -> Any:
    study = {"kinds": ["rand"], "seeds": [0], "axes": axes, **changed}
    return sweep_settings({**PARAMS, "sweep": {"s": study}}, "s")


@pytest.mark.parametrize(
    ("axes", "changed", "message"),
    [
        ({"fit.rand.lr": [-1]}, {}, r"sweep\.s\.axes\.fit\.rand\.lr = -1: must be greater than 0"),
        ({"fit.rand.lr": []}, {}, r"sweep\.s\.axes\.fit\.rand\.lr = \[\]: must be a list of at least one number, name"),
        ({"fit.rand.lr": [0.1, 0.1]}, {}, "each once"),
        ({"fit.rand.lr": {"low": 0.5, "high": 0.1}}, SAMPLED, "low <= high"),
        ({"fit.rand.lr": {"low": 0.1, "high": 0.5, "log": True, "step": 0.1}}, SAMPLED, "log: true .* or a step"),
        ({"fit.rand.lr": {"low": 0, "high": 0.5}}, SAMPLED, r"fit\.rand\.lr = 0: must be greater than 0"),
        ({"fit.rand.lr": {"low": 0.1, "high": 0.5}}, {}, r"axes\.fit\.rand\.lr: must be a list where sampler is grid"),
        ({"fit.rand.epochs": [4, 2.5]}, {}, r"axes\.fit\.rand\.epochs = 2\.5: must be a valid integer"),
        ({"fit.rand.lrr": [0.1]}, {}, r"axes\.fit\.rand\.lrr = 0\.1: unknown key; did you mean lr"),
        ({"fit.random.lr": [0.1]}, {}, r"params.yaml has no section fit\.random; did you mean rand"),
        ({"train.standard.attack.eps": [0.1]}, {}, r"params.yaml has no section train\.standard\.attack"),
        ({"fit.det.lr": [0.1]}, {}, r"axes\.fit\.det\.lr: no trial of kinds rand reads it"),
        ({"fit.rand": [0.1]}, {}, "is a section; an axis is one setting in it"),
        ({"fit.rand.still_y": [True]}, {}, r"axes\.fit\.rand\.still_y: no trial reads it"),
        ({"evaluate.level": ["quick"]}, {}, r"axes\.evaluate\.level: no trial reads it"),
        ({"construct.rand.title": ["a", "b"]}, {}, r"axes\.construct\.rand\.title: no trial reads it"),
        ({"fit.rand.lr": [1, 1.0]}, {}, r"axes\.fit\.rand\.lr = \[1, 1\.0\]: must hold each value once"),
        (
            {"construct.rand.num_steps": {"low": 1, "high": 4, "step": 0.5}},
            SAMPLED,
            r"num_steps\.step = 0\.5: must be a? ?whole",
        ),
        (
            {"train.robust.attack": [None], "train.robust.attack.eps": [0.1]},
            {},
            r"attack\.eps: .*train\.robust\.attack sets it, too",
        ),
        (
            {"fit.rand.epochs": ["abc"]},
            {**SAMPLED, "pruner": "hyperband", "min_epochs": 1},
            r"fit\.rand\.epochs = abc: must be",
        ),
        ({"report.grid_examples": [1]}, {}, "no trial reads it; allowed: model, train, construct, fit, evaluate"),
        (
            {"model.architecture": ["small_cnn", "smal_cnn"]},
            {},
            r"model\.architecture = smal_cnn: must be .*mean small",
        ),
        (
            {"construct.rand.model": ["standard", "mild"]},
            {},
            r"construct\.rand\.model = mild: must be an entry of train",
        ),
        ({"construct.rand.eps": [1]}, {"eps": [1], "num_steps": [1]}, r"eps: sweep\.s\.eps sets it, too"),
        ({"construct.rand.step_size": [1]}, {"num_steps": [1]}, r"step_size: sweep\.s\.num_steps sets it, too"),
        ({"train.robust.attack.eps": [0.1]}, {"source_eps": [0.5]}, r"eps: sweep\.s\.source_eps sets it, too"),
        (LR, {"min_epochs": 2}, r"min_epochs = 2: must be left out unless pruner is successive_halving or hyperband"),
        (
            LR,
            {**SAMPLED, "pruner": "hyperband", "min_epochs": 9},
            r"min_epochs = 9: must be at most 4, the fits' epochs",
        ),
        ({}, {}, r"sweep\.s\.num_steps: missing; it must be given, or axes"),
    ],
)
def test_what_is_refused(axes: dict[str, Any], changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        checked(axes, **changed)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("leaf", ["train.robust.attack.eps", "model.width"])
def test_weights_from_a_file_are_trained_by_no_point(leaf: str) -> None:
    train = {**PARAMS["train"], "robust": {"from": "released.safetensors", "seeds": [0]}}
    study = {"kinds": ["rand"], "axes": {leaf: [4, 8]}}
    with pytest.raises(ConfigError, match=r"no point can train train\.robust anew: its weights come from a file"):
        sweep_settings({**PARAMS, "train": train, "sweep": {"s": study}}, "s")


def test_values_are_as_the_settings_of_their_section_have_them() -> None:
    axes = {
        "fit.rand.lr": {"low": 1, "high": 2},
        "fit.rand.epochs": {"low": 1, "high": 5, "step": 2},
        "fit.rand.flip": [False, True],
        "model.width": [None, 8],
    }
    settings = checked(axes, **SAMPLED)
    assert distribution(settings, "fit.rand.lr") == FloatDistribution(1.0, 2.0)
    assert distribution(settings, "fit.rand.epochs") == IntDistribution(1, 5, step=2)
    assert distribution(settings, "fit.rand.flip") == CategoricalDistribution((False, True))
    assert distribution(checked({"fit.rand.lr": [1, 2]}), "fit.rand.lr") == FloatDistribution(1.0, 2.0)
    assert checked({"model.width": [None, 8]}).axes == {"model.width": (None, 8)}


def test_a_leaf_of_one_kind_is_an_axis_of_that_kind_alone() -> None:
    axes = {"fit.rand.lr": [0.1, 0.3], "model.width": [4, 8], "train.standard.lr": [0.1]}
    found = grid(PARAMS, checked(axes, kinds=["rand", "robust"]))
    assert [choice for choice in found if choice["kind"] == "robust"] == [
        {"kind": "robust", "model.width": 4},
        {"kind": "robust", "model.width": 8},
    ]
    assert len(found) == 2 + 2 * 2
    point = resolve(PARAMS, found[0])
    own = PARAMS["construct"]["rand"]
    assert (point.eps, point.num_steps, point.step_size) == (own["eps"], own["num_steps"], own["step_size"])
    written = changes(PARAMS, point, [0])
    assert written["fit.rand.lr"] == 0.1
    assert written["construct.rand.step_size"] == own["step_size"]


def test_steps_of_the_short_form_follow_an_axis_of_eps() -> None:
    settings = checked({"construct.rand.eps": [0.4, 0.8]}, num_steps=[2, 4])
    assert [resolve(PARAMS, choice).step_size for choice in grid(PARAMS, settings)] == [0.5, 1.0, 0.25, 0.5]


def test_a_source_model_is_retrained_where_an_axis_touches_it(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = Laboratory.of(open_project(project))
    trained = []
    learn = module.learn
    monkeypatch.setattr(module, "learn", lambda lesson, *more: trained.append(lesson.title) or learn(lesson, *more))

    def files(axes: dict[str, Any], kind: str = "rand") -> list[Path]:
        point = Trial(lab, Point(kind, 0.5, 3, 0.2, axes=axes), (0,))
        return [*point.source_files(0), point.judge_file(0)]

    own = [project / f"models/train/{name}/seed-0.safetensors" for name in ("standard", "robust")]
    assert files({"fit.rand.lr": 0.1}) == own
    assert trained == []
    assert files({"train.robust.lr": 0.05})[0] == own[0]
    assert trained == ["train robust, seed 0"]
    same = files({"model.width": PARAMS["model"]["width"]})
    assert list(map(sha256, same)) == list(map(sha256, own))  # the same network, trained in the sweep
    other = files({"model.width": 5})
    assert not set(map(sha256, other)) & set(map(sha256, own))
    assert trained[3:] == ["train standard, seed 0", "train robust, seed 0"]
    assert files({"model.width": 5, "fit.rand.lr": 0.1}) == other  # kept
    assert len(trained) == 5


def test_a_trial_of_axes_is_what_the_stages_give(project: Path) -> None:
    """With the point in params.yaml; the network and source models are the point's too."""
    point = Point("det", 0.5, 3, 0.2, axes={"model.width": 5, "fit.det.lr": 0.05, "evaluate.headline_num_steps": 2})
    found = Trial(Laboratory.of(open_project(project)), point, (0,)).measure(0)
    params = changed_params(PARAMS, changes(PARAMS, point, [0]))
    params["train"] = {name: {**own, "seeds": [0]} for name, own in params["train"].items()}
    params["fit"] = {"det": params["fit"]["det"]}
    set_params(project, **params)
    for stage in (("train", "standard"), ("train", "robust"), ("construct", "det"), ("fit", "det"), ("evaluate",)):
        run_stage(open_project(project), *stage)
    table = pd.read_csv(project / "metrics/results.csv")
    values = set(table[(table["dataset"] == "D_det")]["accuracy"])
    assert {found["accuracy"], found["adversarial_accuracy"], found["accuracy_shifted"]} <= values


def test_a_trial_of_an_ensemble_is_what_the_stages_give(project: Path) -> None:
    own = {key: value for key, value in PARAMS["construct"]["det"].items() if key != "model"}
    set_params(project, construct={"det": {**own, "from": ["standard/0", "standard/1"]}})
    study = {"kinds": ["det"], "seeds": [0], "axes": {"train.standard.lr": [0.1]}}
    set_params(project, sweep={"small": study})
    run(open_project(project), "small", jobs=1)
    (row,) = pd.read_csv(project / "sweeps/small/trials.csv").to_dict(orient="records")
    set_params(project, fit={"det": {**PARAMS["fit"]["det"], "seeds": [0]}})
    for stage in (("construct", "det"), ("fit", "det"), ("evaluate",)):
        run_stage(open_project(project), *stage)
    table = pd.read_csv(project / "metrics/results.csv")
    assert {row["accuracy"], row["adversarial_accuracy"]} <= set(table[table["dataset"] == "D_det"]["accuracy"])
    with open_storage(storage_url(project, None)) as storage:
        trial = optuna.load_study(study_name="small", storage=storage).get_trials()[0]
        (meta,) = get_all_artifact_meta(trial, storage=storage)
    assert meta.mimetype == "image/png"
    picture = (artifact_folder(project) / meta.artifact_id).read_bytes()
    assert picture == next((project / ".notbugs/sweeps/samples").glob("*.png")).read_bytes()


@pytest.mark.parametrize("name", ["successive_halving", "hyperband"])
def test_a_worse_point_stops_early_and_the_better_is_finished(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With rungs at epochs 1 and 3 of 9: low learning rates end there, the highest does not."""
    epochs: dict[float, list[int]] = {}

    def measure(self: Trial, seed: int, on_epoch: Any = None) -> dict[str, Any]:
        lr = float(self.point.axes["fit.rand.lr"])
        for epoch in range(1, 10):
            epochs.setdefault(lr, []).append(epoch)
            on_epoch(seed, epoch, {f"validation_accuracy/seed-{seed}": lr * epoch / 9})
        return {**dict.fromkeys(MEASURED, lr), "work": 1, "curves": [], "seconds": {}}

    monkeypatch.setattr(Trial, "measure", measure)
    fit = {**PARAMS["fit"]["rand"], "epochs": 9, "measure_every": 1}
    axes = {"fit.rand.lr": {"low": 0.01, "high": 1.0}}
    study = {"kinds": ["rand"], "seeds": [0], "axes": axes, "sampler": "random", "trials": 10, "pruner": name}
    set_params(project, fit={**PARAMS["fit"], "rand": fit}, sweep={"small": {**study, "min_epochs": 1}})
    run(open_project(project), "small", jobs=1)
    finished = [lr for lr, seen in epochs.items() if max(seen) == 9]
    stopped = [lr for lr in epochs if lr not in finished]
    assert max(finished) == max(epochs)
    assert statistics.fmean(stopped) < statistics.fmean(finished)
    assert min(epochs) in stopped or name == "hyperband"  # which gives some points all epochs
    states = pd.read_csv(project / "sweeps/small/trials.csv")["state"].value_counts()
    assert dict(states) == {"PRUNED": len(stopped), "COMPLETE": len(finished)}
    assert {max(seen) for seen in epochs.values()} <= {1, 3, 9}


def test_rungs_follow_the_epochs_of_the_fit() -> None:
    sampled = {**SAMPLED, "pruner": "hyperband"}
    settings = checked({"fit.rand.epochs": [9, 18]}, **sampled)
    made = pruner(settings, most_epochs(PARAMS, settings))
    assert (made._min_resource, made._max_resource, made._reduction_factor) == (2, 18, 3)
    settings = checked(LR, **{**SAMPLED, "pruner": "successive_halving"}, reduction_factor=2, min_epochs=3)
    made = pruner(settings, most_epochs(PARAMS, settings))
    assert (made._min_resource, made._reduction_factor) == (3, 2)


def axes_study(root: Path, **changed: Any) -> None:
    axes = {"fit.rand.lr": [0.1, 0.3], "fit.rand.optimizer": ["sgd", "adamw"], "model.width": [None, 8]}
    set_params(root, sweep={"small": {"kinds": ["rand", "robust"], "seeds": [0], "axes": axes, **changed}})


def test_a_study_of_axes_is_recorded_put_back_and_applied(project: Path, scripted: list[str]) -> None:
    axes_study(project)
    run(open_project(project), "small", jobs=1)
    table = pd.read_csv(project / "sweeps/small/trials.csv", dtype="string", keep_default_na=False)
    assert list(table.columns[4:9]) == ["source_eps", "fit.rand.lr", "fit.rand.optimizer", "model.width", "seed"]
    assert list(table["model.width"]) == [*["null", "8"] * 4, "null", "8"]
    assert set(table[table["kind"] == "robust"]["fit.rand.lr"]) == {""}
    assert list(table[table["kind"] == "rand"]["fit.rand.lr"]) == ["0.1"] * 4 + ["0.3"] * 4
    copy = project.with_name("clone")
    shutil.copytree(project / "sweeps/small", copy / "sweeps/small")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(project / name, copy)
    assert restore(copy) == ["small"]
    stored = []
    for root in (project, copy):
        with open_storage(storage_url(root, None)) as storage:
            trials = optuna.load_study(study_name="small", storage=storage).get_trials()
            stored.append(
                sorted(
                    [(t.user_attrs["slot"], t.params, t.distributions, t.user_attrs["point"]) for t in trials], key=str
                )
            )
    assert stored[0] == stored[1]
    assert [trial.number for trial in recorded_study(copy, "small").trials] == list(range(10))

    said = apply(project, "small", {"kind": "rand", "fit.rand.lr": 0.1}, any_point=True)
    assert "fit.rand.lr = 0.1, fit.rand.optimizer = adamw, model.width = 8" in said
    assert "who judges" in said
    written = yaml.safe_load((project / "params.yaml").read_text())
    assert written["fit"]["rand"]["lr"] == 0.1
    assert written["model"]["width"] == 8
    with pytest.raises(SweepError, match=r"fit\.rand\.lrr: no axis of this study; did you mean fit\.rand\.lr"):
        apply(project, "small", {"fit.rand.lrr": 0.1}, any_point=True)
    apply(project, "small", {"kind": "rand"}, any_point=True)  # the study is still the same
