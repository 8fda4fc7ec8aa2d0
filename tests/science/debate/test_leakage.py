"""Leakage: a world whose robust directions are known, and labels that follow them or do not."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from notbugs.data.images import ImageData, make_generator
from notbugs.data.store import load_dataset, save_dataset
from notbugs.models import create_model, save_model
from notbugs.report.debate import Part
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.science.common.lab import Lab
from notbugs.science.debate.leakage import QUESTION, LeakageSettings, leakage, learnt_linearly, robust_directions
from notbugs.testing import check_question

SETTINGS = LeakageSettings(study="leakage", eps=0.3)


def world(count: int, name: str) -> ImageData:
    """Two classes (1, 4, 4): the upper half differs by far more than the noise, all else is noise."""
    draw = make_generator(0, name)
    labels = torch.arange(count) % 2
    images = 0.5 + 0.02 * torch.randn(count, 1, 4, 4, generator=draw)
    images[:, :, :2] += 0.2 * (2 * labels - 1).view(-1, 1, 1, 1)
    return ImageData(images.clamp(0, 1), labels, ("a", "b"))


def stored(folder: Path, data: ImageData) -> Any:
    table = pd.DataFrame({"index": range(len(data)), "label": data.labels.numpy()})
    save_dataset(folder, data, table, name=folder.name, source="testing", settings={})
    return load_dataset(folder)


def lab_of(folder: Path, given: Sequence[int]) -> Lab:
    """D, and as D_rand and D_det its images with the label that is given to each class."""
    train, test = world(200, "train"), world(60, "test")
    made = ImageData(train.images, torch.tensor(given)[train.labels], train.class_names)
    parts = {"train": train, "test": test, "rand": made, "det": made}
    file = folder / "fit.safetensors"
    save_model(create_model("small_cnn", (1, 4, 4), ("a", "b"), width=2, generator=make_generator(0)).eval(), file)
    data = {name: stored(folder / name, part) for name, part in parts.items()}
    return Lab(seed=0, data=data, source_seeds={"rand": 0, "det": 0}, fitted={"rand": [file], "det": [file]})


def test_the_robust_direction_is_the_one_that_was_planted() -> None:
    found = robust_directions(world(400, "train"), SETTINGS).directions
    planted = torch.zeros(1, 4, 4)
    planted[:, :2] = 1
    assert len(found) == 1
    assert abs(float(found[0] @ planted.flatten().double())) / planted.norm() == pytest.approx(1, abs=0.01)


def test_closed_form() -> None:
    """The planted direction: rho = E|s·f| near 1, std 0.2·√8; it breaks at eps = rho·std."""
    data = world(400, "train")
    limit = 0.2 * 8**0.5
    for eps, count in ((0.95 * limit, 1), (1.05 * limit, 0)):
        assert len(robust_directions(data, SETTINGS.model_copy(update={"eps": eps})).directions) == count


@pytest.mark.parametrize(("given", "expected"), [([0, 1], 1.0), ([1, 0], 0.0)])
def test_labels_that_follow_the_robust_feature_leak_it(tmp_path: Path, given: list[int], expected: float) -> None:
    answer = leakage(lab_of(tmp_path, given), SETTINGS)
    assert answer.metrics["datasets"]["rand"]["linear"]["mean"] == expected
    assert answer.metrics["datasets"]["train"]["linear"]["mean"] == 1.0
    assert answer.verdicts[0].finding == ("not reproduced" if expected else "reproduced")


def test_labels_that_follow_nothing_leak_nothing() -> None:
    """A single direction sorts all or none of the test images; over many labellings that is a half."""
    train, test = world(200, "train"), world(60, "test")
    directions, right = robust_directions(train, SETTINGS).directions, []
    for number in range(20):
        shuffled = train.labels[torch.randperm(200, generator=make_generator(number, "labels"))]
        called = learnt_linearly(directions, replace(train, labels=shuffled), test)
        right.append(float((called == test.labels).double().mean()))
    assert 0.2 < sum(right) / len(right) < 0.8


def test_without_a_robust_feature_nothing_is_judged(tmp_path: Path) -> None:
    answer = leakage(lab_of(tmp_path, [0, 1]), SETTINGS.model_copy(update={"eps": 5.0}))
    assert [one.finding for one in answer.verdicts] == ["inconclusive", "inconclusive"]
    assert "none of" in answer.says[0]


def test_a_linear_classifier_learns_the_labels_that_it_is_given() -> None:
    train, test = world(100, "train"), world(30, "test")
    directions = robust_directions(train, SETTINGS).directions
    swapped = replace(train, labels=1 - train.labels)
    assert torch.equal(learnt_linearly(directions, swapped, test), 1 - test.labels)


def test_it_passes_the_check_of_questions_and_is_shown(tmp_path: Path) -> None:
    check_question("leakage", settings={"eps": 0.05})
    answer = leakage(lab_of(tmp_path, [0, 1]), SETTINGS)
    part = Part("leakage", {**answer.metrics, "question": {"page": "notbugs.science.debate.leakage"}})
    assert "1 of D's first 16 principal components keep their usefulness at L2 eps 0.3" in part.page()


@pytest.mark.parametrize(("name", "value"), [("eps", 0), ("max_linear", 0), ("max_examples", 2)])
def test_bad_settings_are_refused(name: str, value: int) -> None:
    with pytest.raises(ConfigError, match=f"science.leak.{name} = {value}"):
        validate({"study": "leakage", "eps": 0.1, name: value}, "science.leak", QUESTION.settings)
