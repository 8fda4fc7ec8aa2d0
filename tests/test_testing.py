"""The checks that parts of one's own must pass: every built-in part does, and each rule catches one that breaks it."""

import hashlib
import io
import itertools
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from notbugs.attacks import Ball, Loss
from notbugs.attacks.losses import margin
from notbugs.attacks.norms import L2Ball
from notbugs.attacks.projections import lengths, project_l2, steepest_l2
from notbugs.construction.building import RECIPES, set_up
from notbugs.construction.recipe import Constructed, Recipe
from notbugs.construction.settings import InvertSettings, TargetSettings
from notbugs.data.images import ImageData, make_generator
from notbugs.data.sources import SOURCES, DataSettings, SourceData, cifar10, load_source
from notbugs.data.sources.planted import PlantedSettings
from notbugs.data.sources.restricted_imagenet import SYNSETS
from notbugs.data.store import save_dataset
from notbugs.models import ARCHITECTURES, create_model
from notbugs.models.base import Classifier
from notbugs.testing import check_classifier, check_loss, check_norm, check_recipe, check_source

# Sources


def write_pictures(root: Path, splits: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """Four random pictures of each class in each split, no two alike."""
    draw = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.fromarray(draw.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(folder / f"{number}.png")


def write_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small archive in the official format, whose checksum is expected."""
    draw, buffer = np.random.default_rng(0), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name in (*cifar10.TRAIN, *cifar10.TEST):
            labels = (np.arange(20) % 10).astype(np.uint8)[:, None]
            rows = np.concatenate([labels, draw.integers(0, 256, (20, 3072), dtype=np.uint8)], axis=1).tobytes()
            entry = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            entry.size = len(rows)
            tar.addfile(entry, io.BytesIO(rows))
    monkeypatch.setattr(cifar10, "SHA256", hashlib.sha256(buffer.getvalue()).hexdigest())
    folder.mkdir(parents=True)
    (folder / cifar10.URL.rpartition("/")[2]).write_bytes(buffer.getvalue())


def pixels(count: int) -> Any:
    """Random bytes, (count, 8, 8, 3)."""
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def write_arrays(root: Path) -> None:
    """The same images as an archive, as a stored dataset and as a parquet file."""
    labels = np.arange(24) % 2
    np.savez(root / "made.npz", images=pixels(24), labels=labels)
    values = torch.from_numpy(pixels(24)).permute(0, 3, 1, 2).float() / 255
    stored = ImageData(values, torch.from_numpy(labels), ("a", "b"))
    save_dataset(root / "kept", stored, pd.DataFrame({"row": range(24)}), name="D", source="x", settings={})
    column = pa.array(values.tolist(), pa.list_(pa.list_(pa.list_(pa.float32()))))
    pq.write_table(pa.table({"image": column, "label": labels}), root / "made.parquet")


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_passes(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of torchvision, of the hub and of one's own are checked beside their tests (tests/data/sources)."""
    more: dict[str, Any] = {"max_train": 200, "max_test": 50}
    made = {"npz": "made.npz", "stored": "kept", "huggingface": "made.parquet"}
    if source in made:
        write_arrays(tmp_path)
        more = {"path": made[source]}
    elif source == "planted":
        more = {"planted": PlantedSettings(num_train=40, num_test=20)}
    elif source == "folder":
        write_pictures(tmp_path / "tree", ("train", "test"), ("cat", "dog"))
        more = {"path": "tree", "image_size": 8}
    elif source == "restricted_imagenet":
        write_pictures(tmp_path / "tree", ("train", "val"), tuple(ids[0] for ids in SYNSETS.values()))
        more = {"path": "tree", "image_size": 8}
    elif source == "cifar10":
        write_cifar10(tmp_path / "data" / "raw", monkeypatch)
        more = {}
    settings = DataSettings(source=source, validation_fraction=0.25, **more)
    check_source(lambda seed: load_source(settings, seed=seed, root=tmp_path))


def images(split: int, seed: int = 0, count: int = 8) -> ImageData:
    """Random images of two classes; those of different splits differ."""
    generator = make_generator(seed, "images", split)
    return ImageData(torch.rand(count, 1, 4, 4, generator=generator), torch.arange(count) % 2, ("a", "b"))


class Split:
    """Some images, with parts of what it says of them replaced."""

    def __init__(self, data: ImageData, **changed: Any) -> None:
        self._data = data
        self.labels, self.class_names, self.image_shape = data.labels, data.class_names, data.image_shape
        self._images = changed.pop("images", data.images)
        self._kept = changed.pop("kept", self._images)
        self._picked = changed.pop("picked", self._images)
        for name, value in changed.items():
            setattr(self, name, value)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: Tensor | slice) -> Any:
        chosen = self._images if isinstance(indices, slice) else self._picked
        return Loose(chosen[indices], self.labels[indices])

    def raw(self, indices: Tensor | slice) -> Tensor:
        return self._kept[indices]


class Loose:
    """Images that nobody looked at; ImageData refuses wrong ones."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels


def source(**splits: Any) -> SourceData:
    parts = {name: splits.get(name, images(number)) for number, name in enumerate(("train", "validation", "test"))}
    counts = {name: len(part) for name, part in parts.items()}
    return SourceData(
        name="mine",
        origins=splits.get("origins", {name: [""] * count for name, count in counts.items()}),
        source_indices={name: torch.arange(count) for name, count in counts.items()},
        skipped=[],
        **parts,
    )


def test_a_source_of_ones_own_passes() -> None:
    check_source(lambda seed: source())
    check_source(lambda seed: source(train=Split(images(0), kept=(images(0).images * 255).byte())))


NUMBERS = itertools.count()


def failing(seed: int) -> SourceData:
    raise RuntimeError("no\nsuch disk")


def with_labels(*labels: int) -> ImageData:
    return ImageData(images(0).images[: len(labels)], torch.tensor(labels), ("a", "b"))


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (failing, r"^source: RuntimeError: no such disk$"),
        (lambda seed: source(train=Split(images(0), class_names=("a", "a"))), "two or more classes of different names"),
        (lambda seed: source(test=images(2).select(slice(0, 0))), "test is empty"),
        (lambda seed: source(test=Split(images(2), class_names=("b", "a"))), "the classes of test are not those of"),
        (
            lambda seed: source(train=Split(images(0), labels=torch.zeros(8))),
            r"labels of train must be \(8,\) int64, not \(8,\) torch.float32",
        ),
        (
            lambda seed: source(validation=Split(images(1), labels=torch.arange(8))),
            r"labels of validation lie in 0\.\.7, not 0\.\.1",
        ),
        (
            lambda seed: source(test=ImageData(torch.rand(8, 1, 5, 5), torch.arange(8) % 2, ("a", "b"))),
            r"images of test are \(1, 5, 5\), not \(1, 4, 4\)",
        ),
        (lambda seed: source(train=Split(images(0), kept=images(0).images.double())), "keeps torch.float64, not uint8"),
        (lambda seed: source(train=Split(images(0), images=images(0).images * 2)), r"\], not float32 in \[0, 1\]"),
        (lambda seed: source(train=Split(images(0), picked=images(0).images.flip(3))), "other images one by one"),
        (lambda seed: source(origins={"train": [], "validation": [], "test": []}), "train has 0 entries for 8"),
        (
            lambda seed: source(train=images(0, seed=next(NUMBERS))),
            "train is another one when it is read again with the same seed, 0",
        ),
        (
            lambda seed: source(train=with_labels(0, 0, 1), validation=images(1).select(torch.tensor([0]))),
            "class b has 1 images in train and validation together",
        ),
        (lambda seed: source(test=images(0)), "8 images lie both in train and test"),
    ],
)  # fmt: skip
def test_each_rule_of_a_source_is_seen_to_fail(read: Callable[[int], SourceData], message: str) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        check_source(read)
    assert "\n" not in str(caught.value)


def test_known_duplicates_may_be_allowed() -> None:
    check_source(lambda seed: source(test=images(0)), allowed_duplicates=8)


# Classifiers


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_passes(architecture: str) -> None:
    check_classifier(lambda: create_model(architecture, (3, 8, 8), tuple("abcd"), width=4), (3, 8, 8), 4)


def test_a_trained_module_passes(standard_model: Classifier) -> None:
    check_classifier(standard_model, (1, 8, 8), 10)


class Plain(nn.Module):
    """A linear classifier of images (1, 4, 4); what is wrong with it is said by its subclasses."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(16, 5)
        self.head = nn.Linear(5, 3)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))

    def representation(self, x: Tensor) -> Tensor:
        return self.body(x.flatten(1)).tanh()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.representation(x))


