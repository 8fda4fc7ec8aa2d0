"""What a data source, a classifier, a recipe, a norm, a loss or a question of one's own must do: checks for its tests.

Each check calls the part as the pipeline does, on a CPU in seconds, and raises an AssertionError (or a UserError) whose
one line names what is wrong.
"""

import copy
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from notbugs.attacks import pgd
from notbugs.attacks.losses import Loss, loss_of
from notbugs.attacks.modules import all_modules, check_steady, in_train_mode
from notbugs.attacks.norms import Ball, norm_of
from notbugs.construction.kind import what_is_wrong
from notbugs.construction.recipe import Constructed, Recipe, joined
from notbugs.data.images import ImageData, Images, by_parts, fingerprints, make_generator
from notbugs.data.sources import SourceData
from notbugs.data.store import load_dataset, save_dataset
from notbugs.evaluation.accuracy import called_by
from notbugs.models import create_model, load_model, save_model
from notbugs.pipeline.questions import QUESTIONS
from notbugs.pipeline.science import Parts
from notbugs.runtime.config import validate
from notbugs.runtime.errors import UserError
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.question import asked, each_input, of_ones_own

SPLITS = ("train", "validation", "test")
SAME = 1e-4
"""Largest difference between numbers that were computed in batches of different sizes."""


def check_source(read: Callable[[int], SourceData], *, seed: int = 0, allowed_duplicates: int = 0) -> None:
    """Whether a source of D gives splits that the pipeline can learn from, the same for the same seed.

    Args:
        read: seed -> D, as `data.sources.load_source` gives it.
        seed: what it is read with, twice.
        allowed_duplicates: images of one split that may lie in another, too.
    Raises: AssertionError naming the split and what is wrong with it.
    """
    with _naming("source"):
        source = read(seed)
        again = read(seed)
    names = tuple(source.train.class_names)
    _require(len(set(names)) == len(names) >= 2, f"source: needs two or more classes of different names, not {names}")
    contents = {}
    for split in SPLITS:
        data, second = getattr(source, split), getattr(again, split)
        _check_split(split, data, names)
        for start in range(0, len(data), 256):
            _check_images(split, data, slice(start, min(start + 256, len(data))), source.train.image_shape)
        for what, given in (("origins", source.origins), ("source_indices", source.source_indices)):
            count = len(given.get(split, ()))
            _require(count == len(data), f"source: {what} of {split} has {count} entries for {len(data)} images")
        contents[split] = _prints(data)
        same = contents[split] == _prints(second) and data.labels.tolist() == second.labels.tolist()
        _require(same, f"source: {split} is another one when it is read again with the same seed, {seed}")
    learnt = torch.bincount(torch.cat([source.train.labels, source.validation.labels]), minlength=len(names))
    least = int(learnt.argmin())
    _require(
        int(learnt[least]) >= 2,
        f"source: class {names[least]} has {int(learnt[least])} images in train and validation together, not 2 or more",
    )
    for split, other in itertools.combinations(SPLITS, 2):
        shared = len({*contents[split]} & {*contents[other]})
        _require(shared <= allowed_duplicates, f"source: {shared} images lie both in {split} and {other}")


def _check_split(split: str, data: Images, names: tuple[str, ...]) -> None:
    """Classes and labels of a split."""
    count, labels = len(data), data.labels
    _require(count > 0, f"source: {split} is empty")
    _require(tuple(data.class_names) == names, f"source: the classes of {split} are not those of train")
    _require(
        labels.shape == (count,) and labels.dtype == torch.int64,
        f"source: labels of {split} must be ({count},) int64, not {tuple(labels.shape)} {labels.dtype}",
    )
    low, high = int(labels.min()), int(labels.max())
    _require(low >= 0 and high < len(names), f"source: labels of {split} lie in {low}..{high}, not 0..{len(names) - 1}")


def _check_images(split: str, data: Images, rows: slice, shape: tuple[int, ...]) -> None:
    """Some images of a split, as they are kept and as they are looked at."""
    with _naming(f"source: {split}"):
        kept, images = data.raw(rows), data.select(rows).images
        ends = data.select(torch.tensor([rows.start, rows.stop - 1])).images
    for given in (kept, images):
        _require(
            given.shape == (rows.stop - rows.start, *shape),
            f"source: images of {split} are {tuple(given.shape[1:])}, not {shape} as in train",
        )
    _require(kept.dtype in (torch.uint8, torch.float32), f"source: {split} keeps {kept.dtype}, not uint8 or float32")
    _check_range(f"source: images of {split}", images)
    _require(torch.equal(ends, images[[0, -1]]), f"source: {split} gives other images one by one than in a row")


