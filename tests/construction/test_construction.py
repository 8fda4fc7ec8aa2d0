"""The constructed datasets: the paper's recipes, and the facts reported about every image."""

import math

import pandas as pd
import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks import project_l2
from notbugs.construction.building import construct, construct_settings, parts, recipe_generator, set_up
from notbugs.construction.describe import Untouched, describe, over_sources, summarise
from notbugs.construction.recipe import Constructed, joined
from notbugs.construction.settings import InvertSettings, TargetSettings
from notbugs.construction.targeting import target_labels
from notbugs.data.batches import Resident
from notbugs.data.images import ImageData
from notbugs.data.store import load_dataset, save_dataset
from notbugs.evaluation.accuracy import predict
from notbugs.evaluation.neighbours import nearest_neighbour, neighbour_reference, own_neighbours
from notbugs.models.base import Classifier
from notbugs.pipeline.construct import read_recipe
from notbugs.runtime.errors import ConfigError

INVERT = {"recipe": "invert", "model": "robust", "num_steps": 100, "step_size": 0.05}
TARGET = {"recipe": "random_target", "model": "standard", "num_steps": 20, "step_size": 0.1, "eps": 1.0}
RULES = {"random_target": "random", "deterministic_target": "next"}
COLUMNS = {  # of examples.parquet, beside index, source_index and start_index
    "true_label",
    "given_label",
    "delta_norm",
    "pixel_distance_start",
    "representation_distance",
    "representation_distance_start",
    "probability_true_before",
    "probability_given_before",
    "probability_true_after",
    "probability_given_after",
    "success",
    "success_other_seeds",
    "robust_prediction_before",
    "robust_prediction",
    "neighbour_prediction_before",
    "neighbour_prediction",
    "still_y",
}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).flatten(1).norm(dim=1)


def linear_classifier(weight: Tensor, num_classes: int = 3) -> Classifier:
    """A classifier of one-channel 2x3 images whose representation is A·x."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(weight.shape[1], weight.shape[0], bias=False))
    model = Classifier(body, 1, weight.shape[0], num_classes)
    with torch.no_grad():
        body[1].weight.copy_(weight)
    return model


@pytest.fixture(scope="module")
def base(digits) -> ImageData:
    """D: 120 digits."""
    return digits[0].select(torch.arange(120))


@pytest.fixture(scope="module")
def inverted(base, robust_model) -> Constructed:
    return construct(robust_model, base, **InvertSettings(**INVERT).arguments(), generator=generator())


@pytest.fixture(scope="module")
def targeted(base, standard_model) -> Constructed:
    return construct(standard_model, base, **TargetSettings(**TARGET).arguments(), generator=generator())


def test_plain_arguments_construct_as_settings_do(base, standard_model, targeted):
    plain = {"eps": 1.0, "num_steps": 20, "step_size": 0.1}
    found = construct(standard_model, base, "random_target", **plain, generator=generator())
    assert torch.equal(found.data.images, targeted.data.images)
    with pytest.raises(ValueError, match="recipe = 'x': must be one of invert, random_target, deterministic_target or"):
        construct(standard_model, base, "x", **plain, generator=generator())


# D_R and D_NR


def test_inversion_finds_the_representation(inverted, base, robust_model):
    assert torch.equal(inverted.data.labels, base.labels)
    assert torch.equal(inverted.true_labels, base.labels)
    assert inverted.data.class_names == base.class_names
    with torch.no_grad():
        goal, start, reached = (
            robust_model.representation(x)
            for x in (base.images, base.images[inverted.start_index], inverted.data.images)
        )
    before, after = (start - goal).norm(dim=1), (reached - goal).norm(dim=1)
    torch.testing.assert_close(inverted.columns["representation_distance_start"], before)
    torch.testing.assert_close(inverted.columns["representation_distance"], after, rtol=1e-3, atol=1e-5)
    moved = distance(inverted.data.images, base.images[inverted.start_index])
    torch.testing.assert_close(inverted.columns["pixel_distance_start"], moved)
    assert float(after.median()) < 0.2 * float(before.median())


def test_inversion_of_a_linear_representation():
    """Steps stay in the row space of A: z = x' + A⁺A(x − x'), up to one step, where [0, 1] does not bite."""
    weight = torch.linalg.qr(torch.randn(6, 6, generator=generator()))[0][:2]  # (2, 6), orthonormal rows
    images = 0.45 + 0.1 * torch.rand(20, 1, 2, 3, generator=generator(1))
    data = ImageData(images, torch.arange(20) % 3, ("a", "b", "c"))
    config = InvertSettings(recipe="invert", model="robust", num_steps=300, step_size=0.002)
    found = construct(linear_classifier(weight), data, **config.arguments(), generator=generator())
    x, start = images.flatten(1), images[found.start_index].flatten(1)
    expected = start + (x - start) @ weight.T @ weight
    torch.testing.assert_close(found.data.images.flatten(1), expected, rtol=0, atol=0.0025)
    assert float((found.data.images.flatten(1) - x).norm(dim=1).median()) > 0.03  # and is not x itself


def test_inversion_is_the_plain_loop(base, robust_model):
    """From x', descending ‖g(z) − g(x)‖₂ by normalised steps, clipped to [0, 1]; the last iterate."""
    config = InvertSettings(**{**INVERT, "num_steps": 8})
    found = construct(robust_model, base, **config.arguments(), generator=generator())
    goal = robust_model.representation(base.images).detach()
    z = base.images[found.start_index].clone()
    for _ in range(8):
        z.requires_grad_()
        loss = (robust_model.representation(z) - goal).square().sum(dim=1).sqrt()
        (gradient,) = torch.autograd.grad(loss.sum(), z)
        length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        z = (z.detach() - 0.05 * gradient / length).clamp(0, 1)
    torch.testing.assert_close(found.data.images, z, rtol=0, atol=2e-3)


