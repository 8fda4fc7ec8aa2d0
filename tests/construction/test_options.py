"""Options of the recipes: each on a case whose answer is known; at their defaults nothing of them is left."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest
from torch import Tensor, nn

from notbugs.attacks.losses import margin
from notbugs.construction.building import RECIPES, construct, construct_settings, set_up
from notbugs.construction.describe import describe, summarise
from notbugs.construction.recipe import Constructed, RecipeError
from notbugs.construction.settings import ConstructSettings, InvertSettings, TargetSettings
from notbugs.construction.targeting import target_labels
from notbugs.data.images import ImageData
from notbugs.models.base import Classifier
from notbugs.models.ensemble import Ensemble
from notbugs.runtime.errors import ConfigError
from notbugs.testing import check_recipe

INVERT = {"recipe": "invert", "model": "robust", "num_steps": 4, "step_size": 0.05}
TARGET = {"recipe": "random_target", "model": "standard", "num_steps": 4, "step_size": 0.2, "eps": 0.5}
OPTIONS: list[dict[str, Any]] = [
    {"start": "another_image"},
    {"start": "noise"},
    {"recipe": "deterministic_target", "target": "permutation"},
    {"recipe": "deterministic_target", "target": [3, 2, 1, 0, 5, 4, 7, 6, 9, 8]},
    {"target": "next"},
    {"label": "source"},
    {"loss": "margin"},
    {"views": 2},
    {"schedule": "linear"},
    {"momentum": 0.75},
    {"straight_through": True},
    {"start": "noise", "label": "source", "views": 2, "schedule": "linear", "momentum": 0.5, "norm": "linf"},
]
INVERT_OPTIONS: list[dict[str, Any]] = [
    {"start": "noise"},
    {"schedule": "linear"},
    {"momentum": 0.75},
    {"straight_through": True},
    {"normalise_distance": True},
]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).norm(dim=1)


def settings(**changes: Any) -> ConstructSettings:
    section = {**(INVERT if changes.get("recipe") == "invert" else TARGET), **changes}
    return construct_settings(section, "construct.x")


def make(model: Classifier, data: ImageData, **changes: Any) -> Constructed:
    return construct(model, data, **settings(**changes).arguments(), generator=generator())


@pytest.fixture(scope="module")
def base(digits: tuple[ImageData, ImageData]) -> ImageData:
    """D: 60 digits."""
    return digits[0].select(torch.arange(60))


@pytest.fixture(scope="module")
def plain(base: ImageData, standard_model: Classifier) -> Constructed:
    return make(standard_model, base)


def linear_model(num_classes: int = 2, bias: float = 0.0, *last: nn.Module) -> Classifier:
    """Classes of one-channel 2×3 images, whose representation is A·x + bias, perhaps with layers behind it."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), *last)
    model = Classifier(body, 1, 4, num_classes)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator(1))
    body[1].bias.data = torch.full((4,), bias)
    return model.eval()


def grey(count: int = 6, num_classes: int = 2) -> ImageData:
    """Images from whose middle no small step leaves [0, 1]."""
    images = 0.45 + 0.1 * torch.rand(count, 1, 2, 3, generator=generator(2))
    return ImageData(images, torch.arange(count) % num_classes, tuple("abc"[:num_classes]))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_every_option_passes_the_checks_of_recipes(
    options: dict[str, Any], standard_model: Classifier, base: ImageData
) -> None:
    """Among them: the parts, and their order, do not matter."""
    data, config = base.select(slice(0, 24)), settings(**options)
    within = config.eps if getattr(config, "start", "x") == "x" else None
    check_recipe(
        lambda stream: set_up(standard_model, data, **config.scalars(), generator=stream),
        standard_model,
        data,
        eps=within,
    )


@pytest.mark.parametrize("options", INVERT_OPTIONS, ids=str)
def test_every_option_of_inversion_passes_them(
    options: dict[str, Any], robust_model: Classifier, base: ImageData
) -> None:
    data, config = base.select(slice(0, 24)), settings(recipe="invert", **options)
    check_recipe(lambda stream: set_up(robust_model, data, **config.scalars(), generator=stream), robust_model, data)


