"""What a data source, a classifier or a recipe of one's own must do: run these checks in its tests.

Each check calls the part as the pipeline does, on a CPU in seconds, and raises an AssertionError (or a UserError) whose
one line names what is wrong.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from notbugs.attacks import NORMS, pgd
from notbugs.attacks.modules import all_modules, check_steady, in_train_mode
from notbugs.construction.kind import what_is_wrong
from notbugs.construction.recipe import Constructed, Recipe, joined
from notbugs.data.images import Images, by_parts, fingerprints, make_generator
from notbugs.data.sources import SourceData
from notbugs.evaluation.accuracy import called_by
from notbugs.runtime.errors import UserError

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


def check_recipe(
    set_up: Callable[[torch.Generator], Recipe],
    model: nn.Module,
    data: Images,
    *,
    eps: float | None = None,
    norm: Literal["l2", "linf"] = "l2",
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
        longest = float(NORMS[norm].length(whole.data.images - data.select(slice(0, count)).images).max())
        _require(
            longest <= eps * (1 + 1e-5), f"recipe: an image lies {longest:g} from its own in D, not within {eps:g}"
        )
    differs = _difference(whole, second)
    _require(not differs, f"recipe: {differs} are others when it is set up again with the same seed")
    differs = _difference(whole, joined(last_first[::-1]))
    _require(not differs, f"recipe: {differs} depend on how the dataset is cut into parts")


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
