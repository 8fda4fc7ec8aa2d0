"""The constructions of a project as the report speaks of them: what each is like, and where it leaves the paper."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from notbugs.construction.building import construct_settings, kind_of
from notbugs.construction.kind import RecipeKind
from notbugs.construction.settings import ANOTHER_SET, ConstructSettings, in_words
from notbugs.evaluation.results import set_title
from notbugs.runtime.config import DATASET_NAMES, dataset_name
from notbugs.runtime.errors import ConfigError

TARGETED = {"random_target": "rand", "deterministic_target": "det"}
"""Recipe -> the paper's set that it makes."""
PAPERS = {key: key.removesuffix("_from_robust") for key in DATASET_NAMES}
"""Name of a set of the paper, or a control -> the set that it is, or controls."""


@dataclass(frozen=True)
class ConstructedSet:
    """A construction.

    Attributes:
        key: in params.yaml. settings: its entry there. kind: of its recipe.
        like: the paper's set that its recipe makes ("robust", "nonrobust", "rand" or "det"); empty for other recipes.
    """

    key: str
    settings: ConstructSettings
    kind: RecipeKind
    like: str

    @property
    def name(self) -> str:
        """In the results."""
        return dataset_name(self.key)

    @property
    def title(self) -> str:
        """In print."""
        return set_title(self.key)

    @property
    def is_the_papers(self) -> bool:
        """Whether its name is the paper's."""
        return self.key in DATASET_NAMES

    @property
    def deviations(self) -> str:
        """Where it is not made by the paper's recipe, in words; empty if it is."""
        return in_words(self.settings.deviations)

    @property
    def another_set(self) -> str:
        """Options, in words, that make it another set than the paper's, of which the paper says nothing."""
        found = {name: value for name, value in self.settings.deviations.items() if name in ANOTHER_SET}
        if self.is_the_papers and self.like != PAPERS[self.key]:
            found |= {"recipe": self.settings.recipe}
        return in_words(found)

    @property
    def note(self) -> str:
        """What stands below its title: recipe and deviations, as far as its name does not say them."""
        says = self.kind.says if not self.settings.papers else ""
        parts = ["" if self.is_the_papers else f"recipe {self.settings.recipe}", self.deviations, says]
        return "; ".join(filter(None, parts))


def sets_of(params: Mapping[str, Any]) -> dict[str, ConstructedSet]:
    """Key -> construction, in the order of params.yaml; without entries that are not valid, which stages refuse."""
    found = {}
    for key, section in (params.get("construct") or {}).items():
        with suppress(ConfigError):
            config = construct_settings(section, f"construct.{key}")
            found[key] = ConstructedSet(
                key, config, kind_of(section, f"construct.{key}"), _like(config, params.get("train") or {})
            )
    return found


def _like(config: ConstructSettings, train: Mapping[str, Any]) -> str:
    """The paper's set that a recipe makes; of an inversion it depends on how its source models were trained."""
    if config.recipe != "invert":
        return TARGETED.get(config.recipe, "")
    names = {member.partition("/")[0] for member in config.ensemble or (config.model,)}
    robust = {bool((train.get(name) or {}).get("attack")) for name in names}
    return "" if len(robust) > 1 else "robust" if True in robust else "nonrobust"
