"""Paradigms: losses in closed form, encoders that learn what is there and no more, a world whose answer is known."""

import math
import sys
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from notbugs.data.images import ImageData, make_generator
from notbugs.data.store import load_dataset, save_dataset
from notbugs.models import create_model, set_normalisation
from notbugs.models.base import Classifier
from notbugs.report.charts import draw
from notbugs.report.debate import Part
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.question import asked
from notbugs.science.debate import paradigms as module
from notbugs.science.debate._self_supervised import (
    Contrastive,
    LibraryError,
    Masked,
    Views,
    contrastive_loss,
    head_of,
    masked_loss,
    patches,
    train_unlabelled,
    view,
)
from notbugs.science.debate.paradigms import QUESTION, ParadigmsSettings, paradigms, probe
from notbugs.testing import check_question
from notbugs.training.loop import TrainingError

SECTION: dict[str, Any] = {
    "supervised": {"epochs": 1, "lr": 0.1},
    "contrastive": {"epochs": 1, "lr": 0.01, "batch_size": 16},
    "masked": {"epochs": 1, "lr": 0.01, "batch_size": 16},
}
STILL = Views(shift=0, noise=0, covered=0)


def config(**changed: Any) -> ParadigmsSettings:
    return validate({"study": "paradigms", **SECTION, **changed}, "science.x", ParadigmsSettings)


