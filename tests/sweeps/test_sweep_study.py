"""Studies in an SQLite file: to the end, again, interrupted, failed, changed; samplers, pruners, objectives."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState
from sweep_tools import PARAMS, set_params

from notbugs.pipeline.running.context import open_project
from notbugs.runtime import imports
from notbugs.runtime.cache import ANEW_VARIABLE
from notbugs.runtime.errors import ConfigError
from notbugs.sweeps import worker
from notbugs.sweeps.plan import make_plan
from notbugs.sweeps.session import checked_jobs, run, status
from notbugs.sweeps.settings import SweepError
from notbugs.sweeps.storage import open_storage, storage_url
from notbugs.sweeps.study import SharedStudy, open_study
from notbugs.sweeps.trial import Trial


def study(root: Path, name: str = "small") -> optuna.Study:
    """A copy of the stored study in memory, which leaves no connection open."""
    with open_storage(storage_url(root, None)) as storage:
        found = optuna.load_study(study_name=name, storage=storage)
        copy = optuna.create_study(directions=found.directions)
        copy.add_trials(found.get_trials())
        return copy


def states(root: Path, name: str = "small") -> list[str]:
    return [trial.state.name for trial in study(root, name).get_trials()]


def rows(root: Path, name: str = "small") -> pd.DataFrame:
    return pd.read_csv(root / "sweeps" / name / "trials.csv")


def sweep(root: Path, name: str = "small", **arguments: Any) -> None:
    run(open_project(root), name, **{"jobs": 1, **arguments})


def with_study(root: Path, **changed: Any) -> None:
    set_params(root, sweep={"small": {**PARAMS["sweep"]["small"], **changed}})


def test_a_grid_to_the_end_and_again(project: Path) -> None:
    sweep(project)
    table = rows(project)
    assert len(table) == 2 * 2 * 2 * 2  # kinds, eps, steps, seeds
    assert set(table["state"]) == {"COMPLETE"}
    assert list(table.columns[:6]) == ["kind", "eps", "num_steps", "step_size", "source_eps", "seed"]
    needed = {"accuracy", "accuracy_shifted", "adversarial_accuracy", "attack_success", "still_y", "mean_delta_norm"}
    assert needed | {"validation_accuracy", "validation_adversarial_accuracy", "state"} <= set(table.columns)
    assert not any("second" in name or "time" in name for name in table.columns)
    assert table[["kind", "eps", "num_steps", "seed"]].equals(
        table[["kind", "eps", "num_steps", "seed"]].sort_values(["kind", "eps", "num_steps", "seed"])
    )
    assert (table["step_size"] == 2.5 * table["eps"] / table["num_steps"]).all()
    assert (table["mean_delta_norm"] <= table["eps"] + 1e-6).all()
    before = {path.name: path.read_bytes() for path in (project / "sweeps/small").iterdir()}
    trials = len(states(project))
    shutil.rmtree(project / "sweeps/small")
    sweep(project)  # nothing is run again, all is written again
    assert len(states(project)) == trials == 8
    assert {path.name: path.read_bytes() for path in (project / "sweeps/small").iterdir()} == before


def test_another_order_gives_the_same_bytes(project: Path, scripted: list[str]) -> None:
    sweep(project)
    before = {path.name: path.read_bytes() for path in (project / "sweeps/small").iterdir()}
    (project / "sweeps/optuna.db").unlink()
    assert study_in_reverse(project) == list(reversed(range(8)))
    assert {path.name: path.read_bytes() for path in (project / "sweeps/small").iterdir()} == before


def study_in_reverse(root: Path) -> list[int]:
    """Run the study with its points enqueued from the last to the first."""
    slots: Callable[[SharedStudy], list[Any]] = SharedStudy.slots
    try:
        SharedStudy.slots = lambda self: list(reversed(slots(self)))  # type: ignore[method-assign]
        sweep(root)
    finally:
        SharedStudy.slots = slots  # type: ignore[method-assign]
    return [trial.user_attrs["slot"] for trial in study(root).get_trials()]


def test_an_interrupted_study_goes_on(project: Path, scripted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    quick = Trial.measure

    def interrupted(self: Trial, seed: int, on_epoch: Any = None) -> dict[str, Any]:
        if len(scripted) == 5:
            raise KeyboardInterrupt
        return quick(self, seed, on_epoch)

    monkeypatch.setattr(Trial, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(project)
    assert states(project).count("COMPLETE") == 2  # two seeds each, the third broken off
    assert states(project).count("FAIL") == 1
    assert "RUNNING" not in states(project)
    assert not (project / "sweeps/small/trials.csv").exists()
    monkeypatch.setattr(Trial, "measure", quick)
    sweep(project)
    assert states(project).count("COMPLETE") == 8
    assert len(rows(project)) == 16


def test_a_failed_point_is_tried_again(project: Path, scripted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    quick, failures = Trial.measure, []

    def failing(self: Trial, seed: int, on_epoch: Any = None) -> dict[str, Any]:
        if self.point.eps == 1.0 and self.point.num_steps == 3 and (self.point.kind == "det" or not failures):
            failures.append(self.point)
            raise RuntimeError("the loss is nan")
        return quick(self, seed, on_epoch)

    monkeypatch.setattr(Trial, "measure", failing)
    sweep(project)
    assert [point.kind for point in failures].count("rand") == 1  # failed once, then well
    assert [point.kind for point in failures].count("det") == 2  # one retry, as `retries` says
    table = rows(project)
    failed = table[table["state"] == "FAIL"]
    assert list(zip(failed["kind"], failed["eps"], failed["num_steps"], strict=True)) == [("det", 1.0, 3)] * 2
    assert failed["accuracy"].isna().all()
    assert len(table) == 16
    assert json.loads((project / "sweeps/small/study.json").read_text())["states"] == {"COMPLETE": 7, "FAIL": 1}
    assert "the loss is nan" in status(open_project(project), "small")
    sweep(project)  # settled: not tried a third time
    assert len(failures) == 3


def test_a_worker_that_was_given_up_goes_on(
    project: Path, scripted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its signs of life did not get through: the point is tried again, and counts once."""
    quick = Trial.measure

    def measure(self: Trial, seed: int, on_epoch: Any = None) -> dict[str, Any]:
        if len(scripted) == 2:  # the second trial
            with open_storage(storage_url(project, None)) as storage:
                found = optuna.load_study(study_name="small", storage=storage)
                found.tell(found.get_trials(states=(TrialState.RUNNING,))[0].number, state=TrialState.FAIL)
        return quick(self, seed, on_epoch)

    monkeypatch.setattr(Trial, "measure", measure)
    sweep(project)
    found = study(project).get_trials()
    assert [trial.state.name for trial in found].count("COMPLETE") == 8
    assert [trial.number for trial in found if trial.state.name == "FAIL"] == [1]
    assert found[8].user_attrs["slot"] == 1
    assert len(rows(project)) == 16