def test_start_is_a_uniformly_random_other_image():
    count = 6000
    images = torch.rand(count, 1, 2, 3, generator=generator())
    data = ImageData(images, torch.arange(count) % 3, ("a", "b", "c"))
    config = InvertSettings(recipe="invert", model="robust", num_steps=1, step_size=0.01, batch_size=6000)
    start = construct(
        linear_classifier(torch.eye(2, 6)), data, **config.arguments(), generator=generator(1)
    ).start_index
    rows = torch.arange(count)
    assert (start != rows).all()
    assert start.min() >= 0
    assert start.max() < count
    offset = (start - rows) % count
    assert int((offset == 1).sum()) < 10  # not simply the next one
    for values in (start, offset):
        assert chisquare(torch.bincount(values // 600, minlength=10)).pvalue > 1e-4


def test_two_images_start_from_each_other():
    data = ImageData(torch.rand(2, 1, 2, 3, generator=generator()), torch.tensor([0, 1]), ("a", "b", "c"))
    config = InvertSettings(recipe="invert", model="robust", num_steps=1, step_size=0.01)
    assert construct(
        linear_classifier(torch.eye(2, 6)), data, **config.arguments(), generator=generator()
    ).start_index.tolist() == [
        1,
        0,
    ]
    with pytest.raises(ValueError, match="start = another_image: D needs at least 2 images, not 1"):
        construct(
            linear_classifier(torch.eye(2, 6)),
            data.select(torch.tensor([0])),
            **config.arguments(),
            generator=generator(),
        )


# D_rand and D_det


@pytest.mark.parametrize(("norm", "order", "eps"), [("l2", 2.0, 0.6), ("linf", math.inf, 0.1)])
@pytest.mark.parametrize("recipe", ["random_target", "deterministic_target"])
def test_targeted_images_lie_in_the_ball_with_the_labels_given(base, standard_model, norm, order, eps, recipe):
    config = TargetSettings(**{**TARGET, "recipe": recipe, "norm": norm, "eps": eps, "step_size": eps / 5})
    found = construct(standard_model, base, **config.arguments(), generator=generator())
    delta = (found.data.images - base.images).flatten(1)
    lengths = torch.linalg.vector_norm(delta, ord=order, dim=1)
    assert (lengths <= eps * (1 + 1e-5)).all()
    assert float(lengths.median()) > 0.9 * eps
    assert torch.equal(found.data.labels, target_labels(RULES[recipe], base.labels, 10, generator()))
    assert torch.equal(found.true_labels, base.labels)
    assert torch.equal(found.start_index, torch.full((len(base),), -1))
    with torch.no_grad():
        before, after = (
            functional.cross_entropy(standard_model(x), found.data.labels) for x in (base.images, found.data.images)
        )
    assert after < 0.5 * before


def test_target_is_the_plain_loop(base, standard_model):
    """Every example takes all steps and the last iterate stays, also where t is reached at once."""
    config = TargetSettings(**{**TARGET, "num_steps": 6})
    found = construct(standard_model, base, **config.arguments(), generator=generator())
    x = base.images.clone()
    for _ in range(6):
        x.requires_grad_()
        loss = functional.cross_entropy(standard_model(x), found.data.labels, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), x)
        length = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        delta = project_l2(x.detach() - 0.1 * gradient / length - base.images, 1.0)
        x = (base.images + delta).clamp(0, 1)
    torch.testing.assert_close(found.data.images, x, rtol=0, atol=2e-3)
    unmoved = found.data.labels == base.labels  # t = y, reached from the start
    assert unmoved.any()
    assert (distance(found.data.images, base.images)[unmoved] > 0.1).all()


def test_deterministic_targets():
    labels = torch.tensor([0, 4, 9])
    assert target_labels("next", labels, 10, generator()).tolist() == [1, 5, 0]


def test_random_targets_are_uniform_over_all_classes():
    count = 20_000
    labels = torch.arange(count) % 10
    found = target_labels("random", labels, 10, generator())
    assert found.dtype == torch.int64
    for label in range(10):  # whatever y is, each t is as likely, y among them
        counts = torch.bincount(found[labels == label], minlength=10)
        assert chisquare(counts).pvalue > 1e-4
    share = float((found == labels).double().mean())
    assert abs(share - 0.1) <= 4 * math.sqrt(0.09 / count)


# Both


@pytest.mark.parametrize(("which", "change"), [("invert", {"num_steps": 20}), ("target", {})])
def test_batches_do_not_matter(base, standard_model, which, change):
    config = InvertSettings(**{**INVERT, **change}) if which == "invert" else TargetSettings(**TARGET)
    found = [
        construct(
            standard_model, base, **config.model_copy(update={"batch_size": size}).arguments(), generator=generator()
        )
        for size in (500, 120, 17)
    ]
    for other in found[1:]:
        assert torch.equal(other.data.labels, found[0].data.labels)
        assert torch.equal(other.start_index, found[0].start_index)
        apart = distance(other.data.images, found[0].data.images)
        assert float(apart.quantile(0.95)) < 1e-3  # rounding grows over the steps in a few
        assert float(apart.max()) < 0.2


@pytest.mark.parametrize("which", ["invert", "target"])
def test_same_seed_gives_the_same_bytes(base, standard_model, which):
    config = InvertSettings(**{**INVERT, "num_steps": 5}) if which == "invert" else TargetSettings(**TARGET)
    first, again, other = (
        construct(standard_model, base, **config.arguments(), generator=generator(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.data.images, again.data.images)
    assert torch.equal(first.data.labels, again.data.labels)
    assert torch.equal(first.start_index, again.start_index)
    assert not torch.equal(first.data.images, other.data.images)


@pytest.mark.parametrize("which", ["invert", "target"])
def test_the_model_is_left_in_its_mode(base, new_model, which):
    model = new_model(base, width=4).train()
    model.body[1].eval()
    modes = [module.training for module in model.modules()]
    buffers = [value.clone() for value in model.buffers()]
    config = InvertSettings(**{**INVERT, "num_steps": 2}) if which == "invert" else TargetSettings(**TARGET)
    found = construct(model, base, **config.arguments(), generator=generator())
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(buffers, model.buffers(), strict=True))
    evaluating = construct(model.eval(), base, **config.arguments(), generator=generator())
    assert torch.equal(found.data.images, evaluating.data.images)


def test_progress_shows_the_batches(base, standard_model):
    shown = []

    def progress(iterable, description, total=None):
        for item in iterable:
            shown.append((description, item.stop - item.start))
            yield item

    config = TargetSettings(**{**TARGET, "batch_size": 50, "num_steps": 1})
    construct(standard_model, base, **config.arguments(), generator=generator(), progress=progress, description="rand")
    assert shown == [("rand, batches", 50), ("rand, batches", 50), ("rand, batches", 20)]


# The facts reported


@pytest.mark.parametrize("which", ["inverted", "targeted"])
def test_describe_is_complete_and_right(which, request, base, standard_model, robust_model):
    constructed: Constructed = request.getfixturevalue(which)
    columns = describe(constructed, base, standard_model, robust_model, others=[robust_model, standard_model])
    assert set(columns) == COLUMNS
    assert {values.shape for values in columns.values()} == {(len(base),)}
    new, true, given = constructed.data.images, base.labels, constructed.data.labels
    rows = torch.arange(len(base))
    with torch.no_grad():
        before, after = standard_model(base.images).softmax(1), standard_model(new).softmax(1)
        robust, robust_before = robust_model(new).argmax(1), robust_model(base.images).argmax(1)
    neighbour, neighbour_before = _neighbours(new, base), _neighbours(base.images, base)
    assert torch.equal(own_neighbours(base), neighbour_before)
    success = after.argmax(1) == given
    still_y, knew = (robust == true) & (neighbour == true), (robust_before == true) & (neighbour_before == true)
    if which == "inverted":
        assert (still_y & ~knew).any()  # a judge that did not know the image before has no say
    expected = {
        "true_label": true,
        "given_label": given,
        "delta_norm": distance(new, base.images),
        "probability_true_before": before[rows, true],
        "probability_given_before": before[rows, given],
        "probability_true_after": after[rows, true],
        "probability_given_after": after[rows, given],
        "success": success,
        "success_other_seeds": ((robust == given).float() + success.float()) / 2,
        "robust_prediction_before": robust_before,
        "robust_prediction": robust,
        "neighbour_prediction_before": neighbour_before,
        "neighbour_prediction": neighbour,
        "still_y": still_y & knew,
    }
    for name, values in expected.items():
        torch.testing.assert_close(columns[name], values, msg=lambda message, name=name: f"{name}: {message}")
    for name in ("pixel_distance_start", "representation_distance", "representation_distance_start"):
        if which == "targeted":
            assert columns[name].isnan().all(), name
        else:
            assert torch.equal(columns[name], constructed.columns[name])
    assert int(columns["still_y"].sum()) > 0
    assert describe(constructed, base, standard_model, robust_model)["success_other_seeds"].isnan().all()


def _neighbours(images: Tensor, base: ImageData) -> Tensor:
    """Label of the nearest image of `base`, number i left out for image i."""
    found = []
    for i, image in enumerate(images):
        apart = distance(image[None].expand_as(base.images), base.images)
        apart[i] = math.inf
        found.append(int(base.labels[apart.argmin()]))
    return torch.tensor(found)


def test_nearest_neighbour_leaves_the_source_out():
    points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [1.0, 1.0], [0.9, 1.0]]).view(4, 1, 1, 2)
    reference = ImageData(points, torch.tensor([0, 1, 2, 3]), tuple("abcd"))
    assert nearest_neighbour(points, reference).tolist() == [1, 0, 3, 2]
    moved = points.clone()
    moved[0] = torch.tensor([0.9, 0.9]).view(1, 1, 2)
    for batch_size in (1000, 3, 1):
        assert nearest_neighbour(moved, reference, batch_size=batch_size).tolist() == [3, 0, 3, 2]


