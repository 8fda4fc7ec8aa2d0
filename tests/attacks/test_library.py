"""The adapter: in the ball, deterministic, nothing outside changed, and in agreement with the libraries and ours."""

import importlib
import importlib.util
import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from notbugs.attacks import NORMS, pgd
from notbugs.attacks.engine import Engine
from notbugs.attacks.library import (
    FIXED_EPS,
    MINIMUM_NORM,
    _Plain,
    allows,
    library_attack,
)
from notbugs.attacks.norms import L2Ball
from notbugs.data.images import ImageData
from notbugs.evaluation.accuracy import adversarially_correct, predict
from scaled import Scaled

EPS = 0.5
STEPS = {"apgd_ce": 10, "apgd_t": 5, "fab_t": 5, "square": 40, "ddn": 20, "cw": 20, "fmn": 20, "ead": 20}
SIZES = [*((side, side) for side in range(5, 34)), (5, 33), (33, 5), (12, 24), (19, 14), (6, 7), (64, 64)]
RADII = {"l2": EPS, "linf": 0.1, "l1": 2.0}
ALL_MINIMUM = [(norm, name) for norm in NORMS for name in NORMS[norm].minimised_by]
QUICK_MINIMUM = [
    pytest.param(norm, name, marks=pytest.mark.slow if name == "ead" else ()) for norm, name in ALL_MINIMUM
]
EVERY_ATTACK = [*((norm, name) for norm in ("l2", "l1") for name in FIXED_EPS), *ALL_MINIMUM]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distances(delta: Tensor, norm: str) -> Tensor:
    return NORMS[norm].length(delta)


@pytest.fixture(scope="module")
def few(digits: tuple[ImageData, ImageData]) -> ImageData:
    return digits[1].select(torch.arange(40))


def fooled(model: nn.Module, x_adv: Tensor, data: ImageData) -> Tensor:
    return predict(model, x_adv).argmax(dim=1) != data.labels


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", FIXED_EPS)
def test_fixed_eps_attacks_stay_in_the_ball_and_fool(name, norm, standard_model, few):
    eps = RADII[norm]
    engine = Engine(standard_model, few.images[:8])
    x_adv = library_attack(
        name, engine, few.images, few.labels, norm=norm, eps=eps, num_steps=STEPS[name], generator=generator()
    )
    assert x_adv.shape == few.images.shape
    assert x_adv.dtype == few.images.dtype
    assert float(distances(x_adv - few.images, norm).max()) <= eps * (1 + 1e-5)
    assert float(x_adv.min()) >= 0
    assert float(x_adv.max()) <= 1
    clean = int(fooled(standard_model, few.images, few).sum())
    assert int(fooled(standard_model, x_adv, few).sum()) > clean


@pytest.mark.parametrize(("norm", "name"), ALL_MINIMUM)
def test_minimum_norm_attacks_fool_almost_every_image(norm, name, standard_model, few):
    steps = {"cw": 60, "ead": 50, "fmn": 100 if norm == "l1" else 30}.get(name, 30)
    x_adv = library_attack(
        name, standard_model, few.images, few.labels, norm=norm, num_steps=steps, generator=generator()
    )
    assert float(x_adv.min()) >= 0
    assert float(x_adv.max()) <= 1
    stuck = 3 if (norm, name) == ("l1", "fmn") else 1  # see FMN_STEP_L1
    assert int(fooled(standard_model, x_adv, few).sum()) >= 40 - stuck
    assert float(distances(x_adv - few.images, norm).median()) < 2 * RADII[norm]