def kind(forward: Callable[[Any, Tensor], Any], **more: Any) -> Callable[[], nn.Module]:
    return type("Broken", (Plain,), {"forward": forward, **more})


def plain(model: Any, x: Tensor) -> Tensor:
    return Plain.forward(model, x)


def with_batch_statistics() -> nn.Module:
    model = Plain()
    model.body = nn.Sequential(nn.Linear(16, 5), nn.BatchNorm1d(5, track_running_stats=False))
    return model


def by_size(model: Any, x: Tensor) -> Tensor:
    return plain(model, x) * (1 if len(x) > 1 else 2)


def rewriting(model: Any, x: Tensor) -> Tensor:
    x.mul_(0.5)
    return plain(model, x)


def turning(model: Any, x: Tensor) -> Tensor:
    model.training = True
    return plain(model, x)


def dropping(model: Any, x: Tensor) -> Tensor:
    return plain(model, nn.functional.dropout(x, training=True))  # of three logits the same might be dropped twice


def counting(model: Any, x: Tensor) -> Tensor:
    if torch.is_grad_enabled():
        model.head.bias.data += 1
    return plain(model, x)


class Forgetful(Plain):
    """Keeps what it knows in a plain attribute, and each instance knows something else."""

    number = 0

    def __init__(self) -> None:
        super().__init__()
        Forgetful.number += 1
        self.shift = torch.full((3,), float(Forgetful.number)) * torch.arange(3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.shift


class Steadfast(Plain):
    """Knows no modes of its own."""

    def train(self, mode: bool = True) -> "Steadfast":
        return self


def broken_factory() -> nn.Module:
    raise OSError("weights are\nmissing")


@pytest.mark.parametrize(
    ("classifier", "message"),
    [
        (broken_factory, "^classifier: OSError: weights are missing$"),
        (lambda: 3, "the factory gave a int, not a torch module"),
        (Steadfast, r"eval\(\) leaves in train mode: Steadfast"),
        (kind(lambda model, x: model.body(x)), "^classifier: RuntimeError: "),
        (kind(rewriting), "writes on the images that it is given"),
        (kind(turning), "a call puts it into train mode"),
        (kind(lambda model, x: plain(model, x)[:, :2]), r"logits of 6 images must be \(6, 3\), not \(6, 2\)"),
        (kind(lambda model, x: (plain(model, x),)), r"must be \(6, 3\), not tuple"),
        (kind(lambda model, x: plain(model, x).long()), "floating-point numbers, not torch.int64"),
        (kind(lambda model, x: plain(model, x) / 0), "its logits are not finite"),
        (
            kind(lambda model, x: model.head(model.body(x.flatten(1))), representation=None),
            "has no method `representation`",
        ),
        (
            kind(lambda model, x: x.flatten(1)[:, :3], representation=lambda model, x: x),
            r"representation must be \(6, F\) finite numbers, not \(6, 1, 4, 4\)",
        ),
        (with_batch_statistics, "its logits of one image change with the other images of the batch"),
        (kind(by_size), "change with the size of the batch"),
        (kind(dropping), "gives other logits at every call"),
        (kind(lambda model, x: plain(model, x.detach()).detach()), "its logits have no gradient"),
        (kind(lambda model, x: plain(model, x.round())), "the gradient .* is missing, zero, or no number"),
        (kind(lambda model, x: plain(model, x.detach())), "the gradient .* is missing, zero, or no number"),
        (kind(counting), "an attack changed its weights or statistics"),
        (Forgetful, "gives other logits when its state is loaded"),
    ],
)
def test_each_rule_of_a_classifier_is_seen_to_fail(classifier: Any, message: str) -> None:
    check_classifier(Plain, (1, 4, 4), 3)
    with pytest.raises(Exception, match=message) as caught:
        check_classifier(classifier, (1, 4, 4), 3)
    assert caught.type.__name__ in ("AssertionError", "UnsteadyError")
    assert "\n" not in str(caught.value)


def test_without_representation_only_logits_are_asked_for() -> None:
    check_classifier(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), (1, 4, 4), 3, representation=False)