def test_a_dataset_is_held_where_it_fits_and_read_part_by_part_elsewhere(digits, tmp_path, monkeypatch):
    data = digits[1].select(slice(0, 60))
    table = pd.DataFrame({"index": range(60)})
    save_dataset(tmp_path / "d", data, table, name="D", source="digits", settings={}, shard_size=25, dtype="float16")
    stored = load_dataset(tmp_path / "d")
    held = neighbour_reference(stored)
    assert isinstance(held, Resident)
    assert held.images.dtype == torch.float16
    monkeypatch.setattr("notbugs.data.batches.CPU_BYTES", 0)
    assert neighbour_reference(stored) is stored
    for batch_size in (1000, 7):
        calls = [nearest_neighbour(data.images, one, batch_size=batch_size) for one in (held, stored)]
        assert torch.equal(*calls)
    assert torch.equal(held.select(slice(3, 9)).images, stored.select(slice(3, 9)).images)
    assert (len(held), held.image_shape, held.class_names) == (60, (1, 8, 8), data.class_names)


def test_large_images_are_compared_at_32_pixels():
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(5, 1, 32, 32, generator=generator)
    noise = 0.3 * torch.rand(5, 1, 128, 128, generator=generator)
    blocks = noise - functional.avg_pool2d(noise, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    large = (0.2 + 0.6 * coarse).repeat_interleave(4, 2).repeat_interleave(4, 3) + blocks  # its averages show no noise
    data = ImageData(large.clamp(0, 1), torch.arange(5), tuple("abcde"))
    reference = neighbour_reference(data)
    assert reference.image_shape == (1, 32, 32)
    torch.testing.assert_close(reference.select(slice(0, 5)).images, 0.2 + 0.6 * coarse, rtol=0, atol=2e-3)
    moved = large[[3, 2, 0, 4, 1]].clamp(0, 1)  # none is compared with the image that it was made from
    assert nearest_neighbour(moved, reference).tolist() == [3, 2, 0, 4, 1]
    small = ImageData(coarse, data.labels, data.class_names)
    assert neighbour_reference(small) is small


def test_nearest_neighbour_needs_pairs():
    data = ImageData(torch.zeros(3, 1, 1, 2), torch.zeros(3, dtype=torch.int64), ("a", "b"))
    with pytest.raises(ValueError, match="need a reference for each of images 2 to 4, not 3"):
        nearest_neighbour(data.images[:2], data, first=2)
    with pytest.raises(ValueError, match="each of images 0 to 1, not 1"):
        nearest_neighbour(data.images[:1], data.select(torch.tensor([0])))


def test_summary_by_hand():
    count = 21
    ramp = torch.arange(count).double()
    true = torch.zeros(count, dtype=torch.int64)
    given = torch.where(ramp < 7, 0, 1)
    robust = torch.where(ramp < 14, 0, 1)
    neighbour = torch.where(ramp >= 7, 0, 2)
    robust_before = torch.where(ramp < 7, 1, 0)  # knew the last 14
    neighbour_before = torch.where(ramp < 18, 0, 1)  # knew the first 18
    knew = (robust_before == true) & (neighbour_before == true)  # 7 to 17
    columns = {
        "true_label": true,
        "given_label": given,
        "delta_norm": ramp.flip(0) / 10,
        "pixel_distance_start": torch.full((count,), math.nan),
        "representation_distance": ramp * 2,
        "representation_distance_start": torch.full((count,), math.nan),
        "success": ramp < 3,
        "success_other_seeds": torch.full((count,), 0.25),
        "robust_prediction_before": robust_before,
        "robust_prediction": robust,
        "neighbour_prediction_before": neighbour_before,
        "neighbour_prediction": neighbour,
        "still_y": (robust == true) & (neighbour == true) & knew,
    }
    third = pytest.approx(1 / 3)
    two_thirds = pytest.approx(2 / 3)
    assert summarise(columns) == {
        "num_examples": 21,
        "success_rate": pytest.approx(1 / 7),
        "success_other_seeds": 0.25,
        "given_is_true": third,
        "delta_norm": {"q05": 0.1, "q25": 0.5, "median": 1.0, "q75": 1.5, "q95": 1.9, "mean": 1.0},
        "representation_distance": {"q05": 2, "q25": 10, "median": 20, "q75": 30, "q95": 38, "mean": 20},
        # of the 14 that it knew, 7 are still y; of all 21, 14 are
        "robust_model": {"before": two_thirds, "still_y": 0.5, "still_y_absolute": two_thirds, "target": two_thirds},
        "nearest_neighbour": {
            "before": pytest.approx(18 / 21),
            "still_y": pytest.approx(11 / 18),
            "still_y_absolute": two_thirds,
            "target": pytest.approx(0.0),
        },
        "still_y_both": pytest.approx(7 / 11),
        "num_still_y": 7,
    }


def test_the_share_still_y_of_a_judge_that_knows_little_is_counted_among_what_it_knew():
    """1-NN is right for a third of untouched CIFAR-10 images: untouched, all of them are still y."""
    true = torch.arange(30) % 3
    called = torch.zeros(30, dtype=torch.int64)
    facts = dict.fromkeys(("true_label", "given_label", "robust_prediction", "robust_prediction_before"), true)
    columns = {
        **facts,
        **dict.fromkeys(("neighbour_prediction", "neighbour_prediction_before"), called),
        **dict.fromkeys(("delta_norm", "success_other_seeds"), torch.full((30,), torch.nan)),
        **dict.fromkeys(("pixel_distance_start", "representation_distance"), torch.full((30,), torch.nan)),
        "representation_distance_start": torch.full((30,), torch.nan),
        "success": true == true,
        "still_y": true == 0,
    }
    found = summarise(columns)
    assert found["nearest_neighbour"]["still_y"] == 1.0
    assert found["nearest_neighbour"]["still_y_absolute"] == pytest.approx(1 / 3)
    assert (found["still_y_both"], found["num_still_y"]) == (1.0, 10)
    assert found["success_other_seeds"] is None
    nobody = {**columns, "neighbour_prediction_before": true + 1}
    knew_none = summarise(nobody)
    assert knew_none["nearest_neighbour"]["still_y"] is None
    assert (knew_none["still_y_both"], knew_none["nearest_neighbour"]["before"]) == (None, 0.0)
    means = over_sources({0: found, 1: knew_none})  # no half of a share that nobody could tell
    assert means["nearest_neighbour"]["still_y"] is means["still_y_both"] is None
    assert means["robust_model"]["still_y"] == 1.0


def test_the_metrics_are_means_over_the_sources():
    first = {"n": 3, "share": 0.5, "norm": {"median": 1.0}, "other": None}
    second = {"n": 4, "share": 1.0, "norm": {"median": 4.0}, "other": 0.5}
    assert over_sources({0: first, 3: second}) == {
        "n": 4,
        "share": 0.75,
        "norm": {"median": 2.5},
        "other": None,
        "sources": {"0": first, "3": second},
    }


def test_random_streams_do_not_go_by_name_or_model():
    """D_R and D_NR of one source seed share x'; D_rand and its control share t; other seeds have others."""

    def drawn(recipe: str, model: str, source_seed: int) -> list[int]:
        section = {**(INVERT if recipe == "invert" else TARGET), "recipe": recipe, "model": model}
        stream = recipe_generator(0, construct_settings(section, "construct.x").recipe, source_seed)
        return torch.randint(1000, (5,), generator=stream).tolist()

    for recipe in ("invert", "random_target"):
        assert drawn(recipe, "robust", 1) == drawn(recipe, "standard", 1)
        assert drawn(recipe, "robust", 1) != drawn(recipe, "robust", 2)
    assert drawn("invert", "robust", 1) != drawn("random_target", "robust", 1)


# Settings


def test_settings_follow_the_recipe():
    assert isinstance(construct_settings(INVERT, "construct.robust"), InvertSettings)
    assert isinstance(construct_settings(TARGET, "construct.rand"), TargetSettings)
    assert isinstance(construct_settings({**TARGET, "recipe": "deterministic_target"}, "construct.det"), TargetSettings)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (None, r"construct\.x\.recipe = None: must be one of invert, random_target, deterministic_target"),
        ({"recipe": "rand"}, r"construct\.x\.recipe = 'rand': must be one of invert"),
        ({**INVERT, "eps": 0.5}, r"construct\.x\.eps: unknown key"),
        ({**TARGET, "eps": -0.5}, r"construct\.x\.eps = -0\.5: must be greater than 0"),
        ({**TARGET, "eps": math.inf}, r"construct\.x\.eps = inf: must be a finite number"),
        ({**TARGET, "num_steps": 0}, r"construct\.x\.num_steps = 0: must be greater than or equal to 1"),
        ({**INVERT, "step_size": 0.0}, r"construct\.x\.step_size = 0\.0: must be greater than 0"),
        ({**INVERT, "dtype": "uint8"}, r"construct\.x\.dtype = 'uint8': must be 'float32' or 'float16'"),
        ({**TARGET, "source_seeds": [1, 1]}, r"construct\.x\.source_seeds = \[1, 1\]: must be seeds that differ"),
        ({**TARGET, "source_seeds": []}, r"construct\.x\.source_seeds = \[\]: must be a list of at least 1"),
        ({**TARGET, "norm": "box"}, r"construct\.x\.norm = 'box': must be one of l2, linf, l1 or pack"),
    ],
)
def test_impossible_settings_are_refused(section, message):
    with pytest.raises(ConfigError, match=message):
        construct_settings(section, "construct.x")


