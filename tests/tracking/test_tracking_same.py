"""A run made from dvc.lock has what the live one had: params, metrics, curves, note, colour."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from tracking_tools import Runs

from notbugs.cli.tracking import settings_in_lock
from notbugs.pipeline.running.job import tracked_settings
from notbugs.pipeline.stages import STAGES
from notbugs.runtime.dvc_lock import LockEntry, content
from notbugs.tracking import live
from notbugs.tracking.live import DRAWN
from notbugs.tracking.reconcile import track
from notbugs.tracking.shown import MOST, shown_params
from tiny import TINY_PARAMS

pytestmark = pytest.mark.usefixtures("no_sender")
RECIPE = {"recipe": "random_target", "model": "standard", "norm": "l2", "eps": 1.1, "num_steps": 60, "shard_size": 9}
PARAMS = {
    **TINY_PARAMS,
    "construct": {**TINY_PARAMS["construct"], "det": {**TINY_PARAMS["construct"]["det"], "title": "D*"}},
}


def in_lock(stage: str, name: str | None) -> dict[str, Any]:
    """What DVC writes of params.yaml into dvc.lock: the keys that the stage depends on, those in sections dotted."""
    found: dict[str, Any] = {}
    for key in STAGES[stage].keys(name):
        value: Any = PARAMS
        for part in key.split("."):
            value = value[part]
        found[key] = value
    return found


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        *(("train", "robust"), ("construct", "det"), ("construct", "robust"), ("fit", "rand")),
        *((stage, None) for stage in ("prepare", "evaluate", "diagnose", "features", "planted", "report")),
    ],
)
def test_settings_come_out_of_dvc_lock_with_their_defaults(stage: str, name: str | None) -> None:
    own = tracked_settings(STAGES[stage], PARAMS, name)
    entry = LockEntry(f"{stage}@{name}" if name else stage, {"params.yaml": in_lock(stage, name)}, {}, {}, "key")
    found = settings_in_lock(entry)
    assert found is not None
    sections = {key: value for key, value in PARAMS.items() if isinstance(value, dict)}
    params = shown_params(stage, name, {**sections, **own} if stage == "evaluate" else own)  # which hands in all
    assert shown_params(stage, name, found) == params
    assert params["seed"] == 0
    if stage == "construct" and name == "det":
        assert (params["dataset.title"], params["dataset.norm"]) == ("D*", "l2")
    if stage == "fit":
        assert params["weight_decay"] == 5e-4  # left out in params.yaml


def test_settings_of_another_version_are_taken_as_they_are() -> None:
    entry = LockEntry("fit@det", {"params.yaml": {"fit.det": {"gone": 1}}}, {}, {}, "key")
    assert settings_in_lock(entry) is None
    assert settings_in_lock(LockEntry("sweep@small", {}, {}, {}, "key")) is None


def work(project: Path) -> list[Path]:
    """A stage `fit` with five source models and two fits each, live; its outputs."""
    metrics, curves = project / "metrics/fit/rand.json", project / "plots/learning/fit-rand.csv"
    for source in range(5):
        folder = project / f"data/rand/source-{source}"
        folder.mkdir(parents=True)
        about = {"name": "D_rand", "source": "digits", "settings": {**RECIPE, "source_seed": source}}
        (folder / "manifest.json").write_text(json.dumps(about))
    for path in (metrics, curves):
        path.parent.mkdir(parents=True)
    inputs = [project / f"data/rand/source-{source}" for source in range(5)]
    rows = ["subset,source_seed,seed,epoch,lr,train_loss,validation_accuracy"]
    params = {"fit": {"rand": {"seeds": [0, 1], "lr": 0.1}}}
    arguments: dict[str, Any] = {"root": project, "experiment": "test", "seed": 0, "inputs": inputs}
    with live.live_run(
        "fit", "rand", params=params, outputs=[metrics, curves], metrics_file=metrics, **arguments
    ) as run:
        for subset in ("full", "still_y"):
            for source in range(5):
                for seed in (0, 1):
                    for epoch in (1, 2):
                        loss = 1 / 3 + source + seed / 7
                        begin = "" if subset == "full" else f"{subset}_"
                        run.curve(epoch, {f"{begin}train_loss/source-{source}-seed-{seed}": loss})
                        rows.append(f"{subset},{source},{seed},{epoch},0.1,{loss:.6g},")
        curves.write_text("\n".join(rows) + "\n")
        values = {"validation_accuracy": 0.5, "train_loss": 0.25}
        parts = {part: {"seeds": {"0": {"0": values}}, "mean": values, "std": values} for part in ("full", "still_y")}
        metrics.write_text(json.dumps({**parts, "dataset": {"name": "D_rand", **RECIPE, "source_seeds": [0, 1]}}))
    return [metrics, curves]


def test_a_rebuilt_run_equals_the_live_one(project: Path, runs: Runs) -> None:
    outputs = work(project)
    assert track(project).sent == 1
    there = runs.one()
    assert there.data.params == {
        "seeds": "[0, 1]", "lr": "0.1", "dataset.name": "D_rand", "dataset.recipe": "random_target",
        "dataset.model": "standard", "dataset.norm": "l2", "dataset.eps": "1.1", "dataset.num_steps": "60",
    }  # fmt: skip
    assert there.data.tags["mlflow.runColor"] == "#009E73"
    singles = {key.partition(".")[2] for key in there.data.metrics if key.startswith("learning_by_seed/")}
    assert singles == {"source-0-seed-0", "source-0-seed-1", "source-1-seed-0"}
    drawn = {key: runs.curve(there, key) for key in there.data.metrics}
    with runs.client() as client:
        client.delete_run(there.info.run_id)
    described = [
        {"path": path.relative_to(project).as_posix(), "hash": "md5", **vars(content(path))} for path in outputs
    ]
    entry = {
        "cmd": "notbugs fit rand",
        "params": {"params.yaml": {"seed": 0, "fit.rand": {"seeds": [0, 1], "lr": 0.1}}},
        "deps": [{"path": "data/rand", "hash": "md5", **vars(content(project / "data/rand"))}],
        "outs": [{key: value for key, value in one.items() if value is not None} for one in described],
    }
    for journal in (project / ".notbugs/runs").rglob("run.json"):
        journal.unlink()
    (project / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"fit@rand": entry}}))
    params = {"experiment": "test", "seed": 0, "fit": {"rand": {"seeds": [0, 1], "lr": 0.1}}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    assert track(project).rebuilt == 1
    rebuilt = runs.one()
    assert rebuilt.data.params == {**there.data.params, "seed": "0"}  # which the stage of this test did not hand in
    assert rebuilt.data.metrics == there.data.metrics
    assert {key: runs.curve(rebuilt, key) for key in rebuilt.data.metrics} == drawn
    own = ("notbugs.", "mlflow.source.git", "git.", "dvc.", "pipeline.")
    tags = [{key: tag for key, tag in run.data.tags.items() if not key.startswith(own)} for run in (there, rebuilt)]
    assert tags[0] == tags[1]
    assert "`learning_still_y/train_loss`" in tags[0]["mlflow.note.content"]


def test_a_run_has_no_more_metrics_than_the_most(project: Path, runs: Runs) -> None:
    """A question of one's own draws a hundred curves and measures a hundred numbers: the first of each."""
    metrics = project / "metrics/science/mine.json"
    metrics.parent.mkdir(parents=True)
    arguments: dict[str, Any] = {"root": project, "experiment": "test", "seed": 0, "inputs": [], "params": {}}
    with live.live_run("science", "mine", outputs=[metrics], metrics_file=metrics, **arguments) as run:
        for step in (1, 2):
            run.curve(step, {f"curve {number:03d}": number / 8 for number in range(100)})
        metrics.write_text(json.dumps({f"number {number:03d}": number for number in range(100)}))
    assert track(project).sent == 1
    found = sorted(runs.one().data.metrics)
    assert found == [
        *(f"curve {number:03d}" for number in range(DRAWN)),
        *(f"number {number:03d}" for number in range(MOST - DRAWN)),
    ]
    assert runs.artifacts(runs.one()) == ["mine.json"]
    assert "`mine.json`, under Artifacts" in runs.one().data.tags["mlflow.note.content"]


def test_what_a_user_wrote_of_a_run_stays(project: Path, runs: Runs) -> None:
    from tracking_tools import the_journal

    from notbugs.tracking import location
    from notbugs.tracking.sending import send
    from notbugs.tracking.store import open_store

    arguments: dict[str, Any] = {"root": project, "experiment": "test", "seed": 0, "inputs": [], "params": {}}
    with live.live_run("prepare", None, outputs=[], metrics_file=None, **arguments) as run:
        run.metrics({"train": 5})
        with open_store(location.tracking_uri(project), "test", project) as store:
            assert send(store, the_journal(project)) is False
            with runs.client() as client:
                client.set_tag(runs.one().info.run_id, "mlflow.note.content", "mine")
    assert track(project).sent == 1
    assert runs.one().data.tags["mlflow.note.content"] == "mine"
