"""Some of a source's classes, or several of them as one."""

from collections.abc import Iterable, Mapping, Sequence

import torch

from notbugs.data.sources.base import Chosen, Pool, SourceError
from notbugs.runtime.errors import meant

SHOWN = 20
"""Class names listed in an error; the others are counted."""


def grouped(pool: Pool, groups: Mapping[str, Sequence[str]]) -> Chosen:
    """The pictures of some classes, under the groups' names.

    Args:
        pool: all pictures.
        groups: name of a new class -> the old classes in it, all among the pool's; their order gives the labels.
    """
    new_label = torch.full((len(pool.class_names),), -1)
    for label, names in enumerate(groups.values()):
        for name in names:
            new_label[pool.class_names.index(name)] = label
    labels = new_label[pool.labels]
    rows = (labels >= 0).nonzero().flatten()
    return Chosen(pool, rows, labels[rows], tuple(groups))


def require_known(names: Iterable[str], class_names: Sequence[str], key: str) -> None:
    """Raises: SourceError for the first name that is no class; `key` is the setting that holds it."""
    for name in names:
        if name not in class_names:
            more = f" and {len(class_names) - SHOWN} more" if len(class_names) > SHOWN else ""
            raise SourceError(
                f"params.yaml: {key}: {name!r}: must be a class of D: {', '.join(class_names[:SHOWN])}{more}"
                f"{meant(name, class_names)}"
            )


def without_empty(pool: Pool, test: Pool | None) -> tuple[Pool, Pool | None, list[str]]:
    """Both without the classes that no picture of either belongs to, and a line about each of these."""
    there = set(pool.labels.unique().tolist()) | (set() if test is None else set(test.labels.unique().tolist()))
    empty = [name for label, name in enumerate(pool.class_names) if label not in there]
    if not empty:
        return pool, test, []
    groups = {name: (name,) for name in pool.class_names if name not in empty}
    notes = [f"class {name}: no images" for name in empty]
    return grouped(pool, groups), None if test is None else grouped(test, groups), notes
