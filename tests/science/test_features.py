"""Usefulness against closed forms: linear features, Gaussians, circles; and the errors of what cannot be measured."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from sklearn.decomposition import PCA

from notbugs.data.images import ImageData, make_generator
from notbugs.models.base import Classifier
from notbugs.runtime.errors import UserError
from notbugs.science.common.lab import Lab
from notbugs.science.features.circles import CirclesSettings, circles
from notbugs.science.features.maps import LinearFeatures, Probabilities, principal_components
from notbugs.science.features.study import FeaturesSettings, linear_classifier, study
from notbugs.science.features.usefulness import (
    FeatureError,
    choose,
    features_of,
    kept_share,
    linear_usefulness,
    scale,
    worst,
)


def two_classes(count: int, seed: int) -> ImageData:
    """Images far from 0 and 1 whose class shows in the first two pixels."""
    generator = make_generator(seed, "images")
    labels = torch.arange(count) % 2
    images = 0.5 + 0.02 * torch.randn(count, 1, 4, 4, generator=generator)
    images[:, 0, 0, 0] += 0.05 * (labels * 2 - 1)
    images[:, 0, 0, 1] -= 0.02 * (labels * 2 - 1)
    return ImageData(images.clamp(0.3, 0.7), labels, ("a", "b"))


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("eps", [0.01, 0.08])
def test_pgd_finds_the_closed_form_of_a_linear_feature(norm: str, eps: float) -> None:
    train, test = two_classes(400, 0), two_classes(200, 1)
    directions = torch.randn(5, 1, 4, 4, generator=make_generator(3), dtype=torch.float64)
    features = features_of(LinearFeatures(directions), train)
    rho = features.usefulness(features.signed(test), test.labels)
    gamma = features.usefulness(worst(features, test, eps=eps, norm=norm, num_steps=10), test.labels)
    for before, after, a, std in zip(rho, gamma, directions, features.scaling.std, strict=True):
        closed = linear_usefulness(before.value, a, float(std), eps, norm)
        assert after.value == pytest.approx(closed, abs=1e-4)
        dual = float(a.norm() if norm == "l2" else a.abs().sum())
        assert closed == pytest.approx(before.value - eps * dual / float(std), abs=1e-12)


def test_usefulness_of_a_known_feature() -> None:
    """One pixel of mean ±m and noise s: ρ = m/√(m² + s²)."""
    train, test = two_classes(20_000, 0), two_classes(20_000, 1)
    directions = torch.zeros(1, 1, 4, 4)
    directions[0, 0, 0, 0] = 1
    features = features_of(LinearFeatures(directions), train)
    (found,) = features.usefulness(features.signed(test), test.labels)
    low, high = found.interval(3.3)
    assert low < 0.05 / math.hypot(0.05, 0.02) < high
    assert high - low < 0.03


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """The scale is estimated on few training examples, so an interval that ignored it would be too narrow."""
    truth, covered = 0.05 / math.hypot(0.05, 0.02), 0
    directions = torch.zeros(1, 1, 4, 4)
    directions[0, 0, 0, 0] = 1
    for seed in range(200):
        train, test = two_classes(60, 2 * seed + 10), two_classes(400, 2 * seed + 11)
        features = features_of(LinearFeatures(directions), train)
        (found,) = features.usefulness(features.signed(test), test.labels)
        low, high = found.interval()
        covered += low <= truth <= high
    assert 0.88 <= covered / 200 <= 0.99


def test_class_and_sign_are_chosen_by_the_largest_usefulness() -> None:
    labels = torch.arange(300) % 3
    values = scale(torch.stack([(labels == 2).double(), -(labels == 1).double()], dim=1)).values
    choice = choose(values, labels, 3)
    assert choice.classes.tolist() == [2, 1]
    assert choice.signs.tolist() == [1, -1]
    rho = (values * choice.sides(labels)).mean(dim=0)
    best = 2 * math.sqrt(1 / 3 * 2 / 3)  # of the indicator of a class of share 1/3
    assert rho.tolist() == pytest.approx([best, best], abs=1e-12)


def test_gamma_is_never_above_rho_and_falls_with_eps(
    digits: tuple[ImageData, ImageData], standard_model: Classifier
) -> None:
    train, test = digits[0], digits[1].select(torch.arange(60))
    features = features_of(standard_model, train)
    means = [features.signed(test).mean(dim=0)]
    means += [worst(features, test, eps=eps, num_steps=10).mean(dim=0) for eps in (0.2, 0.6)]
    assert (means[1] < means[0]).all()
    assert (means[2] < means[1]).all()


def test_attacked_probabilities_stay_features_of_the_classifier(
    digits: tuple[ImageData, ImageData], standard_model: Classifier
) -> None:
    features = features_of(Probabilities(standard_model), digits[0])
    assert features.choice.classes.tolist() == list(range(10))
    assert features.choice.signs.tolist() == [1.0] * 10


def test_a_feature_without_variance_is_named() -> None:
    raw = torch.randn(50, 3, generator=make_generator(0))
    raw[:, 1] = 4.0
    with pytest.raises(UserError, match="feature 1: no variance on D, so it cannot be scaled"):
        scale(raw)
    with pytest.raises(FeatureError, match="no variance"):
        linear_usefulness(0.5, torch.ones(3), 0.0, 0.1)
    with pytest.raises(FeatureError, match="none of the 2 features varies on D"):
        features_of(LinearFeatures(torch.zeros(2, 1, 4, 4)), two_classes(20, 0))


def test_a_dead_feature_of_a_network_is_left_out_and_counted() -> None:
    directions = torch.randn(3, 1, 4, 4, generator=make_generator(0))
    directions[1] = 0
    features = features_of(LinearFeatures(directions), two_classes(50, 0))
    assert features.kept.tolist() == [0, 2]
    assert features.num_dead == 1


def test_a_missing_class_is_named() -> None:
    data = two_classes(40, 0)
    lacking = ImageData(data.images, data.labels, ("a", "b", "c"))
    with pytest.raises(FeatureError, match="class 2 has no example: usefulness needs all 3"):
        features_of(LinearFeatures(torch.ones(1, 1, 4, 4)), lacking)


@pytest.mark.parametrize("eps", [0.0, -0.1, math.nan])
def test_eps_must_be_positive(eps: float) -> None:
    data = two_classes(40, 0)
    features = features_of(LinearFeatures(torch.ones(1, 1, 4, 4)), data)
    with pytest.raises(FeatureError, match=r"eps must be > 0"):
        worst(features, data, eps=eps)
    with pytest.raises(FeatureError, match=r"eps must be > 0"):
        linear_usefulness(0.5, torch.ones(3), 1.0, eps)
    with pytest.raises(ValidationError):
        FeaturesSettings(eps=(eps,), headline_eps=0.5)
    with pytest.raises(ValidationError, match="one of eps"):
        FeaturesSettings(eps=(0.1, 0.2), headline_eps=0.5)


def test_principal_components_are_orthonormal_and_in_order() -> None:
    data = two_classes(500, 0)
    images = data.images
    directions = principal_components(data, 10).flatten(1)
    assert torch.allclose(directions @ directions.T, torch.eye(10).double(), atol=1e-9)
    spread = (images.flatten(1).double() @ directions.T).var(dim=0)
    assert spread.tolist() == sorted(spread.tolist(), reverse=True)
    flat = images.clone()
    flat[:, :, 2:] = 0.5
    assert len(principal_components(replace(data, images=flat), 16)) == 8


def test_principal_components_are_those_of_scikit_learn_however_they_are_read(monkeypatch) -> None:
    data = two_classes(500, 0)
    wanted = torch.from_numpy(PCA(10, svd_solver="covariance_eigh").fit(data.images.flatten(1).double()).components_)
    assert torch.equal(principal_components(data, 10).flatten(1), wanted)
    monkeypatch.setattr("notbugs.data.images.PART_BYTES", 4 * 16 * 37)
    torch.testing.assert_close(principal_components(data, 10).flatten(1), wanted, rtol=0, atol=1e-9)


def test_the_share_kept_is_the_slope() -> None:
    before = torch.tensor([0.4, 0.2, 0.1]).double()
    noise = torch.randn(2000, 3, generator=make_generator(1), dtype=torch.float64)
    found = kept_share(before, 0.3 * before + noise - noise.mean(dim=0))
    assert found.value == pytest.approx(0.3, abs=1e-12)
    assert found.standard_error == pytest.approx(1 / math.sqrt(2000 * 0.21), rel=0.1)


def test_concentric_circles() -> None:
    """Raw coordinates are useless, the radius is useful, and nothing is more useful than p(y|x)."""
    settings = CirclesSettings(num_points=20_000, noise=0.2)
    drawn = circles(settings, make_generator(0))
    found = drawn.usefulness()
    for name in ("first coordinate", "second coordinate"):
        assert abs(found[name].value) < 4 * found[name].standard_error
        assert found[name].standard_error < 0.01
    for name in ("radius", "squared radius"):
        assert found[name].interval(4)[0] > 0.5
        assert found["p(y|x)"].value > found[name].value
    best = float((2 * drawn.features["p(y|x)"] - 1).std())  # of all functions: the spread of E[y|x]
    assert found["p(y|x)"].value == pytest.approx(best, abs=0.01)
    x = drawn.points
    for power in range(1, 6):
        for other in (drawn.features["radius"] ** power, x[:, 0] * x[:, 1], x[:, 0] ** power):
            values = scale(other[:, None]).values[:, 0]
            assert abs(float((values * drawn.y).mean())) < found["p(y|x)"].value + 1e-6


def test_the_posterior_of_the_circles_is_calibrated() -> None:
    drawn = circles(CirclesSettings(num_points=40_000, noise=0.25), make_generator(1))
    p = drawn.features["p(y|x)"]
    for low in (0.1, 0.3, 0.5, 0.7):
        inside = (p >= low) & (p < low + 0.2)
        share, count = float((drawn.y[inside] > 0).double().mean()), int(inside.sum())
        assert abs(share - float(p[inside].mean())) < 4 * math.sqrt(0.25 / count)


def test_a_linear_classifier_sees_only_its_features() -> None:
    train, test = two_classes(400, 0), two_classes(200, 1)
    directions = torch.zeros(2, 1, 4, 4)
    directions[0, 0, 0, 0] = directions[1, 0, 3, 3] = 1
    features = features_of(LinearFeatures(directions), train)
    calls = [
        (linear_classifier(features, torch.tensor(columns), train)(test.images).argmax(dim=1) == test.labels)
        .double()
        .mean()
        for columns in ([True, False], [False, True])
    ]
    assert float(calls[0]) > 0.95
    assert float(calls[1]) < 0.65


def test_the_study_measures_every_feature_on_every_dataset(
    digits: tuple[ImageData, ImageData], standard_model: Classifier
) -> None:
    train = digits[0]
    shifted = ImageData(train.images, (train.labels + 1) % 10, train.class_names)
    data = {"train": train, "test": digits[1], "robust": train, "nonrobust": shifted}
    lab = Lab(seed=0, data=data, source_seeds={"robust": 0, "nonrobust": 0})
    settings = FeaturesSettings(
        eps=(0.3,), headline_eps=0.3, num_steps=2, max_examples=40, max_features=4, max_linear=5
    )
    sources = {"standard": standard_model, "linear": LinearFeatures(principal_components(train, 5))}
    rows, summary = study(lab, sources, settings)
    assert len(rows) == (4 + 5) * (2 + 3)
    kept = summary["sources"]["standard"]["kept"]
    assert kept["D_R"]["value"] == pytest.approx(1, abs=1e-6)
    assert kept["D_NR"]["value"] < 0.5
    on_d, same = ([r["value"] for r in rows if r["dataset"] == key] for key in ("D", "D_R"))
    assert on_d == same
    assert rows == study(lab, sources, settings)[0]