# Recipes

SETTINGS: dict[str, InvertSettings | TargetSettings] = {
    "invert": InvertSettings(recipe="invert", model="robust", num_steps=3, step_size=0.1),
    "random_target": TargetSettings(recipe="random_target", model="standard", eps=0.5, num_steps=3, step_size=0.2),
    "deterministic_target": TargetSettings(
        recipe="deterministic_target", model="standard", norm="linf", eps=0.1, num_steps=3, step_size=0.05
    ),
}


@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_passes(name: str, standard_model: Classifier, digits: tuple[ImageData, ImageData]) -> None:
    data, settings = digits[0].select(slice(0, 24)), SETTINGS[name]
    check_recipe(
        lambda generator: set_up(standard_model, data, **settings.scalars(), generator=generator),
        standard_model,
        data,
        eps=getattr(settings, "eps", None),
        norm=getattr(settings, "norm", "l2"),
    )


class Shifting:
    """Labels each image as the next class, and moves it by noise drawn when it was set up."""

    def __init__(self, data: ImageData, generator: torch.Generator) -> None:
        self.data = data
        self.noise = 0.01 * torch.rand(data.images.shape, generator=generator)

    def part(self, rows: slice) -> Constructed:
        given = self.data.select(rows)
        moved = (given.images + self.noise[rows]).clamp(0, 1)
        made = ImageData(moved, (given.labels + 1) % 2, given.class_names)
        return Constructed(
            made, given.labels, torch.full_like(given.labels, -1), {"length": moved.flatten(1).norm(dim=1)}
        )


