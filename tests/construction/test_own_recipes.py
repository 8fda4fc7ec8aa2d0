"""Recipes of one's own: found by name, checked as the built-in ones are, and a line for each that is none."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from notbugs.construction.building import RECIPES, construct, construct_settings, set_up
from notbugs.construction.kind import RecipeKind
from notbugs.construction.recipe import RecipeError
from notbugs.construction.settings import ConstructSettings
from notbugs.data.images import ImageData
from notbugs.models.base import Classifier
from notbugs.runtime import registry
from notbugs.runtime.errors import ConfigError
from notbugs.testing import check_recipe

OWN = """
import torch
from notbugs.construction.recipe import Constructed
from notbugs.construction.settings import ConstructSettings
from notbugs.data.images import ImageData
from pydantic import Field

class MixSettings(ConstructSettings):
    share: float = Field(ge=0, le=1)

class Mixing:
    def __init__(self, data, share, others):
        self.data, self.share, self.others = data, share, others

    def part(self, rows):
        given, other = self.data.select(rows), self.data.select(self.others[rows])
        images = (1 - self.share) * given.images + self.share * other.images
        made = ImageData(images, given.labels, given.class_names)
        return Constructed(made, given.labels, self.others[rows], {"share": torch.full((len(given),), self.share)})

class Mix:
    "Each image mixed with another one."
    settings = MixSettings
    labels = "source"
    section = "Zhang et al. 2018"
    says = "mixing regularises"
    colour = "#123456"

    @staticmethod
    def set_up(model, data, *, generator, share):
        return Mixing(data, share, torch.randint(len(data), (len(data),), generator=generator))

class NoSettings:
    set_up = Mix.set_up

class Nothing:
    pass

class WrongSettings(Mix):
    settings = dict

class NoFunction(Mix):
    set_up = 3

class NoGenerator(Mix):
    @staticmethod
    def set_up(model, data, share):
        return None

class NoShare(Mix):
    @staticmethod
    def set_up(model, data, *, generator):
        return None

class Unbound(Mix):
    def set_up(self, model, data, *, generator, share):
        return None

class OtherLabels(Mix):
    labels = "both"

class NoText(Mix):
    says = 3

class NoColour(Mix):
    colour = "blue"

class Broken(Mix):
    @staticmethod
    def set_up(model, data, *, generator, share):
        raise RuntimeError("no share\\nat home")

class NoPart(Mix):
    @staticmethod
    def set_up(model, data, *, generator, share):
        return [share]

class Compiled(Mix):
    @staticmethod
    def set_up(model, data, *, generator, share, compiled):
        Compiled.told = compiled
        return Mix.set_up(model, data, generator=generator, share=share)

def of(change):
    class Changed(Mixing):
        def part(self, rows):
            return change(super().part(rows), rows)

    class Declared(Mix):
        @staticmethod
        def set_up(model, data, *, generator, share):
            return Changed(data, share, torch.arange(len(data)))

    return Declared

class Loose:
    def __init__(self, data, **changes):
        self.images, self.labels, self.class_names = data.images, data.labels, data.class_names
        vars(self).update(changes)

def loosely(**changes):
    def change(made, rows):
        given = {name: work(getattr(made.data, name)) for name, work in changes.items()}
        return Constructed(Loose(made.data, **given), made.true_labels, made.start_index, made.columns)
    return of(change)

def fails(made, rows):
    raise KeyError("row")

