"""A little robustness: CKA by its formula, what is made of one g, and a world whose transfer is known by radius."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from notbugs.data.images import ImageData, make_generator
from notbugs.data.store import load_dataset, save_dataset
from notbugs.models import ModelSettings, save_model
from notbugs.report.charts import draw
from notbugs.report.debate import Part
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.question import asked
from notbugs.science.common.training import StudyTraining, trained
from notbugs.science.debate import little_robustness as module
from notbugs.science.debate._sources import LittleRobustnessSettings, linear_cka, measure_source
from notbugs.science.debate.little_robustness import QUESTION, little_robustness
from notbugs.testing import check_question

TRAIN = {"epochs": 3, "batch_size": 32, "lr": 0.1, "schedule": "one_cycle"}
RADII = [0, 0.1, 0.2, 0.4, 0.8]
SECTION: dict[str, Any] = {
    "eps": RADII,
    "seeds": [0, 1],
    "standard": TRAIN,
    "robust": {**TRAIN, "attack": {"eps": 1.0, "num_steps": 2, "step_size": 0.6}},
    "other": {"architecture": "mlp", "width": 8},
    "attack": {"eps": 2.0, "num_steps": 8},
    "fit": TRAIN,
    "num_fitted": 1,
    "num_inverted": 30,
    "num_steps": 40,
    "step_size": 0.1,
}


def config(**changed: Any) -> LittleRobustnessSettings:
    return validate({"study": "little_robustness", **SECTION, **changed}, "science.x", LittleRobustnessSettings)


def world(count: int, name: str) -> ImageData:
    """Three classes (1, 8, 8), told by which rows are bright, and noise."""
    generator = make_generator(0, name)
    labels = torch.arange(count) % 3
    images = 0.3 + 0.1 * torch.rand(count, 1, 8, 8, generator=generator)
    for number in range(3):
        images[labels == number, :, 3 * number : 3 * number + 2] += 0.3
    return ImageData(images, labels, ("a", "b", "c"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """D, and two standard models of it, which stand for the fits, too."""
    root, data = tmp_path_factory.mktemp("little"), {}
    for name, part in (("train", world(180, "train")), ("test", world(60, "test"))):
        table = pd.DataFrame({"index": range(len(part)), "label": part.labels.numpy()})
        save_dataset(root / name, part, table, name=name, source="testing", settings={})
        data[name] = load_dataset(root / name)
    architecture = ModelSettings(architecture="small_cnn", width=4)
    found = Lab(seed=0, data=data, architecture=architecture)
    files: list[Path] = []
    for seed in (0, 1):
        model = trained(found, architecture, data["train"], StudyTraining(**TRAIN), ("standard", seed))
        files.append(root / f"seed-{seed}.safetensors")
        save_model(model, files[-1])
    fitted = dict.fromkeys(("robust", "nonrobust", "rand", "det"), files)
    return Lab(seed=0, data=data, architecture=architecture, trained={"standard": files}, fitted=fitted)


def test_cka_is_1_of_one_thing_turned_scaled_and_moved():
    draw = make_generator(0)
    x = torch.randn(200, 6, generator=draw)
    turn = torch.linalg.qr(torch.randn(6, 6, generator=draw)).Q
    assert linear_cka(x, x) == pytest.approx(1)
    assert linear_cka(x, 3 * x @ turn + 5) == pytest.approx(1, abs=1e-6)


def test_cka_by_its_formula():
    """Of p directions of the same variance, and k of them: k/(√p·√k); of half the variance in one: by hand."""
    x = torch.linalg.qr(torch.randn(40, 5, generator=make_generator(0)).double()).Q
    x = torch.linalg.qr(x - x.mean(dim=0)).Q  # centred and orthonormal
    assert linear_cka(x, x[:, :1]) == pytest.approx(5**-0.5)
    assert linear_cka(x[:, :4], x[:, 1:3]) == pytest.approx(0.5**0.5)
    assert linear_cka(x[:, :2], x[:, 2:]) == pytest.approx(0, abs=1e-9)
    stretched = x[:, :2] * torch.tensor([2.0, 1.0])
    assert linear_cka(x[:, :2], stretched) == pytest.approx((4 + 1) / (2**0.5 * 17**0.5))


def test_cka_of_independent_representations_is_low_and_of_constant_ones_0():
    x, y = torch.randn(2, 2000, 8, generator=make_generator(0))
    assert linear_cka(x, y) < 0.02
    assert linear_cka(x, torch.ones(2000, 3)) == 0


def test_a_g_is_trained_at_its_own_radius():
    assert config().training_at(0).attack is None
    attack = config().training_at(0.5).attack
    assert attack is not None
    assert (attack.eps, attack.step, attack.num_steps) == (0.5, pytest.approx(0.3), 2)


def test_what_is_measured_of_one_g(lab: Lab):
    found = measure_source(lab, settings=config(), eps=0.0, seed=0)
    test = lab.data["test"].data()
    assert torch.equal(found["targets"], (test.labels + 1) % 3)
    for images in found["images"].values():
        assert float((images - test.images).flatten(1).norm(dim=1).max()) <= 2.0 + 1e-4
    assert found["own"].double().mean() > 0.9  # two units lead from one class to any other
    assert found["reached"] < 0.5
    assert 0 < found["cka"] <= 1
    assert "other" in found
    assert found["rand"].shape == (60,)
    robust = measure_source(lab, settings=config(), eps=0.8, seed=1)
    assert robust["inverted.D"].double().mean() > 0.1 + found["inverted.D"].double().mean()  # these show y
    assert "other" not in robust  # the standard ones alone are attacked
    assert "rand" not in robust  # num_fitted is 1


def test_an_inversion_that_goes_nowhere_shows_the_other_image(lab: Lab):
    found = measure_source(lab, settings=config(num_steps=1, step_size=1e-4), eps=0.0, seed=1)
    assert found["reached"] > 0.99
    assert found["inverted.D"].double().mean() < 0.6


def planted(transferred: Callable[[float], float], cka: Callable[[float], float], own: float = 1.0) -> Any:
    """Units whose examples are, for a known share, test images of class t, and untouched ones for the rest."""

    def measure(lab: Lab, *, settings: LittleRobustnessSettings, eps: float, seed: int) -> dict[str, Any]:
        test = lab.data["test"].data()
        targets, count = (test.labels + 1) % 3, len(test)
        there = torch.tensor([int((test.labels == target).nonzero()[0]) for target in targets])
        moved = torch.arange(count) < round(count * transferred(eps))
        moved = moved[torch.randperm(count, generator=make_generator(seed, "moved"))]
        images = torch.where(moved.view(-1, 1, 1, 1), test.images[there], test.images)
        mask: Tensor = torch.ones(count, dtype=torch.bool)
        found: dict[str, Any] = {"images": {"targeted": images, "noise": test.images}, "targets": targets}
        found |= {"own": torch.arange(count) < count * own, "rand": mask, "reached": 0.1, "cka_plain": 0.9}
        found |= {"cka": cka(eps) + 0.001 * seed, **{f"inverted.{name}": mask for name in NAMES}}
        if eps == 0:
            trained_well = trained(lab, settings.other, lab.data["train"], settings.standard, ("other", seed))
            found["other"] = trained_well.state_dict()
        return found

    return measure


NAMES = ("D", "D_R", "D_NR", "D_rand", "D_det")
HILL = {0: 0.2, 0.1: 0.4, 0.2: 0.6, 0.4: 0.3, 0.8: 0.1}


def findings(found: Answer) -> list[str]:
    return [one.finding for one in found.verdicts]


def test_transfer_that_is_highest_between_and_cka_that_rises(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "measure_source", planted(HILL.__getitem__, lambda eps: 0.4 + 0.5 * eps))
    found = little_robustness(lab, config())
    table = found.metrics["table"]
    for eps, share in HILL.items():
        assert table[f"{eps:g}"]["same"]["mean"] == pytest.approx(share, abs=0.02)
        assert table[f"{eps:g}"]["transfer"]["mean"] == pytest.approx(share, abs=0.05)
        assert table[f"{eps:g}"]["noise"]["mean"] < 0.05
    assert found.metrics["peak"] == 0.2
    assert found.metrics["gain"]["value"] == pytest.approx(0.4, abs=0.15)
    assert found.metrics["correlation"]["spearman"] == 1
    assert found.metrics["correlation"]["p_value"] == pytest.approx(1 / 120, abs=1e-4)
    assert findings(found) == ["reproduced", "reproduced"]
    page = Part("p", {**found.metrics, "question": {"page": QUESTION.study.__module__}}).page()
    assert "At each radius 2 source models g were trained" in page
    assert page.count("<tr>") == 12
    for chart in found.charts:
        assert draw(chart).spec["layer"]


@pytest.mark.parametrize(
    ("transferred", "said"),
    [
        (lambda eps: 0.3, "+0.0 points"),
        (lambda eps: 0.2 + 0.8 * eps, "of eps 0.8"),
        (lambda eps: 0.5 - 0.5 * eps, "points"),
    ],
)
def test_no_hill_no_little_robustness(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, transferred: Callable[[float], float], said: str
):
    """Transfer that is the same throughout, only rises, only falls."""
    monkeypatch.setattr(module, "measure_source", planted(transferred, lambda eps: 0.4))
    found = little_robustness(lab, config())
    assert findings(found) == ["not reproduced", "not reproduced"]
    assert said in found.verdicts[0].sentence


def test_cka_that_rises_by_little_or_falls_is_no_rise(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    for slope in (0.05, -0.5):
        monkeypatch.setattr(module, "measure_source", planted(HILL.__getitem__, lambda eps, by=slope: 0.6 + by * eps))
        assert findings(little_robustness(lab, config()))[1] == "not reproduced"


def test_a_source_that_fools_not_even_itself_is_no_verdict(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "measure_source", planted(HILL.__getitem__, lambda eps: 0.4 + 0.5 * eps, own=0.4))
    found = little_robustness(lab, config())
    assert findings(found) == ["inconclusive", "reproduced"]
    assert found.verdicts[0].sentence.startswith("Inconclusive: standard source models say t of 40.0%")


def test_the_question_is_one(lab: Lab):
    small = {**SECTION, "eps": [0, 0.1, 0.2, 0.3], "seeds": [0], "num_steps": 2, "num_inverted": 12}
    short = {"epochs": 1, "lr": 0.1}
    small |= {"standard": short, "fit": short, "robust": {**short, "attack": {"eps": 0.5, "num_steps": 1}}}
    check_question("little_robustness", lab, settings={**small, "attack": {"eps": 1.0, "num_steps": 2}})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"eps": [0.1, 0.2, 0.3, 0.4]}, "a rising list of radii that begins with 0"),
        ({"eps": [0, 0.2, 0.1, 0.4]}, "a rising list of radii that begins with 0"),
        ({"eps": [0, 0.2, 0.4]}, "eps"),
        ({"standard": {**TRAIN, "attack": {"eps": 1, "num_steps": 1}}}, "without an attack"),
        ({"robust": {**TRAIN, "attack": {"eps": 0, "num_steps": 1}}}, "with an attack of eps > 0"),
        ({"num_steps": 0}, "num_steps"),
    ],
)
def test_bad_settings(changed: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        config(**changed)


def test_more_inverted_images_than_there_are(lab: Lab):
    with pytest.raises(ConfigError, match=r"num_inverted = 61: must be in 3\.\.60"):
        asked(QUESTION, lab, config(num_inverted=61), "science.x")
