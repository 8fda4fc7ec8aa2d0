"""Norms by name: what each says of itself, one of the user's own everywhere, and one line for what is none."""

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch

from notbugs.attacks import NORMS, AttackSettings, pgd
from notbugs.attacks.norms import norm_of, norm_title
from notbugs.construction.building import construct
from notbugs.construction.settings import TargetSettings
from notbugs.evaluation.accuracy import adversarially_correct
from notbugs.evaluation.levels import SuiteSettings
from notbugs.evaluation.suite import audit
from notbugs.models import create_model
from notbugs.runtime import registry
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.testing import check_norm
from notbugs.training.loop import train
from notbugs.training.settings import TrainSettings

COLOUR = "lab.norms:Colour"


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_titles(own: Path) -> None:
    registry.allow([COLOUR, "lab.norms:Tenth"])
    titles = [norm_title(name) for name in ("l2", "linf", "l1", COLOUR)]
    assert titles == ["L2", "L∞", "L1", "colour"]
    assert norm_title("lab.norms:Nowhere") == "lab.norms:Nowhere"
    assert norm_title("") == ""


@pytest.mark.parametrize("shape", [(3, 4, 4), (1, 8, 8)])
@pytest.mark.parametrize("norm", NORMS)
def test_every_norm_passes(norm: str, shape: tuple[int, int, int]) -> None:
    check_norm(norm, shape)


@pytest.mark.parametrize("name", ["Colour", "Tenth"])
def test_norms_of_ones_own_pass(own: Path, name: str) -> None:
    registry.allow([f"lab.norms:{name}"])
    check_norm(f"lab.norms:{name}")


def test_a_linear_loss_rises_by_the_dual_length_of_ones_own(own: Path) -> None:
    registry.allow([COLOUR])
    w = torch.randn(3, 4, 4, generator=generator(1))
    x = torch.full((2, 3, 4, 4), 0.5)
    found = pgd(
        torch.nn.Flatten(), x, w.flatten()[None].repeat(2, 1), norm=COLOUR, eps=0.2, loss=lambda z, a: (z * a).sum(1)
    ).x_adv
    gained = ((found - x) * w).flatten(1).sum(dim=1).double()
    torch.testing.assert_close(gained, 0.2 * norm_of(COLOUR).dual_length(w[None]).expand(2), rtol=1e-4, atol=0)
    assert (norm_of(COLOUR).length(found - x) <= 0.2 * (1 + 1e-5)).all()


def test_of_one_channel_colour_is_linf(own: Path, standard_model, digits) -> None:
    """In an attack, a construction, a training and the whole suite."""
    registry.allow([COLOUR])
    data, settings = digits[1].select(torch.arange(40)), {"eps": 0.1, "num_steps": 10}
    for how in ({}, {"random_start": True}):
        stood = [
            adversarially_correct(standard_model, data, norm=norm, **settings, **how, generator=generator())
            for norm in (COLOUR, "linf")
        ]
        assert int((stood[0] != stood[1]).sum()) <= 2
        assert 0 < int(stood[0].sum()) < 40
    recipe = {"recipe": "deterministic_target", "model": "standard", "eps": 0.1, "num_steps": 5, "step_size": 0.05}
    made = [
        construct(standard_model, data, **TargetSettings(**recipe, norm=norm).arguments(), generator=generator())
        for norm in (COLOUR, "linf")
    ]
    torch.testing.assert_close(made[0].data.images, made[1].data.images, rtol=0, atol=1e-4)
    found = audit(standard_model, data, norm=COLOUR, headline_eps=0.1, headline_num_steps=20, generator=generator())
    assert {outcome.norm for outcome in found.outcomes} == {COLOUR}
    assert [outcome.attack for outcome in found.outcomes][-2:] == ["pgd3x2", "worst"]
    assert found.norms == {}


def test_training_in_a_norm_of_ones_own(own: Path, digits) -> None:
    registry.allow([COLOUR])
    data = digits[0].select(torch.arange(64))
    weights = []
    for norm in (COLOUR, "l1", "linf"):
        model = create_model("small_cnn", (1, 8, 8), data.class_names, width=4, generator=generator())
        attack = AttackSettings(norm=norm, eps=0.1 if norm != "l1" else 2.0, num_steps=2)
        config = TrainSettings(epochs=1, batch_size=32, lr=0.1, attack=attack, validation_attack=attack)
        records = train(model, data, **config.arguments(), generator=generator(), validation=data)
        assert records[-1]["validation_adversarial_accuracy"] is not None
        weights.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
    torch.testing.assert_close(weights[0], weights[2], rtol=0, atol=1e-3)
    assert (weights[1] - weights[2]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("linff", "must be one of l2, linf, l1 or package.module:attribute of your own; did you mean linf"),
        ("lab.norms:Color", r"must be something that is there: .*norms\.py has no Color; did you mean Colour\?"),
        ("lab.norms:number", r"must be a subclass of notbugs\.attacks\.Ball, not a int"),
        ("lab.norms:torch.nn.Linear", r"must be a subclass of notbugs\.attacks\.Ball, not the class Linear"),
        (
            "lab.norms:Half",
            "must be a norm that says all of itself: Half has no dual_length, largest_radius, random, steepest",
        ),
    ],
)
def test_what_is_no_norm_is_one_line(own: Path, name: str, message: str) -> None:
    registry.allow([name])
    with pytest.raises(ConfigError, match=rf"^params\.yaml: evaluate\.norm = '{name}': {message}") as raised:
        validate({"norm": name, "eps": [0.5], "headline_eps": 0.5}, "evaluate", SuiteSettings)
    assert "\n" not in str(raised.value)


def test_what_nobody_named_is_not_imported(own: Path) -> None:
    with pytest.raises(ConfigError, match=r"attack\.norm = 'lab\.norms:Colour': must be named in params\.yaml, too"):
        validate({"norm": COLOUR, "eps": 0.5, "num_steps": 3}, "attack", AttackSettings)


def test_packages_add_norms_by_entry_points(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("colour", COLOUR, "notbugs.norms")
    monkeypatch.setattr(registry, "_packaged", lambda group: {entry.name: entry} if group == entry.group else {})
    registry.allow(["colour"])
    assert norm_of("colour").title == "colour"
    assert AttackSettings(norm="colour", eps=0.1, num_steps=2).norm == "colour"