def changing(**changes: Callable[[Constructed, slice], Any]) -> type[Shifting]:
    """Shifting, with fields of what it makes replaced."""

    class Changed(Shifting):
        def part(self, rows: slice) -> Constructed:
            made = super().part(rows)
            return replace(made, **{name: change(made, rows) for name, change in changes.items()})

    return Changed


class Impatient(Shifting):
    """Draws while it works."""

    def part(self, rows: slice) -> Constructed:
        made = super().part(rows)
        images = (made.data.images + 0.01 * torch.rand(made.data.images.shape)).clamp(0, 1)
        return replace(made, data=replace(made.data, images=images))


class Restless(Shifting):
    """Draws when it is set up, but not from the generator."""

    def __init__(self, data: ImageData, generator: torch.Generator) -> None:
        super().__init__(data, torch.Generator().manual_seed(int(torch.randint(2**40, ()))))


class Remembering(Shifting):
    """Draws a row's noise when it comes to it, and keeps that."""

    def __init__(self, data: ImageData, generator: torch.Generator) -> None:
        super().__init__(data, generator)
        self.generator, self.kept = generator, dict[int, Tensor]()

    def part(self, rows: slice) -> Constructed:
        for row in range(rows.start, rows.stop):
            self.kept.setdefault(row, 0.01 * torch.rand(self.noise[0].shape, generator=self.generator))
            self.noise[row] = self.kept[row]
        return super().part(rows)


class Failing(Shifting):
    def part(self, rows: slice) -> Constructed:
        raise KeyError("no\nrow")


def reloaded(made: Constructed, **changes: Any) -> Any:
    """The images of a part with changes that ImageData would refuse."""
    data = Loose(made.data.images, made.data.labels)
    data.class_names = made.data.class_names  # type: ignore[attr-defined]
    for name, value in changes.items():
        setattr(data, name, value)
    return data


def first_of_part(made: Constructed, rows: slice) -> ImageData:
    """Labels that depend on where a part begins."""
    return replace(made.data, labels=(made.data.labels + (rows.stop - rows.start) % 2) % 2)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Failing, "^recipe: KeyError: 'no.*row'$"),
        (Restless, "images are others when it is set up again with the same seed"),
        (changing(data=first_of_part), "labels depend on how the dataset is cut"),
        (Remembering, "images depend on how the dataset is cut"),
        (changing(columns=lambda made, rows: {"length": torch.arange(len(made.true_labels)).float()}),
         "columns length depend on how the dataset is cut"),
        (changing(data=lambda made, rows: made.data.select(slice(1, None))), r"must be \(24, 1, 4, 4\), not \(23"),
        (changing(data=lambda made, rows: reloaded(made, images=made.data.images * 3)), r"not float32 in \[0, 1\]"),
        (changing(data=lambda made, rows: reloaded(made, labels=made.data.labels + 5)), r"a label in 0\.\.1"),
        (changing(data=lambda made, rows: reloaded(made, class_names=("b", "a"))), "the classes are not those of D"),
        (changing(true_labels=lambda made, rows: made.data.labels), "true_labels are not the labels of D"),
        (changing(start_index=lambda made, rows: made.start_index + 99), "start_index must hold a row of D"),
        (changing(columns=lambda made, rows: {"length": made.data.images}), r"column length must be \(24,\)"),
        (changing(data=lambda made, rows: replace(made.data, images=1 - made.data.images)), r"lies .* from its own"),
    ],
)  # fmt: skip
def test_each_rule_of_a_recipe_is_seen_to_fail(recipe: Callable[..., Recipe], message: str) -> None:
    data, model = images(0, count=24), Plain()
    check_recipe(lambda generator: Shifting(data, generator), model, data, eps=0.05)
    with pytest.raises(AssertionError, match=message) as caught:
        check_recipe(lambda generator: recipe(data, generator), model, data, eps=0.05)
    assert "\n" not in str(caught.value)


def test_a_recipe_that_draws_while_it_works_is_refused() -> None:
    data = images(0, count=24)
    with pytest.raises(AssertionError, match="images are others when it is set up again"):
        check_recipe(lambda generator: Impatient(data, generator), Plain(), data)


