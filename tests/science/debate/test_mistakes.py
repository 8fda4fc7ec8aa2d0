"""Mistakes: a weak source that knows a pattern of known worth; foreign images labelled by known weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from patterns import FINE, FIT, OTHER, STRONG, lab_of, linear, world
from torch import Tensor, nn

from notbugs.data.images import Images, make_generator
from notbugs.report.charts import draw
from notbugs.report.debate import Part
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.science.common.lab import Answer
from notbugs.science.common.question import check_data
from notbugs.science.debate import mistakes as module
from notbugs.science.debate.mistakes import QUESTION, SHORTEST, _beyond, _taught, foreign_images, mistakes, wrong_labels
from notbugs.testing import check_question

SECTION: dict[str, Any] = {
    "weak": {"epochs": 2, "batch_size": 50, "lr": 0.05, "schedule": "constant"},
    "fit": FIT,
    "foreign": ["noise"],
    "num_foreign": 400,
    "foreign_fit": {**FIT, "epochs": 10},
    "seeds": [0, 1],
}


def config(**changed: Any) -> Any:
    return validate({"study": "mistakes", **SECTION, **changed}, "science.x", QUESTION.settings)


def planted(folder: Path, in_test: float = 1.0, reads: Tensor = STRONG, **changed: Any) -> Answer:
    """The strong pattern is right for 60% of D's training images, the fine one for all; the source knows the first.

    So it errs where the strong pattern shows another class, and calls that. Of test images the strong pattern is right
    for the share `in_test`: so often are the wrong labels of use.

    Args:
        reads: weights of D's standard model, which labels the foreign images.
    """
    train = world(400, "train", strong=1.0, fine=0.1, agreement=0.6)
    test = world(80, "test", strong=1.0, fine=0.1, agreement=in_test)
    return mistakes(lab_of(folder, train, test, standard=[linear(reads)]), config(**changed))


def findings(answer: Answer) -> dict[str, str]:
    return {one.key: one.finding for one in answer.verdicts}


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> Answer:
    return planted(tmp_path_factory.mktemp("mistakes"))


def test_wrong_labels_teach_what_the_source_knows(known: Answer) -> None:
    found = known.metrics
    assert all(130 <= count <= 170 for count in found["mistakes"])  # 40% of 400 are 160
    assert found["classes_given"] == [4, 4]
    assert found["fits"]["mistakes"]["mean"] > 0.95
    assert found["fits"]["shuffled"]["mean"] < 0.1
    assert found["fits"]["random"]["mean"] < 0.1
    assert found["weak"]["fit_agrees"]["mean"] > 0.95
    assert findings(known) == {"mistakes": "reproduced", "foreign_noise": "reproduced"}


def test_they_teach_nothing_where_the_source_knows_nothing_of_use(tmp_path: Path) -> None:
    answer = planted(tmp_path, in_test=0.25, foreign=[])
    assert answer.metrics["fits"]["mistakes"]["mean"] < 0.4
    assert findings(answer) == {"mistakes": "not reproduced"}


def test_foreign_images_teach_what_the_models_weights_read(tmp_path: Path, known: Answer) -> None:
    """Uniform noise, called by the largest of four projections: on D's own patterns, or on four that D has not."""
    good = known.metrics["foreign"]["noise"]
    assert good["classes_given"] == 4
    assert good["fit"]["mean"] > 0.95
    assert good["shuffled"]["mean"] < 0.5
    answer = planted(tmp_path, reads=OTHER)
    assert answer.metrics["foreign"]["noise"]["fit"]["mean"] < 0.5
    assert findings(answer)["foreign_noise"] == "not reproduced"


def test_a_source_that_is_never_wrong_teaches_nothing(tmp_path: Path) -> None:
    long = {"epochs": 30, "batch_size": 25, "lr": 0.3}
    train, test = (world(count, name, fine=1.0) for count, name in ((100, "train"), (20, "test")))
    answer = mistakes(lab_of(tmp_path, train, test, standard=[linear(FINE)]), config(weak=long, foreign=[]))
    assert answer.metrics["mistakes"] == [0, 0]
    assert answer.metrics["fits"] == {}
    assert answer.metrics["converged"] == 0
    assert findings(answer) == {"mistakes": "inconclusive"}
    assert "Fewer than 40 mistakes, 10 a class." in answer.verdicts[0].sentence


def test_a_model_that_calls_all_alike_is_inconclusive(tmp_path: Path) -> None:
    model = linear(FINE)
    model.head.bias.data[2] = 100.0
    train, test = (world(count, name, fine=1.0) for count, name in ((100, "train"), (20, "test")))
    few = {"epochs": 1, "batch_size": 50, "lr": 0.1}
    answer = mistakes(lab_of(tmp_path, train, test, standard=[model]), config(fit=few, foreign_fit=few))
    assert answer.metrics["foreign"]["noise"]["most_given"] == 1.0
    assert answer.metrics["converged"] == 75
    assert findings(answer)["foreign_noise"] == "inconclusive"


class Memory(nn.Module):
    """Calls what it learnt by class 0, all else by class 1."""

    def __init__(self, learnt: Images) -> None:
        super().__init__()
        self.learnt = learnt.select(slice(None)).images.flatten(1)  # (M, d)

    def forward(self, x: Tensor) -> Tensor:
        known = (x.flatten(1)[:, None] == self.learnt).all(dim=2).any(dim=1)
        return nn.functional.one_hot((~known).long(), 4).float()


