"""Inversion: the paper's recipe, other objectives, resemblance in a case worked out by hand, the stage."""

import json
import shutil

import pytest
import torch
import yaml
from torch import nn

from notbugs.construction.building import construct
from notbugs.construction.settings import InvertSettings
from notbugs.data.images import ImageData
from notbugs.data.store import load_dataset
from notbugs.models.base import Classifier
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.errors import ConfigError
from notbugs.science.inversion import (
    OBJECTIVES,
    Pairs,
    cosine_distance,
    features,
    invert,
    median,
    resemblance,
    summary,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_representation_objective_is_the_papers_recipe(digits, robust_model):
    base = digits[0].select(torch.arange(60))
    config = InvertSettings(recipe="invert", model="robust", num_steps=30, step_size=0.05)
    expected = construct(robust_model, base, **config.arguments(), generator=generator())
    starts = base.images[expected.start_index]
    found = invert(robust_model, base.images, starts, "representation", num_steps=30, step_size=0.05)
    torch.testing.assert_close(found, expected.data.images, rtol=0, atol=1e-3)


@pytest.mark.parametrize("objective", list(OBJECTIVES))
def test_every_objective_falls(digits, robust_model, objective):
    base = digits[0].select(torch.arange(40))
    starts = base.images.roll(7, dims=0)
    found = invert(robust_model, base.images, starts, objective, num_steps=120, step_size=0.05)
    loss = OBJECTIVES[objective]
    goal, before, after = (features(robust_model, images, reads=loss.reads) for images in (base.images, starts, found))
    assert float(loss.function(after, goal).mean()) < 0.2 * float(loss.function(before, goal).mean())
    assert found.min() >= 0
    assert found.max() <= 1


def test_cosine_distance():
    a, b = torch.tensor([[1.0, 0.0], [1.0, 1.0], [2.0, 0.0]]), torch.tensor([[0.0, 3.0], [2.0, 2.0], [-1.0, 0.0]])
    torch.testing.assert_close(cosine_distance(a, b), torch.tensor([1.0, 0.0, 2.0]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch", [1000, 4, 1])
def test_resemblance_by_hand(monkeypatch, batch):
    """One-pixel images at 0.0, 0.1, ..., labels alternating; g doubles the pixel. D is looked at in parts."""
    monkeypatch.setattr("notbugs.science.inversion.BATCH", batch)
    images = torch.arange(6, dtype=torch.float32).view(6, 1, 1, 1) / 10
    data = ImageData(images, torch.tensor([0, 1, 0, 1, 0, 1]), ("a", "b"))
    g = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(1, 1, bias=False)), 1, 1, 2)
    nn.init.constant_(g.body[1].weight, 2.0)
    pairs = Pairs(target=torch.tensor([0, 4]), start=torch.tensor([3, 1]))
    inverted = torch.tensor([0.06, 0.26]).view(2, 1, 1, 1)
    found = {"pixels": resemblance(inverted, data, pairs), "g": resemblance(inverted, data, pairs, g)}
    close = torch.testing.assert_close
    close(found["pixels"]["to_target"], torch.tensor([0.06, 0.14]))
    close(found["pixels"]["to_start"], torch.tensor([0.24, 0.16]))
    close(found["pixels"]["start_to_target"], torch.tensor([0.3, 0.3]))
    close(found["g"]["to_target"], torch.tensor([0.12, 0.28]))
    # Without x (0.0) and x' (0.3) the nearest of 0.06 is 0.1 (b); without 0.4 and 0.1 that of 0.26 is 0.3 (b).
    assert found["pixels"]["neighbour"].tolist() == [1, 1]
    facts = summary(
        found["pixels"], data.labels[pairs.target], data.labels[pairs.start], num_bootstrap=50, generator=generator()
    )
    assert facts["nearer_target"]["mean"] == 1.0
    assert facts["neighbour_target"]["mean"] == 0.0
    assert facts["neighbour_start"]["mean"] == 1.0
    assert facts["reached"]["median"] == pytest.approx((0.2 + 0.14 / 0.3) / 2, abs=1e-5)


def test_pairs_of_one_class_are_left_out_and_too_few_is_an_error():
    columns = {name: torch.tensor([1.0, 2.0]) for name in ("to_target", "to_start", "start_to_target")}
    columns["neighbour"] = torch.tensor([0, 0])
    labels = torch.tensor([0, 1])
    facts = summary(columns, labels, torch.tensor([0, 0]), num_bootstrap=10, generator=generator())
    assert facts["to_target"]["median"] == 2.0
    assert facts["nearer_target"]["n"] == 1
    with pytest.raises(ValueError, match="every start has its target's class"):
        summary(columns, labels, labels, num_bootstrap=10, generator=generator())


def test_the_bootstrap_interval_of_a_median_covers():
    """95% of intervals hold the true median; 200 trials of 60 normal values, so 0.95 ± 0.05."""
    hits = 0
    for seed in range(200):
        values = torch.randn(60, generator=generator(seed))
        found = median(values, 200, generator(1000 + seed))
        hits += found["low"] <= 0 <= found["high"]
    assert 0.89 <= hits / 200 <= 0.99


def test_the_stage_writes_panel_and_metrics(tiny_project, tmp_path):
    root = shutil.copytree(tiny_project, tmp_path / "lab")
    run_stage(open_project(root), "inversion")
    metrics, images = (root / "metrics/inversion.json").read_bytes(), load_dataset(root / "plots/inversion")
    found = json.loads(metrics)
    assert set(found["resemblance"]) == {"robust", "standard"}
    for objectives in found["resemblance"].values():
        assert set(objectives) == {"representation", "cosine", "logits"}
        assert set(objectives["cosine"]) == {"pixels", "robust", "standard", "called_y"}
    assert set(found["fits"]) == {"D, robust", "D, standard", "D_R", "D_NR"}
    assert set(found["fits"]["D_R"]) == {"train", "inverted_test", "test"}
    table = images.examples
    assert len(table) == 3 * 2 * 3  # classes × models × objectives
    assert (table["true_label"] != table["start_label"]).all()
    assert images.data().labels.tolist() == table["true_label"].tolist()
    train = load_dataset(root / "data/train").data()
    moved = images.data().images - train.images[torch.tensor(table["source_index"].to_numpy(copy=True))]
    assert moved.flatten(1).norm(dim=1).tolist() == pytest.approx(table["pixels_to_target"].tolist(), abs=1e-4)
    run_stage(open_project(root), "inversion")
    assert (root / "metrics/inversion.json").read_bytes() == metrics


@pytest.mark.parametrize("count", [12, 300])
def test_too_many_examples_and_a_missing_class_are_one_line(tiny_project, tmp_path, count):
    root = shutil.copytree(tiny_project, tmp_path / "lab")
    params = yaml.safe_load((root / "params.yaml").read_text())
    params["inversion"]["num_examples"] = count
    (root / "params.yaml").write_text(yaml.safe_dump(params))
    if count == 300:
        with pytest.raises(ConfigError, match=r"inversion\.num_examples = 300: must be in 10\.\.240"):
            run_stage(open_project(root), "inversion")
        return
    manifest = json.loads((root / "data/train/manifest.json").read_text())
    manifest["class_names"].append("ten")
    manifest["checksum"] = None
    (root / "data/train/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=r"no image of class ten"):
        run_stage(open_project(root), "inversion")