def _prints(data: Images) -> list[int]:
    """What each image is known by."""
    found: list[int] = []
    for part in by_parts(data):
        found += fingerprints(part.images).tolist()
    return found


def check_classifier(
    classifier: nn.Module | Callable[[], nn.Module],
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    representation: bool = True,
) -> None:
    """Whether a network can be measured, attacked, and saved.

    Args:
        classifier: a module, or what makes one, called without arguments (saving is then tried on a second one).
        image_shape: (C, H, W) of the images that it takes, in [0, 1].
        num_classes: K, of its logits.
        representation: whether it must give its penultimate activations by `representation`, as inversion asks it to.
    Raises: AssertionError or UnsteadyError naming what is wrong.
    """
    images = torch.rand(6, *image_shape, generator=make_generator(0, "testing"))
    with _naming("classifier"):
        model = classifier if isinstance(classifier, nn.Module) else classifier()
    _require(isinstance(model, nn.Module), f"classifier: the factory gave a {type(model).__name__}, not a torch module")
    model.eval()
    training = [type(module).__name__ for module in all_modules(model) if in_train_mode(module)]
    _require(not training, f"classifier: eval() leaves in train mode: {', '.join(training)}")
    _check_outputs(model, images, num_classes, representation=representation)
    check_steady(model, images)
    whole = _looked_at(model, images)
    _require(torch.equal(_looked_at(model, images), whole), "classifier: gives other logits at every call")
    alone = torch.cat([_looked_at(model, image[None]) for image in images])
    _require(_close(alone, whole), "classifier: its logits of an image change with the size of the batch")
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    _require(logits.requires_grad, "classifier: its logits have no gradient: it leaves torch, or detaches")
    (gradient,) = torch.autograd.grad(logits.logsumexp(dim=1).sum(), leaf, allow_unused=True)
    _require(
        gradient is not None and bool(gradient.isfinite().all()) and bool(gradient.any()),
        "classifier: the gradient with respect to the image is missing, zero, or no number",
    )
    _check_undisturbed(model, images)
    _check_restored(model, classifier, images, whole)


def _check_outputs(model: nn.Module, images: Tensor, num_classes: int, *, representation: bool) -> None:
    """Logits and representation are what they must be, and the call leaves no traces."""
    given, count = images.clone(), len(images)
    with torch.no_grad(), _naming("classifier"):
        logits = model(given)
    _require(torch.equal(given, images), "classifier: writes on the images that it is given")
    _require(not any(map(in_train_mode, all_modules(model))), "classifier: a call puts it into train mode")
    _require(
        isinstance(logits, Tensor) and logits.shape == (count, num_classes),
        f"classifier: logits of {count} images must be ({count}, {num_classes}), not "
        f"{tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__}",
    )
    _require(logits.is_floating_point(), f"classifier: logits must be floating-point numbers, not {logits.dtype}")
    _require(bool(logits.isfinite().all()), "classifier: its logits are not finite")
    if not representation:
        return
    _require(
        callable(getattr(model, "representation", None)),
        "classifier: has no method `representation`, which inversion asks for (representation=False goes without)",
    )
    with torch.no_grad(), _naming("classifier: representation"):
        features = model.representation(images.clone())  # type: ignore[operator]
    _require(
        features.ndim == 2 and len(features) == count and bool(features.isfinite().all()),
        f"classifier: its representation must be ({count}, F) finite numbers, not {tuple(features.shape)}",
    )


def _check_undisturbed(model: nn.Module, images: Tensor) -> None:
    """Measured and attacked in train mode, a network is afterwards as it was."""
    model.train()
    before = _state(model)
    labels = called_by(model, images)
    pgd(model, images, labels, eps=0.1, num_steps=2, random_start=True, generator=make_generator(0, "testing"))
    changed = _changed(before, _state(model))
    model.eval()
    _require(not changed, f"classifier: an attack changed its {changed}")


def _check_restored(
    model: nn.Module, classifier: nn.Module | Callable[[], nn.Module], images: Tensor, expected: Tensor
) -> None:
    """Its state, written to a file and read into another one, gives the same logits."""
    from safetensors.torch import load, save

    state = {name: tensor.detach().clone().contiguous() for name, tensor in model.state_dict().items()}
    with _naming("classifier: its state cannot be saved and loaded"):
        other = copy.deepcopy(model) if isinstance(classifier, nn.Module) else classifier()
        for tensor in (*other.parameters(), *other.buffers()):
            tensor.detach().zero_()
        other.load_state_dict(load(save(state)))
    _require(
        torch.equal(_looked_at(other.eval(), images), expected),
        "classifier: gives other logits when its state is loaded: some of it is neither parameter nor buffer",
    )