class Reader(nn.Module):
    """Its features are the inner products with some patterns, (F, d)."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.register_buffer("rows", rows)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.rows.T


def reading(rows: Tensor) -> Classifier:
    return Classifier(Reader(rows), 1, len(rows), 2).eval()


def test_patches_are_a_share_of_whole_cells():
    covered = patches(torch.zeros(50, 3, 6, 8), 0.25, 2, make_generator(0))
    assert covered.shape == (50, 1, 6, 8)
    assert covered.flatten(1).sum(dim=1).tolist() == [3 * 4] * 50  # 3 of 12 cells of 4 pixels
    assert torch.equal(covered[:, :, ::2, ::2].repeat_interleave(2, 2).repeat_interleave(2, 3), covered)
    assert len(covered.flatten(1).unique(dim=0)) > 20


def test_cells_at_the_border_are_cut():
    assert patches(torch.zeros(1, 1, 5, 5), 0.99, 3, make_generator(0)).all()


def test_a_view_is_shifted_covered_and_noisy():
    images, grey = torch.full((20, 1, 4, 4), 0.8), torch.full((1, 1, 1, 1), 0.3)
    assert torch.equal(view(images, STILL, grey, make_generator(0)), images)
    covered = view(images, Views(shift=0, noise=0, covered=0.5, patch=2), grey, make_generator(0))
    assert (covered == 0.3).flatten(1).sum(dim=1).tolist() == [8] * 20
    noisy = view(images, Views(shift=0, noise=0.05, covered=0), grey, make_generator(0)) - images
    assert float(noisy.std()) == pytest.approx(0.05, rel=0.2)
    moved = view(images, Views(shift=1, noise=0, covered=0), grey, make_generator(0))
    assert set(moved.unique().tolist()) == {0.0, images[0, 0, 0, 0].item()}  # what comes in is black


def test_the_contrastive_loss_is_nt_xent():
    """Of N orthogonal images, each the same in both views: −log(e^(1/τ) / (e^(1/τ) + 2N − 2)), all sides being 1."""
    images, temperature = torch.eye(4).view(4, 1, 2, 2), 0.5
    how = Contrastive(epochs=1, lr=0.1, temperature=temperature, views=STILL)
    found = contrastive_loss(how)(reading(torch.eye(4)), nn.Identity(), images, make_generator(0))
    same = math.exp(1 / temperature)
    assert float(found) == pytest.approx(-math.log(same / (same + 2 * 4 - 2)), rel=1e-5)


def test_the_librarys_two_losses_are_one_where_an_image_has_one_other_view():
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    first, second = torch.randn(2, 9, 5, generator=make_generator(0))
    by_name = {name: losses.SelfSupervisedLoss(getattr(losses, name)(temperature=0.2)) for name in NT_XENT}
    assert float(by_name["SupConLoss"](first, second)) == pytest.approx(float(by_name["NTXentLoss"](first, second)))


NT_XENT = ("NTXentLoss", "SupConLoss")


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning.losses", None)
    with pytest.raises(LibraryError, match=r"pip install 'notbugs\[debate\]'"):
        contrastive_loss(Contrastive(epochs=1, lr=0.1))


def test_the_masked_loss_counts_covered_pixels_alone_and_shows_none_of_them():
    images = torch.rand(6, 1, 4, 4, generator=make_generator(1))
    encoder, how = reading(torch.eye(16)), Masked(epochs=1, lr=0.1, covered=0.5, patch=2)
    found = masked_loss(how)(encoder, nn.Identity(), images, make_generator(0))  # repeats what it sees, and 0 elsewhere
    covered = patches(images, 0.5, 2, make_generator(0))
    assert float(found) == pytest.approx(float(images[covered].square().mean()))


def bands(count: int, name: str, noise: float = 0.05) -> ImageData:
    """Images (1, 8, 8) whose columns are those of one of four waves; with noise alone nothing is to be learnt."""
    generator = make_generator(0, name)
    labels = torch.arange(count) % 4
    waves = torch.stack([torch.cos(torch.arange(8) * math.pi * (1 + number) / 4) for number in range(4)])
    shown = 0.3 * waves[labels].view(count, 1, 1, 8) if noise < 0.2 else torch.zeros(())
    images = 0.5 + shown + noise * (2 * torch.rand(count, 1, 8, 8, generator=generator) - 1)
    return ImageData(images.clamp(0, 1), labels, ("a", "b", "c", "d"))


def untrained(data: ImageData) -> Classifier:
    model = create_model("small_cnn", (1, 8, 8), data.class_names, width=8, generator=make_generator(0, "weights"))
    set_normalisation(model, data)
    return model


@pytest.mark.parametrize(("noise", "low", "high"), [(0.05, 0.0, 0.35), (0.4, 0.9, 1.3)])
def test_a_masked_autoencoder_learns_what_neighbours_tell(noise: float, low: float, high: float):
    """Of waves most of what is covered is told by the rest, in units of the variance; of noise nothing."""
    data, how = bands(128, "train", noise), Masked(epochs=12, lr=0.02, batch_size=32, covered=0.3)
    encoder, generator = untrained(data), make_generator(0, "masked")
    decoder = head_of((8, 64, 64), generator)
    train_unlabelled(encoder, decoder, data, how, masked_loss(how), generator)
    assert not encoder.training
    test = bands(64, "test", noise).images
    assert low <= float(masked_loss(how)(encoder, decoder, test, make_generator(1)).detach()) <= high


def nearness(encoder: Classifier, how: Views, images: Tensor) -> float:
    """Share of the images whose nearest among the other views, by the cosine, is their own."""
    grey = encoder.normalise.mean
    with torch.no_grad():
        first, second = (
            nn.functional.normalize(encoder.representation(view(images, how, grey, make_generator(seed))))
            for seed in (1, 2)
        )
    return float(((first @ second.T).argmax(dim=1) == torch.arange(len(images))).double().mean())


def test_a_contrastive_encoder_tells_views_of_an_image_from_others():
    data, views = bands(128, "train", 0.15), Views(shift=0, noise=0.05, covered=0)
    how = Contrastive(epochs=12, lr=0.02, batch_size=32, views=views)
    encoder, generator = untrained(data), make_generator(0, "contrastive")
    head = encoder.head.weight.detach().clone()
    before = nearness(encoder.eval(), views, data.images)
    train_unlabelled(encoder, head_of((8, 16, 16), generator), data, how, contrastive_loss(how), generator)
    assert nearness(encoder, views, data.images) > before + 0.15
    assert torch.equal(encoder.head.weight, head)


def test_a_training_is_the_same_again_and_draws_from_its_generator_alone():
    data, how = bands(32, "train"), Masked(epochs=1, lr=0.02, batch_size=16)
    weights = []
    for _ in range(2):
        torch.rand(3)  # what others draw makes no difference
        encoder, generator = untrained(data), make_generator(0, "masked")
        before = torch.get_rng_state()
        train_unlabelled(encoder, head_of((8, 64, 64), generator), data, how, masked_loss(how), generator)
        assert torch.equal(torch.get_rng_state(), before)
        weights.append(encoder.body[0].weight.detach())
    assert torch.equal(*weights)


def test_a_loss_that_is_no_number_is_said():
    def loss(encoder: Classifier, head: nn.Module, images: Tensor, generator: torch.Generator) -> Tensor:
        return encoder.representation(images).sum() * float("nan")

    data = bands(16, "train")
    with pytest.raises(TrainingError, match="x: the loss is not finite in epoch 1"):
        train_unlabelled(
            untrained(data), nn.Identity(), data, Masked(epochs=1, lr=0.1), loss, make_generator(0), description="x"
        )


def test_a_probe_reads_what_is_linear():
    seen = torch.randn(200, 3, generator=make_generator(0))
    labels = (seen[:, 1] > 0).long()
    assert (probe(seen, labels, seen) == labels).double().mean() > 0.97
    constant = torch.ones(200, 3)
    assert probe(constant, torch.ones(200).long() - (torch.arange(200) < 60).long(), constant).unique().tolist() == [1]


TOP, GRID = torch.ones(8, 8), (torch.arange(8)[:, None] + torch.arange(8)) % 2 * 2.0 - 1
TOP[4:] = -1
"""The visible pattern, and the fine one that nobody sees."""
BLIND = torch.zeros(24, 8, 8)
"""Differences of pixels in which the patterns cancel: a probe on them learns its training images' noise."""
for number, (row, column) in enumerate((row, column) for row in range(4) for column in range(6)):
    BLIND[number, row, column], BLIND[number, row, column + 2] = 1, -1