def test_a_source_model_that_nobody_trains_is_refused():
    params = {"train": {"standard": {}, "robust": {}}, "construct": {"x": {**INVERT, "model": "strong"}}}
    message = r"^params\.yaml: construct\.x\.model = 'strong': must be an entry of train: standard, robust"
    with pytest.raises(ConfigError, match=message):
        read_recipe(params, "construct.x")


@pytest.mark.cuda
@pytest.mark.parametrize("which", ["invert", "target"])
def test_cuda_agrees_with_the_cpu(base, new_model, which):
    model = new_model(base)
    config = (
        InvertSettings(**{**INVERT, "num_steps": 3})
        if which == "invert"
        else TargetSettings(**{**TARGET, "num_steps": 3})
    )
    expected = construct(model, base, **config.arguments(), generator=generator())
    found = construct(model.cuda(), base, **config.arguments(), generator=generator())
    assert found.data.images.device.type == "cpu"
    assert torch.equal(found.data.labels, expected.data.labels)
    assert torch.equal(found.start_index, expected.start_index)
    assert float(distance(found.data.images, expected.data.images).median()) < 1e-2


def test_what_is_said_of_a_float16_dataset_holds_for_the_stored_images(base, standard_model):
    settings = TargetSettings(**TARGET, dtype="float16")
    images = construct(standard_model, base, **settings.arguments(), generator=generator()).data.images
    assert images.dtype == torch.float32
    assert torch.equal(images, images.half().float())
    full = construct(standard_model, base, **TargetSettings(**TARGET).arguments(), generator=generator()).data.images
    assert 0 < float((images - full).abs().max()) <= 2**-12


