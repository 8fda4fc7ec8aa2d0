"""Models that read one wave each: what they keep behind filters is known."""

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
from notbugs.models import ModelSettings
from notbugs.report.charts import draw
from notbugs.report.debate import Part
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.question import asked
from notbugs.science.debate import filters
from notbugs.science.debate._shared import kept
from notbugs.testing import check_question

SIDE = 8
FIT = {"epochs": 6, "batch_size": 32, "lr": 0.2, "schedule": "one_cycle"}
SETTINGS: dict[str, Any] = {"radii": [0.3, 0.6], "train_radius": 1.0, "fit": FIT, "seeds": [0]}
LOW = (2 * math.pi * torch.arange(SIDE) / SIDE).cos().expand(1, SIDE, SIDE)
"""A wave of a quarter of Nyquist's frequency."""
HIGH = (1 - 2 * ((torch.arange(SIDE)[:, None] + torch.arange(SIDE)[None]) % 2)).float()[None]
"""A checkerboard: √2 of Nyquist's frequency."""


class Reads(nn.Module):
    """Calls class 1 what has more than `least` of a wave."""

    def __init__(self, wave: Tensor, least: float = 0.0) -> None:
        super().__init__()
        self.wave, self.least = wave, least

    def forward(self, x: Tensor) -> Tensor:
        found = (x * self.wave).sum(dim=(1, 2, 3)) / self.wave.square().sum() - self.least
        found = found.round(decimals=4)  # what a filter leaves by rounding says nothing
        return torch.stack([-found, found], dim=1)


class PlantedLab(Lab):
    """Its models are what their files' names say."""

    def load(self, file: Path) -> Any:
        models = {"low": Reads(LOW), "high": Reads(HIGH), "demands": Reads(LOW, 0.1)}
        return models[file.name].eval()


def images(count: int, seed: int, high: float = 0.04) -> ImageData:
    """Classes of ± a low and a high wave, with a little noise."""
    draw = make_generator(seed, "test filters")
    labels = torch.arange(count) % 2
    signs = (2.0 * labels - 1)[:, None, None, None]
    noise = 0.02 * torch.randn(count, 1, SIDE, SIDE, generator=draw)
    return ImageData((0.5 + signs * (0.2 * LOW + high * HIGH) + noise).clamp(0, 1), labels, ("a", "b"))


def stored(folder: Path, data: ImageData) -> StoredDataset:
    table = pd.DataFrame({"index": range(len(data)), "label": data.labels.numpy()})
    save_dataset(folder, data, table, name=folder.name, source="testing", settings={})
    return load_dataset(folder)


def planted(folder: Path, robust: str, brittle: str, adversarial: str = "", high: float = 0.04) -> Lab:
    fitted = {"robust": [Path(robust)], **{name: [Path(brittle)] for name in ("nonrobust", "rand", "det")}}
    return PlantedLab(
        seed=0,
        data={"train": stored(folder / "train", images(160, 0, high)), "test": stored(folder / "test", images(100, 1))},
        trained={"standard": [Path(brittle)], "robust": [Path(adversarial or robust)]},
        fitted=fitted,
        architecture=ModelSettings(architecture="mlp", width=8),
    )


def settings_of(**changes: Any) -> Any:
    return validate({"study": "filters", **SETTINGS, **changes}, "science.NAME", filters.FiltersSettings)


def answered(lab: Lab, **changes: Any) -> Answer:
    return asked(filters.QUESTION, lab, settings_of(**changes), "science.NAME")


def findings(answer: Answer) -> dict[str, str]:
    return {one.key: one.finding for one in answer.verdicts}


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """Robust models read the low wave, the others the high one."""
    return answered(planted(tmp_path_factory.mktemp("parted"), robust="low", brittle="high"), seeds=[0, 1])


