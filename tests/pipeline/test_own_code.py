"""A network of the user's own in the stages: it works in every process, counts as code, and DVC must watch it."""

import json
from pathlib import Path

import pytest
import yaml
from resume_tools import contents, set_params

from notbugs.data.store import load_dataset
from notbugs.models import load_model
from notbugs.pipeline.evaluate.measuring import Bench, Task
from notbugs.pipeline.running.context import Context, open_project
from notbugs.pipeline.running.job import Job
from notbugs.pipeline.stages import STAGES, run_stage
from notbugs.runtime.errors import ConfigError
from notbugs.sweeps import session
from projects import forget_own_modules

NETWORK = """
from torch import nn
from lab.parts import activation

def tiny(image_shape, num_classes, width=3):
    convolution = nn.Conv2d(image_shape[0], width, 3, padding=1)
    layers = [convolution, nn.BatchNorm2d(width), activation(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4 * width, num_classes))
"""


@pytest.fixture
def own(project: Path, fresh_names: None) -> Context:
    """A project whose classifiers are `tiny` of its own src/lab/networks.py."""
    folder = project / "src" / "lab"
    folder.mkdir(parents=True)
    (folder / "networks.py").write_text(NETWORK)
    (folder / "parts.py").write_text("from torch.nn import ReLU as activation\n")
    watch(project, ["data/train", "src/lab"])
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["model"] = {"architecture": "lab.networks:tiny"}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    return set_params(project)


def watch(project: Path, deps: list[str]) -> None:
    stages = {name: {"foreach": f"${{{name}}}", "do": {"cmd": "x", "deps": deps}} for name in ("train", "construct")}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {**stages, "evaluate": {"cmd": "x", "deps": deps}}}))


@pytest.mark.parametrize("jobs", [1, 2])
def test_it_is_trained_constructed_from_and_loaded(own: Context, jobs: int) -> None:
    lab = set_params(own.root, jobs=jobs)
    for name in ("standard", "robust"):
        run_stage(lab, "train", name)
    run_stage(lab, "construct", "rand")
    model = load_model(lab.source_model("standard", 1))
    assert type(model.body).__name__ == "Sequential"
    assert model.description.architecture == "lab.networks:tiny"
    facts = json.loads((own.root / "metrics/construct/rand.json").read_text())
    assert facts["num_examples"] == 259


def test_workers_give_the_same_bytes(own: Context) -> None:
    run_stage(own, "train", "standard")
    alone = contents(own.root / "models" / "train" / "standard")
    run_stage(set_params(own.root, jobs=2), "train", "standard")
    assert contents(own.root / "models" / "train" / "standard") == alone


def keys(lab: Context) -> tuple[str, str]:
    """Of the unfinished work of a training, and of a measurement."""
    stage = STAGES["train"]
    with Job(stage, lab, "standard", stage.read_settings(lab.params, "standard")).begin([]) as (_, work):
        unfinished = work.name
    bench = Bench(lab, None, STAGES["evaluate"].read_settings(lab.params))  # type: ignore[arg-type]
    return unfinished, bench.file(Task(lab.source_model("standard", 0), 0, 60, True, True, None, None)).name


@pytest.mark.parametrize("file", ["networks.py", "parts.py"])
def test_a_change_of_it_makes_kept_work_stale(own: Context, file: str) -> None:
    """What it imports of the user's own counts, too."""
    before = keys(own)
    forget_own_modules()
    assert keys(own) == before
    source = own.root / "src" / "lab" / file
    source.write_text(source.read_text() + "# another\n")
    forget_own_modules()
    assert all(now != then for now, then in zip(keys(own), before, strict=True))


def test_what_dvc_does_not_watch_is_refused(own: Context) -> None:
    watch(own.root, ["data/train", "src/lab/networks.py"])
    message = r"^params\.yaml names lab\.parts: src/lab/parts\.py must be among the deps of stage train in"
    with pytest.raises(ConfigError, match=message):
        run_stage(own, "train", "standard")
    watch(own.root, ["src"])
    run_stage(own, "train", "standard")


def test_a_sweep_watches_it_too(own: Context) -> None:
    """The study trains and attacks the network: before any point it asks for the same line in dvc.yaml."""
    study = {"kinds": ["rand"], "eps": [0.5], "num_steps": [1], "seeds": [0]}
    lab = set_params(own.root, sweep={"small": study})
    for name in ("standard", "robust"):
        run_stage(lab, "train", name)
    stage = {"foreach": "${sweep}", "do": {"cmd": "x", "deps": ["data/train"]}}
    (own.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"sweep": stage}}))
    message = r"^params\.yaml names lab\.networks: src/lab/networks\.py must be among the deps of stage sweep in"
    with pytest.raises(ConfigError, match=message):
        session.run(lab, "small", jobs=1)


def test_what_lies_outside_the_project_is_refused(
    own: Context, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    (own.root / "src" / "lab").rename(outside / "lab")
    forget_own_modules()
    monkeypatch.syspath_prepend(outside)
    with pytest.raises(ConfigError, match=r"^params\.yaml names lab\.\w+: .* lies outside the project, where DVC does"):
        run_stage(own, "train", "standard")


SOURCE = """
import torch
from torch.utils.data import TensorDataset

def read(root, seed, shift=0.0):
    images = torch.rand(60, 1, 6, 6, generator=torch.Generator().manual_seed(seed)) * 0.5 + shift
    return TensorDataset(images, torch.arange(60) % 3), None
"""


def test_d_of_ones_own_is_prepared_and_watched(own: Context) -> None:
    root = own.root
    (root / "src" / "lab" / "source.py").write_text(SOURCE)
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["data"] = {"source": "lab.source:read", "kwargs": {"shift": 0.5}, "validation_fraction": 0.25}
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    dvc = {"stages": {"prepare": {"cmd": "x", "deps": ["src/notbugs"]}}}
    (root / "dvc.yaml").write_text(yaml.safe_dump(dvc))
    message = (
        r"^params\.yaml names lab\.source: src/lab/source\.py must be among the deps of stage prepare in dvc\.yaml"
    )
    with pytest.raises(ConfigError, match=message):
        run_stage(open_project(root), "prepare")
    dvc["stages"]["prepare"]["deps"] = ["src/lab"]
    (root / "dvc.yaml").write_text(yaml.safe_dump(dvc))
    run_stage(open_project(root), "prepare")
    train = load_dataset(root / "data" / "train")
    assert train.manifest.source == "lab.source:read"
    assert train.manifest.settings["kwargs"] == {"shift": 0.5}
    assert float(train.data().images.min()) >= 0.5
    assert [len(load_dataset(root / "data" / split)) for split in ("train", "validation", "test")] == [36, 12, 12]