def world(count: int, name: str, *, visible: bool, fine: bool) -> ImageData:
    """Two classes: the sign of the visible pattern is y's, or that of every other image; so is the fine one's."""
    draw = make_generator(0, name)
    labels = torch.arange(count) % 2
    signs = [2 * (labels if true else torch.arange(count) // 2 % 2) - 1 for true in (visible, fine)]
    images = 0.5 + 0.05 * (2 * torch.rand(count, 1, 8, 8, generator=draw) - 1)
    for sign, pattern, length in zip(signs, (TOP, GRID), (0.2, 0.02), strict=True):
        images += length * sign.view(-1, 1, 1, 1) * pattern
    return ImageData(images, labels, ("a", "b"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """D shows y by both patterns, D_R by the visible one, D_NR by the fine one."""
    parts = {
        "train": world(120, "train", visible=True, fine=True),
        "test": world(80, "test", visible=True, fine=True),
        "robust": world(120, "robust", visible=True, fine=False),
        "nonrobust": world(120, "nonrobust", visible=False, fine=True),
    }
    data, folder = {}, tmp_path_factory.mktemp("paradigms")
    for name, part in parts.items():
        table = pd.DataFrame({"index": range(len(part)), "label": part.labels.numpy()})
        save_dataset(folder / name, part, table, name=name, source="testing", settings={})
        data[name] = load_dataset(folder / name)
    return Lab(seed=0, data=data)


def answer_of(lab: Lab, monkeypatch: pytest.MonkeyPatch, reads: dict[str, list[Tensor]]) -> Answer:
    """What the study says where encoders of each paradigm read these patterns."""

    def encoder(lab: Lab, settings: Any, data: ImageData, paradigm: str, seed: int, description: str) -> Classifier:
        return reading(torch.stack(reads[paradigm]).flatten(1))

    monkeypatch.setattr(module, "_encoder", encoder)
    return paradigms(lab, config(seeds=[0]))


SEEN = [TOP, *BLIND]


def test_an_encoder_that_sees_no_fine_pattern_loses_d_nr_and_one_that_does_keeps_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
):
    reads = {"supervised": [TOP, GRID], "contrastive": SEEN, "masked": [TOP, GRID], "untrained": list(BLIND)}
    found = answer_of(lab, monkeypatch, reads)
    own = found.metrics["own"]
    assert own["nonrobust"]["supervised"]["mean"] == own["robust"]["contrastive"]["mean"] == 1
    assert 0.3 < own["nonrobust"]["contrastive"]["mean"] < 0.7
    assert found.metrics["on_d"]["nonrobust"]["contrastive"]["mean"] == 1  # with D's labels it reads what is visible
    assert found.metrics["lost"]["contrastive"]["value"] == 1 - own["nonrobust"]["contrastive"]["mean"]
    assert found.metrics["lost"]["masked"]["value"] == 0
    assert [one.finding for one in found.verdicts] == ["reproduced", "not reproduced"]
    assert "D_NR loses +0.0 points" in found.verdicts[1].sentence
    page = Part("p", {**found.metrics, "question": {"page": QUESTION.study.__module__}}).page()
    assert "120 images of each dataset; the labels of 2 classes" in page
    assert page.count("<tr>") == 8
    assert draw(found.charts[0]).spec["layer"]


def test_what_d_r_loses_too_is_no_loss_of_d_nr(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    """Contrastive encoders that are blind, but for D; so both lose half, and D_NR no more than D_R."""
    reads = {"supervised": [TOP, GRID], "contrastive": list(BLIND), "masked": SEEN, "untrained": list(BLIND)}
    found = answer_of(lab, monkeypatch, reads)
    assert found.metrics["own"]["nonrobust"]["contrastive"]["mean"] < 0.7
    assert abs(found.metrics["lost"]["contrastive"]["value"]) < 0.2
    assert [one.finding for one in found.verdicts] == ["inconclusive", "reproduced"]


def test_a_paradigm_that_teaches_nothing_on_d_is_no_verdict(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    reads = {"supervised": [TOP, GRID], "contrastive": list(BLIND), "masked": SEEN, "untrained": [TOP, GRID]}
    found = answer_of(lab, monkeypatch, reads)
    assert [one.finding for one in found.verdicts] == ["inconclusive", "inconclusive"]
    assert "no more than an untrained encoder" in found.verdicts[0].sentence


def test_where_labels_teach_nothing_either_nothing_is_lost(lab: Lab, monkeypatch: pytest.MonkeyPatch):
    reads = {"supervised": SEEN, "contrastive": SEEN, "masked": SEEN, "untrained": list(BLIND)}
    found = answer_of(lab, monkeypatch, reads)
    assert [one.finding for one in found.verdicts] == ["inconclusive", "inconclusive"]
    assert "with labels, too" in found.verdicts[0].sentence


def test_the_question_is_one():
    check_question("paradigms", settings={**SECTION, "seeds": [0]})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"contrastive": {"epochs": 0, "lr": 0.1}}, "contrastive.epochs"),
        ({"contrastive": {"epochs": 1, "lr": 0.1, "temperature": 0}}, "temperature"),
        ({"contrastive": {"epochs": 1, "lr": 0.1, "views": {"noise": -1}}}, "noise"),
        ({"masked": {"epochs": 1, "lr": 0.1, "covered": 1}}, "covered"),
        ({"masked": {"epochs": 1, "lr": 0.1, "patch": 0}}, "patch"),
        ({"seeds": [0, 0]}, "seeds"),
    ],
)
def test_bad_settings(changed: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=said):
        config(**changed)


def test_fewer_images_than_classes(lab: Lab):
    many = Lab(seed=0, data={name: bands(44, name) for name in ("train", "test", "robust", "nonrobust")})  # type: ignore[dict-item]
    labels = torch.arange(44)
    wide = ImageData(many.data["train"].images, labels, tuple(map(str, range(44))))  # type: ignore[attr-defined]
    given = config(max_examples=20)
    with pytest.raises(ConfigError, match=r"max_examples = 20: must be at least 44, one a class"):
        asked(QUESTION, Lab(seed=0, data={"train": wide, "test": wide}), given, "science.x")  # type: ignore[dict-item]
