"""Preference: perturbations that add a feature of D outweigh the object; those that add what D does not have do not."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from patterns import FINE, FIT, OTHER, STRONG, lab_of, linear, world
from torch import Tensor

from notbugs.data.images import ImageData, make_generator
from notbugs.report.charts import draw
from notbugs.report.debate import Part
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.science.common.lab import Answer
from notbugs.science.common.question import check_data
from notbugs.science.debate.preference import QUESTION, _verdicts, as_far, preference
from notbugs.testing import check_question

SECTION: dict[str, Any] = {"eps": [0.1, 1.0], "num_steps": 10, "fit": {**FIT, "epochs": 10}, "seeds": [0, 1]}


def config(**changed: Any) -> Any:
    return validate({"study": "preference", **SECTION, **changed}, "science.x", QUESTION.settings)


def planted(folder: Path, reads: Tensor, judge: Tensor = STRONG, **changed: Any) -> Answer:
    """The object is the strong pattern, which the robust model reads; the fine one is D's feature that is pushed.

    Pushed by 1 in L2, as far against the fine pattern of y as along that of y + 1, images of y have 0.7 of the latter,
    more than the object's 0.3. So y − 1 outweighs y in a test image, which shows the object and 0.3 of the fine
    pattern of y.

    Args:
        reads: what the source reads beside the object, a pattern for each class, and so what the perturbation adds.
        judge: what the robust model reads.
    """
    train, test = (world(count, name, strong=0.3, fine=0.3) for count, name in ((100, "train"), (40, "test")))
    models = {"standard": [linear(20 * reads + 2 * STRONG)], "robust": [linear(20 * judge)]}
    return preference(lab_of(folder, train, test, **models), config(**changed))


def findings(answer: Answer) -> list[str]:
    return [one.finding for one in answer.verdicts]


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    return planted(tmp_path_factory.mktemp("preference"), FINE)


def test_a_feature_of_the_next_class_outweighs_the_object(pushed: Answer) -> None:
    little, much = pushed.metrics["eps"].values()
    assert pushed.metrics["judged"] == "1"
    assert much["still_y"]["value"] == 1
    assert much["success"]["value"] == 1
    assert (much["fit"]["on_y"]["mean"], much["fit"]["before"]["mean"]) == (0, 1)
    assert (much["noise"]["on_y"]["mean"], much["noise"]["before"]["mean"]) == (1, 0)
    assert (little["fit"]["on_y"]["mean"], little["fit"]["before"]["mean"]) == (1, 0)
    assert (much["prefers"]["value"], much["more"]["value"]) == (1, 1)
    assert pushed.metrics["D"]["on_y"]["mean"] == 1
    assert findings(pushed) == ["reproduced"] * 3


def test_what_d_does_not_have_is_not_read_in_its_images(tmp_path: Path) -> None:
    answer = planted(tmp_path, OTHER)
    row = answer.metrics["eps"]["1"]
    assert row["still_y"]["value"] == 1
    assert row["success"]["value"] == 1
    assert (row["fit"]["on_y"]["mean"], row["fit"]["before"]["mean"]) == (1, 0)
    assert findings(answer) == ["not reproduced"] * 3


def test_where_the_object_changes_nothing_is_judged(tmp_path: Path) -> None:
    answer = planted(tmp_path, FINE, judge=FINE, eps=[1.0], seeds=[0])
    assert answer.metrics["eps"]["1"]["still_y"]["value"] == 0
    assert answer.metrics["judged"] is None
    assert findings(answer) == ["inconclusive"] * 3
    assert "At no eps the robust model still calls 85% of the images y" in answer.verdicts[0].sentence


def test_the_judged_eps_is_the_largest_that_leaves_the_object(tmp_path: Path) -> None:
    """The judge reads the fine pattern, too: at 0.1 it still calls y, at 1 no more."""
    answer = planted(tmp_path, FINE, judge=FINE + STRONG, seeds=[0])
    assert [row["still_y"]["value"] for row in answer.metrics["eps"].values()] == [1, 0]
    assert answer.metrics["judged"] == "0.1"
    assert "At other eps: eps 1 (robust model: 0.0%" in answer.verdicts[0].elsewhere


def test_where_noise_as_long_leaves_nothing_a_fall_says_nothing(pushed: Answer) -> None:
    found = deepcopy(pushed.metrics)
    found["eps"]["1"]["noise"]["on_y"]["low"] = 0.25
    verdicts = _verdicts(found)
    assert [one.finding for one in verdicts] == ["inconclusive"] * 3
    assert verdicts[0].sentence.startswith("Noise of the same length leaves nothing above chance (25.0%).")


def test_noise_is_as_long_as_the_perturbation_and_no_other() -> None:
    images = torch.full((50, 1, 8, 8), 0.5)
    moved = images + 0.03 * torch.arange(1, 51).view(-1, 1, 1, 1) / 50
    noise = as_far(images, moved, make_generator(0)) - images
    lengths = noise.flatten(1).norm(dim=1)
    assert torch.allclose(lengths, (moved - images).flatten(1).norm(dim=1), rtol=1e-4)
    along = torch.nn.functional.cosine_similarity(noise.flatten(1), (moved - images).flatten(1))
    assert float(along.abs().mean()) < 0.2


def test_the_question_answers_alike_and_resumes() -> None:
    few = {"epochs": 1, "batch_size": 16, "lr": 0.1}
    check_question("preference", settings={**SECTION, "eps": [0.2, 0.4], "num_steps": 2, "fit": few})


def test_the_page_and_the_chart_hold_the_numbers(pushed: Answer) -> None:
    page = Part("x", {**pushed.metrics, "question": {"page": "notbugs.science.debate.preference"}}).page()
    assert "100 training images were perturbed towards y + 1 by the standard source model, within L2 eps" in page
    assert "Verdicts speak of eps 1, the largest at which the robust model still calls at least 85.0%" in page
    assert page.count("<tr>") == 3
    (chart,) = pushed.charts
    assert list(chart.series[0].x) == ["0.1", "1"]
    assert chart.series[1].y == [0, 1]
    assert draw(chart).spec["layer"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"eps": []}, "eps"),
        ({"eps": [1.0, 0.5]}, "rising"),
        ({"eps": [0, 0.5]}, "rising"),
        ({"num_steps": 0}, "num_steps = 0"),
        ({"norm": "l7"}, "norm"),
        ({"fit": {**FIT, "attack": {"eps": 1, "num_steps": 1}}}, "without an attack"),
    ],
)
def test_bad_settings_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**changed)


def test_fewer_images_than_classes_are_refused() -> None:
    data = world(40, "train")
    wide = ImageData(data.images, torch.arange(40) % 20, tuple(map(str, range(20))))
    with pytest.raises(ConfigError, match="max_examples = 12"):
        check_data(config(max_examples=12), {"train": wide}, "science.x")