def _gradients(model: nn.Module) -> list[Tensor | None]:
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("name", ["apgd_ce", "square"])
def test_the_generator_decides_and_torch_is_left_as_it_was(name, robust_model, few):
    def attack(seed: int) -> Tensor:
        return library_attack(
            name, robust_model, few.images, few.labels, eps=EPS, num_steps=STEPS[name], generator=generator(seed)
        )

    state = torch.get_rng_state()
    modes = [module.training for module in robust_model.modules()]
    gradients = _gradients(robust_model)
    first = attack(0)
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in robust_model.modules()] == modes
    assert all(parameter.requires_grad for parameter in robust_model.parameters())
    assert all(new is old for new, old in zip(_gradients(robust_model), gradients, strict=True))
    torch.rand(7)  # what others draw meanwhile plays no part
    assert torch.equal(attack(0), first)
    assert not torch.equal(attack(1), first)


def test_images_with_channels_work(few):
    """pyautoattack flattens gradients with `view`, which an engine's channels-last ones would not allow."""
    torch_generator = torch.random.fork_rng(devices=[])
    with torch_generator:
        torch.default_generator.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 5))
    x, y = torch.rand(6, 3, 8, 8, generator=generator()), torch.arange(6) % 5
    engine = Engine(model, x)
    for name in FIXED_EPS:
        x_adv = library_attack(name, engine, x, y, eps=0.5, num_steps=3, generator=generator())
        assert float(distances(x_adv - x, "l2").max()) <= 0.5 * (1 + 1e-5)


