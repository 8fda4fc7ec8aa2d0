"""Estimator against data: what varies, the pixel control, the stage, its errors."""

import json
import shutil

import pytest
import torch
import yaml

from notbugs.data.images import ImageData
from notbugs.models import ModelSettings
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.science import estimator as module
from notbugs.science.common.lab import Lab
from notbugs.science.estimator import (
    EstimatorSettings,
    blend,
    choose_pairs,
    estimate,
    estimators,
    measure_estimator,
    training_at,
)
from notbugs.science.inversion import Pairs, resemblance

SECTION = {
    "eps": [0, 0.5, 2.0],
    "standard": {"epochs": 1, "lr": 0.1},
    "robust": {"epochs": 2, "lr": 0.1, "attack": {"eps": 1.0, "num_steps": 3, "step_size": 0.7}},
    "other": {"architecture": "mlp"},
    "other_eps": 0.25,
    "num_steps": 2,
    "step_size": 0.1,
    "fit": {"epochs": 1, "lr": 0.1},
    "attack": {"eps": 0.5, "num_steps": 2},
}


def config() -> EstimatorSettings:
    return validate(SECTION, "estimator", EstimatorSettings)


def lab_of(data: ImageData, test: ImageData) -> Lab:
    return Lab(seed=0, data={"train": data, "test": test}, architecture=ModelSettings(width=4))


def test_estimators_vary_radius_training_and_architecture():
    found = estimators(config(), ModelSettings(width=4))
    assert [(one.name, one.kind, one.model.architecture, one.eps) for one in found] == [
        ("eps 0", "radius", "small_cnn", 0.0),
        ("eps 0.5", "radius", "small_cnn", 0.5),
        ("eps 2", "radius", "small_cnn", 2.0),
        ("untrained", "untrained", "small_cnn", None),
        ("mlp, eps 0", "architecture", "mlp", 0.0),
        ("mlp, eps 0.25", "architecture", "mlp", 0.25),
    ]


def test_the_radius_of_the_inner_attack_is_the_estimators():
    assert training_at(config(), 0.0).attack is None
    attack = training_at(config(), 2.0).attack
    assert attack is not None
    assert (attack.eps, attack.step, attack.num_steps) == (2.0, 0.4, 3)


def test_an_untrained_estimator_is_as_initialised_and_seeds_differ(digits):
    data = digits[0].select(torch.arange(40))
    untrained = estimators(config(), ModelSettings(width=4))[3]
    first, again, other = (estimate(Lab(seed=0, data={"train": data}), config(), untrained, seed) for seed in (0, 0, 1))
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert not first.training


def test_blends_are_as_near_to_x_as_the_inverted_images():
    images = torch.rand(8, 1, 3, 3, generator=torch.Generator().manual_seed(0))
    data = ImageData(images, torch.zeros(8, dtype=torch.int64), ("a", "b"))
    pairs = Pairs(target=torch.tensor([0, 1, 2]), start=torch.tensor([5, 6, 7]))
    target, start = images[pairs.target], images[pairs.start]
    inverted = target + 0.3 * (start - target).flip(3)  # some other way, 0.3 of the distance
    inverted[2] = target[2] + 10  # further than x': the blend is x' itself
    found = blend(data, pairs, inverted)
    near = (found - target).flatten(1).norm(dim=1)
    torch.testing.assert_close(near[:2], (inverted - target).flatten(1).norm(dim=1)[:2])
    torch.testing.assert_close(found[:2], (target + 0.3 * (start - target))[:2])
    torch.testing.assert_close(found[2], start[2])


def test_pairs_are_by_class_and_never_the_image_itself(digits):
    pairs = choose_pairs(digits[0], 100, torch.Generator().manual_seed(0))
    assert torch.bincount(digits[0].labels[pairs.target]).min() >= 9
    assert (pairs.target != pairs.start).all()
    assert len(choose_pairs(digits[0], None, torch.Generator()).target) == len(digits[0])


def test_still_y_is_counted_among_the_images_that_the_judge_knew(digits, standard_model):
    """Labels of every second image are wrong: 1-NN does not know these x, and is not asked about their x_r."""
    labels = digits[0].labels[:60].clone()
    labels[::2] = (labels[::2] + 1) % 10
    data = ImageData(digits[0].images[:60], labels, digits[0].class_names)
    pairs = Pairs(torch.arange(20), torch.arange(30, 50))
    before = resemblance(data.select(pairs.target).images, data, pairs)["neighbour"]
    knew = int((before == labels[:20]).sum())
    assert 0 < knew < 20
    found = measure_estimator(lab_of(data, digits[1].select(slice(0, 20))), config(), standard_model, pairs, 0)
    assert found["masks"]["still_y"].shape == (knew,)


def test_the_fit_and_its_pixel_control_differ_by_their_images_alone(digits, standard_model, monkeypatch):
    """Given the same images, they are the same fit: initialisation, batches and the attack's starts are shared."""
    data = digits[0].select(slice(0, 60))
    monkeypatch.setattr(module, "blend", lambda data, pairs, inverted: inverted)
    settings = validate({**SECTION, "attack": {**SECTION["attack"], "random_start": True}}, "e", EstimatorSettings)
    lab, pairs = lab_of(data, digits[1].select(slice(0, 60))), Pairs(torch.arange(20), torch.arange(30, 50))
    found = measure_estimator(lab, settings, standard_model, pairs, 0)["masks"]
    for measured in ("clean", "attacked"):
        assert torch.equal(found[f"fit_{measured}"], found[f"blend_{measured}"])


def test_the_stage_measures_every_estimator(tiny_project, tmp_path):
    root = shutil.copytree(tiny_project, tmp_path / "lab")
    run_stage(open_project(root), "estimator")
    written = (root / "metrics/estimator.json").read_bytes()
    found = json.loads(written)
    assert list(found["table"]) == ["eps 0", "eps 0.5", "untrained", "mlp, eps 0", "mlp, eps 0.5"]
    assert found["num_examples"] == 40
    for facts in found["table"].values():
        assert facts["fit_clean"]["n"] == 60
        assert facts["still_y"]["n"] == 40
        assert len(facts["seeds"]["fit_attacked"]) == 2
        assert facts["fit_attacked"]["mean"] <= facts["fit_clean"]["mean"]
    params = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump({**params, "jobs": 2}))
    run_stage(open_project(root), "estimator")  # by worker processes
    assert (root / "metrics/estimator.json").read_bytes() == written


def test_more_examples_than_images_is_one_line(tiny_project, tmp_path):
    root = shutil.copytree(tiny_project, tmp_path / "lab")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["estimator"]["num_examples"] = 241
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    with pytest.raises(ConfigError, match=r"estimator\.num_examples = 241: must be in 10\.\.240"):
        run_stage(open_project(root), "estimator")
