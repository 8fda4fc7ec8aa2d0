"""A construction from an ensemble of source models: one dataset, whose images fool all of them."""

import json
from pathlib import Path

import pytest
from resume_tools import contents, set_params

from notbugs.data.store import load_dataset
from notbugs.evaluation.accuracy import called_by
from notbugs.models import load_model
from notbugs.pipeline.construct import read_recipe
from notbugs.pipeline.origins import ensemble_members, origins
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.errors import ConfigError
from notbugs.sweeps.settings import sweep_settings
from tiny import CONSTRUCT, TINY_PARAMS, TRAIN

DET = {**CONSTRUCT["det"], "eps": 1.5, "num_steps": 20}
TOGETHER = {key: value for key, value in DET.items() if key != "model"} | {"from": ["standard", "robust"]}


def lab_with(project: Path, **entries: dict) -> Context:
    return set_params(project, construct=entries, fit={"both": {**TRAIN, "seeds": [0], "still_y": False}})


def test_one_dataset_is_made_that_fools_all_members(project: Path) -> None:
    lab = lab_with(project, both=TOGETHER, det={**DET, "source_seeds": [0]})
    for stage, name in (("construct", "both"), ("construct", "det"), ("fit", "both")):
        run_stage(lab, stage, name)
    made, alone = load_dataset(project / "data/both/source-0"), load_dataset(project / "data/det/source-0")
    assert [path.name for path in (project / "data/both").iterdir()] == ["source-0"]
    assert made.manifest.settings["from"] == ["standard", "robust"]
    assert "model" not in made.manifest.settings
    assert "from" not in alone.manifest.settings
    files = [lab.source_model("standard", 0), lab.source_model("standard", 1), lab.source_model("robust", 0)]

    def reached(dataset: object) -> list[float]:
        """Share of the targets that each member calls."""
        calls = [called_by(load_model(file), dataset) == dataset.labels for file in files]  # type: ignore[attr-defined]
        return [float(call.double().mean()) for call in calls]

    together, single = reached(made), reached(alone)
    assert sum(together) > sum(single)
    assert together[1] > single[1]
    facts = json.loads((project / "metrics/construct/both.json").read_text())
    assert facts["success_other_seeds"] is None  # there are no others
    assert json.loads((project / "metrics/fit/both.json").read_text())["dataset"]["source_seeds"] == [0]


def test_workers_and_a_second_run_give_the_same_bytes(project: Path) -> None:
    run_stage(lab_with(project, both={**TOGETHER, "shard_size": 100}), "construct", "both")
    alone = contents(project / "data/both")
    run_stage(set_params(project, jobs=2), "construct", "both")
    assert contents(project / "data/both") == alone


def test_who_is_in_it_who_is_not_and_who_judges(project: Path) -> None:
    lab = lab_with(project, both={**TOGETHER, "from": ["standard/1", "robust/0"]})
    (origin,) = origins(lab, read_recipe(lab.params, "construct.both"), "construct.both")
    assert origin.seed == 0
    assert origin.members == (lab.source_model("standard", 1), lab.source_model("robust", 0))
    assert origin.others == (lab.source_model("standard", 0),)
    assert origin.judge == lab.source_model("robust", 0)  # there is no other
    more = set_params(project, train={"robust": {**lab.params["train"]["robust"], "seeds": [0, 7]}})
    (origin,) = origins(more, read_recipe(more.params, "construct.both"), "construct.both")
    assert origin.judge == more.source_model("robust", 7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"from": ["standard/9", "robust"]},
            r"construct\.both\.from: standard/9: no model is trained by that name and",
        ),
        (
            {"from": ["wide", "robust"]},
            r"construct\.both\.from: wide: no model is trained .*: standard/SEED, robust",
        ),
        (
            {"from": ["standard", "standard/1"]},
            r"construct\.both\.from = .*: names a model twice; allowed: two",
        ),
        ({"from": ["robust/0"]}, r"construct\.both\.from = \['robust/0'\]: names one model: that is `model`"),
        ({"from": []}, r"construct\.both\.from = \[\]: must be a list of at least 1"),
        ({"from": "standard"}, r"construct\.both\.from = 'standard': must be a list"),
        ({"model": "robust"}, r"construct\.both\.model: must be left out where `from` names the models"),
        ({"source_seeds": [0]}, r"construct\.both\.source_seeds: must be left out where `from` names the models"),
        ({"from": None}, r"construct\.both\.model: missing; it must be given, or `from` in its place"),
    ],
)
def test_ensembles_that_cannot_be_are_one_line(change: dict, message: str) -> None:
    params = {**TINY_PARAMS, "construct": {"both": {**TOGETHER, **change}}}
    with pytest.raises(ConfigError, match=rf"^params\.yaml: {message}") as raised:
        read_recipe(params, "construct.both")
    assert "\n" not in str(raised.value)


def test_names_stand_for_all_their_seeds() -> None:
    params = {"train": {"standard": {**TRAIN, "seeds": [4, 2]}, "robust": {**TRAIN, "seeds": [1]}}}
    assert ensemble_members(params, ["standard", "robust/1"], "x") == [("standard", 4), ("standard", 2), ("robust", 1)]


def test_a_study_varies_all_but_the_models() -> None:
    study = {"kinds": ["both"], "eps": [0.5], "num_steps": [1], "seeds": [0]}
    params = {**TINY_PARAMS, "construct": {"both": TOGETHER}, "fit": {"both": TRAIN}, "sweep": {"small": study}}
    assert sweep_settings(params, "small").kinds == ("both",)
    study["source_eps"] = [0, 0.5]
    with pytest.raises(ConfigError, match=r"sweep\.small\.source_eps: both is made from an ensemble"):
        sweep_settings(params, "small")