# Nothing is left of a default


def test_a_manifest_holds_what_it_always_held() -> None:
    """In this order; the bytes of a default dataset's manifest follow from it."""
    stored = ["model", "num_steps", "step_size", "batch_size", "shard_size", "dtype", "recipe"]
    written = {"json": {"mode": "json"}, "python": {}}
    for how in written.values():
        assert list(InvertSettings(**INVERT).model_dump(exclude={"source_seeds"}, **how)) == stored
        targeted = TargetSettings(**TARGET, norm="l2", start="x", views=0, label="target", target=None)
        assert list(targeted.model_dump(exclude={"source_seeds"}, **how)) == [*stored, "norm", "eps"]
    assert list(TargetSettings(**TARGET).model_dump()) == ["model", "source_seeds", *stored[1:], "norm", "eps"]


def test_what_is_not_default_is_stored_and_read_again() -> None:
    changed = {"start": "noise", "target": (1, 0), "label": "source", "views": 3, "momentum": 0.5, "schedule": "linear"}
    config = TargetSettings(**TARGET, **changed)
    stored = config.model_dump(mode="json")
    assert {key: stored[key] for key in changed} == {**changed, "target": [1, 0]}
    assert "straight_through" not in stored
    assert construct_settings(stored, "construct.x") == config


@pytest.mark.parametrize("recipe", ["invert", "random_target", "deterministic_target"])
def test_defaults_that_are_written_out_change_no_byte(recipe: str, base: ImageData, standard_model: Classifier) -> None:
    options = RECIPES[recipe].settings.options
    written = {name: RECIPES[recipe].settings.model_fields[name].default for name in options}
    one, other = (make(standard_model, base, recipe=recipe, **more) for more in ({}, written))
    assert torch.equal(one.data.images, other.data.images)
    assert torch.equal(one.data.labels, other.data.labels)
    assert one.columns.keys() == other.columns.keys()


# start


def test_noise_is_perturbed_within_the_ball_towards_the_same_targets(
    base: ImageData, standard_model: Classifier, plain: Constructed
) -> None:
    made = make(standard_model, base, start="noise", eps=1e-3)
    assert torch.equal(made.data.labels, plain.data.labels)  # an option does not shift what is drawn without it
    assert torch.equal(made.true_labels, base.labels)
    assert made.start_index.tolist() == [-1] * len(base)
    assert float(made.columns["pixel_distance_start"].max()) <= 1e-3 * (1 + 1e-3)
    assert kstest(made.data.images.flatten().double().numpy(), "uniform").pvalue > 1e-4
    assert len({tuple(image.flatten().tolist()) for image in made.data.images}) == len(base)
    reached = make(standard_model, base, start="noise", eps=1.5, num_steps=30)
    success = standard_model(reached.data.images).argmax(dim=1) == reached.data.labels
    assert float(success.float().mean()) > 0.9


def test_another_image_is_perturbed_and_keeps_the_row_s_labels(
    base: ImageData, standard_model: Classifier, plain: Constructed
) -> None:
    made = make(standard_model, base, start="another_image", recipe="deterministic_target")
    assert torch.equal(made.data.labels, (base.labels + 1) % 10)
    assert torch.equal(made.true_labels, base.labels)
    assert (made.start_index != torch.arange(len(base))).all()
    found = distance(made.data.images, base.images[made.start_index])
    assert float(found.max()) <= 0.5 * (1 + 1e-5)
    torch.testing.assert_close(made.columns["pixel_distance_start"], found)
    with pytest.raises(RecipeError, match="start = another_image: D needs at least 2 images, not 1"):
        make(standard_model, base.select(slice(0, 1)), start="another_image")


def test_inversion_from_noise(base: ImageData, robust_model: Classifier) -> None:
    made = make(robust_model, base, recipe="invert", start="noise", num_steps=1, step_size=1e-4)
    assert made.start_index.tolist() == [-1] * len(base)
    assert float(made.columns["pixel_distance_start"].max()) <= 1e-4 * (1 + 1e-3)
    assert kstest(made.data.images.flatten().double().numpy(), "uniform").pvalue > 1e-4
    nearer = make(robust_model, base, recipe="invert", start="noise", num_steps=100)
    before, after = nearer.columns["representation_distance_start"], nearer.columns["representation_distance"]
    assert float(after.median()) < 0.3 * float(before.median())


