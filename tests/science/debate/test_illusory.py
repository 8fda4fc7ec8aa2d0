"""Linear models, of which every attack's end is known, and one that hides its gradient."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from notbugs.data.images import ImageData, make_generator
from notbugs.data.store import StoredDataset, load_dataset, save_dataset
from notbugs.evaluation.levels import LEVELS
from notbugs.report.charts import draw
from notbugs.report.debate import Part
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.question import asked
from notbugs.science.debate import illusory
from notbugs.testing import check_question

SETTINGS: dict[str, Any] = {"eps": 0.2, "others": {}, "level": "quick", "pgd_steps": 5, "models": 1}
PIXEL = torch.zeros(1, 8, 8).index_put((torch.tensor(0), torch.tensor(0), torch.tensor(0)), torch.tensor(1.0))
STRIPES = (1 - 2.0 * (torch.arange(8) % 2))[:, None].expand(8, 8)[None] * (1 - PIXEL)
WEAK = (2.0 * (torch.arange(8) // 4) - 1)[None].expand(8, 8)[None] * (1 - PIXEL)
AMPLITUDES = ((PIXEL, 0.3), (STRIPES, 0.05), (WEAK, 0.004))
"""The L2 margins are 0.3, 0.05·√63 = 0.40 and about 0.004·√63 = 0.03, those in L-infinity 0.3, 0.05 and 0.004."""


class Reads(nn.Module):
    """A linear classifier along a pattern; it may hide its gradient."""

    def __init__(self, pattern: Tensor, hidden: bool = False) -> None:
        super().__init__()
        self.pattern, self.hidden = pattern / pattern.norm(), hidden

    def forward(self, x: Tensor) -> Tensor:
        found = ((x.detach() if self.hidden else x) - 0.5).mul(self.pattern).sum(dim=(1, 2, 3))
        return torch.stack([-found, found], dim=1)


class PlantedLab(Lab):
    """Its models are what their files' names say."""

    def load(self, file: Path) -> Any:
        models = {"pixel": Reads(PIXEL), "stripes": Reads(STRIPES), "weak": Reads(WEAK), "hidden": Reads(WEAK, True)}
        return models[file.name].eval()


def images(count: int) -> ImageData:
    labels = torch.arange(count) % 2
    signs = (2.0 * labels - 1)[:, None, None, None]
    planted = sum((amplitude * pattern for pattern, amplitude in AMPLITUDES), torch.zeros(1, 8, 8))
    return ImageData(0.5 + signs * planted, labels, ("a", "b"))


def stored(folder: Path, data: ImageData) -> StoredDataset:
    table = pd.DataFrame({"index": range(len(data)), "label": data.labels.numpy()})
    save_dataset(folder, data, table, name=folder.name, source="testing", settings={})
    return load_dataset(folder)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, StoredDataset]:
    folder = tmp_path_factory.mktemp("illusory")
    return {name: stored(folder / name, images(30)) for name in ("train", "test")}


def planted(data: dict[str, StoredDataset], fit: str, standard: str = "weak") -> Lab:
    """The robust source reads the pixel, D_R's fit and D's model what they are told."""
    return PlantedLab(
        seed=0,
        data=data,
        models={"robust": Reads(PIXEL).eval()},  # type: ignore[dict-item]
        trained={"robust": [Path("pixel")], "standard": [Path(standard)]},
        fitted={"robust": [Path(fit)]},
    )


def settings_of(**changes: Any) -> Any:
    return validate({"study": "illusory", **SETTINGS, **changes}, "science.NAME", illusory.IllusorySettings)


def answered(lab: Lab, **changes: Any) -> Answer:
    return asked(illusory.QUESTION, lab, settings_of(**changes), "science.NAME")


def findings(answer: Answer) -> dict[str, str]:
    return {one.key: one.finding for one in answer.verdicts}