def check_norm(norm: str | type[Ball], image_shape: tuple[int, ...] = (3, 4, 4)) -> None:
    """Whether a norm's lengths, projection, steps and random points fit each other, for every image by itself.

    Args:
        norm: a name in `notbugs.attacks.NORMS`, or a class of balls.
        image_shape: (C, H, W) of the images that it is tried on.
    Raises: AssertionError or RegistryError naming what is wrong.
    """
    kind, draw = norm_of(norm), make_generator(0, "testing")
    images = torch.rand(6, *image_shape, generator=draw)
    images[0], images[1] = 0.0, 1.0
    far, gradient = (torch.randn(images.shape, generator=draw) for _ in range(2))
    with _naming("norm"):
        whole = float(kind.largest_radius(images[0]))
        radii = [share * whole for share in (0.05, 0.3)]
        _check_length(kind, far, whole)
        _check_steps(kind, gradient, far)
        _check_nearest(kind, far)
        for eps in radii:
            _check_ball(kind, images, far, eps)
            _check_random(kind, images, eps)
            _check_descent(kind, images, gradient, eps)


def _check_length(norm: type[Ball], delta: Tensor, whole: float) -> None:
    """It is a norm: one number an example, that scales, is 0 for nothing, and obeys the triangle inequality."""
    for name in ("length", "dual_length"):
        measure = getattr(norm, name)
        found = measure(delta)
        _require(
            isinstance(found, Tensor) and found.shape == (len(delta),) and found.is_floating_point(),
            f"norm: {name} must give ({len(delta)},) floating-point numbers",
        )
        _require(bool((found > 0).all()), f"norm: {name} must be > 0 for what is not 0")
        _require(not measure(0 * delta).any(), f"norm: {name} of 0 must be 0")
        _require(_same(measure(-3 * delta), 3 * found), f"norm: {name} of three times -δ is not three times that of δ")
        joined, apart = measure(delta + delta.flip(0)), found + found.flip(0)
        _require(bool((joined <= apart * (1 + SAME)).all()), f"norm: {name} breaks the triangle inequality")
    corner = torch.ones_like(delta[:1])
    _require(
        float(norm.length(corner)) <= whole * (1 + SAME),
        f"norm: a ball of largest_radius, {whole:g}, does not hold white around black",
    )


def _check_steps(norm: type[Ball], gradient: Tensor, far: Tensor) -> None:
    """A step has length 1 and climbs; nothing of length 1 climbs more than the dual length."""
    step, dual = norm.steepest(gradient.clone()), norm.dual_length(gradient).double()
    _require(step.shape == gradient.shape, f"norm: a step must be {tuple(gradient.shape)}, not {tuple(step.shape)}")
    _require(not norm.steepest(0 * gradient).any(), "norm: the step of a gradient of 0 must be 0")
    _require(_same(norm.length(step), torch.ones(len(step))), "norm: a step does not have length 1")
    gains = (gradient * step).flatten(1).sum(dim=1).double()
    _require(bool((gains > 0).all()), "norm: a step does not climb")
    others = [step, far, gradient, gradient.sign(), _largest_alone(gradient)]
    for other in others:
        gains = (gradient * other).flatten(1).sum(dim=1).double() / norm.length(other).double()
        _require(
            bool((gains <= dual * (1 + SAME)).all()), "norm: dual_length is less than what a step of length 1 gains"
        )


def _largest_alone(gradient: Tensor) -> Tensor:
    """The sign of each example's largest entry, and 0 elsewhere."""
    flat = gradient.flatten(1)
    place = flat.abs().argmax(dim=1, keepdim=True)
    return torch.zeros_like(flat).scatter(1, place, flat.gather(1, place).sign()).view_as(gradient)


