"""Independent tasks: how those who have some leave it to others where they are done."""

from collections.abc import Callable, Sequence
from typing import Any

DoAll = Callable[[Sequence[Any], Callable[[Any], Any], str], list[Any]]
"""(tasks, work, description) -> the results in the order of the tasks, done in any order, by any process; `work` stands
at the top of a module, or can be pickled."""


def in_turn(tasks: Sequence[Any], work: Callable[[Any], Any], description: str) -> list[Any]:
    """Do all tasks here, one after the other."""
    return [work(task) for task in tasks]