@pytest.mark.parametrize(("folds", "called"), [(1, 0), (3, 1)])
def test_with_folds_a_source_is_asked_of_what_it_did_not_learn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: int, called: int
) -> None:
    monkeypatch.setattr(module, "trained", lambda lab, architecture, data, *others: Memory(data))
    train, test = (world(count, name, fine=1.0) for count, name in ((30, "train"), (20, "test")))
    found = _taught(lab_of(tmp_path, train, test, standard=[linear(FINE)]), settings=config(folds=folds), seed=0)
    assert found.asked.tolist() == [called] * 30
    assert found.weak.shape == (folds, 20)


def test_controls_are_wrong_everywhere_and_keep_what_they_promise() -> None:
    draw_from = make_generator(0, "controls")
    labels = torch.randint(0, 5, (500,), generator=draw_from)
    called = (labels + torch.randint(1, 3, (500,), generator=draw_from)) % 5
    found = wrong_labels(labels, called, 5, draw_from)
    assert torch.equal(found["mistakes"], called)
    assert not any(bool((given == labels).any()) for given in found.values())
    assert torch.equal((5 * labels + found["shuffled"]).bincount(), (5 * labels + called).bincount())
    assert 0.3 < float((found["shuffled"] == called).double().mean()) < 0.7  # two classes each, at random
    steps = ((found["random"] - labels) % 5).bincount(minlength=5).tolist()
    assert steps[0] == 0
    assert all(85 <= count <= 165 for count in steps[1:])


def test_foreign_images_are_what_their_formula_says() -> None:
    noise, waves = (foreign_images(kind, 200, (3, 16, 16), make_generator(0)) for kind in ("noise", "waves"))
    for images in (noise, waves):
        assert images.shape == (200, 3, 16, 16)
        assert 0 <= float(images.min()) <= float(images.max()) <= 1
        assert float(images.mean()) == pytest.approx(0.5, abs=0.02)
    exponents = torch.logit(waves.double(), eps=1e-6).clamp(-12, 12)  # what the sigmoid was taken of
    exponents = exponents[(exponents.abs() < 12).flatten(1).all(dim=1)]
    window = torch.hann_window(16, periodic=False, dtype=torch.float64)
    power = torch.fft.fft2(exponents * window[:, None] * window).abs().square().mean(dim=(0, 1))
    cycles = torch.fft.fftfreq(16).abs()
    within = (cycles[:, None] <= 1 / SHORTEST + 2 / 16) & (cycles <= 1 / SHORTEST + 2 / 16)  # two bins of the window
    assert float(power[within].sum() / power.sum()) > 0.99
    white = torch.fft.fft2((noise.double() - 0.5) * window[:, None] * window).abs().square().mean(dim=(0, 1))
    assert float(white[within].sum() / white.sum()) < 0.7


@pytest.mark.parametrize(
    ("mean", "gained", "expected"),
    [
        (0.30, 0.20, {"holds": True, "on_edge": False}),
        (0.30, 0.11, {"holds": True, "on_edge": True}),
        (0.30, 0.04, {"holds": False, "on_edge": False}),  # above the control, but by too little
        (0.14, 0.20, {"holds": False, "on_edge": False}),
        (0.19, 0.20, {"holds": False, "on_edge": True}),
        (0.19, 0.04, {"holds": False, "on_edge": False}),  # one lies near, the other does not
    ],
)
def test_beyond_chance_and_control_is_ten_points(mean: float, gained: float, expected: dict[str, bool]) -> None:
    found = {"mean": mean, "low": mean - 0.035, "high": mean + 0.035}
    more = {"value": gained, "low": gained - 0.035, "high": gained + 0.035}
    assert _beyond(found, [more], 0.10) == expected


def test_the_question_answers_alike_and_resumes() -> None:
    few = {"epochs": 1, "batch_size": 16, "lr": 0.1}
    settings = {
        **SECTION,
        "weak": few,
        "fit": few,
        "foreign_fit": few,
        "num_foreign": 20,
        "foreign": ["noise", "waves"],
    }
    check_question("mistakes", settings={**settings, "folds": 2})


def test_the_page_and_the_chart_hold_the_numbers(known: Answer) -> None:
    page = Part("x", {**known.metrics, "question": {"page": "notbugs.science.debate.mistakes"}}).page()
    least, most = min(known.metrics["mistakes"]), max(known.metrics["mistakes"])
    assert f"Each makes {least} to {most} mistakes, with 4 of the 4 classes as labels" in page
    assert f"Fits on the mistakes call {100 * known.metrics['weak']['fit_agrees']['mean']:.1f}%" in page
    assert page.count("<tr>") == 3
    (chart,) = known.charts
    assert [list(series.x) for series in chart.series] == [["mistakes", "uniform noise"]] * 2 + [["mistakes"]]
    assert draw(chart).spec["layer"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"folds": 0}, "folds = 0"),
        ({"foreign": ["noise", "noise"]}, "different kinds"),
        ({"foreign": ["cats"]}, "foreign"),
        ({"num_foreign": 1}, "num_foreign = 1"),
        ({"weak": {**FIT, "attack": {"eps": 1, "num_steps": 1}}}, "without an attack"),
    ],
)
def test_bad_settings_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**changed)


def test_more_parts_than_d_can_be_cut_in_are_refused() -> None:
    with pytest.raises(ConfigError, match="folds = 11: must be at most 10"):
        check_data(config(folds=11), {"train": world(20, "train")}, "science.x")