def _check_ball(norm: type[Ball], images: Tensor, far: Tensor, eps: float) -> None:
    """The projection is feasible, does nothing to what is feasible, and sees each example by itself."""
    ball = norm(images.clone(), eps)
    x = images + far
    ball.project_(x)
    low, high = float(x.min()), float(x.max())
    _require(low >= 0 and high <= 1, f"norm: project_ gives images in [{low:g}, {high:g}], not in [0, 1]")
    longest = float(norm.length(x - images).max())
    _require(longest <= eps * (1 + 1e-5), f"norm: project_ leaves {longest:g} from the centre, not within {eps:g}")
    again = x.clone()
    ball.project_(again)
    _require(_close_to(again, x), "norm: project_ moves what lies in the ball")
    chosen = torch.tensor([4, 1])
    some = (images + far)[chosen]
    ball.select(chosen).project_(some)
    _require(_close_to(some, x[chosen]), "norm: project_ of some examples depends on the others")
    point = images + far
    norm(images.clone(), 0.0).project_(point)
    _require(torch.equal(point, images), "norm: a ball of radius 0 must hold its centre alone")


def _check_nearest(norm: type[Ball], far: Tensor) -> None:
    """No point of a ball that lies within [0, 1] is nearer than the projection p of y: ⟨y − p, q − p⟩ <= 0 for all q.

    Source: Boyd & Vandenberghe 2004, section 8.1.
    """
    grey = torch.full_like(far, 0.5)
    eps = 0.4 * float(norm.length(_largest_alone(far)).min())  # so that [0, 1] plays no part
    y, projected = grey + far, grey + far
    norm(grey.clone(), eps).project_(projected)
    delta = projected - grey
    draws = [norm.random(far, eps, make_generator(number, "testing")) for number in range(4)]
    for other in (*draws, far, delta, _largest_alone(far), far.sign()):
        length = norm.length(other).to(other.dtype).view(-1, *[1] * (other.ndim - 1))
        beyond = (y - projected) * (eps * other / length - delta)
        _require(float(beyond.flatten(1).sum(dim=1).max()) <= SAME, "norm: project_ does not give the nearest point")


def _check_random(norm: type[Ball], images: Tensor, eps: float) -> None:
    """Random points lie in the ball, and the generator decides them."""
    first, again, other = (norm.random(images, eps, make_generator(seed, "testing")) for seed in (0, 0, 1))
    _require(first.shape == images.shape, f"norm: random must give {tuple(images.shape)}, not {tuple(first.shape)}")
    _require(bool((norm.length(first) <= eps * (1 + 1e-5)).all()), "norm: a random point lies outside the ball")
    _require(torch.equal(first, again), "norm: the same generator gives another random point")
    _require(not torch.equal(first, other), "norm: random points do not depend on the generator")


def _check_descent(norm: type[Ball], images: Tensor, gradient: Tensor, eps: float) -> None:
    """Steps up a slope raise it and steps down lower it; the best point of twenty gains what the dual length allows."""
    for sign in (1.0, -1.0):
        ball, x = norm(images.clone(), eps), images.clone()
        for _ in range(20):
            ball.climb_(x, gradient.clone(), sign * eps / 5)
        gains = sign * (gradient * (x - images)).flatten(1).sum(dim=1).double()
        _require(bool((gains > 0).all()), "norm: climb_ does not climb, or a negative step does not descend")
        most = eps * norm.dual_length(gradient).double()
        _require(bool((gains <= most * (1 + SAME)).all()), "norm: climb_ leaves the ball")


def _same(first: Tensor, second: Tensor) -> bool:
    return bool(first.double().isclose(second.double(), rtol=SAME, atol=0).all())


def _close_to(first: Tensor, second: Tensor) -> bool:
    return bool(first.isclose(second, rtol=0, atol=1e-5).all())


def check_loss(loss: str | Loss | Callable[[Tensor, Tensor], Tensor], num_classes: int = 10) -> None:
    """Whether an attack can climb a loss of logits: one number an example, by itself, with a gradient.

    Args:
        loss: a name in `notbugs.attacks.LOSSES`, a `Loss`, or a function (logits (N, K), labels (N,)) -> (N,).
        num_classes: K of the logits that it is tried on.
    Raises: AssertionError or RegistryError naming what is wrong.
    """
    kind = loss_of(loss)
    _require(kind.reads == "logits", "loss: reads the representation, not logits: only inversion climbs such a one")
    draw = make_generator(0, "testing")
    logits = 5 * torch.randn(8, num_classes, generator=draw)
    labels = torch.randint(num_classes, (8,), generator=draw)
    leaf = logits.clone().requires_grad_()
    with _naming("loss"):
        losses = kind.function(leaf, labels)
    shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
    _require(shape == (8,), f"loss: must give one value an example, (8,), not {shape}")
    _require(bool(losses.isfinite().all()), "loss: its values are not finite")
    _require(losses.requires_grad, "loss: has no gradient: it leaves torch, or detaches")
    (slope,) = torch.autograd.grad(losses.sum(), leaf, allow_unused=True)
    _require(
        slope is not None and bool(slope.isfinite().all()) and bool(slope.any()),
        "loss: its gradient with respect to the logits is missing, zero, or no number",
    )
    _require(torch.equal(leaf.detach(), logits), "loss: writes on the logits")
    with torch.no_grad(), _naming("loss"):
        alone = torch.cat([kind.function(one[None], label[None]) for one, label in zip(logits, labels, strict=True)])
    _require(_close(alone, losses.detach()), "loss: the value of an example depends on the others of its batch")
    if kind.slope is not None:
        told = kind.slope(logits, labels)
        cosine = torch.nn.functional.cosine_similarity(told, slope, dim=1)
        _require(bool((cosine > 1 - SAME).all()), "loss: `slope` does not point where the derivative does")