@pytest.fixture(scope="module")
def alike(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    """All models read the low wave."""
    return answered(planted(tmp_path_factory.mktemp("alike"), robust="low", brittle="low"))


def test_models_that_read_high_frequencies_lose_them(parted: Answer) -> None:
    low_pass, accuracy = parted.metrics["kept"]["low-pass"], parted.metrics["accuracy"]
    assert low_pass["D_R"]["value"] == low_pass["D, robust"]["value"] == 1
    assert low_pass["D_rand"]["value"] == 0
    assert accuracy["low_pass"]["D_det"]["0.3"]["mean"] == 0.5
    assert accuracy["high_pass"]["D_R"]["0.3"]["mean"] < 0.7
    assert accuracy["high_pass"]["D_det"]["0.6"]["mean"] == 1
    assert findings(parted) == {
        "low_pass": "reproduced",
        "noise": "reproduced",
        "smooth": "inconclusive",
        "high_frequencies": "reproduced",
    }


def test_what_goes_against_the_mean_is_told(tmp_path: Path) -> None:
    lab = planted(tmp_path, robust="low", brittle="high")
    found = answered(replace(lab, fitted={**lab.fitted, "det": [Path("low")]}))
    assert findings(found)["low_pass"] == "reproduced"
    assert "by D, robust and D_R: 100.0%" in found.verdicts[0].sentence
    assert "by D, D_NR, D_rand and D_det: 25.0%" in found.verdicts[0].sentence
    assert ". Not so by itself: D_det 100.0% [" in found.verdicts[0].sentence


def test_models_that_all_read_low_frequencies_lose_nothing(alike: Answer) -> None:
    assert findings(alike)["low_pass"] == "inconclusive"
    assert alike.verdicts[0].sentence.startswith("Too little is lost")


def test_models_with_the_parts_exchanged_turn_the_verdicts(tmp_path: Path) -> None:
    turned = answered(planted(tmp_path, robust="high", brittle="low"))
    assert findings(turned)["low_pass"] == "not reproduced"
    assert findings(turned)["noise"] == "not reproduced"


def test_a_model_that_demands_contrast_loses_it(alike: Answer, tmp_path: Path) -> None:
    demanding = answered(planted(tmp_path, robust="low", brittle="low", adversarial="demands"))
    kept_of = demanding.metrics["accuracy"]["contrast"]
    assert kept_of["D, robust"]["5"]["mean"] == 0.5
    assert kept_of["D"]["5"]["mean"] == 1
    assert findings(demanding)["smooth"] == "reproduced"
    assert findings(alike)["smooth"] == "inconclusive"
    turned = answered(planted(tmp_path / "turned", robust="low", brittle="demands"))
    assert findings(turned)["smooth"] == "not reproduced"


def test_high_frequencies_that_say_nothing_teach_nothing(tmp_path: Path) -> None:
    found = answered(planted(tmp_path, robust="low", brittle="high", high=0.0))
    assert found.metrics["learnt"]["accuracy"]["high"]["mean"] < 0.75
    assert findings(found)["high_frequencies"] == "not reproduced"
    assert found.metrics["learnt"]["accuracy"]["low"]["mean"] == 1


def test_high_frequencies_that_are_seen_prove_nothing(tmp_path: Path) -> None:
    found = answered(planted(tmp_path, robust="low", brittle="high", high=0.2))
    assert found.metrics["learnt"]["contrast"] == pytest.approx(2 / 3, abs=0.03)
    assert findings(found)["high_frequencies"] == "inconclusive"


def test_models_at_chance_are_left_out(tmp_path: Path) -> None:
    lab = planted(tmp_path, robust="low", brittle="high")
    constant = replace(lab, data={**lab.data, "test": stored(tmp_path / "flat", images(100, 1, high=0.0))})
    found = answered(constant)
    assert found.metrics["kept"]["low-pass"]["D"] is None
    assert findings(found)["low_pass"] == "inconclusive"


def test_the_kept_share_is_the_ratio_above_the_floor() -> None:
    before = [torch.tensor([True] * 90 + [False] * 10), torch.tensor([True] * 86 + [False] * 14)]
    after = [torch.tensor([True] * 50 + [False] * 50), torch.tensor([True] * 46 + [False] * 54)]
    found = kept({"row": (after, before), "same": (before, before), "chance": (after, after)}, 0.45)
    assert found["row"] is not None
    assert found["row"]["value"] == pytest.approx(0.03 / 0.43, abs=1e-6)
    assert found["row"]["low"] < 0.03 / 0.43 < found["row"]["high"] < 0.35
    assert found["same"] is not None
    assert found["same"]["value"] == 1
    assert found["chance"] is None


def test_the_question_answers_alike_and_resumes() -> None:
    settings = {"radii": [0.5], "train_radius": 0.8, "fit": {**FIT, "epochs": 1}, "seeds": [0], "max_test": 12}
    check_question("filters", settings=settings)


def test_the_page_and_the_charts_hold_the_numbers(parted: Answer) -> None:
    page = Part("x", {**parted.metrics, "question": {"page": filters.__name__}}).page()
    assert "behind filters of 2 radii and under 12 corruptions of 5 severities; chance is 50.0%" in page
    assert "gaussian noise" in page
    assert "radius 0.6" in page
    assert [chart.name for chart in parted.charts] == ["low-pass", "kept"]
    for chart in parted.charts:
        assert draw(chart).spec["layer"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"radii": []}, "radii"),
        ({"radii": [0.0]}, "radii"),
        ({"train_radius": 2.0}, "train_radius"),
        ({"max_test": 5}, "max"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings_of(**changes)


def test_more_test_images_than_there_are_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"science\.NAME\.max_test = 101: must be in 2\.\.100"):
        answered(planted(tmp_path, robust="low", brittle="high"), max_test=101)
