"""Perturbed noise: closed forms, a source that knows the digits, and one that knows nothing."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from notbugs.data.images import ImageData, make_generator
from notbugs.data.store import StoredDataset, load_dataset, save_dataset
from notbugs.models import ModelSettings
from notbugs.models.base import Classifier
from notbugs.report.debate import Part
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.question import asked
from notbugs.science.debate import nothing_visible
from notbugs.science.debate._budgets import Budget, SparseBall
from notbugs.science.debate._directions import along_means, along_weights, class_directions
from notbugs.testing import check_question

FIT = {"epochs": 5, "batch_size": 64, "lr": 0.3, "schedule": "one_cycle"}
L2 = {"norm": "l2", "eps": 1.5, "num_steps": 8, "step_size": 0.4}
SETTINGS: dict[str, Any] = {"budgets": {"L2": L2}, "fit": FIT, "seeds": [0, 1, 2], "num_noises": 600}


def settings_of(**changes: Any) -> Any:
    given = {"study": "nothing_visible", **SETTINGS, **changes}
    return validate(given, "science.NAME", nothing_visible.NothingVisibleSettings)


def stored(folder: Path, data: ImageData) -> StoredDataset:
    table = pd.DataFrame({"index": range(len(data)), "label": data.labels.numpy()})
    save_dataset(folder, data, table, name=folder.name, source="testing", settings={})
    return load_dataset(folder)


@pytest.fixture
def lab(digits: tuple[ImageData, ImageData], standard_model: Classifier, tmp_path: Path) -> Lab:
    data = {name: stored(tmp_path / name, part) for name, part in zip(("train", "test"), digits, strict=True)}
    return Lab(seed=0, data=data, models={"standard": standard_model}, architecture=ModelSettings(width=8))


def answered(lab: Lab, **changes: Any) -> Answer:
    return asked(nothing_visible.QUESTION, lab, settings_of(**changes), "science.NAME")


def findings(answer: Answer) -> dict[str, str]:
    return {one.key: one.finding for one in answer.verdicts}


def test_noise_pushed_by_a_model_of_the_digits_teaches_them(lab: Lab) -> None:
    found = answered(lab)
    assert findings(found) == {"taught_L2": "reproduced", "linear": "reproduced", "means": "reproduced"}
    row = found.metrics["budgets"]["L2"]
    assert row["reached"]["value"] > 0.9
    assert row["fit"]["mean"] > 0.3
    assert row["control"]["mean"] < 0.2
    assert row["means"]["cosine"]["low"] > 0.3


def test_noise_pushed_by_a_model_that_knows_nothing_teaches_nothing(
    lab: Lab, digits: tuple[ImageData, ImageData], new_model: Callable[..., Classifier]
) -> None:
    """Its logits are centred on the noises, or it would call all of them the same and reach no other class."""
    blank = new_model(digits[0]).eval()
    with torch.no_grad():
        blank.head.bias.sub_(blank(nothing_visible.noises(lab, 200).images).mean(dim=0))
    found = answered(replace(lab, models={"standard": blank}))
    row = found.metrics["budgets"]["L2"]
    assert row["reached"]["value"] > 0.9
    assert row["fit"]["mean"] < 0.25
    assert row["means"]["cosine"]["value"] < 0.2
    assert findings(found) == {"taught_L2": "not reproduced", "linear": "reproduced", "means": "not reproduced"}


def test_where_few_noises_reach_t_chance_says_nothing(lab: Lab) -> None:
    found = answered(lab, budgets={"short": {**L2, "eps": 0.01, "step_size": 0.005}}, num_noises=100)
    verdict = found.verdicts[0]
    assert verdict.finding == "inconclusive"
    assert verdict.sentence.startswith("Too few noises reach t.")


@pytest.fixture(scope="module")
def noise() -> ImageData:
    draw = make_generator(0, "test noise")
    return ImageData(torch.rand(200, 2, 4, 4, generator=draw), torch.zeros(200, dtype=torch.int64), ("a", "b"))


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_a_linear_classifiers_perturbations_are_the_norms_step_at_w(norm: str, noise: ImageData) -> None:
    weights = torch.randn(2, 4, 4, generator=make_generator(1, "test weights"))
    flat = weights.flatten().double()
    closed = {"l2": 1.0, "linf": flat.abs().sum() / (math.sqrt(32) * flat.norm()), "l1": flat.abs().max() / flat.norm()}
    budget = Budget(norm=norm, eps=0.4, num_steps=10, step_size=0.1)
    found = along_weights(weights, noise, budget, make_generator(2))
    assert found["expected"] == pytest.approx(float(closed[norm]), abs=1e-6)
    assert found["free"] == pytest.approx(found["expected"], abs=1e-4)


def test_clipping_takes_the_perturbation_off_w(noise: ImageData) -> None:
    weights = torch.ones(2, 4, 4)
    weights[0, 0, 0] = 20.0
    found = along_weights(weights, noise, Budget(norm="l2", eps=3.0, num_steps=10, step_size=1.0), make_generator(0))
    assert found["free"] == pytest.approx(1.0, abs=1e-5)
    assert found["clipped"] < 0.95


def test_the_mean_perturbation_towards_a_class_is_found_where_it_is(noise: ImageData) -> None:
    draw = make_generator(3, "test means")
    data = ImageData(torch.rand(60, 2, 4, 4, generator=draw), torch.arange(60) % 3, ("a", "b", "c"))
    means = class_directions(data)
    assert torch.allclose(means.sum(dim=0), torch.zeros(32, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(means[1], data.images[1::3].flatten(1).double().mean(dim=0) - _mean_of_means(data))
    targets = torch.arange(200) % 3
    random = torch.randn(200, 2, 4, 4, generator=draw)
    towards = means[targets].float().view_as(random) + 0.01 * random
    assert along_means(towards, targets, means, draw)["cosine"]["low"] > 0.95
    nowhere = along_means(random, targets, means, draw)
    assert abs(nowhere["cosine"]["value"]) < 0.5
    assert nowhere["cosine"]["low"] < nowhere["shuffled"]


def _mean_of_means(data: ImageData) -> torch.Tensor:
    rows = data.images.flatten(1).double()
    return (rows[0::3].mean(dim=0) + rows[1::3].mean(dim=0) + rows[2::3].mean(dim=0)) / 3


def test_the_sparse_projection_is_the_nearest_image_of_so_few_changes() -> None:
    draw = make_generator(4, "test sparse")
    centre, x = torch.rand(8, 1, 2, 3, generator=draw), 2 * torch.randn(8, 1, 2, 3, generator=draw)
    found = x.clone()
    SparseBall(centre, 2).project_(found)
    assert ((found - centre) != 0).flatten(1).sum(dim=1).max() <= 2
    assert found.min() >= 0
    assert found.max() <= 1
    for row in range(8):
        nearest = min(_distance(centre[row], x[row], places) for places in itertools.combinations(range(6), 2))
        assert float((found[row] - x[row]).norm()) == pytest.approx(nearest, abs=1e-6)
    again = found.clone()
    SparseBall(centre, 2).project_(again)
    assert torch.equal(again, found)


def _distance(centre: torch.Tensor, x: torch.Tensor, places: tuple[int, int]) -> float:
    moved = centre.flatten().clone()
    moved[list(places)] = x.flatten()[list(places)].clamp(0, 1)
    return float((moved - x.flatten()).norm())


def test_the_question_answers_alike_and_resumes() -> None:
    sparse = {"norm": "l0", "eps": 4, "num_steps": 3, "step_size": 0.3}
    check_question(
        "nothing_visible",
        settings={"budgets": {"L2": L2, "L0": sparse}, "fit": {**FIT, "epochs": 1}, "num_noises": 12},
    )


def test_the_page_holds_the_numbers(lab: Lab) -> None:
    sparse = {"norm": "l0", "eps": 4, "num_steps": 3, "step_size": 0.3}
    found = answered(lab, budgets={"few": sparse}, fit={**FIT, "epochs": 1}, num_noises=30)
    assert findings(found).keys() == {"taught_few", "means"}
    page = Part("x", {**found.metrics, "question": {"page": nothing_visible.__name__}}).page()
    row = found.metrics["budgets"]["few"]
    for text in ("30 images of uniform noise", "L0, eps 4", f"{row['linear']['clipped']:.3f}", "chance is 10.0%"):
        assert text in page


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"budgets": {}}, "budgets"),
        ({"budgets": {"a-b": L2}}, "a-b"),
        ({"budgets": {"L2": {**L2, "norm": "l3"}}}, "l0, or one of"),
        ({"budgets": {"L2": {**L2, "eps": 0}}}, "eps"),
        ({"pair": [1, 1]}, "two different"),
        ({"num_noises": 3}, "num_noises"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings_of(**changes)


def test_a_pair_that_d_has_not_is_refused(lab: Lab) -> None:
    with pytest.raises(
        ConfigError, match=r"science\.NAME\.pair = \[0, 10\]: must be numbers of classes of D, in 0\.\.9"
    ):
        answered(lab, pair=[0, 10])