def check_recipe(
    set_up: Callable[[torch.Generator], Recipe],
    model: nn.Module,
    data: Images,
    *,
    eps: float | None = None,
    norm: str = "l2",
) -> None:
    """Whether a recipe makes a dataset from D in parts, the same for the same seed, however it is cut.

    Args:
        set_up: generator -> the recipe for `model` and `data`; all that is random is drawn here.
        model: the source model that `set_up` gives it.
        data: D, at least 6 images; about 20 will do.
        eps: radius that the images keep to around those of D; None where there is none, or they begin elsewhere.
        norm: of the radius.
    Raises: AssertionError naming what is wrong.
    """
    count = len(data)
    before = _state(model)
    with _naming("recipe"):
        recipe, again, fresh = (set_up(make_generator(0, "testing")) for _ in range(3))
        whole = recipe.part(slice(0, count))
        second = again.part(slice(0, count))
        # by one that has made nothing yet, as a process that begins with a late shard
        last_first = [fresh.part(rows) for rows in (slice(count // 2, count), slice(1, count // 2), slice(0, 1))]
    changed = _changed(before, _state(model))
    _require(not changed, f"recipe: the source model's {changed} are not as they were")
    wrong = what_is_wrong(whole, data, slice(0, count))
    _require(not wrong, f"recipe: {wrong}")
    if eps is not None:
        longest = float(norm_of(norm).length(whole.data.images - data.select(slice(0, count)).images).max())
        _require(
            longest <= eps * (1 + 1e-5), f"recipe: an image lies {longest:g} from its own in D, not within {eps:g}"
        )
    differs = _difference(whole, second)
    _require(not differs, f"recipe: {differs} are others when it is set up again with the same seed")
    differs = _difference(whole, joined(last_first[::-1]))
    _require(not differs, f"recipe: {differs} depend on how the dataset is cut into parts")


def check_question(question: Any, lab: Lab | None = None, *, settings: Mapping[str, Any] | None = None) -> None:
    """Whether a question of the science gives an answer that can be stored, the same for the same seed.

    Args:
        question: a `Question` or what declares one, or a name that the section `science` can hold.
        lab: what it is asked in; by default a made-up one that holds its inputs: 48 images (1, 8, 8) of two classes as
            D's train, 16 as test, constructions of them, untrained small networks.
        settings: its entry in params.yaml, but for `study`.
    Raises: AssertionError, RegistryError or ConfigError naming what is wrong.
    """
    name = question if isinstance(question, str) else "here:question"
    found = QUESTIONS[name] if isinstance(question, str) else of_ones_own(question)
    given = validate({"study": name, **(settings or {})}, "science.NAME", found.settings)
    with TemporaryDirectory() as folder:
        lab = lab or _made_up_lab(found.inputs, Path(folder))
        before = {model: _state(network) for model, network in lab.models.items()}
        with _naming("question"):
            first, second, *resumed = (
                asked(found, one, given, "science.NAME", name) for one in _again_and_again(lab, Path(folder))
            )
    for model, network in lab.models.items():
        changed = _changed(before[model], _state(network))
        _require(not changed, f"question: the {changed} of the source model {model} are not as they were")
    otherwise = "question: answers otherwise when it is asked again"
    _require(_said(first) == _said(second), f"{otherwise} with the same seed: draw from make_generator")
    for answer in resumed:
        kept = f"{otherwise} with the parts that `load_or_make` kept: draw each from a generator of its own"
        _require(_said(first) == _said(answer), kept)


def _said(answer: Answer) -> str:
    return json.dumps([answer.metrics, answer.says])


def _again_and_again(lab: Lab, folder: Path) -> Iterator[Lab]:
    """A lab for a first time and a second; and for a third as after a kill, where the first kept parts of the work."""
    for kept in ("first", "second"):
        yield replace(lab, load_or_make=Parts(folder / kept))
    if (folder / "first").exists():
        yield replace(lab, load_or_make=Parts(folder / "first"))


def _made_up_lab(inputs: tuple[str, ...], folder: Path) -> Lab:
    """A lab that holds what a question reads.

    Args:
        inputs: of the question.
        folder: for the files.
    """
    draw = make_generator(0, "testing", "lab")
    parts = [path.rsplit("/", 1) for path in each_input(inputs, ("robust", "nonrobust", "rand", "det"))]
    data: dict[str, Any] = {}
    for name in dict.fromkeys(name for kind, name in parts if kind == "data"):
        count = 16 if name in ("validation", "test") else 48
        labels = torch.arange(count) % 2
        images = ImageData(
            (torch.rand(count, 1, 8, 8, generator=draw) + labels[:, None, None, None]) / 2, labels, ("a", "b")
        )
        table = pd.DataFrame({"index": range(count), "label": labels.numpy()})
        save_dataset(folder / name, images, table, name=name, source="testing", settings={})
        data[name] = load_dataset(folder / name)
    files: dict[tuple[str, str], list[Path]] = {}
    for kind, name in parts:
        if kind != "data":
            file = folder / kind / f"{name}.safetensors"
            save_model(create_model("small_cnn", (1, 8, 8), ("a", "b"), width=2, generator=draw).eval(), file)
            files[kind, name] = [file]
    constructed = [name for kind, name in parts if kind != "models/train" and name not in SPLITS]
    return Lab(
        seed=0,
        data=data,
        source_seeds=dict.fromkeys(constructed, 0),
        models={name: load_model(file) for (kind, name), (file,) in files.items() if kind == "models/train"},
        trained={name: found for (kind, name), found in files.items() if kind == "models/train"},
        fitted={name: found for (kind, name), found in files.items() if kind == "models/fit"},
    )


def _difference(first: Constructed, second: Constructed) -> str:
    """What differs between two runs of a recipe, in words; empty if nothing does beyond rounding."""
    pairs: dict[str, tuple[Tensor, Tensor]] = {
        "labels": (first.data.labels, second.data.labels),
        "start_index": (first.start_index, second.start_index),
        "images": (first.data.images, second.data.images),
    }
    for name in first.columns:
        pairs[f"columns {name}"] = (first.columns[name], second.columns[name])
    return next((name for name, (one, other) in pairs.items() if not _close(one, other)), "")


def _close(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors are equal; 99 in 100 of floating-point numbers to rounding, on which a sign may hang."""
    if first.shape != second.shape or not first.is_floating_point():
        return torch.equal(first, second)
    return float(first.isclose(second, rtol=SAME, atol=SAME, equal_nan=True).double().mean()) >= 0.99


@torch.no_grad()
def _looked_at(model: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = model(images.clone())
    return logits


def _state(model: nn.Module) -> Mapping[str, Any]:
    """All of a network that measuring and attacking must leave alone."""
    parameters = list(model.parameters())
    return {
        "weights or statistics": {name: tensor.detach().clone() for name, tensor in model.state_dict().items()},
        "mode": [in_train_mode(module) for module in all_modules(model)],
        "requires_grad": [parameter.requires_grad for parameter in parameters],
        "gradients": [parameter.grad is None for parameter in parameters],
    }


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What differs, in words; empty if nothing does."""
    for what, value in before.items():
        now = after[what]
        if isinstance(value, dict):
            same = all(torch.equal(tensor, now[name]) for name, tensor in value.items())
        else:
            same = value == now
        if not same:
            return what
    return ""


def _check_range(what: str, images: Tensor) -> None:
    low, high = float(images.min()), float(images.max())
    _require(
        images.dtype == torch.float32 and low >= 0 and high <= 1,
        f"{what} are {images.dtype} in [{low:g}, {high:g}], not float32 in [0, 1]",
    )


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


@contextmanager
def _naming(what: str) -> Iterator[None]:
    """Say in one line what a part raises; a UserError says it itself."""
    try:
        yield
    except (UserError, AssertionError):
        raise
    except Exception as error:  # other people's code may raise anything
        text = " ".join(str(error).split())[:200]
        raise AssertionError(f"{what}: {type(error).__name__}: {text}") from error
