"""Transfer: rates counted as defined, controls, correlation, the stage and its errors."""

import json
import shutil

import pytest
import torch
from torch import nn

from notbugs.data.images import ImageData
from notbugs.data.store import DatasetError
from notbugs.models import ModelError
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.science.common.training import Attack
from notbugs.science.transfer import (
    Examples,
    TransferSettings,
    adversarial_examples,
    correlation,
    transfer_rates,
)


class Table(nn.Module):
    """Says of the image whose first pixel is k/10 the k-th entry of its answers."""

    def __init__(self, answers: list[int], num_classes: int = 3) -> None:
        super().__init__()
        self.register_buffer("answers", torch.tensor(answers))
        self.num_classes = num_classes

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        key = (x[:, 0, 0, 0] * 10).round().long()
        return nn.functional.one_hot(self.answers[key], self.num_classes).float()


def coded(*keys: int) -> torch.Tensor:
    return torch.tensor(keys, dtype=torch.float32).view(-1, 1, 1, 1) / 10


def test_rates_are_counted_as_defined():
    """Four images of class 0 (t = 1); clean ones have keys 0-3, examples 4-7, noise 8-9."""
    data = ImageData(coded(0, 1, 2, 3), torch.zeros(4, dtype=torch.int64), ("a", "b", "c"))
    examples = Examples(
        images={"untargeted": coded(4, 5, 6, 7), "targeted": coded(4, 5, 6, 7), "noise": coded(8, 8, 9, 9)},
        source_right=torch.tensor([True, True, True, False]),
        fooled={
            "untargeted": torch.tensor([True, True, False, True]),
            "targeted": torch.tensor([True, False, True, True]),
        },
        targets=torch.ones(4, dtype=torch.int64),
    )
    #              clean 0-3    examples 4-7  noise
    answers = Table([0, 0, 2, 0, 1, 2, 0, 1, 0, 1])
    rates = transfer_rates(answers, data, examples)
    # Untargeted: X and the source are right on 0 and 1, both examples fool the source, both fool X.
    assert rates["untargeted.conditional"].tolist() == [True, True]
    assert rates["untargeted.unconditional"].tolist() == [True, True, False, True]
    assert rates["untargeted.clean"].tolist() == [False, False, True, False]
    assert rates["untargeted.noise"].tolist() == [False, False, True, True]
    # Targeted: of 0 and 1 only 0's example fools the source; X calls it 1 = t.
    assert rates["targeted.conditional"].tolist() == [True]
    assert rates["targeted.unconditional"].tolist() == [True, False, False, True]
    assert rates["targeted.clean"].tolist() == [False] * 4


def test_examples_of_the_source_stay_in_the_ball_and_fool_it(digits, standard_model):
    data = digits[1].select(torch.arange(80))
    attack = Attack(eps=1.2, num_steps=20)
    found = adversarial_examples(standard_model, data, attack, generator=torch.Generator().manual_seed(0))
    for name in ("untargeted", "targeted", "noise"):
        lengths = (found.images[name] - data.images).flatten(1).norm(dim=1)
        assert float(lengths.max()) <= 1.2 + 1e-4
        assert found.images[name].min() >= 0
        assert found.images[name].max() <= 1
    assert found.targets.tolist() == ((data.labels + 1) % 10).tolist()
    assert float(found.fooled["untargeted"].double().mean()) > 0.9
    with torch.no_grad():
        assert torch.equal(
            standard_model(found.images["targeted"]).argmax(1) == found.targets, found.fooled["targeted"]
        )
    # On the source itself, conditional success is certain, and noise of that length is harmless.
    rates = transfer_rates(standard_model, data, found)
    assert rates["untargeted.conditional"].all()
    assert rates["targeted.conditional"].all()
    assert float(rates["untargeted.noise"].double().mean()) < 0.2


def test_correlation_has_an_exact_null():
    found = correlation([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 25.0])
    assert found == {
        "pearson": 0.8315,
        "spearman": 0.8,
        "p_value": 0.1667,  # 4 of 24 pairings: the one found, the sorted one, two other neighbours exchanged
        "rho_without_one": [0.5, 1.0],
        "num_points": 4,
    }
    assert correlation([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])["p_value"] == round(1 / 6, 4)
    tied = correlation([1.0, 1.0, 2.0], [3.0, 5.0, 4.0])
    assert tied is not None
    assert tied["spearman"] == 0.0
    assert tied["p_value"] == round(2 / 3, 4)  # 3 beside 4, 3 beside 5, 4 beside 5: each twice