# target


def test_a_drawn_permutation_is_a_cycle() -> None:
    labels = torch.arange(40) % 10
    found = target_labels("permutation", labels, 10, generator())
    to = found[:10]
    assert torch.equal(found, to[labels])
    place, passed = 0, []
    for _ in range(10):
        place = int(to[place])
        passed.append(place)
    assert sorted(passed) == list(range(10))  # back at 0 after all others
    assert not torch.equal(target_labels("permutation", labels, 10, generator(1)), found)


def test_targets_by_rule_list_and_file(tmp_path: Path) -> None:
    labels = torch.tensor([0, 1, 2, 2])
    assert target_labels("next", labels, 3, generator()).tolist() == [1, 2, 0, 0]
    assert target_labels([2, 0, 1], labels, 3, generator()).tolist() == [2, 0, 1, 1]
    np.save(tmp_path / "t.npy", np.array([1, 1, 0, 2], dtype=np.uint8))
    (tmp_path / "t.csv").write_text("name,label\na,1\nb,1\nc,0\nd,2\n")
    for name in ("t.npy", "t.csv"):
        found = target_labels(str(tmp_path / name), labels, 3, generator())
        assert found.tolist() == [1, 1, 0, 2]
        assert found.dtype == torch.int64


def test_files_lie_relative_to_the_project(tmp_path: Path) -> None:
    config = settings(target="t.npy")
    assert config.files == ("t.npy",)
    assert config.located(tmp_path).scalars()["target"] == str(tmp_path / "t.npy")
    assert config.model_dump()["target"] == "t.npy"
    for other in (settings(), settings(target="random"), settings(recipe="invert")):
        assert other.files == ()
        assert other.located(tmp_path) == other


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.npy", None, "there is no such file"),
        ("t.npy", np.array([0, 1]), r"it holds \(2,\) int64"),
        ("t.npy", np.array([0.0, 1.0, 2.0, 0.5]), r"it holds \(4,\) float64"),
        ("t.npy", np.array([0, 1, 2, 3]), "it holds numbers from 0 to 3"),
        ("t.npy", np.array([0, 1, 2, -1]), "it holds numbers from -1 to 2"),
        ("t.npy", np.array([None, 1, 2, 3], dtype=object), "it cannot be read: ValueError: "),
        ("t.npy", b"nothing", "it cannot be read: "),
        ("t.csv", b"a,b\n1,2\n", "it cannot be read: ValueError: it has no column label, only a, b"),
        ("t.csv", b"label\n1\nx\n0\n2\n", r"it holds \(4,\) (object|str)"),
        ("t.csv", b"", "it cannot be read: EmptyDataError"),
    ],
)
def test_a_file_of_targets_that_does_not_fit_is_one_line(tmp_path: Path, name: str, content: Any, message: str) -> None:
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        np.save(tmp_path / name, content)
    begin = rf"^target = '.*{name}': must hold 4 whole numbers in 0\.\.2, one an image of D; "
    with pytest.raises(RecipeError, match=begin + message) as raised:
        target_labels(str(tmp_path / name), torch.tensor([0, 1, 2, 0]), 3, generator())
    assert "\n" not in str(raised.value)


def test_a_list_for_other_classes_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"target = \[1, 0\]: must hold each of D's classes 0\.\.2 once"):
        target_labels([1, 0], torch.tensor([0, 1, 2]), 3, generator())


# label


