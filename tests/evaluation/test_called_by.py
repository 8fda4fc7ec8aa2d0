"""An image whose logits are no numbers is called by no class, wherever models are asked what they call images."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks import AttackSettings
from notbugs.attacks.losses import NO_NUMBER
from notbugs.construction.describe import describe
from notbugs.construction.recipe import Constructed
from notbugs.data.images import ImageData
from notbugs.data.sources.planted import CLASS_NAMES, PlantedSettings, draw
from notbugs.evaluation.accuracy import called_by, predict
from notbugs.science.common.training import clean_and_attacked
from notbugs.science.planted.truth import follows
from notbugs.science.transfer import Examples, transfer_rates
from notbugs.training.loop import measure_validation

SOURCE = Path(__file__).parents[2] / "src" / "notbugs"
ATTACK = AttackSettings(eps=0.1, num_steps=1)
WORLD = PlantedSettings(num_train=40, num_test=40)
T = 1


class Half(nn.Module):
    """Calls every image class 0; of every second one of a batch the logit of T is NaN, which argmax would name."""

    def forward(self, x: Tensor) -> Tensor:
        logits = (
            functional.one_hot(torch.zeros(len(x), dtype=torch.int64), 4).float() + 0 * x.flatten(1).sum(1)[:, None]
        )
        broken = torch.zeros_like(logits)
        broken[1::2, T] = torch.nan
        return logits + broken


class Flattened(nn.Module):
    """Flattens by `view`, or by `reshape`; keeps how the images lay that it got."""

    def __init__(self, by: str) -> None:
        super().__init__()
        self.by, self.weight = by, nn.Parameter(torch.rand(4, 3 * 5 * 5))
        self.lay_channels_last: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.lay_channels_last.append(x.is_contiguous(memory_format=torch.channels_last))
        flat: Tensor = getattr(x, self.by)(len(x), -1)
        return flat @ self.weight.T


@pytest.mark.parametrize(("by", "lay"), [("reshape", [True]), ("view", [True, False])])
def test_images_lie_channels_last_unless_the_network_cannot_take_them_so(by: str, lay: list[bool]) -> None:
    model, images = Flattened(by), torch.rand(6, 3, 5, 5)
    assert torch.equal(predict(model, images), images.reshape(6, -1) @ model.weight.T)
    assert model.lay_channels_last == lay


def test_an_error_of_the_network_is_not_taken_for_its_layout() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        predict(Fails(), torch.rand(2, 3, 5, 5))


def labelled(count: int = 8) -> ImageData:
    """Images of class T: right, or fooled towards T, are only those called so."""
    images, _, _ = draw(WORLD, count, torch.Generator().manual_seed(0))
    return ImageData(images, torch.full((count,), T), CLASS_NAMES)


def described(column: str) -> Tensor:
    data = labelled()
    made = Constructed(data, data.labels, torch.zeros(len(data), dtype=torch.int64), {})
    model = cast("Any", Half())
    return describe(made, data, model, model, others=[model])[column] == T


def transferred(name: str) -> Tensor:
    data = labelled()
    kinds = ("untargeted", "targeted", "noise")
    right = torch.ones(len(data), dtype=torch.bool)
    fooled = cast("Any", dict.fromkeys(("untargeted", "targeted"), right))
    examples = Examples(dict.fromkeys(kinds, data.images), right, fooled, data.labels)
    return transfer_rates(Half(), data, examples)[name]


def validated() -> Tensor:
    record: Any = {}
    measure_validation(Half(), labelled(), None, record)
    return torch.tensor([record["validation_accuracy"]]) > 0


def planted() -> Tensor:
    """Labels are those of the planted world: only images without numbers are looked at."""
    images, labels, _ = draw(WORLD, 40, torch.Generator().manual_seed(0))
    found = follows(Half(), WORLD, ImageData(images, labels, CLASS_NAMES))
    return torch.stack([mask[1::2] for mask in found.values()])


@pytest.mark.parametrize(
    "hits",
    [
        lambda: described("success"),
        lambda: described("success_other_seeds"),
        lambda: described("robust_prediction"),
        lambda: described("robust_prediction_before"),
        lambda: described("still_y"),
        lambda: transferred("targeted.clean"),
        lambda: transferred("targeted.conditional"),
        lambda: transferred("untargeted.unconditional")[1::2],
        lambda: clean_and_attacked(Half(), labelled(), ATTACK, torch.Generator())[0],
        planted,
        validated,
    ],
    ids=[
        "success", "other seeds", "robust model", "robust model before", "still y", "transfer: clean",
        "transfer: targeted", "transfer: untargeted", "science", "planted", "validation",
    ],
)  # fmt: skip
def test_logits_that_are_no_numbers_name_no_class(hits: Callable[[], Tensor]) -> None:
    assert not hits().any()


def test_the_class_is_the_largest_logit_and_otherwise_none() -> None:
    data = labelled()
    assert called_by(Half(), data).tolist() == called_by(Half(), data.images).tolist() == [0, NO_NUMBER] * 4


def test_nobody_takes_the_largest_logit_past_it() -> None:
    found = [file for file in SOURCE.rglob("*.py") if re.search(r"predict\([^\n]*\)\.(argmax|max)\(", file.read_text())]
    assert found == []
