"""A kind of recipe, declared once: settings, algorithm, labels, what the paper says of it; and those of one's own."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from notbugs.construction.recipe import Constructed, Recipe, RecipeError
from notbugs.construction.settings import COLOUR, ConstructSettings
from notbugs.data.images import Images
from notbugs.runtime.errors import one_line
from notbugs.runtime.foreign import tried
from notbugs.runtime.registry import RegistryError

Labels = Literal["target", "source"]
"""What images are labelled as: the class that they are pushed towards, or that of x."""
GREY = "#595959"


@dataclass(frozen=True)
class RecipeKind:
    """A kind of recipe.

    Attributes:
        settings: of its entries in params.yaml, derived from `ConstructSettings`.
        set_up: (model, data, generator=..., **scalars) -> the recipe, ready to make parts. The scalars are the fields
            that the settings add. Where it takes `compiled` it is told whether to compile its engine.
        labels: which ones are given, unless the settings have an option `label` that says another thing.
        section: of the paper, or of whoever it is from.
        says: what is said there of a classifier fitted on such a dataset.
        colour: of its figures, #rrggbb.
    """

    settings: type[ConstructSettings]
    set_up: Callable[..., Recipe]
    labels: Labels = "target"
    section: str = ""
    says: str = ""
    colour: str = GREY

    def labels_given(self, settings: ConstructSettings) -> Labels:
        """Which labels a dataset of these settings has."""
        given: Labels = getattr(settings, "label", self.labels)
        return given

    def takes_compiled(self) -> bool:
        """Whether what sets it up is told to compile."""
        return "compiled" in inspect.signature(self.set_up).parameters


def of_ones_own(given: Any) -> RecipeKind:
    """The kind that a package or a user declares: an object or a class with the attributes of `RecipeKind`.

    Raises: RegistryError for the first that is missing or wrong; to be read after "must be".
    """
    if not hasattr(given, "settings") or not hasattr(given, "set_up"):
        lacking = " and ".join(f"`{name}`" for name in ("settings", "set_up") if not hasattr(given, name))
        raise RegistryError(f"a recipe: an object or a class with `settings` and `set_up`; it has no {lacking}")
    settings = given.settings
    if not (isinstance(settings, type) and issubclass(settings, ConstructSettings)):
        raise RegistryError(f"a recipe whose `settings` is a class derived from ConstructSettings, not {settings!r}")
    _check_set_up(given.set_up, settings)
    more = {name: getattr(given, name) for name in ("labels", "section", "says", "colour") if hasattr(given, name)}
    if more.get("labels", "target") not in get_args(Labels):
        raise RegistryError(f"a recipe whose `labels` is target or source, not {more['labels']!r}")
    for name in ("section", "says"):
        if not isinstance(more.get(name, ""), str):
            raise RegistryError(f"a recipe whose `{name}` is a text, not {more[name]!r}")
    colour = more.get("colour", GREY)
    if not (isinstance(colour, str) and COLOUR.fullmatch(colour)):
        raise RegistryError(f"a recipe whose `colour` is #rrggbb, not {colour!r}")
    return RecipeKind(settings, given.set_up, **more)


def _check_set_up(set_up: Any, settings: type[ConstructSettings]) -> None:
    """Whether it can be called as it will be."""
    own = [name for name in settings.model_fields if name not in ConstructSettings.model_fields]
    wanted = f"(model, data, {', '.join([*own, 'generator'])})"
    if not callable(set_up):
        raise RegistryError(f"a recipe whose `set_up` is a function of {wanted}, not {set_up!r}")
    try:
        signature = inspect.signature(set_up)
        more = {"compiled"} & set(signature.parameters) - set(own)
        signature.bind(None, None, generator=None, **dict.fromkeys([*own, *more]))
    except (TypeError, ValueError) as error:  # ValueError: it does not say what it takes
        raise RegistryError(f"a recipe whose `set_up` is a function of {wanted}: {one_line(error)}") from None


class Watched:
    """A recipe of one's own, whose parts are looked at: what is wrong with one is said in a line.

    Args:
        name: in params.yaml.
        begin: sets it up.
        data: D.
    Raises: RecipeError if it cannot be set up; its `part` if that fails, or gives what no dataset can hold.
    """

    def __init__(self, name: str, begin: Callable[[], Any], data: Images) -> None:
        self._name, self._data = name, data
        self._recipe = self._tried("set_up", begin)
        if not callable(getattr(self._recipe, "part", None)):
            kind = type(self._recipe).__name__
            raise RecipeError(f"recipe {name}: set_up gives a {kind}, which has no method `part(rows)`")

    def part(self, rows: slice) -> Constructed:
        """The examples made from these rows of D."""
        made: Constructed = self._tried("part", lambda: self._recipe.part(rows))
        wrong = self._tried("part", lambda: what_is_wrong(made, self._data, rows))
        if wrong:
            raise RecipeError(f"recipe {self._name}: part: {wrong}")
        return made

    def _tried(self, what: str, work: Callable[[], Any]) -> Any:
        """What a work gives; its failure in one line, with the place of it."""
        return tried(work, lambda line: RecipeError(f"recipe {self._name}: {what} {line}"), in_parts=True)


def what_is_wrong(made: Any, data: Images, rows: slice) -> str:
    """What a dataset cannot be made of, in words; empty if nothing is.

    Args:
        made: what a recipe gave for some rows of D.
        data: D.
    """
    if not isinstance(made, Constructed):
        return f"it must give a Constructed, not a {type(made).__name__}"
    count, images, labels = rows.stop - rows.start, made.data.images, made.data.labels
    expected, num_classes = (count, *data.image_shape), len(data.class_names)
    tensors = (images, labels, made.true_labels, made.start_index, *made.columns.values())
    if any(isinstance(tensor, Tensor) and tensor.device.type != "cpu" for tensor in tensors):
        return "its tensors must lie on the CPU"
    if images.shape != expected:
        return f"images must be {expected}, not {tuple(images.shape)}"
    if images.dtype != torch.float32 or not _all_within(images, 0, 1):
        low, high = float(images.min()), float(images.max())
        return f"images are {images.dtype} in [{low:g}, {high:g}], not float32 in [0, 1]"
    if labels.shape != (count,) or labels.dtype != torch.int64 or not _all_within(labels, 0, num_classes - 1):
        return f"it must give each image a label in 0..{num_classes - 1}, int64"
    if made.data.class_names != data.class_names:
        return "the classes are not those of D"
    if not torch.equal(made.true_labels, data.labels[rows]):
        return "true_labels are not the labels of D"
    if made.start_index.shape != (count,) or not _all_within(made.start_index, -1, len(data) - 1):
        return "start_index must hold a row of D for each image, or -1"
    for name, column in made.columns.items():
        if not isinstance(column, Tensor) or column.shape != (count,):
            shape = tuple(column.shape) if isinstance(column, Tensor) else type(column).__name__
            return f"column {name} must be ({count},), not {shape}"
    return ""


def _all_within(values: Tensor, low: float, high: float) -> bool:
    """Whether all lie between two bounds; what is no number lies nowhere."""
    return bool(((values >= low) & (values <= high)).all())