def test_a_fit_that_hides_its_gradient_is_robust_to_pgd_alone(
    data: dict[str, StoredDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Square needs no gradient, but more queries than the level has in these tests (`tests/warm.py`)."""
    monkeypatch.setitem(LEVELS, "quick", replace(LEVELS["quick"], square=200))
    found = answered(planted(data, "hidden"))
    row = found.metrics["norms"]["l2"]
    assert row["accuracy"]["D_R"]["pgd5"]["mean"] == 1
    assert row["accuracy"]["D_R"]["worst"]["mean"] == 0
    assert row["survives"]["D_R"]["value"] == 0
    assert row["survives"]["D, robust"]["value"] == 1
    assert row["survives"]["D"] is None
    assert findings(found) == {"suite": "reproduced"}


def test_a_fit_with_a_margin_stays_robust(data: dict[str, StoredDataset]) -> None:
    found = answered(planted(data, "stripes"))
    row = found.metrics["norms"]["l2"]
    assert row["accuracy"]["D_R"]["worst"]["mean"] == 1
    assert row["survives"]["D_R"]["value"] == 1
    assert findings(found) == {"suite": "not reproduced"}


def test_where_pgd_shows_no_robustness_none_is_lost(data: dict[str, StoredDataset]) -> None:
    found = answered(planted(data, "weak"))
    assert found.metrics["norms"]["l2"]["accuracy"]["D_R"]["pgd5"]["mean"] == 0
    assert findings(found) == {"suite": "inconclusive"}
    assert found.verdicts[0].sentence.startswith("Under PGD D_R's fits are +0.0 points from D, not 5.")
    alike = answered(planted(data, "stripes", standard="stripes"))
    assert alike.metrics["norms"]["l2"]["survives"]["D_R"]["value"] == 1
    assert findings(alike) == {"suite": "inconclusive"}


@pytest.mark.parametrize(
    ("eps", "left", "finding"), [(0.02, 1.0, "not reproduced"), (0.2, 0.0, "reproduced"), (0.4, 0.0, "inconclusive")]
)
def test_another_norm_takes_what_is_spread_over_many_pixels(
    data: dict[str, StoredDataset], eps: float, left: float, finding: str
) -> None:
    """The stripes' margin is 0.05 in L-infinity, the pixel's 0.3."""
    found = answered(planted(data, "stripes"), others={"linf": eps})
    of_claim = found.metrics["norms"]["linf"]["of_claim"]
    assert list(of_claim) == ["D, robust", "D_R"]
    assert of_claim["D_R"]["value"] == left
    assert of_claim["D, robust"]["value"] == (1 if eps < 0.3 else 0)
    assert findings(found) == {"suite": "not reproduced", "norm_linf": finding}


def test_radii_do_as_much_harm_to_first_order(data: dict[str, StoredDataset]) -> None:
    weights = torch.randn(1, 8, 8, generator=make_generator(0, "test illusory"))
    lab = planted(data, "stripes")
    linear = PlantedLab(seed=0, data=lab.data, models={"robust": Reads(weights).eval()})  # type: ignore[dict-item]
    found = illusory.matched_radii(linear, settings_of(others={"l1": None, "linf": None}))
    length = float(weights.norm())
    assert list(found) == ["l1", "linf"]
    assert found["linf"] == pytest.approx(0.2 * length / float(weights.abs().sum()), rel=1e-5)
    assert found["l1"] == pytest.approx(0.2 * length / float(weights.abs().max()), rel=1e-5)
    given = illusory.matched_radii(linear, settings_of(others={"l1": 3.0, "linf": None}))
    assert given == {"l1": 3.0, "linf": found["linf"]}
    one_pixel = illusory.matched_radii(lab, settings_of(others={"linf": None}))
    assert one_pixel["linf"] == pytest.approx(0.2)


def test_a_share_near_half_lies_on_the_edge() -> None:
    share = {"mean": 0.4, "low": 0.3, "high": 0.5}
    left = {"value": 0.48, "low": 0.4, "high": 0.56}
    accuracy = {"D_R": {"pgd5": share, "worst": share}, "D": {"pgd5": {**share, "mean": 0.1}, "worst": share}}
    accuracy["D, robust"] = accuracy["D_R"]
    norm = {"eps": 0.2, "accuracy": accuracy, "survives": dict.fromkeys(illusory.MODELS, left)}
    metrics = {"norm": "l2", "pgd": "pgd5", "norms": {"l2": norm}, "level": "quick", "num_test": 9, "num_models": {}}
    verdict = illusory._suite(metrics)
    assert verdict.printed == "reproduced, on the edge"
    assert "48.0% [40.0, 56.0] of it" in verdict.sentence


def test_the_question_answers_alike_and_resumes() -> None:
    settings = {"eps": 0.3, "level": "quick", "pgd_steps": 2, "max_test": 10, "others": {"linf": None}}
    check_question("illusory", settings=settings)


def test_the_page_and_the_chart_hold_the_numbers(data: dict[str, StoredDataset]) -> None:
    found = answered(planted(data, "stripes"), others={"linf": 0.02})
    page = Part("x", {**found.metrics, "question": {"page": illusory.__name__}}).page()
    assert "(1 of D, robust; 1 of D_R; 1 of D) were attacked on 30 test images: by PGD-5 alone" in page
    assert "L∞ 0.02 stands beside L2 0.2." in page
    assert "square" in page
    assert "100.0" in page
    assert draw(found.charts[0]).spec["layer"]
    assert [series.label for series in found.charts[0].series] == ["PGD-5, L2 0.2", "suite, L2 0.2", "suite, L∞ 0.02"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"others": {"l2": None}}, "norms other than l2"),
        ({"others": {"l7": None}}, "l7"),
        ({"others": {"linf": -1.0}}, "null for the radius"),
        ({"eps": math.inf}, "eps"),
        ({"level": "hard"}, "level"),
        ({"models": 0}, "models"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings_of(**changes)