def test_untouched_labels_differ_by_the_labels_alone(
    base: ImageData, standard_model: Classifier, robust_model: Classifier
) -> None:
    given = make(standard_model, base, recipe="deterministic_target")
    kept = make(standard_model, base, recipe="deterministic_target", label="source")
    assert torch.equal(kept.data.images, given.data.images)
    assert torch.equal(kept.data.labels, base.labels)
    assert torch.equal(kept.columns["target_label"], given.data.labels)
    facts = [describe(made, base, standard_model, robust_model, others=[robust_model]) for made in (given, kept)]
    for name in ("success", "success_other_seeds", "still_y", "true_label"):
        assert torch.equal(facts[0][name], facts[1][name])  # success is still that of the attack
    summary, before = summarise(facts[1]), summarise(facts[0])
    assert summary["given_is_true"] == 1.0
    assert summary["success_rate"] == before["success_rate"]
    assert summary["robust_model"]["target"] == before["robust_model"]["target"]


def test_kinds_say_which_labels_they_give() -> None:
    det = RECIPES["deterministic_target"]
    assert det.labels_given(settings(recipe="deterministic_target")) == "target"
    assert det.labels_given(settings(recipe="deterministic_target", label="source")) == "source"
    assert RECIPES["invert"].labels_given(settings(recipe="invert")) == "source"


# steps


def test_a_linear_schedule_goes_the_sum_of_its_steps() -> None:
    """Two classes: the gradient has one direction, so steps of 1, 3/4, 2/4, 1/4 of 0.01 go 0.025."""
    data, model = grey(), linear_model()
    arguments = {"recipe": "deterministic_target", "num_steps": 4, "step_size": 0.01}
    far, near = (make(model, data, schedule=schedule, **arguments) for schedule in ("constant", "linear"))
    torch.testing.assert_close(distance(far.data.images, data.images), torch.full((6,), 0.04), rtol=0, atol=1e-5)
    torch.testing.assert_close(distance(near.data.images, data.images), torch.full((6,), 0.025), rtol=0, atol=1e-5)


def test_momentum_changes_nothing_where_the_gradient_keeps_its_direction(
    base: ImageData, standard_model: Classifier, plain: Constructed
) -> None:
    data, model = grey(), linear_model()
    arguments = {"recipe": "deterministic_target", "step_size": 0.01}
    one, other = (make(model, data, momentum=momentum, **arguments).data.images for momentum in (0.0, 0.9))
    torch.testing.assert_close(other, one, rtol=0, atol=1e-5)
    curved = make(standard_model, base, momentum=0.9).data.images
    assert float(distance(curved, plain.data.images).median()) > 0.01


def test_a_schedule_and_momentum_bring_an_inversion_nearer(base: ImageData, robust_model: Classifier) -> None:
    """Constant steps end up to a step away from the goal; steps that fall to 0 end nearer."""
    arguments = {"recipe": "invert", "num_steps": 100, "step_size": 0.1}
    constant, falling = (
        make(robust_model, base, **arguments, **more).columns["representation_distance"].median()
        for more in ({}, {"schedule": "linear", "momentum": 0.75})
    )
    assert float(falling) < 0.7 * float(constant)


def test_views_leave_what_they_show_as_one_and_the_same() -> None:
    """Of a network that sums up the inner pixels, which neither flips nor moves of a black margin change."""
    model = linear_model()
    model.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    model.body[1].weight.data = torch.ones(4, 64)
    images = torch.zeros(6, 1, 8, 8)
    images[:, :, 2:6, 2:6] = 0.5
    data = ImageData(images, torch.arange(6) % 2, ("a", "b"))
    made = make(model, data, recipe="deterministic_target", views=4, num_steps=1, step_size=0.08)
    inner = made.data.images[:, :, 2:6, 2:6] - 0.5
    assert torch.equal(inner.sign(), inner[:, :, :1, :1].sign().expand_as(inner))  # all pixels go the same way
    torch.testing.assert_close(inner.std(dim=(2, 3)), torch.zeros(6, 1), rtol=0, atol=1e-6)
    assert float(inner.abs().min()) > 0.005


def test_views_make_perturbations_that_hold_under_flips_and_moves(base: ImageData, standard_model: Classifier) -> None:
    arguments = {"recipe": "deterministic_target", "eps": 1.5, "num_steps": 20}
    held = []
    for views in (0, 8):
        made = make(standard_model, base, views=views, **arguments)
        shown = made.data.images.flip(3)
        held.append(float((standard_model(shown).argmax(dim=1) == made.data.labels).float().mean()))
    assert held[1] > held[0] + 0.2


