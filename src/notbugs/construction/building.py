"""The constructed datasets: D_R and D_NR by inversion, D_rand and D_det by targeted attacks.

The algorithms are the paper's (Ilyas et al. 2019, sections 3.1 and 3.2, appendix C): what is minimised, where
it starts, the projection, the target rule, last iterate for every example, model in eval mode.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from notbugs.construction.inversion import Inversion
from notbugs.construction.kind import RecipeKind, Watched, of_ones_own
from notbugs.construction.recipe import Constructed, Recipe, RecipeError, joined
from notbugs.construction.settings import ConstructSettings, InvertSettings, TargetSettings
from notbugs.construction.targeting import Targeting
from notbugs.data.images import Images, make_generator
from notbugs.data.store import Dtype
from notbugs.evaluation.accuracy import batches
from notbugs.models.base import Classifier
from notbugs.runtime.config import validate
from notbugs.runtime.errors import ConfigError
from notbugs.runtime.out_of_memory import BatchSplitter
from notbugs.runtime.progress import Track, silent
from notbugs.runtime.registry import Registry, RegistryError

RECIPES = Registry(
    "recipes",
    {
        "invert": RecipeKind(
            InvertSettings,
            Inversion,
            labels="source",
            section="3.1, appendix C.3",
            says="made by a robust model it teaches robustness by standard training, by a standard one accuracy alone",
            colour="#56B4E9",
        ),
        "random_target": RecipeKind(
            TargetSettings,
            partial(Targeting, target="random"),
            section="3.2, appendix C.4",
            says="labels that are right by non-robust features alone teach an accuracy above chance",
            colour="#009E73",
        ),
        "deterministic_target": RecipeKind(
            TargetSettings,
            partial(Targeting, target="next"),
            section="3.2, appendix C.4",
            says="the same holds where robust features speak for another class, y, than the label y + 1",
            colour="#CC79A7",
        ),
    },
    adapt=of_ones_own,
)
"""The kinds of recipes by their names in params.yaml."""


def kind_of(section: Any, key: str) -> RecipeKind:
    """The kind of an entry of the section `construct`.

    Args:
        section: the entry, which need not be valid otherwise.
        key: its dotted place, for the error.
    Raises: ConfigError naming the key, the value and what is allowed.
    """
    recipe = section.get("recipe") if isinstance(section, Mapping) else None
    try:
        return RECIPES[recipe if isinstance(recipe, str) else ""]
    except RegistryError as error:
        raise ConfigError(f"params.yaml: {key}.recipe = {recipe!r}: must be {error}") from None


def construct_settings(section: Any, key: str) -> ConstructSettings:
    """Validate one entry of the section `construct`.

    Raises: ConfigError naming the key, the value and what is allowed.
    """
    return validate(section, key, kind_of(section, key).settings)


def recipe_generator(seed: int, recipe: str, source_seed: int) -> torch.Generator:
    """What a recipe draws from: x' of an inversion, or t of random targets.

    The construction's name is no part of the stream, nor is the kind of the source model: D_R and D_NR of one source
    seed start from the same x', D_rand and its control aim at the same t, and so they differ by the model alone.

    Args:
        seed: of the project.
        recipe: a name that RECIPES finds.
        source_seed: of the source model.
    """
    return make_generator(seed, "construct", recipe, source_seed)


def set_up(
    model: Classifier,
    data: Images,
    recipe: str,
    *,
    generator: torch.Generator,
    compiled: bool = False,
    **scalars: Any,
) -> Recipe:
    """A recipe, ready to make parts.

    Args:
        recipe: a name that RECIPES finds.
        compiled: compile the engine, where the recipe has one.
        scalars: its own arguments, such as `eps`, `num_steps` and `step_size`; see `Inversion` and `Targeting`.
    Raises: RecipeError for an unknown name, or a recipe of one's own that cannot be set up.
    """
    try:
        kind = RECIPES[recipe]
    except RegistryError as error:
        raise RecipeError(f"recipe = {recipe!r}: must be {error}") from None
    if kind.takes_compiled():
        scalars["compiled"] = compiled
    begin = partial(kind.set_up, model, data, generator=generator, **scalars)
    return begin() if recipe in RECIPES else Watched(recipe, begin, data)


def parts(
    recipe: Recipe,
    num_examples: int,
    *,
    batch_size: int = 500,
    dtype: Dtype = "float32",
    first: int = 0,
    progress: Track = silent,
    description: str = "construct",
) -> Iterator[tuple[slice, Constructed]]:
    """A dataset from its row `first` on, in order, a batch at a time, in its stored precision, with the rows of D."""
    splitter = BatchSplitter(description)
    for batch in progress(list(batches(num_examples, batch_size)), f"{description}, batches"):
        start = first + batch.start

        def work(rows: slice, start: int = start) -> Constructed:
            return recipe.part(slice(start + rows.start, start + rows.stop))

        made = joined(splitter(batch.stop - batch.start, work))
        yield slice(start, first + batch.stop), made.rounded(dtype)


def construct(
    model: Classifier,
    data: Images,
    recipe: str,
    *,
    generator: torch.Generator,
    batch_size: int = 500,
    dtype: Dtype = "float32",
    compiled: bool = False,
    progress: Track = silent,
    description: str = "construct",
    **scalars: Any,
) -> Constructed:
    """A constructed dataset, whole, in memory and in its stored precision.

        construct(model, data, "deterministic_target", eps=0.5, num_steps=100, step_size=0.1, generator=generator)

    Args:
        model, data, recipe, generator, compiled, scalars: see `set_up`.
        batch_size: images worked on at a time; does not change the results beyond rounding.
        dtype: precision that the images are rounded to.
        progress: shows the batches.
    """
    ready = set_up(model, data, recipe, generator=generator, compiled=compiled, **scalars)
    made = parts(ready, len(data), batch_size=batch_size, dtype=dtype, progress=progress, description=description)
    return joined([part for _, part in made])