@pytest.mark.parametrize(
    ("disturb", "what"),
    [
        (lambda model: model.train(not model.training), "mode"),
        (lambda model: model.requires_grad_(False), "requires_grad"),
        (lambda model: model.head.bias.data.add_(1), "weights or statistics"),
        (lambda model: model(torch.zeros(1, 1, 4, 4)).sum().backward(), "gradients"),
    ],
)
def test_a_recipe_must_leave_its_model_alone(disturb: Callable[[Any], Any], what: str) -> None:
    data, model = images(0, count=24), Plain()

    def begin(generator: torch.Generator) -> Recipe:
        disturb(model) if what != "mode" or model.training else None
        return Shifting(data, generator)

    with pytest.raises(AssertionError, match=f"recipe: the source model's {what} are not as they were"):
        check_recipe(begin, model, data)


# Norms and losses; that all built-in ones pass is tested beside them


def altered(base: type[Ball] = L2Ball, **changes: Any) -> type[Ball]:
    """A norm with something of it replaced."""
    return type("Altered", (base,), changes)


def unclipped(self: Ball, x: Tensor) -> None:
    x.copy_(self.centre + project_l2(x - self.centre, self.eps))


def too_near(self: Ball, x: Tensor) -> None:
    x.copy_((self.centre + project_l2(x - self.centre, 0.5 * self.eps)).clamp(0, 1))


def whole_batch(self: Ball, x: Tensor) -> None:
    delta = x - self.centre
    x.copy_((self.centre + delta * min(1.0, self.eps / (float(delta.norm()) or 1.0))).clamp(0, 1))


@pytest.mark.parametrize(
    ("norm", "message"),
    [
        (altered(length=staticmethod(lambda delta: delta.norm())), r"length must give \(6,\) floating-point numbers"),
        (altered(length=staticmethod(lambda delta: lengths(delta) ** 2)), "length of three times -δ is not three"),
        (altered(length=staticmethod(lambda delta: 2 * lengths(delta))), "largest_radius, .*, does not hold white"),
        (altered(dual_length=staticmethod(lambda g: 0.5 * lengths(g))), "dual_length is less than what a step"),
        (altered(steepest=staticmethod(lambda g: 2 * steepest_l2(g))), "a step does not have length 1"),
        (altered(steepest=staticmethod(lambda g: -steepest_l2(g))), "a step does not climb"),
        (altered(largest_radius=staticmethod(lambda image: 1.0)), "largest_radius, 1, does not hold white"),
        (altered(project_=unclipped), r"project_ gives images in \[.*\], not in \[0, 1\]"),
        (altered(project_=lambda self, x: x.clamp_(0, 1)), "project_ .*the nearest point|leaves .* from the centre"),
        (altered(project_=too_near), "project_ does not give the nearest point"),
        (altered(project_=whole_batch), "project_ (does not give the nearest|of some examples depends)"),
        (altered(random=staticmethod(lambda like, eps, g: 2 * eps * steepest_l2(like + 1))), "outside the ball"),
        (
            altered(random=staticmethod(lambda like, eps, g: eps * steepest_l2(torch.ones_like(like)))),
            "random points do not depend on the generator",
        ),
        (altered(climb_=lambda self, x, g, step: self.project_(x)), "climb_ does not climb"),
        (altered(select=lambda self, rows: self), "^norm: RuntimeError"),
    ],
)
def test_each_rule_of_a_norm_is_seen_to_fail(norm: type[Ball], message: str) -> None:
    check_norm(altered())
    with pytest.raises(AssertionError, match=message) as caught:
        check_norm(norm)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ("representation_distance", "reads the representation, not logits"),
        (lambda logits, labels: logits, r"must give one value an example, \(8,\), not \(8, 10\)"),
        (lambda logits, labels: None, "must give one value an example, .* not NoneType"),
        (lambda logits, labels: logits[:, 0].detach(), "has no gradient"),
        (lambda logits, labels: 0 * logits[:, 0], "is missing, zero, or no number"),
        (lambda logits, labels: logits[:, 0] / 0, "its values are not finite"),
        (lambda logits, labels: logits[:, 0] - 2 * logits[:, 0].mean(), "depends on the others of its batch"),
        (lambda logits, labels: logits.numpy(), "^loss: RuntimeError: .*requires grad"),
        (Loss(margin, slope=lambda logits, labels: logits), "`slope` does not point where the derivative does"),
    ],
)
def test_each_rule_of_a_loss_is_seen_to_fail(loss: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message) as caught:
        check_loss(loss)
    assert "\n" not in str(caught.value)
