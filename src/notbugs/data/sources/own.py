"""D from a function of the user's own: `read(root, seed, **kwargs) -> (train, test)`.

root    the project's folder, a Path
seed    of params.yaml; what is drawn should follow from it
kwargs  data.kwargs
train, test
        each an ImageData; or a map-style Dataset of (image, label): a picture of Pillow's or a tensor (C, H, W), uint8
        or floating point in [0, 1], and a whole number from 0. A Dataset may name its classes in `classes` or
        `class_names`. A test of None takes data.test_fraction of train, by class.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from notbugs.data.images import ImageData
from notbugs.data.sources.base import Found, Pool, Source, SourceError, Where
from notbugs.data.sources.items import Channels, Form, as_pictures, attempt, labels_of, pool_of
from notbugs.runtime.registry import RegistryError

READS = ("image_size", "channels", "kwargs")
"""Settings that such a source reads."""


def of_function(function: Any) -> Source:
    """A function of the user's own as a source; a `Source` that a package gives is one already.

    Raises: RegistryError if it cannot be called.
    """
    if isinstance(function, Source):
        return function
    if not callable(function):
        raise RegistryError(f"a function read(root, seed, **kwargs) -> (train, test), not a {type(function).__name__}")
    return Source(partial(read_own, function), READS, in_bytes=None)


def read_own(
    function: Callable[..., Any],
    where: Where,
    *,
    image_size: int | None,
    channels: Channels | None,
    kwargs: Mapping[str, Any] | None,
) -> Found:
    """Call the function, and make pools of what it gives.

    Args:
        function: see the head of this module.
        where: the project, the seed, the progress.
        image_size: that pictures are scaled and cropped to; None for those that are all alike.
        channels: None takes what the first picture has.
        kwargs: further arguments of the function.
    Raises: SourceError, in one line, for whatever the function raises, and if it gives anything else.
    """
    module, called = getattr(function, "__module__", ""), getattr(function, "__qualname__", type(function).__name__)
    what = f"{module}:{called}"
    given = attempt(lambda: function(where.root, where.seed, **(kwargs or {})), what)
    if not isinstance(given, tuple) or len(given) != 2:
        raise SourceError(f"{what}: must give (train, test), not a {type(given).__name__}")
    train, test = given
    names = _class_names(train) or _class_names(test)
    if names is None:
        names = _numbers(train, test)
    form = Form(image_size, channels)
    pool = _pool(train, names, form, f"{what}: train", where)
    held = None if test is None else _pool(test, names or pool.class_names, form, f"{what}: test", where)
    return Found(what, pool, held)


def _class_names(data: Any) -> tuple[str, ...] | None:
    """The names that a dataset gives its classes."""
    for attribute in ("class_names", "classes"):
        names = getattr(data, attribute, None)
        if isinstance(names, list | tuple) and names:
            return tuple(map(str, names))
    return None


def _numbers(*parts: Any) -> tuple[str, ...] | None:
    """A number for each class, where both parts keep their labels: train may lack the last ones."""
    labels = [labels_of(part) for part in parts if hasattr(part, "__len__") and len(part)]
    if not labels or any(found is None for found in labels):
        return None
    return tuple(map(str, range(1 + max(int(found.max()) for found in labels if found is not None))))


def _pool(data: Any, names: tuple[str, ...] | None, form: Form, what: str, where: Where) -> Pool:
    if isinstance(data, ImageData):
        return as_pictures(data.images, data.labels, data.class_names)
    return pool_of(data, names, form, what, where.progress)
