"""Bugs: examples along a direction that only the source reads; that direction is noise to D, or a feature of D."""

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from patterns import CLASSES, FINE, FIT, OTHER, lab_of, linear, world

from notbugs.data.images import ImageData, make_generator
from notbugs.models import create_model
from notbugs.report.charts import draw
from notbugs.report.debate import Part
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.question import check_data
from notbugs.science.debate._budgets import Budget
from notbugs.science.debate._shared import targeted
from notbugs.science.debate.bugs import QUESTION, _made, _verdicts, bug_loss, bugs
from notbugs.testing import check_question

SECTION: dict[str, Any] = {
    "attack": {"eps": 1.0, "num_steps": 20, "step_size": 0.1},
    "weights": [0, 1],
    "num_members": 1,
    "num_held_out": 1,
    "d": FIT,
    "fit": {**FIT, "epochs": 10},
}


def config(**changed: Any) -> Any:
    return validate({"study": "bugs", **SECTION, **changed}, "science.x", QUESTION.settings)


def planted(folder: Path, in_test: float, own: float = 20.0) -> Answer:
    """All models read the fine pattern of D; the source reads another one, too, which D has with amplitude `in_test`.

    Plain D_det moves both patterns. What does not transfer moves the other one alone, so it teaches that: of use on
    D's test images where they show it.

    Args:
        own: how strongly the source reads the other pattern.
    """
    train, test = (world(count, name, fine=0.4, other=in_test) for count, name in ((100, "train"), (40, "test")))
    models = [linear(20 * FINE + own * OTHER), linear(20 * FINE), linear(21 * FINE)]
    return bugs(lab_of(folder, train, test, standard=models), config())


def findings(answer: Answer) -> list[str]:
    return [one.finding for one in answer.verdicts]


