"""docs/recipes.md: its settings are valid, its recipe passes the checks, and it leaves no option out."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from notbugs.construction.building import RECIPES, construct_settings
from notbugs.data.images import ImageData
from notbugs.models.base import Classifier
from notbugs.runtime import registry
from notbugs.runtime.config import check_name, validate
from notbugs.training.settings import FitSettings

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def blend(tmp_path: Path, fresh_names: None) -> None:
    """The page's recipe, where the page puts it."""
    (tmp_path / "src" / "lab").mkdir(parents=True)
    (tmp_path / "src" / "lab" / "recipes.py").write_text(blocks("python")[0])
    registry.allow(["lab.recipes:Blend"], tmp_path)


def test_its_settings_are_valid(blend: None) -> None:
    entries: dict[str, dict[str, Any]] = {"construct": {}, "fit": {}}
    for block in blocks("yaml"):
        for section, more in yaml.safe_load(block).items():
            entries[section] |= more
    assert {"det_untouched", "rand_from_noise", "blended"} <= set(entries["construct"])
    for name, section in entries["construct"].items():
        check_name(f"construct.{name}")
        construct_settings(section, f"construct.{name}")
    for name, section in entries["fit"].items():
        assert name in entries["construct"]
        validate(section, f"fit.{name}", FitSettings)


def test_its_recipe_passes_the_check_that_it_shows(
    blend: None, standard_model: Classifier, digits: tuple[ImageData, ImageData]
) -> None:
    exec(blocks("python")[1], {"model": standard_model, "data": digits[0].select(torch.arange(20))})


def test_it_names_every_recipe_and_option() -> None:
    for name in RECIPES:
        kind = RECIPES[name]
        assert f"| `{name}` |" in PAGE
        assert kind.section in PAGE
        for option in kind.settings.options:
            assert f"| `{option}` |" in PAGE
