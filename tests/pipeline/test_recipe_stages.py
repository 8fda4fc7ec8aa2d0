"""A recipe of the user's own, and a file of targets, in the stage `construct`: any process makes them, DVC watches."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from resume_tools import contents, set_params

from notbugs.data.store import load_dataset
from notbugs.evaluation.accuracy import predict
from notbugs.evaluation.neighbours import own_neighbours
from notbugs.pipeline import construct
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.job import Job
from notbugs.pipeline.stages import STAGES, run_stage
from notbugs.runtime.errors import ConfigError
from projects import forget_own_modules
from tiny import CONSTRUCT

RECIPE = """
import torch
from notbugs.construction.recipe import Constructed
from notbugs.construction.settings import ConstructSettings
from notbugs.data.images import ImageData

class DarkSettings(ConstructSettings):
    least: float

class Dark:
    settings = DarkSettings
    labels = "source"

    def __init__(self, model, data, *, generator, least):
        self.data, self.factors = data, least + (1 - least) * torch.rand(len(data), generator=generator)

    def part(self, rows):
        given, factors = self.data.select(rows), self.factors[rows]
        made = ImageData(given.images * factors[:, None, None, None], given.labels, given.class_names)
        return Constructed(made, given.labels, torch.full_like(given.labels, -1), {"factor": factors})

    @classmethod
    def set_up(cls, model, data, *, generator, least):
        return cls(model, data, generator=generator, least=least)
"""


@pytest.fixture
def lab(project: Path, fresh_names: None) -> Context:
    """A project with src/lab/recipes.py and labels.npy, both among the deps of `construct`."""
    (project / "src" / "lab").mkdir(parents=True)
    (project / "src" / "lab" / "recipes.py").write_text(RECIPE)
    watch(project, "data/train", "src/lab", "labels.npy")
    return set_params(project)


def watch(project: Path, *deps: str) -> None:
    stages = {"construct": {"foreach": "${construct}", "do": {"cmd": "x", "deps": list(deps)}}}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))


def own(lab: Context, **more: Any) -> Context:
    """construct.rand by the recipe of one's own."""
    section = {"recipe": "lab.recipes:Dark", "model": "standard", "least": 0.5, "batch_size": 40, "shard_size": 80}
    return set_params(lab.root, construct={"rand": section}, **more)


def targeted(lab: Context, target: str = "labels.npy") -> Context:
    """construct.rand by targets from a file."""
    return set_params(lab.root, construct={"rand": {**CONSTRUCT["rand"], "target": target, "shard_size": 80}})


def test_models_are_asked_about_d_once_for_all_datasets(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what was kept is what they say."""
    run_stage(set_params(project, jobs=1), "construct", "rand")
    before = contents(project / "data/rand")
    kept = sorted((project / ".notbugs/untouched").iterdir())
    assert kept
    asked: list[Path] = []
    monkeypatch.setattr(construct, "predict", lambda model, images: asked.append(images) or predict(model, images))
    run_stage(set_params(project, jobs=1), "construct", "rand")
    assert not asked
    kept[0].write_bytes(kept[0].read_bytes()[:-5])  # a damaged one is made anew
    run_stage(set_params(project, jobs=1), "construct", "rand")
    assert len(asked) == 1
    assert contents(project / "data/rand") == before


def test_neighbours_of_d_are_found_once_for_all_datasets(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And again where D is another."""
    looks = []

    def look(*given: Any, **how: Any) -> torch.Tensor:
        looks.append(given)
        return own_neighbours(*given, **how)

    monkeypatch.setattr(construct, "own_neighbours", look)
    shutil.rmtree(project / ".notbugs/neighbours", ignore_errors=True)
    for name in ("rand", "robust", "rand"):
        run_stage(set_params(project, jobs=1), "construct", name)
    assert len(looks) == 1
    assert [path.suffix for path in (project / ".notbugs/neighbours").iterdir() if path.suffix != ".lock"] == [".json"]
    manifest = project / "data/train/manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "checksum": None}))
    run_stage(set_params(project, jobs=1), "construct", "rand")
    assert len(looks) == 2


def test_it_makes_a_dataset_with_any_number_of_workers(lab: Context) -> None:
    run_stage(own(lab, jobs=1), "construct", "rand")
    folder = lab.root / "data" / "rand"
    alone = contents(folder)
    assert {path.name for path in folder.iterdir()} == {"source-0", "source-1"}
    made, data = load_dataset(folder / "source-1"), load_dataset(lab.root / "data" / "train")
    factors = made.examples["factor"].to_numpy()
    assert 0.5 <= factors.min() < factors.max() <= 1
    torch.testing.assert_close(made.data().images, data.data().images * torch.tensor(factors).view(-1, 1, 1, 1))
    assert made.manifest.settings["least"] == 0.5
    facts = json.loads((lab.root / "metrics/construct/rand.json").read_text())
    assert facts["num_examples"] == len(data)
    assert facts["given_is_true"] == 1.0
    run_stage(own(lab, jobs=2), "construct", "rand")
    assert contents(folder) == alone


def test_a_change_of_it_makes_unfinished_work_stale(lab: Context) -> None:
    before = key(own(lab))
    forget_own_modules()
    assert key(own(lab)) == before
    file = lab.root / "src" / "lab" / "recipes.py"
    file.write_text(file.read_text() + "# another\n")
    forget_own_modules()
    assert key(own(lab)) != before


def key(lab: Context) -> str:
    """Of the unfinished work of a construction."""
    stage = STAGES["construct"]
    with Job(stage, lab, "rand", stage.read_settings(lab.params, "rand")).begin([]) as (_, work):
        return work.name


def test_what_dvc_does_not_watch_is_refused(lab: Context) -> None:
    watch(lab.root, "data/train")
    message = r"^params\.yaml names lab\.recipes: src/lab/recipes\.py must be among the deps of stage construct in"
    with pytest.raises(ConfigError, match=message):
        run_stage(own(lab), "construct", "rand")


def test_targets_come_from_the_file(lab: Context) -> None:
    count = len(load_dataset(lab.root / "data" / "train"))
    wanted = np.arange(count) % 7
    np.save(lab.root / "labels.npy", wanted)
    run_stage(targeted(lab), "construct", "rand")
    made = load_dataset(lab.root / "data" / "rand" / "source-0")
    assert (made.labels.numpy() == wanted).all()
    assert made.manifest.settings["target"] == "labels.npy"


def test_a_file_that_is_missing_or_not_watched_is_refused(lab: Context) -> None:
    with pytest.raises(ConfigError, match=r"^params\.yaml names labels\.npy: must be a file; there is none at "):
        run_stage(targeted(lab), "construct", "rand")
    np.save(lab.root / "labels.npy", np.zeros(3, dtype=int))
    watch(lab.root, "data/train", "src")
    message = r"^params\.yaml names labels\.npy: must be among the deps of stage construct in dvc\.yaml, so that DVC"
    with pytest.raises(ConfigError, match=message):
        run_stage(targeted(lab), "construct", "rand")
