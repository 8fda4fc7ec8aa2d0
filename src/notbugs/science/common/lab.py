"""What a question of the science is studied with, and what its study answers.

A study is a function (lab, settings) -> Answer. It opens and writes no files of a project: whoever asks, a stage of the
pipeline or a notebook, fills the lab and does with the answer as it likes.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from notbugs.data.images import ImageData
from notbugs.data.store import StoredDataset
from notbugs.evaluation.statements import Chart, Verdict
from notbugs.models import ModelSettings, load_model
from notbugs.models.base import Classifier
from notbugs.runtime.errors import UserError
from notbugs.runtime.progress import Track, silent
from notbugs.runtime.tasks import DoAll, in_turn

if TYPE_CHECKING:
    import pandas as pd

LoadOrMake = Callable[[str, Callable[[], Any]], Any]
"""(name, make) -> a part of the work as it was kept before a kill, or what `make` gives: tensors, numbers, text, and
lists, tuples and dictionaries of them."""


def make_anew(name: str, make: Callable[[], Any]) -> Any:
    """Of a lab that keeps nothing."""
    return make()


def draw_nothing(step: int, values: Mapping[str, float | None]) -> None:
    """Of a lab at which nobody looks."""


@dataclass(frozen=True)
class Lab:
    """What a study works with.

    Attributes:
        seed: what every random stream is derived from.
        device: where models and attacks run.
        data: "train" and "test" of D, and each construction by its name in params.yaml, made with one source model.
        source_seeds: construction -> seed of that source model.
        models: source model -> the one that made these constructions.
        trained: source model -> files of those of all seeds. fitted: construction -> files of the fits on it.
        architecture: of the pipeline's own models.
        progress: shows long work.
        load_or_make, do_all: see there.
        draw: (step, {curve: value}) -> None, a point of curves that are looked at meanwhile.
    """

    seed: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    data: Mapping[str, StoredDataset] = field(default_factory=dict)
    source_seeds: Mapping[str, int] = field(default_factory=dict)
    models: Mapping[str, Classifier] = field(default_factory=dict)
    trained: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    fitted: Mapping[str, Sequence[Path]] = field(default_factory=dict)
    architecture: ModelSettings = field(default_factory=ModelSettings)
    progress: Track = silent
    load_or_make: LoadOrMake = make_anew
    do_all: DoAll = in_turn
    draw: Callable[[int, Mapping[str, float | None]], None] = draw_nothing

    def load(self, file: Path) -> Classifier:
        """A model, on the device."""
        return load_model(file, device=self.device)

    def load_or_make_all(self, parts: Mapping[str, Callable[["Lab"], Any]], description: str) -> list[Any]:
        """`load_or_make` of parts that need nothing of each other, by whoever does tasks for this lab.

        Args:
            parts: name -> make, which gets a lab like this one; it can be pickled, as a `partial` of a function can.
            description: of all of them.
        Returns: the parts, in their order.
        """
        lab = replace(self, do_all=in_turn, draw=draw_nothing, load_or_make=copy(self.load_or_make))
        if self.load_or_make is not make_anew:  # kept by who made them, and read here
            self.do_all([(lab, name, make) for name, make in parts.items()], _keep_part, description)
        return [self.load_or_make(name, partial(make, lab)) for name, make in parts.items()]


def _keep_part(task: tuple[Lab, str, Callable[[Lab], Any]]) -> None:
    lab, name, make = task
    lab.load_or_make(name, partial(make, lab))


@dataclass(frozen=True)
class Pictures:
    """Images to be stored beside the metrics, for the report; the arguments are those of `save_dataset`."""

    data: ImageData
    examples: "pd.DataFrame"
    name: str
    source: str
    settings: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a study found.

    Attributes:
        metrics: for the metrics file.
        says: lines for the person who watches.
        pictures, rows: for the other outputs of the stage: a dataset, a table.
        charts, verdicts: for the report, where the question is an entry of `science`.
    """

    metrics: dict[str, Any]
    says: tuple[str, ...]
    pictures: Pictures | None = None
    rows: Sequence[Mapping[str, Any]] = ()
    charts: Sequence[Chart] = ()
    verdicts: Sequence[Verdict] = ()


class UnfitError(UserError):
    """A setting that D is too small for: raised by `check_data`; whoever asks names the place of the settings.

    Args:
        name: of the setting. allowed: to be read after "must be".
    """

    def __init__(self, name: str, value: Any, allowed: str) -> None:
        super().__init__(f"{name} = {value}: must be {allowed}")


def require_images(name: str, value: int | None, least: int, most: int | None = None) -> None:
    """Check a number of images that settings ask for against the classes and the size of D; None asks for all.

    Raises: UnfitError unless it holds one of each class, and no more than there are.
    """
    if value is None or (least <= value and (most is None or value <= most)):
        return
    allowed = (
        f"in {least}..{most}, one of each class and no more than D has" if most else f"at least {least}, one a class"
    )
    raise UnfitError(name, value, allowed)