def test_a_study_of_which_every_point_fails(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Trial, seed: int, on_epoch: Any = None) -> dict[str, Any]:
        raise RuntimeError("no memory")

    monkeypatch.setattr(Trial, "measure", failing)
    with pytest.raises(SweepError, match="every point failed, the last one with RuntimeError: no memory"):
        sweep(project)


def test_a_study_of_other_settings_is_refused(project: Path, scripted: list[str]) -> None:
    sweep(project)
    with_study(project, eps=[0.5, 2.0])
    with pytest.raises(SweepError, match=r"sweep.eps: \[0.5, 1.0\] -> \[0.5, 2.0\].*--replace") as error:
        sweep(project)
    assert "\n" not in str(error.value)
    sweep(project, replace=True)
    assert set(rows(project)["eps"]) == {0.5, 2.0}


def test_other_inputs_are_another_study(project: Path, scripted: list[str]) -> None:
    sweep(project)
    model = project / "models/train/standard/seed-0.safetensors"
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    with pytest.raises(SweepError, match=r"source_models.models/train/standard/seed-0.safetensors: \w{8} -> \w{8}"):
        sweep(project)


def test_what_changes_no_result_is_no_other_study(project: Path, scripted: list[str]) -> None:
    sweep(project)
    with_study(project, retries=5, keep_datasets=True)
    params = PARAMS["construct"] | {"det": {**PARAMS["construct"]["det"], "eps": 9.0, "step_size": 3.0, "num_steps": 8}}
    set_params(project, construct=params, report={"grid_examples": 4})
    sweep(project)
    assert len(states(project)) == 8


