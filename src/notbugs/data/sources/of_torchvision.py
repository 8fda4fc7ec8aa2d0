"""Classification datasets of torchvision, downloaded by it into data/raw, whose files it checks.

Its CIFAR-10 and CIFAR-100 are pickles. torchvision compares their MD5 before it opens them.
"""

import inspect
import socket
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from notbugs.data.sources.base import Found, Pool, SourceError, Where
from notbugs.data.sources.classes import without_empty
from notbugs.data.sources.items import Channels, Form, attempt, pool_of
from notbugs.runtime.config import suggestion
from notbugs.runtime.errors import one_line
from notbugs.runtime.registry import RegistryError

TIMEOUT = 30.0
"""Seconds without an answer after which a download counts as failed."""


class Division(NamedTuple):
    """How a dataset is divided.

    Attributes:
        argument: of its class, that names a part; None for datasets of one part.
        train, test: its values.
    """

    argument: Literal["train", "split"] | None
    train: Any = None
    test: Any = None


_BY_FLAG = Division("train", True, False)
_BY_NAME = Division("split", "train", "test")
_WITH_VALIDATION = Division("split", "train", "val")
_TRAINVAL = Division("split", "trainval", "test")
_WHOLE = Division(None)
DATASETS: dict[str, Division] = {
    **dict.fromkeys(("MNIST", "FashionMNIST", "KMNIST", "QMNIST", "EMNIST", "CIFAR10", "CIFAR100", "USPS"), _BY_FLAG),
    **dict.fromkeys(("SVHN", "STL10", "GTSRB", "PCAM", "Flowers102", "Food101", "DTD", "Country211"), _BY_NAME),
    **dict.fromkeys(("FER2013", "RenderedSST2", "StanfordCars"), _BY_NAME),
    **dict.fromkeys(("Imagenette", "ImageNet", "CLEVRClassification"), _WITH_VALIDATION),
    **dict.fromkeys(("FGVCAircraft", "OxfordIIITPet"), _TRAINVAL),
    "Places365": Division("split", "train-standard", "val"),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "SEMEION", "SUN397"), _WHOLE),
}
"""torchvision's classification datasets -> how each is divided; one of one part is divided by `data.test_fraction`."""


def require_known(name: str) -> None:
    """Raises: RegistryError if torchvision has no dataset of that name that is one of classification."""
    if name not in DATASETS:
        raise RegistryError(f"a classification dataset of torchvision.datasets{suggestion(name, list(DATASETS))}")


def read_torchvision(
    name: str,
    where: Where,
    *,
    splits: Mapping[str, str] | None,
    image_size: int | None,
    channels: Channels | None,
    kwargs: Mapping[str, Any] | None,
) -> Found:
    """Read a dataset, downloading it where it is not in data/raw yet.

    Args:
        name: of its class.
        where: the project, the seed, the progress.
        splits: {"train": ..., "test": ...}, for datasets that name their parts.
        image_size: that pictures are scaled and cropped to; None for those that are all alike.
        channels: None takes what the first picture has.
        kwargs: further arguments of the class.
    Raises: SourceError, in one line, if it cannot be had, or its pictures are not alike.
    """
    what, form, division = f"torchvision:{name}", Form(image_size, channels), DATASETS[name]
    parts: dict[str, Any] = {"train": division.train, "test": division.test}
    if splits is not None:
        if division.argument != "split":
            raise SourceError(f"params.yaml: data.splits: must be null: {what} does not name its parts")
        parts = dict(splits)
    elif division.argument is None:
        parts = {"train": None}
    taken = {"root", "download", "transform", "target_transform", division.argument} & set(kwargs or {})
    if taken:
        raise SourceError(f"params.yaml: data.kwargs: {', '.join(map(str, taken))}: must be left out for {what}")
    pools: dict[str, Pool] = {}
    for part, value in parts.items():
        arguments = dict(kwargs or {})
        if division.argument is not None:
            arguments[division.argument] = value
        dataset = _dataset(name, where.raw, arguments)
        pools[part] = pool_of(dataset, class_names(dataset), form, what, where.progress)
    pool, test, notes = without_empty(pools["train"], pools.get("test"))
    return Found(what, pool, test, notes)


def _dataset(name: str, folder: Path, arguments: Mapping[str, Any]) -> Any:
    """The dataset as its files lie in the folder; downloaded if torchvision does not find it there.

    Raises: SourceError.
    """
    from torchvision import datasets

    kind, what = getattr(datasets, name), f"torchvision:{name}"
    folder.mkdir(parents=True, exist_ok=True)
    if "download" not in _takes(kind):
        return attempt(
            lambda: kind(folder, **arguments), f"{what}: not in {folder}, and torchvision cannot download it"
        )
    try:
        return kind(folder, download=False, **arguments)
    except (TypeError, ValueError) as error:  # of the arguments; files that are not there raise others
        raise SourceError(f"{what}: {one_line(error)}; data.splits and data.kwargs hold its arguments") from None
    except Exception:
        with _timeout():
            return attempt(
                lambda: kind(folder, download=True, **arguments),
                f"{what}: not in {folder}, and cannot be downloaded (put its files there by hand, or go online)",
            )


def _takes(kind: type) -> set[str]:
    """Names of the arguments of a class and, where it passes all on, of its bases."""
    found: set[str] = set()
    for base in kind.__mro__:
        parameters = inspect.signature(vars(base).get("__init__", object.__init__)).parameters.values()
        found |= {parameter.name for parameter in parameters}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
            break
    return found


@contextmanager
def _timeout() -> Iterator[None]:
    """A server that does not answer is not waited for; torchvision sets no limit."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def class_names(dataset: Any) -> list[str] | None:
    """Names of a dataset's classes, all different; None if it keeps none."""
    given = getattr(dataset, "classes", None) or getattr(dataset, "categories", None)
    if given is None:
        return None
    names = [str(name[0]) if isinstance(name, tuple) else str(name) for name in given]  # ImageNet has several of each
    counts = Counter(names)
    return [f"{name} ({label})" if counts[name] > 1 else name for label, name in enumerate(names)]