@pytest.fixture(scope="module")
def noise_to_d(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    return planted(tmp_path_factory.mktemp("bugs"), in_test=0.0)


def test_what_does_not_transfer_teaches_nothing_where_it_is_no_feature(noise_to_d: Answer) -> None:
    plain, bug = noise_to_d.metrics["weights"].values()
    assert (plain["success"]["value"], bug["success"]["value"]) == (1, 1)
    assert (plain["transfer"]["mean"], bug["transfer"]["mean"]) == (1, 0)
    assert (plain["on_y"]["mean"], bug["on_y"]["mean"]) == (1, 0)
    assert bug["on_shifted"]["mean"] == 1
    assert noise_to_d.metrics["untouched"]["mean"] == 0
    assert noise_to_d.metrics["judged"] == "1"
    assert findings(noise_to_d) == ["reproduced", "reproduced"]


def test_the_same_examples_teach_where_the_direction_is_a_feature(tmp_path: Path) -> None:
    answer = planted(tmp_path, in_test=0.8)
    plain, bug = answer.metrics["weights"].values()
    assert (plain["transfer"]["mean"], bug["transfer"]["mean"]) == (1, 0)
    assert (plain["on_y"]["mean"], bug["on_y"]["mean"]) == (1, 1)
    assert findings(answer) == ["not reproduced", "not reproduced"]


def test_without_a_direction_of_its_own_the_source_is_not_fooled_and_nothing_is_judged(tmp_path: Path) -> None:
    answer = planted(tmp_path, in_test=0.0, own=0.1)
    assert answer.metrics["weights"]["0"]["success"]["value"] == 1
    assert answer.metrics["weights"]["1"]["success"]["value"] < 0.5
    assert answer.metrics["judged"] is None
    assert findings(answer) == ["inconclusive", "inconclusive"]
    assert "No weight keeps 90% of plain D_det's success" in answer.verdicts[0].sentence


@pytest.mark.parametrize(
    ("weight", "key", "end", "value", "expected"),
    [
        ("1", "transfer", "mean", 0.6, ["inconclusive", "inconclusive"]),  # transfer was not even halved
        ("1", "transfer", "mean", 0.2, ["reproduced", "inconclusive"]),  # it was, but is more than 5%
        ("0", "on_y", "low", 0.25, ["inconclusive", "inconclusive"]),  # there was no teaching to lower
        ("1", "on_y", "mean", 0.31, ["reproduced", "not reproduced"]),  # less, but 6 points above chance
    ],
)
def test_what_is_not_judged(
    noise_to_d: Answer, weight: str, key: str, end: str, value: float, expected: list[str]
) -> None:
    found = deepcopy(noise_to_d.metrics)
    found["weights"][weight][key][end] = value
    assert [one.finding for one in _verdicts(found)] == expected


def test_the_loss_by_hand() -> None:
    """p = 3/4 for t by the source; 1/4 and 1/2 for y by the others: log 4/3 + 2·(log 4 + log 2)/2."""
    logits = torch.tensor([[math.log(3), 0.0, 0.0, math.log(3), 0.0, 0.0]])
    labels = torch.tensor([[0, 0]])
    expected = math.log(4 / 3) + 2 * (math.log(4) + math.log(2)) / 2
    assert float(bug_loss(logits, labels, num_models=3, weight=2.0)) == pytest.approx(expected, rel=1e-6)
    assert float(bug_loss(logits[:, :2], labels, num_models=1, weight=2.0)) == pytest.approx(math.log(4 / 3))


def test_weight_0_is_d_det() -> None:
    data, attack = world(40, "train", fine=0.4), Budget(eps=0.6, num_steps=5, step_size=0.2)
    source = create_model("small_cnn", (1, 8, 8), CLASSES, width=4, generator=make_generator(0)).eval()
    lab = Lab(seed=0, models={"standard": source})
    made = _made(lab, data=data, members=[linear(FINE)], weight=0.0, attack=attack)
    expected = targeted(source, data, "deterministic_target", attack.attack(), make_generator(0))
    assert (made - expected.images).abs().max() < 1e-4
    assert (made - data.images).flatten(1).norm(dim=1).min() > 0.5


def test_models_that_the_pipeline_lacks_are_trained_on_d(tmp_path: Path) -> None:
    train, test = (world(count, name, fine=0.4) for count, name in ((100, "train"), (40, "test")))
    lab = lab_of(tmp_path, train, test, standard=[linear(20 * FINE + 20 * OTHER), linear(20 * FINE)])
    few = {"epochs": 1, "batch_size": 50, "lr": 0.1}
    answer = bugs(lab, config(fit=few, num_held_out=2, seeds=[0]))
    row = answer.metrics["weights"]["1"]
    assert answer.metrics["num_trained"] == 2
    assert row["transfer"]["num_seeds"] == 2
    assert row["members"]["num_seeds"] == 1
    assert answer.metrics["weights"]["0"]["transfer"]["mean"] > 0.9  # the trained ones read the fine pattern, too


def test_the_question_answers_alike_and_resumes() -> None:
    few = {"epochs": 1, "batch_size": 16, "lr": 0.1}
    attack = {"eps": 0.5, "num_steps": 2, "step_size": 0.3}
    check_question("bugs", settings={**SECTION, "attack": attack, "d": few, "fit": few})


def test_the_page_and_the_chart_hold_the_numbers(noise_to_d: Answer) -> None:
    page = Part("x", {**noise_to_d.metrics, "question": {"page": "notbugs.science.debate.bugs"}}).page()
    assert "100 training images were pushed towards y + 1 (L2 eps 1)" in page
    assert "by the loss on y of 1 other standard model." in page
    assert "Verdicts speak of weight 1" in page
    assert page.count("<tr>") == 3
    (chart,) = noise_to_d.charts
    assert chart.series[1].y == [1, 0]
    assert draw(chart).spec["layer"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"weights": [0.1, 1]}, "weights"),
        ({"weights": [0, 1, 1]}, "weights"),
        ({"weights": [0]}, "weights"),
        ({"num_members": 0}, "num_members = 0"),
        ({"num_held_out": 0}, "num_held_out = 0"),
        ({"fit": {**FIT, "attack": {"eps": 1, "num_steps": 1}}}, "without an attack"),
        ({"attack": {"eps": 0, "num_steps": 1, "step_size": 1}}, "attack.eps = 0"),
    ],
)
def test_bad_settings_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**changed)


def test_a_d_with_fewer_images_than_classes_is_refused() -> None:
    data = world(40, "train")
    wide = ImageData(data.images, torch.arange(40) % 20, tuple(map(str, range(20))))
    with pytest.raises(ConfigError, match="max_examples = 12"):
        check_data(config(max_examples=12), {"train": wide}, "science.x")