def test_the_null_passes_as_seldom_as_it_says():
    """Of random pairings of six architectures 5% at most have p < 0.05; of ten, whose pairings are drawn, about 5%."""
    generator = torch.Generator().manual_seed(0)
    for count, repeats in ((6, 300), (10, 100)):
        columns = [torch.rand(2, count, generator=generator).tolist() for _ in range(repeats)]
        small = sum(correlation(*pair)["p_value"] < 0.05 for pair in columns)
        assert small / repeats < 0.09


def test_correlation_needs_three_points_that_vary():
    assert correlation([1.0, 2.0], [1.0, 2.0]) is None
    assert correlation([1.0, 1.0, 1.0], [1.0, 2.0, 3.0]) is None


def test_the_stage_measures_every_architecture(tiny_project, tmp_path):
    root = shutil.copytree(tiny_project, tmp_path / "lab")
    run_stage(open_project(root), "transfer")
    written = (root / "metrics/transfer.json").read_bytes()
    found = json.loads(written)
    assert list(found["architectures"]) == ["cnn", "mlp", "deep"]
    assert found["architectures"]["mlp"]["architecture"] == "mlp"
    for facts in found["architectures"].values():
        assert set(facts["accuracy"]) == {"D", "D_rand", "D_det"}
        assert facts["accuracy"]["D"]["n"] == 60
        assert facts["accuracy"]["D"]["num_seeds"] == 2
        for rates in facts["transfer"].values():
            assert set(rates) == {"conditional", "unconditional", "clean", "noise"}
            assert rates["unconditional"]["n"] == 60
            assert rates["conditional"] is None or rates["conditional"]["n"] <= 60
    run_stage(open_project(root), "transfer")
    assert (root / "metrics/transfer.json").read_bytes() == written


def test_one_seed_of_an_architecture_starts_alike_on_every_dataset(tiny_project, tmp_path, monkeypatch):
    """X on D, on D_rand and on D_det are compared: they share initialisation and the order of the batches."""
    seen: dict[str, list[tuple[torch.Tensor, int]]] = {}

    def trained(model, *_, generator, description, **__):
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        architecture, seed = description.split(" on ")[0], description.split(", ")[1]
        seen.setdefault(f"{architecture}, {seed}", []).append((weights, generator.initial_seed()))

    monkeypatch.setattr("notbugs.science.common.training.train", trained)
    run_stage(open_project(shutil.copytree(tiny_project, tmp_path / "lab")), "transfer")
    assert [len(models) for models in seen.values()] == [3] * 6  # three architectures, two seeds
    for (weights, order), *others in seen.values():
        assert all(torch.equal(weights, other) and order == stream for other, stream in others)
    assert len({order for ((_, order), *_) in seen.values()}) == 6


def test_what_is_missing_is_named_with_its_command(tiny_project, tmp_path):
    root = shutil.copytree(tiny_project, tmp_path / "lab")
    shutil.move(root / "data" / "det", tmp_path / "det")
    with pytest.raises(DatasetError, match=r"data/det: no dataset there .*`dvc repro` makes it"):
        run_stage(open_project(root), "transfer")
    shutil.move(tmp_path / "det", root / "data" / "det")
    (root / "models/train/standard/seed-0.safetensors").unlink()
    with pytest.raises(ModelError, match=r"seed-0\.safetensors: no model there; `dvc repro train@standard` makes it"):
        run_stage(open_project(root), "transfer")


def test_an_unknown_architecture_is_one_line():
    with pytest.raises(ConfigError, match=r"transfer\.architectures\.x\.architecture = 'vgg19': must be") as caught:
        validate(
            {
                "architectures": {"x": {"architecture": "vgg19"}},
                **{key: {"epochs": 1, "lr": 0.1} for key in ("d", "rand", "det")},
                "attack": {"eps": 1.0, "num_steps": 1},
            },
            "transfer",
            TransferSettings,
        )
    assert "\n" not in str(caught.value)