def test_straight_through_moves_what_units_that_are_off_hold_back() -> None:
    data, off = grey(), linear_model(2, -50.0, nn.ReLU())
    arguments = {"recipe": "deterministic_target", "num_steps": 2, "step_size": 0.02}
    held, moved = (make(off, data, straight_through=straight, **arguments) for straight in (False, True))
    assert torch.equal(held.data.images, data.images)
    head, weight = off.head.weight.detach(), off.body[1].weight.detach()
    direction = ((head[1] - head[0]) @ weight).view(1, 1, 2, 3)
    towards = torch.where(moved.data.labels == 1, 1.0, -1.0).view(-1, 1, 1, 1)
    expected = data.images + 0.04 * towards * direction / direction.norm()
    torch.testing.assert_close(moved.data.images, expected, rtol=0, atol=1e-5)


def test_straight_through_inverts_what_units_that_are_off_hold_back() -> None:
    """From x', whose units are off, towards x, whose are on: only a straight ReLU has a gradient there."""
    model = linear_model(2, 0.0, nn.ReLU())
    model.body[1].weight.data = torch.eye(4, 6)
    model.body[1].bias.data = torch.full((4,), -0.5)
    images = torch.full((2, 1, 2, 3), 0.4)
    images[1] = 0.7
    data = ImageData(images, torch.tensor([0, 1]), ("a", "b"))
    arguments = {"recipe": "invert", "num_steps": 5, "step_size": 0.02}
    held, moved = (make(model, data, straight_through=straight, **arguments) for straight in (False, True))
    assert torch.equal(held.data.images[1], images[0])
    assert float(distance(moved.data.images[1:], images[:1])) == pytest.approx(0.1, abs=1e-5)
    assert (moved.data.images[1].flatten()[:4] > 0.4).all()


def test_a_normalised_distance_changes_what_is_reported_alone(base: ImageData, robust_model: Classifier) -> None:
    one, other = (make(robust_model, base, recipe="invert", normalise_distance=relative) for relative in (False, True))
    assert torch.equal(one.data.images, other.data.images)
    norms = robust_model.representation(base.images).detach().norm(dim=1)
    for name in ("representation_distance", "representation_distance_start"):
        torch.testing.assert_close(other.columns[name] * norms, one.columns[name])
    assert torch.equal(one.columns["pixel_distance_start"], other.columns["pixel_distance_start"])


# What is impossible

ALLOWED = "must be random, next, permutation, a list that holds each class once"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "y"}, r"start = 'y': must be 'x', 'another_image' or 'noise'"),
        ({"recipe": "invert", "start": "x"}, r"start = 'x': must be 'another_image' or 'noise'"),
        ({"target": "previous"}, rf"target = 'previous': {ALLOWED}"),
        ({"target": "labels.txt"}, rf"target = 'labels\.txt': {ALLOWED}.* a file of labels ending in \.npy or \.csv"),
        ({"target": [0, 0, 1]}, rf"target = \[0, 0, 1\]: {ALLOWED}"),
        ({"target": [1, 2, 3]}, rf"target = \[1, 2, 3\]: {ALLOWED}"),
        ({"target": [True, False]}, rf"target = \[True, False\]: {ALLOWED}"),
        ({"target": 3}, rf"target = 3: {ALLOWED}"),
        (
            {"recipe": "deterministic_target", "target": "random"},
            r"target = 'random': must be next, permutation, a list or a file; recipe random_target has random ones",
        ),
        ({"label": "both"}, r"label = 'both': must be 'target' or 'source'"),
        ({"views": -1}, r"views = -1: must be greater than or equal to 0"),
        ({"views": 1.5}, r"views = 1\.5: must be a valid integer"),
        ({"schedule": "cosine"}, r"schedule = 'cosine': must be 'constant' or 'linear'"),
        ({"momentum": 1.0}, r"momentum = 1\.0: must be less than 1"),
        ({"momentum": -0.1}, r"momentum = -0\.1: must be greater than or equal to 0"),
        ({"momentum": math.nan}, r"momentum = nan: must be"),
        ({"straight_through": "yes"}, r"straight_through = 'yes': must be true or false"),
        ({"normalise_distance": True}, r"normalise_distance: unknown key"),
        ({"recipe": "invert", "views": 2}, r"views: unknown key"),
        ({"recipe": "invert", "normalise_distance": 1}, r"normalise_distance = 1: must be true or false"),
    ],
)
def test_impossible_options_are_one_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^params\.yaml: construct\.x\.{message}") as raised:
        settings(**change)
    assert "\n" not in str(raised.value)