def test_replacing_reuses_what_is_known(project: Path) -> None:
    with_study(project, kinds=["rand"])
    sweep(project)
    results = project / ".notbugs/sweeps/results"
    before = {path.name: path.stat().st_mtime_ns for path in results.glob("*.json")}
    with_study(project, kinds=["rand"], num_steps=[1, 2, 3])
    sweep(project, replace=True)
    after = {path.name: path.stat().st_mtime_ns for path in results.glob("*.json")}
    assert len(before) == 8
    assert len(after) == 12
    assert before.items() <= after.items()


def test_other_code_is_another_study(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1-NN, one of the judges, replaced by "always class 0": nothing that was measured before is an answer any more."""
    with_study(project, kinds=["rand"], eps=[0.5], num_steps=[1], seeds=[0])
    sweep(project)
    before, source = rows(project), imports.source
    monkeypatch.setattr(imports, "source", lambda file: source(file) + b"#" * (file.name == "neighbours.py"))
    monkeypatch.setattr(
        "notbugs.construction.describe.nearest_neighbour",
        lambda images, *_, **__: torch.zeros(len(images), dtype=torch.int64),
    )
    imports.made_with.cache_clear()
    try:
        with pytest.raises(SweepError, match=r"the stored study is another one \(environment.code: \w{8} -> \w{8}"):
            sweep(project)
        sweep(project, replace=True)
    finally:
        imports.made_with.cache_clear()
    after = rows(project)
    assert before["still_y_neighbour"].item() > 0.5 > after["still_y_neighbour"].item()
    assert (after["accuracy"] == before["accuracy"]).all()


def test_all_anew(project: Path, scripted: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As `make repro-all` asks for: what was there before does not count, what this run has done does."""
    sweep(project)
    monkeypatch.setenv(ANEW_VARIABLE, str(time.time() - 3600))
    sweep(project, replace=True)
    assert len(scripted) == 16
    monkeypatch.setenv(ANEW_VARIABLE, str(time.time()))
    sweep(project, replace=True)
    assert len(scripted) == 32
    sweep(project, replace=True)
    assert len(scripted) == 32


def test_the_fits_of_a_point_are_counted(project: Path, scripted: list[str]) -> None:
    sweep(project)
    assert set(rows(project)["fits"]) == {2}
    assert rows(project)["source_seed"].tolist() == rows(project)["seed"].tolist()
    with_study(project, seeds=[1])
    sweep(project, replace=True)
    assert set(rows(project)["fits"]) == {1}
    assert set(rows(project)["source_seed"]) == {1}


def test_importance_is_what_optuna_says_of_the_stored_study(project: Path, scripted: list[str]) -> None:
    """With its default evaluator; its dashboard asks another one (PED-ANOVA), which says something else."""
    with_study(project, kinds=["rand"], eps=[0.2, 0.5, 1.0, 1.4], num_steps=[1, 3, 40])
    sweep(project)
    found = pd.read_csv(project / "sweeps/small/importance.csv")
    ours = found[found["measured"] == "validation_accuracy"].set_index("parameter")["importance"].to_dict()
    fanova = optuna.importance.FanovaImportanceEvaluator(seed=0)
    theirs = optuna.importance.get_param_importances(study(project), evaluator=fanova)
    assert ours == pytest.approx({name: theirs[name] for name in ("eps", "num_steps")}, abs=2e-6)
    other = optuna.importance.get_param_importances(
        study(project), evaluator=optuna.importance.PedAnovaImportanceEvaluator()
    )
    assert abs(other["eps"] - ours["eps"]) > 0.01


@pytest.mark.parametrize("sampler", ["tpe", pytest.param("random", marks=pytest.mark.slow)])
def test_samplers_try_as_many_points_as_asked(project: Path, scripted: list[str], sampler: str) -> None:
    with_study(
        project, sampler=sampler, trials=14, eps={"low": 0.2, "high": 2.0}, num_steps={"low": 1, "high": 9}, seeds=[0]
    )
    sweep(project)
    table = rows(project)
    assert len(scripted) == 14
    assert table["eps"].between(0.2, 2.0).all()
    assert table["num_steps"].between(1, 9).all()
    assert table["eps"].nunique() > 10
    sweep(project)
    assert len(scripted) == 14
    first = (project / "sweeps/small/trials.csv").read_bytes()
    (project / "sweeps/optuna.db").unlink()
    sweep(project)  # one worker, the same seed: the same choices
    assert (project / "sweeps/small/trials.csv").read_bytes() == first


def test_tpe_finds_the_better_half(project: Path, scripted: list[str]) -> None:
    with_study(
        project, sampler="tpe", trials=30, kinds=["rand"], eps={"low": 0.1, "high": 2.0}, num_steps=[1], seeds=[0]
    )
    sweep(project)
    eps = [trial.params["eps"] for trial in study(project).get_trials()]
    assert sum(eps[10:]) / 20 > sum(eps[:10]) / 10 + 0.3  # larger is better here


def test_two_objectives(project: Path, scripted: list[str]) -> None:
    with_study(project, objectives=["accuracy", "work"])
    sweep(project)
    found = study(project)
    assert [direction.name for direction in found.directions] == ["MAXIMIZE", "MINIMIZE"]
    best = {(trial.params["eps"], trial.params["num_steps"]) for trial in found.best_trials}
    assert best == {(1.0, 1.0), (1.0, 3.0)}


def test_pruned_points(project: Path, scripted: list[str]) -> None:
    with_study(
        project, sampler="random", trials=24, pruner="median", num_steps=[1], seeds=[0], eps={"low": 0.1, "high": 2.0}
    )
    sweep(project)
    table = rows(project)
    pruned = table[table["state"] == "PRUNED"]
    assert 0 < len(pruned) < 20
    assert pruned["accuracy"].isna().all()
    assert pruned["eps"].notna().all()
    assert pruned["eps"].mean() < table[table["state"] == "COMPLETE"]["eps"].mean()  # the worse ones


def test_workers_have_samplers_of_their_own(project: Path, scripted: list[str]) -> None:
    with_study(project, sampler="random", trials=6, eps={"low": 0.1, "high": 2.0}, seeds=[0])
    chosen = []
    with open_storage(storage_url(project, None)) as storage:
        for _ in range(2):
            shared = open_study(storage, make_plan(open_project(project), "small"))
            shared.use_sampler()
            trial = shared.claim(worker.Patience(lambda text: None))
            assert trial is not None
            chosen.append(trial.suggest_float("eps", 0.1, 2.0))
            shared.end(trial, TrialState.FAIL)
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize("system", ["linux", "macos"])
def test_jobs_do_not_oversubscribe(project: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    if system == "linux":
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)))
    else:
        monkeypatch.delattr("os.sched_getaffinity")
        monkeypatch.setattr("os.cpu_count", lambda: 6)
    set_params(project, num_threads=2)
    assert checked_jobs(open_project(project), None) == 3
    assert checked_jobs(open_project(project), 2) == 2
    with pytest.raises(
        ConfigError, match="--jobs 4: with num_threads = 2 that is 8 threads on 6 processors; at most 3"
    ):
        checked_jobs(open_project(project), 4)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:secret@127.0.0.1:1/x", r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x: cannot be reached: "),
        ("mysql://me:secret@127.0.0.1:1/x", r"mysql\+pymysql://me:\*\*\*@127.0.0.1:1/x: cannot be reached: "),
        ("mssql://h/x", "must be sqlite:///FILE, postgresql://.* or mysql://"),
        ("sqlite:////proc/nowhere/x.db", "cannot be used|Read-only|No such file"),
    ],
)
def test_databases_that_cannot_be_used(project: Path, url: str, message: str) -> None:
    with pytest.raises(SweepError, match=message) as error:
        sweep(project, url=url)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)
