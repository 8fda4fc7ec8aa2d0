"""The constructions of a project as the report speaks of them: what each is like, and where it leaves the paper."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from notbugs.construction.building import kind_of
from notbugs.construction.kind import RecipeKind
from notbugs.construction.settings import ANOTHER_SET, ConstructSettings, in_words
from notbugs.evaluation.results import set_title
from notbugs.runtime.config import DATASET_NAMES, dataset_name, validate
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
        from_robust: whether one of its source models was trained adversarially.
    """

    key: str
    settings: ConstructSettings
    kind: RecipeKind
    like: str
    from_robust: bool

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
            found |= {"recipe": self.settings.recipe} if self.like in TARGETED.values() else self._sources
        elif self.like in TARGETED.values() and self.from_robust and not self.key.endswith("_from_robust"):
            found |= self._sources  # it is a control, which is to teach less
        return in_words(found)

    @property
    def _sources(self) -> dict[str, Any]:
        ensemble = self.settings.ensemble
        return {"model": self.settings.model} if ensemble is None else {"from": list(ensemble)}

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
            kind = kind_of(section, f"construct.{key}")
            config = validate(section, f"construct.{key}", kind.settings)
            names = {member.partition("/")[0] for member in config.ensemble or (config.model,)}
            robust = {_is_robust(name, (params.get("train") or {}).get(name) or {}) for name in names}
            found[key] = ConstructedSet(key, config, kind, _like(config.recipe, robust), True in robust)
    return found


def _is_robust(name: str, train: Mapping[str, Any]) -> bool | None:
    """Whether models of an entry of `train` are robust; None for files of which params.yaml does not say it."""
    if train.get("attack"):
        return True
    return (name == "robust" or None) if "from" in train else False


def _like(recipe: str, robust: set[bool | None]) -> str:
    """The paper's set that a recipe makes; of an inversion it depends on how its source models were trained."""
    if recipe != "invert":
        return TARGETED.get(recipe, "")
    return "robust" if robust == {True} else "nonrobust" if robust == {False} else ""