def test_a_network_without_a_relu_has_none_to_pass_through() -> None:
    with pytest.raises(
        ValueError, match=r"straight_through = true: must be false for this source model \(Classifier\)"
    ):
        make(linear_model(), grey(), recipe="deterministic_target", straight_through=True)


def test_another_loss_is_what_is_descended(base: ImageData, standard_model: Classifier, plain: Constructed) -> None:
    """One step from x along the loss's own gradient; the cross-entropy by name changes nothing."""
    assert torch.equal(make(standard_model, base, loss="cross_entropy").data.images, plain.data.images)
    made = make(standard_model, base, loss="margin", num_steps=1, norm="linf", step_size=0.01)
    x = base.images.clone().requires_grad_()
    margin(standard_model.eval()(x), made.data.labels).sum().backward()
    assert x.grad is not None
    wanted = (base.images - 0.01 * x.grad.sign()).clamp(0, 1)
    known = (x.grad.abs() > 1e-6) & (made.data.labels != made.true_labels)[:, None, None, None]
    torch.testing.assert_close(made.data.images[known], wanted[known])


def test_an_ensemble_takes_another_loss_too(
    base: ImageData, standard_model: Classifier, robust_model: Classifier
) -> None:
    both = Ensemble([standard_model, robust_model]).eval()
    usual, other = make(both, base), make(both, base, loss="margin")
    assert not torch.equal(usual.data.images, other.data.images)
    labels = other.data.labels
    with torch.no_grad():
        ours, theirs = (margin(both(made.data.images), labels).mean() for made in (other, usual))
    assert ours < theirs


def test_an_inversion_refuses_a_loss() -> None:
    with pytest.raises(ConfigError, match=r"^params\.yaml: construct\.x\.loss: unknown key; allowed: [^\n]*$"):
        settings(recipe="invert", loss="margin")


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, {}),
        ({"eps": 2.0, "num_steps": 9, "source_seeds": [1], "title": "D_det, strong", "colour": "#123456"}, {}),
        ({"target": "random"}, {}),
        ({"target": "next"}, {"target": "next"}),
        ({"recipe": "deterministic_target", "target": "next"}, {}),
        ({"norm": "linf", "loss": "margin"}, {"norm": "linf", "loss": "margin"}),
        ({"start": "noise", "views": 2, "label": "source"}, {"start": "noise", "views": 2, "label": "source"}),
        ({"model": "", "from": ["standard/0", "robust"]}, {"from": ["standard/0", "robust"]}),
        ({"recipe": "invert", "normalise_distance": True}, {"normalise_distance": True}),
    ],
    ids=str,
)
def test_what_is_not_the_papers_is_told(options: dict[str, Any], found: dict[str, Any]) -> None:
    config = settings(**options)
    assert config.deviations == found
    assert not {"title", "colour"} & set(config.model_dump())


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("title", "", "a text of 1 to 40 characters in one line, [^\\n]*"),
        ("title", "a [/x]", "a text of 1 to 40 characters in one line, without .*"),
        ("title", "_hidden", "a text of 1 to 40 characters in one line, .*"),
        ("title", "D_det, still y", "a text of 1 to 40 characters in one line, .*"),
        ("title", "D\ndet", "a text of 1 to 40 characters in one line, [^\\n]*"),
        ("title", 3, "a valid string"),
        ("colour", "red", "#rrggbb"),
    ],
)
def test_titles_and_colours_that_cannot_be(key: str, value: object, allowed: str) -> None:
    with pytest.raises(ConfigError, match=rf"^params\.yaml: construct\.x\.{key} = [^\n]*: must be {allowed}$"):
        settings(**{key: value})
