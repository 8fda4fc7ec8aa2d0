"""The planted world: exact usefulness, and the whole experiment in it, seen through the matched filters."""

from pathlib import Path

import pytest
import torch

from notbugs.construction.building import construct
from notbugs.construction.recipe import Constructed
from notbugs.data.images import ImageData, make_generator
from notbugs.data.sources.planted import CLASS_NAMES, PATTERNS, Pattern, PlantedSettings, draw, patterns
from notbugs.runtime.config import read_params, settings
from notbugs.runtime.errors import ConfigError, UserError
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.features.maps import LinearFeatures
from notbugs.science.features.usefulness import features_of, worst
from notbugs.science.planted import study as planted_study
from notbugs.science.planted.study import PlantedStudySettings, over_fits, planted
from notbugs.science.planted.truth import (
    PlantedError,
    conflicting,
    filter_features,
    follows,
    joint_probability,
    says,
    truth,
)

PRESET = Path(__file__).parents[2] / "presets" / "digits.yaml"
WORLD = PlantedSettings(num_train=400, num_test=400)


def drawn(count: int, seed: int = 0, world: PlantedSettings = WORLD) -> ImageData:
    images, labels, _ = draw(world, count, make_generator(seed, "world"))
    return ImageData(images, labels, CLASS_NAMES)


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize("label", [0, 2])
@pytest.mark.parametrize("agreement", [0.7, 1.0])
def test_mean_deviation_and_usefulness_are_exact(name: Pattern, label: int, agreement: float) -> None:
    world = PlantedSettings(smooth_agreement=agreement)
    data, known = drawn(2_000, world=world), truth(world, name, label)
    raw = (data.images.double() - 0.5).flatten(1) @ patterns()[name][label].flatten()
    error = float(raw.std()) / 2_000**0.5
    assert abs(float(raw.mean()) - known.mean) < 4 * error
    assert float(raw.std()) == pytest.approx(known.std, rel=0.05)
    side = torch.where(data.labels == label, 1.0, -1.0).double()
    signed = side * (raw - known.mean) / known.std
    assert abs(float(signed.mean()) - known.rho) < 4 * float(signed.std()) / 2_000**0.5


def test_the_usefulness_of_a_noiseless_fine_pattern_is_that_of_the_class_itself() -> None:
    """An indicator of a class of share 1/4 has ρ = 2·√(1/4·3/4)."""
    world = PlantedSettings(noise=1e-6)
    assert truth(world, "fine", 1).rho == pytest.approx(2 * (3 / 16) ** 0.5, abs=1e-8)


def test_probabilities_add_up() -> None:
    joint = joint_probability(PlantedSettings(smooth_agreement=0.9))
    assert float(joint.sum()) == pytest.approx(1)
    assert joint.sum(dim=1).tolist() == pytest.approx([0.25] * 4)
    assert float(joint.diagonal().sum()) == pytest.approx(0.9)


@pytest.mark.parametrize(("norm", "eps"), [("l2", 0.5), ("linf", 0.02)])
def test_pgd_finds_the_planted_gamma(norm: str, eps: float) -> None:
    """Nothing is clipped, so PGD's γ differs from its own ρ by exactly eps·‖p‖*/std."""
    train, test = drawn(400), drawn(80, 1)
    for name in PATTERNS:
        features = filter_features(name, train)
        attacked = worst(features, test, eps=eps, norm=norm, num_steps=5).mean(dim=0)
        for label in range(4):
            known, pattern = truth(WORLD, name, label), patterns()[name][label]
            fall = (known.rho - known.gamma(pattern, eps, norm)) * known.std / float(features.scaling.std[label])
            assert float(features.signed(test).mean(dim=0)[label] - attacked[label]) == pytest.approx(fall, abs=1e-4)


def test_filters_read_the_patterns() -> None:
    data = drawn(400)
    assert bool((says("fine", data.images) == data.labels).all())
    agreement = float((says("smooth", data.images) == data.labels).double().mean())
    assert agreement == pytest.approx(WORLD.smooth_agreement, abs=0.04)


def test_conflicts_exchange_only_the_fine_pattern() -> None:
    data = drawn(400)
    images, targets = conflicting(WORLD, data)
    assert bool((says("smooth", images.images) == images.labels).all())
    assert bool((says("fine", images.images) == targets).all())
    assert bool((targets != images.labels).all())
    assert set((targets - images.labels).remainder(4).tolist()) == {1, 2, 3}


def test_follows_tells_two_filters_apart() -> None:
    class Filter(torch.nn.Module):
        def __init__(self, name: Pattern) -> None:
            super().__init__()
            self.register_buffer("weight", patterns()[name].flatten(1).float())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x - 0.5).flatten(1) @ self.weight.T

    data = drawn(200)
    for name, other in (("smooth", "fine"), ("fine", "smooth")):
        followed = follows(Filter(name), WORLD, data)  # type: ignore[arg-type]
        assert bool(followed[name].all())  # type: ignore[index]
        assert not bool(followed[other].any())  # type: ignore[index]


def test_a_world_without_agreement_is_refused() -> None:
    data = drawn(40)
    turned = ImageData(data.images, (says("smooth", data.images) + 1) % 4, CLASS_NAMES)
    with pytest.raises(PlantedError, match="no image's smooth pattern says its class"):
        conflicting(WORLD, turned)
    lacking = data.select(data.labels != 3)
    with pytest.raises(UserError, match="class 3 has no example"):
        features_of(LinearFeatures(patterns()["fine"]), lacking)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eps": [0.0]}, "planted.eps"),
        ({"robust": {"epochs": 1, "lr": 0.1}}, "planted.robust"),
        ({"world": {"smooth_amplitude": 40.0}}, "stay within 0.5 of grey"),
        ({"world": {"smooth_agreement": 0.0}}, "planted.world.smooth_agreement"),
    ],
)
def test_impossible_settings_are_named(change: dict[str, object], message: str) -> None:
    params = read_params(PRESET)
    params["planted"] = {**params["planted"], **change}
    with pytest.raises(ConfigError, match=message):
        settings(params, "planted", PlantedStudySettings)