def test_a_linear_model_is_fooled_at_its_distance():
    """Two classes, w·x: the nearest adversarial image lies |w·x + b|/‖w‖ away."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([torch.zeros(16), torch.linspace(-1, 1, 16)]))
        model[1].bias.copy_(torch.tensor([0.0, 0.3]))
    x = 0.5 + 0.1 * torch.randn(10, 1, 4, 4, generator=generator()).clamp(-1, 1)
    w, b = torch.linspace(-1, 1, 16), 0.3
    score = x.flatten(1) @ w + b
    labels = (score > 0).long()
    expected = (score.abs() / w.norm()).double()
    for name, steps in (("ddn", 300), ("cw", 300)):
        x_adv = library_attack(name, model, x, labels, num_steps=steps, generator=generator())
        found = distances(x_adv - x, "l2")
        assert float((found / expected).min()) > 0.999
        assert float((found / expected).max()) < 1.06


def on_sides(height: int, width: int, count: int = 4) -> tuple[nn.Module, ImageData]:
    """A linear classifier of random images of this size."""
    draw = generator(height * 100 + width)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * height * width, 5))
    with torch.no_grad():
        model[1].weight.copy_(0.1 * torch.randn(model[1].weight.shape, generator=draw))
    images = torch.rand(count, 3, height, width, generator=draw)
    return model, ImageData(images, predict(model, images).argmax(dim=1), tuple("abcde"))


@pytest.mark.parametrize(
    ("height", "width", "norm"),
    [
        *((*size, "l2") for size in SIZES),
        *((*size, norm) for size in ((5, 33), (12, 12), (19, 14), (64, 64)) for norm in NORMS if norm != "l2"),
    ],
)
def test_square_runs_on_every_size(norm, height, width):
    """Its L2 start alone fails on sides of 12, 14, 18, 19 and 24."""
    model, data = on_sides(height, width, 12)
    eps = {"l2": 0.4 * (3 * height * width) ** 0.5, "linf": 0.4, "l1": 0.4 * 3 * height * width}[norm]
    x_adv = library_attack(
        "square", model, data.images, data.labels, norm=norm, eps=eps, num_steps=40, generator=generator()
    )
    assert x_adv.shape == data.images.shape
    assert float(distances(x_adv - data.images, norm).max()) <= eps * (1 + 1e-5)
    assert fooled(model, x_adv, data).any()


@pytest.mark.parametrize("side", [5, 12, 19])
@pytest.mark.parametrize(("norm", "name"), EVERY_ATTACK)
def test_every_attack_runs_on_odd_sizes(norm, name, side):
    model, data = on_sides(side, side + 1)
    if name in FIXED_EPS:
        x_adv = library_attack(
            name, model, data.images, data.labels, norm=norm, eps=1.0, num_steps=5, generator=generator()
        )
    else:
        x_adv = library_attack(name, model, data.images, data.labels, norm=norm, num_steps=30, generator=generator())
        assert fooled(model, x_adv, data).all()
    assert x_adv.shape == data.images.shape


def test_square_is_about_as_strong_on_padded_images(monkeypatch):
    """As on the same images where they need no padding."""
    model, data = on_sides(13, 13, 100)
    counts = []
    for padded in ((13, 13), (15, 15)):
        monkeypatch.setattr("notbugs.attacks.library._tiled", lambda height, width, size=padded: size)
        x_adv = library_attack(
            "square", model, data.images, data.labels, norm="l2", eps=1.2, num_steps=200, generator=generator()
        )
        counts.append(int(fooled(model, x_adv, data).sum()))
    assert 20 < counts[0] < 80
    assert counts[1] > 0.7 * counts[0]


@pytest.mark.parametrize("factors", [(1, 1000), pytest.param((1, 30, 1e-6), marks=pytest.mark.slow)])
@pytest.mark.parametrize(("norm", "name"), [("l2", name) for name in FIXED_EPS] + QUICK_MINIMUM)
def test_the_size_of_the_logits_plays_no_part(norm, name, factors, standard_model, few):
    """The number of images fooled by the same classifier with logits times k, to within two images of forty."""
    eps = RADII[norm]
    counts = {}
    for factor in factors:
        model = Scaled(standard_model, factor)
        arguments = {"norm": norm, "num_steps": 2 * STEPS[name], "generator": generator()}
        if name in FIXED_EPS:
            x_adv = library_attack(name, model, few.images, few.labels, eps=eps, **arguments)
            counts[factor] = int(fooled(model, x_adv, few).sum())
        else:
            x_adv = library_attack(name, model, few.images, few.labels, **arguments)
            near = distances(x_adv - few.images, norm) <= eps
            counts[factor] = int((fooled(model, x_adv, few) & near).sum())
    assert counts[1] > 0
    assert max(counts.values()) - min(counts.values()) <= 2, counts


def test_ordinary_logits_are_handed_on_as_they_are(standard_model, few):
    assert _Plain(standard_model, few.images, few.labels).factor == 1
    for factor in (1e3, 1e-3):
        scaled = _Plain(Scaled(standard_model, factor), few.images, few.labels).factor
        assert math.log2(scaled).is_integer()
        logits = predict(standard_model, few.images) * factor * scaled
        assert 8 < float((logits.amax(dim=1) - logits.amin(dim=1)).median()) < 32


class Unknown(L2Ball):
    """A norm that no library knows."""

    minimised_by = attacked_by = ()


def test_every_attack_that_a_norm_names_is_there():
    for name in NORMS:
        assert set(NORMS[name].minimised_by) <= set(MINIMUM_NORM)
        assert set(NORMS[name].attacked_by) <= set(FIXED_EPS)
    assert {name for norm in NORMS for name in NORMS[norm].minimised_by} == set(MINIMUM_NORM)


def test_what_is_not_defined_is_refused(few):
    two = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    assert not allows("apgd_t", 3, (1, 8, 8))
    assert allows("apgd_t", 4, (1, 8, 8))
    assert not allows("square", 10, (1, 4, 4))
    labels = few.labels % 2
    with pytest.raises(ValueError, match="apgd_t is not defined for 2 classes"):
        library_attack("apgd_t", two, few.images, labels, eps=EPS, num_steps=2, generator=generator())
    with pytest.raises(ValueError, match=r"name must be one of apgd_ce, .*, not 'pgd'"):
        library_attack("pgd", two, few.images, labels, eps=EPS, num_steps=2, generator=generator())
    with pytest.raises(ValueError, match="must be one of fmn for linf, not 'cw'"):
        library_attack("cw", two, few.images, labels, norm="linf", num_steps=2, generator=generator())
    with pytest.raises(ValueError, match="must be one of fmn, ead for l1, not 'ddn'"):
        library_attack("ddn", two, few.images, labels, norm="l1", num_steps=2, generator=generator())
    with pytest.raises(ValueError, match="must be one of none for <class"):
        library_attack("fmn", two, few.images, labels, norm=Unknown, num_steps=2, generator=generator())
    with pytest.raises(ValueError, match=r"eps must be > 0, not 0\.0"):
        library_attack("square", two, few.images, labels, eps=0.0, num_steps=2, generator=generator())


def test_no_images_are_no_work(standard_model, few):
    none = few.select(torch.zeros(40, dtype=torch.bool))
    x_adv = library_attack(
        "apgd_t", standard_model, none.images, none.labels, eps=EPS, num_steps=5, generator=generator()
    )
    assert x_adv.shape == (0, 1, 8, 8)


# Agreement with peers on a trained network


@pytest.fixture(scope="module")
def foolbox() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports from a place that SciPy has moved
        return importlib.import_module("foolbox")


@pytest.mark.slow  # `test_pgd` compares them with fewer steps
@pytest.mark.parametrize("which", ["standard", "robust"])
def test_our_pgd_agrees_with_foolbox(which, foolbox, standard_model, robust_model, digits):
    model, data = (standard_model if which == "standard" else robust_model), digits[1]
    attack = foolbox.attacks.L2PGD(abs_stepsize=2.5 * EPS / 100, steps=100, random_start=False)
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    theirs = attack.run(bounded, data.images, foolbox.criteria.Misclassification(data.labels), epsilon=EPS)
    agree_within_a_point(model, data, theirs)


@pytest.mark.parametrize("which", ["standard", "robust"])
def test_our_pgd_agrees_with_torchattacks(which, standard_model, robust_model, digits):
    if importlib.util.find_spec("torchattacks") is None:
        pytest.skip("torchattacks is not installed: it pins versions that MLflow cannot use")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torchattacks

    model, data = (standard_model if which == "standard" else robust_model), digits[1]
    attack = torchattacks.PGDL2(model, eps=EPS, alpha=2.5 * EPS / 100, steps=100, random_start=False)
    agree_within_a_point(model, data, attack(data.images, data.labels))


def agree_within_a_point(model: nn.Module, data: ImageData, theirs: Tensor) -> None:
    """The last iterates' accuracy is theirs; and what no iterate fooled is no more than that."""
    ours = pgd(model, data.images, data.labels, eps=EPS, step_size=2.5 * EPS / 100, num_steps=100).x_adv
    accuracy = [float((~fooled(model, x_adv, data)).double().mean()) for x_adv in (ours, theirs)]
    assert 0.05 < accuracy[0] < 0.95
    assert accuracy[0] == pytest.approx(accuracy[1], abs=0.01)
    stood = adversarially_correct(model, data, eps=EPS, num_steps=100)
    assert float(stood.double().mean()) == pytest.approx(accuracy[1], abs=0.01)


@pytest.mark.slow
def test_carlini_wagner_agrees_with_foolboxs_own_settings(foolbox, standard_model, few):
    """Ours takes few long steps on the engine; theirs many short ones on the network."""
    bounded = foolbox.PyTorchModel(standard_model, bounds=(0, 1), device="cpu")
    attack = foolbox.attacks.L2CarliniWagnerAttack(binary_search_steps=9, steps=250, stepsize=0.02)
    right = ~fooled(standard_model, few.images, few)
    data = few.select(right)
    theirs = attack.run(bounded, data.images, foolbox.criteria.Misclassification(data.labels))
    engine = Engine(standard_model, data.images[:8])
    ours = library_attack("cw", engine, data.images, data.labels, num_steps=100, generator=generator())
    medians = []
    for x_adv in (ours, theirs):
        norms = distances(x_adv - data.images, "l2")
        norms[~fooled(standard_model, x_adv, data)] = torch.inf
        medians.append(float(norms.median()))
    assert medians[0] == pytest.approx(medians[1], rel=0.05)