# part by part


@pytest.mark.parametrize("settings", [InvertSettings(**{**INVERT, "num_steps": 6}), TargetSettings(**TARGET)])
def test_parts_from_disk_are_the_whole_from_memory(tmp_path, base, robust_model, settings):
    """D read from shards of 50 and made in parts of 32, described part by part: the dataset made at once."""
    save_dataset(
        tmp_path / "d", base, pd.DataFrame({"i": range(120)}), name="D", source="digits", settings={}, shard_size=50
    )
    stored = load_dataset(tmp_path / "d")
    settings = settings.model_copy(update={"batch_size": 32})
    recipe = set_up(robust_model, stored, **settings.scalars(), generator=generator())
    made = {
        rows.start: (part, describe(part, stored, robust_model, robust_model, first=rows.start))
        for rows, part in parts(recipe, len(stored), batch_size=settings.batch_size)
    }
    assert sorted(made) == [0, 32, 64, 96]
    together = joined([part for part, _ in made.values()])
    at_once = construct(
        robust_model, base, **settings.model_copy(update={"batch_size": 120}).arguments(), generator=generator()
    )
    assert torch.equal(together.data.labels, at_once.data.labels)
    assert torch.equal(together.start_index, at_once.start_index)
    torch.testing.assert_close(together.data.images, at_once.data.images, rtol=0, atol=1e-3)
    facts = describe(together, base, robust_model, robust_model)
    known = Untouched(0, predict(robust_model, base), predict(robust_model, base))
    for rows, (part, columns) in ((slice(start, start + 32), made[start]) for start in (0, 32, 64)):
        again = describe(part, stored, robust_model, robust_model, first=rows.start, untouched=known)
        for name, values in columns.items():
            torch.testing.assert_close(again[name], values, rtol=0, atol=1e-4, equal_nan=True)
    for name in ("success", "robust_prediction", "neighbour_prediction", "delta_norm", "pixel_distance_start"):
        in_parts = torch.cat([columns[name] for _, columns in made.values()])
        torch.testing.assert_close(in_parts, facts[name], rtol=0, atol=1e-4, equal_nan=True)


def test_a_part_does_not_depend_on_the_others(base, robust_model):
    settings = InvertSettings(**{**INVERT, "num_steps": 4})
    recipes = [set_up(robust_model, base, **settings.scalars(), generator=generator()) for _ in range(2)]
    recipes[0].part(slice(0, 60))
    late, alone = (recipe.part(slice(60, 120)) for recipe in recipes)
    assert torch.equal(late.data.images, alone.data.images)
