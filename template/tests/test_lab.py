"""The parts of src/lab do what a part must: `notbugs.testing` checks them as it checks those that are built in."""

from pathlib import Path

from notbugs import allow, create_model
from notbugs.construction.building import set_up
from notbugs.data.sources import DataSettings, load_source
from notbugs.testing import check_classifier, check_recipe, check_source

ROOT = Path(__file__).parents[1]
NETWORK, RECIPE, SOURCE = "lab.networks:wide", "lab.recipes:Blend", "lab.sources:bars"
allow([NETWORK, RECIPE, SOURCE], ROOT)


def test_the_network() -> None:
    """It can be trained, attacked and stored."""
    check_classifier(lambda: create_model(NETWORK, (1, 8, 8), ("a", "b", "c"), kwargs={"channels": 4}), (1, 8, 8), 3)


def test_the_source() -> None:
    """It gives splits that can be learnt from, the same for the same seed."""
    settings = DataSettings(source=SOURCE, kwargs={"count": 80})
    check_source(lambda seed: load_source(settings, seed=seed, root=ROOT))


def test_the_recipe() -> None:
    """It makes the same dataset from the same seed, however D is cut into parts."""
    data = load_source(DataSettings(source="digits", max_train=24), seed=0, root=ROOT).train
    model = create_model("small_cnn", data.image_shape, data.class_names, width=2).eval()
    check_recipe(lambda generator: set_up(model, data, RECIPE, generator=generator, share=0.3), model, data)