@pytest.fixture(scope="module")
def found() -> Answer:
    """The default world of the digits preset, with one fit seed."""
    section = read_params(PRESET)["planted"]
    section["fit"]["seeds"] = [0]
    config = settings({"planted": section}, "planted", PlantedStudySettings)
    return planted(Lab(seed=0), config)


@pytest.fixture(scope="module")
def untrained() -> Answer:
    """The world of the preset, with next to no training: what is known of it rests on none."""
    section = read_params(PRESET)["planted"]
    for part in ("standard", "robust", "fit"):
        section[part]["epochs"] = 1
    for part in ("invert", "rand", "det"):
        section[part]["num_steps"] = 1
    section["robust"]["attack"]["num_steps"] = 1
    section["num_steps"] = 2
    section["fit"]["seeds"] = [0]
    return planted(Lab(seed=0), settings({"planted": section}, "planted", PlantedStudySettings))


def test_the_measured_usefulness_is_the_planted_one(untrained: Answer) -> None:
    filters = untrained.metrics["filters"]
    assert len(filters) == 2 * 4 * (1 + 3)
    assert all(row["low"] <= row["planted"] <= row["high"] for row in filters)
    assert max(row["high"] - row["low"] for row in filters if row["eps"] == 0) < 0.2


@pytest.mark.slow
def test_standard_training_uses_the_fine_pattern_and_robust_training_does_not(found: Answer) -> None:
    standard, robust = (found.metrics["models"][name]["follows"] for name in ("standard", "robust"))
    assert standard["fine"]["low"] > standard["smooth"]["high"]
    assert robust["smooth"]["low"] > 0.85


@pytest.mark.slow
def test_the_robust_dataset_keeps_the_smooth_and_loses_the_fine_pattern(found: Answer) -> None:
    robust = found.metrics["datasets"]["D_R"]
    assert robust["smooth"]["kept"]["low"] > 0.5
    assert robust["fine"]["kept"]["high"] < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("name", ["D_rand", "D_det"])
def test_targeted_datasets_carry_t_in_the_fine_pattern(found: Answer, name: str) -> None:
    dataset = found.metrics["datasets"][name]
    assert dataset["smooth"]["y"]["value"] > 0.85
    assert dataset["fine"]["t"]["value"] > 0.85


@pytest.mark.slow
def test_fits_on_the_deterministic_targets_generalise_to_y(found: Answer) -> None:
    fits = found.metrics["fits"]["D_det"]
    assert fits["y_minus_shifted"]["low"] > 0
    assert fits["y"]["low"] > 0.5


def test_the_fits_are_pairs_and_share_their_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit of seed k starts alike and sees the rows in one order, whatever it learns; x' and t go by the recipe."""
    section = read_params(PRESET)["planted"]
    seen: list[tuple[str, torch.Tensor, int]] = []
    made: list[tuple[str, int]] = []

    def trained(model: torch.nn.Module, *_: object, generator: torch.Generator, description: str, **__: object) -> None:
        weights = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
        seen.append((description, weights, generator.initial_seed()))

    def constructed(*args: object, generator: torch.Generator, description: str, **more: object) -> Constructed:
        made.append((description, generator.initial_seed()))
        return construct(*args, generator=generator, **more)  # type: ignore[arg-type]

    monkeypatch.setattr("notbugs.science.common.training.train", trained)
    monkeypatch.setattr(planted_study, "construct", constructed)
    for part in ("invert", "rand", "det"):
        section[part]["num_steps"] = 1
    section |= {"world": {"num_train": 40, "num_test": 40}, "eps": [0.02], "num_steps": 1}
    section["fit"]["seeds"] = [0, 1]
    planted(Lab(seed=0), settings({"planted": section}, "planted", PlantedStudySettings))
    for seed in (0, 1):
        fits = [
            one for one in seen if one[0] in {f"planted: {name}, seed {seed}" for name in ("D_R", "D_rand", "D_det")}
        ]
        assert len(fits) == 3
        assert all(torch.equal(weights, fits[0][1]) and order == fits[0][2] for _, weights, order in fits)
    assert not torch.equal(seen[-1][1], seen[-2][1])  # two seeds
    streams = {
        name: make_generator(0, "planted", "construct", name).initial_seed() for name in ("invert", "random_target")
    }
    assert dict(made)["planted: D_R"] == streams["invert"]
    assert dict(made)["planted: D_rand"] == streams["random_target"]


def test_the_spread_of_the_fits_joins_the_interval() -> None:
    """Two fits of 93% and 85% on 1,000 images: Wilson's interval of the mean, 87 to 91, would hold neither."""
    masks = [torch.arange(1000) < count for count in (934, 849)]
    found = over_fits(masks)
    assert found["value"] == pytest.approx(0.8915)
    assert found["low"] < 0.849 < 0.934 < found["high"]
    five = over_fits([torch.arange(1000) < count for count in (900, 890, 910, 880, 920)])
    assert five["high"] - five["low"] < 0.08


def test_pictures_show_every_class_of_every_kind(untrained: Answer) -> None:
    assert untrained.pictures is not None
    kinds = untrained.pictures.examples["kind"].tolist()
    assert kinds == [kind for kind in ("smooth", "fine", "D", "D_R", "D_rand", "D_det") for _ in range(4)]
    assert untrained.pictures.data.labels.tolist() == [0, 1, 2, 3] * 6
