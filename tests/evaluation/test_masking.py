"""Masked models are flagged, each by the checks that it should fail; honest ones are not."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from notbugs.data.images import ImageData
from notbugs.evaluation.masking import Check, Signs, Standing, _changes_nothing, masking_checks
from notbugs.evaluation.suite import audit
from scaled import Scaled

pytestmark = pytest.mark.usefixtures("whole_level")
SETTINGS = {"eps": (0.5,), "headline_eps": 0.5, "headline_num_steps": 40}
NAMES = [
    "logits_finite",
    "headline_close_to_worst",
    "iterative_beats_one_step",
    "white_box_beats_transfer",
    "white_box_beats_noise",
    "more_steps_change_nothing",
    "more_restarts_change_nothing",
    "large_eps_always_succeeds",
    "gradients_not_random",
    "gradients_not_zero",
    "outputs_are_logits",
    "square_does_not_beat_gradients",
]


class Quantised(nn.Module):
    """Rounds every pixel to one of 8 grey values: the derivative is 0 almost everywhere."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network((x * 7).round() / 7)


class Softmax(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return functional.softmax(self.network(x), dim=1)


class Noisy(nn.Module):
    """Adds noise to the image each time."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 0.1 * torch.randn_like(x))


@pytest.fixture(scope="module")
def few(digits: tuple[ImageData, ImageData]) -> ImageData:
    return digits[1].select(torch.arange(60))


def checks_of(model: nn.Module, data: ImageData, source: nn.Module | None = None) -> dict[str, Check]:
    generator = torch.Generator().manual_seed(0)
    found = audit(model, data, **SETTINGS, generator=generator, transfer_from=source)
    return {check.check: check for check in found.checks}


def failed(checks: dict[str, Check]) -> set[str]:
    return {name for name, check in checks.items() if not check.passed}


def test_honest_models_pass_every_check(standard_model, robust_model, few):
    for model, source in ((standard_model, robust_model), (robust_model, standard_model)):
        checks = checks_of(model, few, source)
        assert list(checks) == NAMES
        assert failed(checks) == set()
        assert checks["iterative_beats_one_step"].value < 0
        assert checks["square_does_not_beat_gradients"].threshold == 1 / 60  # one image


def test_a_quantised_input_layer_is_flagged(standard_model, few):
    checks = checks_of(Quantised(standard_model), few, standard_model)
    flagged = {"white_box_beats_transfer", "large_eps_always_succeeds", "gradients_not_zero"}
    assert flagged <= failed(checks)
    assert checks["gradients_not_zero"].value == 1.0
    assert checks["large_eps_always_succeeds"].value > 0.9


@pytest.mark.parametrize("factor", [*(pytest.param(factor, marks=pytest.mark.slow) for factor in (2.0, 1e3)), 1e6])
def test_saturated_logits_are_attacked_all_the_same(factor, standard_model, robust_model, few):
    for model in (standard_model, robust_model):
        assert failed(checks_of(Scaled(model, factor), few, standard_model)) == set()


def test_a_headline_attack_that_is_far_too_weak_is_flagged(standard_model, few):
    """Of tiny logits the cross-entropy sees the mean of all other classes, not the nearest one."""
    checks = checks_of(Scaled(standard_model, 1e-6), few, standard_model)
    assert failed(checks) == {"headline_close_to_worst"}
    assert checks["headline_close_to_worst"].threshold == 0.1


def test_the_gap_to_the_worst_case_counts_images_that_only_other_attacks_fool():
    stands, none = torch.arange(100) < 30, torch.zeros(100, dtype=torch.bool)
    signs = Signs(stands, None, none, none, torch.zeros(100, dtype=torch.float64), none, none, none, none[:0])
    for left, passed in ((20, True), (19, False)):
        worst = torch.arange(100) < left
        checks = masking_checks(Standing(stands, stands, stands, stands, stands, worst, worst), signs)
        check = next(check for check in checks if check.check == "headline_close_to_worst")
        assert check.value == pytest.approx((30 - left) / 100)
        assert check.passed == passed


def test_probabilities_instead_of_logits_are_flagged(standard_model, few):
    checks = checks_of(Softmax(standard_model), few)
    assert "outputs_are_logits" in failed(checks)
    assert checks["outputs_are_logits"].value == 1.0
    assert "white_box_beats_transfer" not in checks  # no other model was given


def test_random_outputs_are_flagged(standard_model, few):
    assert "gradients_not_random" in failed(checks_of(Noisy(standard_model), few))


@pytest.mark.parametrize(("value", "passed"), [(0.01, True), (0.02, True), (0.0201, False), (math.nan, False)])
def test_a_check_passes_up_to_its_threshold(value, passed):
    assert Check("any", value, 0.02).passed is passed


@pytest.mark.parametrize(("before", "after", "passed"), [(1, 0, True), (2, 0, True), (4, 0, False), (60, 40, False)])
def test_one_image_more_is_no_sign_of_masking(before, after, passed):
    """Of a hundred images; after none of a hundred the interval ends at 3.7%."""
    standing = torch.arange(100)
    check = _changes_nothing("more_restarts_change_nothing", standing < before, standing < after)
    assert check.value == pytest.approx((before - after) / 100)
    assert check.passed == passed