failing = of(fails)
listing = of(lambda made, rows: [made])
short = loosely(images=lambda images: images[1:])
bright = loosely(images=lambda images: 2 * images)
empty = loosely(images=lambda images: images / 0 * 0)
whole = loosely(images=lambda images: images.double())
unlabelled = loosely(labels=lambda labels: labels + 99)
named = loosely(class_names=lambda names: names[::-1])
shifted = of(lambda made, rows: Constructed(made.data, made.true_labels + 1, made.start_index, made.columns))
lost = of(lambda made, rows: Constructed(made.data, made.true_labels, made.start_index + 999, made.columns))
wide = of(lambda made, rows: Constructed(made.data, made.true_labels, made.start_index, {"a": made.data.images}))
"""
ENTRY = {"model": "standard", "share": 0.25}


@pytest.fixture
def own(tmp_path: Path, fresh_names: None) -> Path:
    """A project whose src holds lab/recipes.py."""
    module = tmp_path / "src" / "lab" / "recipes.py"
    module.parent.mkdir(parents=True)
    module.write_text(OWN)
    registry.allow([], tmp_path)
    return module


@pytest.fixture(scope="module")
def base(digits: tuple[ImageData, ImageData]) -> ImageData:
    """D: 24 digits."""
    return digits[0].select(torch.arange(24))


def entry(name: str, **more: Any) -> ConstructSettings:
    registry.allow([f"lab.recipes:{name}"])
    return construct_settings({**ENTRY, "recipe": f"lab.recipes:{name}", **more}, "construct.mixed")


def test_one_of_ones_own_is_set_up_and_passes_the_checks(
    own: Path, base: ImageData, standard_model: Classifier
) -> None:
    config = entry("Mix", batch_size=7)
    assert config.scalars() == {"recipe": "lab.recipes:Mix", "share": 0.25}
    assert list(config.model_dump(exclude={"source_seeds"})) == [
        *("model", "batch_size", "shard_size", "dtype", "recipe", "share")
    ]
    check_recipe(
        lambda generator: set_up(standard_model, base, **config.scalars(), generator=generator), standard_model, base
    )
    made = construct(standard_model, base, **config.arguments(), generator=torch.Generator().manual_seed(0))
    expected = 0.75 * base.images + 0.25 * base.images[made.start_index]
    torch.testing.assert_close(made.data.images, expected)
    kind = RECIPES["lab.recipes:Mix"]
    assert (kind.labels_given(config), kind.section, kind.says, kind.colour) == (
        *("source", "Zhang et al. 2018", "mixing regularises", "#123456"),
    )


def test_its_own_settings_are_validated(own: Path) -> None:
    with pytest.raises(ConfigError, match=r"^params\.yaml: construct\.mixed\.share = 2\.0: must be less than or equal"):
        entry("Mix", share=2.0)
    with pytest.raises(ConfigError, match=r"^params\.yaml: construct\.mixed\.eps: unknown key; allowed: .*share"):
        entry("Mix", eps=0.5)


def test_one_that_takes_it_is_told_whether_to_compile(own: Path, base: ImageData, standard_model: Classifier) -> None:
    config = entry("Compiled")
    set_up(standard_model, base, **config.scalars(), generator=torch.Generator(), compiled=True)
    assert sys.modules["lab.recipes"].Compiled.told is True


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Mixx", r"something that is there: .*recipes\.py has no Mixx; did you mean Mix\?"),
        ("Nothing", "a recipe: an object or a class with `settings` and `set_up`; it has no `settings` and `set_up`"),
        ("NoSettings", "a recipe: an object or a class with `settings` and `set_up`; it has no `settings`$"),
        ("WrongSettings", "a recipe whose `settings` is a class derived from ConstructSettings, not <class 'dict'>"),
        ("NoFunction", r"a recipe whose `set_up` is a function of \(model, data, share, generator\), not 3"),
        ("NoGenerator", r"a recipe whose `set_up` is a function of \(model, data, share, generator\): got an unexp"),
        ("NoShare", r"a recipe whose `set_up` is a function of \(.*\): got an unexpected keyword argument 'share'"),
        ("Unbound", r"a recipe whose `set_up` is a function of \(.*\): missing a required argument: 'data'"),
        ("OtherLabels", "a recipe whose `labels` is target or source, not 'both'"),
        ("NoText", "a recipe whose `says` is a text, not 3"),
        ("NoColour", "a recipe whose `colour` is #rrggbb, not 'blue'"),
    ],
)
def test_what_is_no_recipe_is_one_line(own: Path, name: str, message: str) -> None:
    begin = rf"^params\.yaml: construct\.mixed\.recipe = 'lab\.recipes:{name}': must be "
    with pytest.raises(ConfigError, match=begin + message) as raised:
        entry(name)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Broken", r"set_up raises RuntimeError: no share at home \(.*recipes\.py, line \d+\)"),
        ("NoPart", r"set_up gives a list, which has no method `part\(rows\)`"),
        ("failing", r"part raises KeyError: 'row' \(.*recipes\.py, line \d+\)"),
        ("listing", "part: it must give a Constructed, not a list"),
        ("short", r"part: images must be \(10, 1, 8, 8\), not \(9, 1, 8, 8\)"),
        ("bright", r"part: images are torch\.float32 in \[0, 2\], not float32 in \[0, 1\]"),
        ("empty", r"part: images are torch\.float32 in \[nan, nan\], not float32"),
        ("whole", r"part: images are torch\.float64 in \[0, 1\], not float32 in \[0, 1\]"),
        ("unlabelled", r"part: it must give each image a label in 0\.\.9, int64"),
        ("named", "part: the classes are not those of D"),
        ("shifted", "part: true_labels are not the labels of D"),
        ("lost", "part: start_index must hold a row of D for each image, or -1"),
        ("wide", r"part: column a must be \(10,\), not \(10, 1, 8, 8\)"),
    ],
)
def test_what_makes_no_dataset_is_one_line(
    own: Path, name: str, message: str, base: ImageData, standard_model: Classifier
) -> None:
    config = entry(name, batch_size=10)
    with pytest.raises(RecipeError, match=rf"^recipe lab\.recipes:{name}: {message}") as raised:
        construct(standard_model, base, **config.arguments(), generator=torch.Generator())
    assert "\n" not in str(raised.value)


def test_packages_add_recipes_by_entry_points(
    own: Path, monkeypatch: pytest.MonkeyPatch, base: ImageData, standard_model: Classifier
) -> None:
    given = EntryPoint("mixing", "lab.recipes:Mix", "notbugs.recipes")
    monkeypatch.setattr(registry, "_packaged", lambda group: {given.name: given} if group == given.group else {})
    with pytest.raises(ConfigError, match="recipe = 'mixing': must be named in params"):
        construct_settings({**ENTRY, "recipe": "mixing"}, "construct.x")
    registry.allow(["mixing"])
    config = construct_settings({**ENTRY, "recipe": "mixing"}, "construct.x")
    made = construct(standard_model, base, **config.arguments(), generator=torch.Generator().manual_seed(0))
    assert len(made.data) == len(base)
    with pytest.raises(ConfigError, match=r"'mixin': must be one of invert, .*; did you mean mixing\?"):
        construct_settings({**ENTRY, "recipe": "mixin"}, "construct.x")


def test_every_built_in_kind_says_what_it_is() -> None:
    assert list(RECIPES) == ["invert", "random_target", "deterministic_target"]
    for name in RECIPES:
        kind = RECIPES[name]
        assert isinstance(kind, RecipeKind)
        assert kind.section
        assert kind.says
        assert kind.settings.options < set(kind.settings.model_fields)
        assert kind.takes_compiled()
