"""What a run shows: names of params and metrics, the words beside them, and how many there are."""

import json
from pathlib import Path
from typing import Any

import pytest

from notbugs.tracking.learning import SUBSETS, Model, named_points, shown_curves
from notbugs.tracking.shown import MOST, note, shown_metrics, shown_params
from notbugs.tracking.tables import TABLES

METRICS = Path(__file__).parents[2] / "metrics"
"""Of the digits, in Git."""
RECIPE = {"recipe": "random_target", "model": "standard", "norm": "l2", "eps": 1.1, "num_steps": 60, "batch_size": 500}
MEASURED = ("train_loss", "train_accuracy", "validation_accuracy", "validation_accuracy_shifted")
ALL_MEASURED = (*MEASURED, "validation_adversarial_accuracy")


def metrics_of(stage: str, name: str | None) -> dict[str, Any]:
    file = METRICS / f"{stage}.json" if name is None else METRICS / stage / f"{name}.json"
    return dict(json.loads(file.read_text()))


def fits(*subsets: str) -> dict[str, Any]:
    """A metrics file of fits in which everything is measured."""
    values = dict.fromkeys(ALL_MEASURED, 0.5)
    return {subset: {"num_examples": {"0": 9}, "mean": values, "std": values} for subset in ("full", *subsets)}


def curves(num_models: int, *subsets: str) -> list[str]:
    """Names of all curves of such a run."""
    rows = [
        (None, 1, {f"{'' if subset == 'full' else f'{subset}_'}{name}/source-{model}-seed-0": 0.5})
        for subset in ("full", *subsets)
        for model in range(num_models)
        for name in ALL_MEASURED
    ]
    return sorted({name for _, _, values in shown_curves(named_points(rows)) for name in values})


def test_own_settings_lose_their_prefix_and_other_sections_are_left_out() -> None:
    settings = {
        "fit": {"det": {"lr": 0.1, "epochs": 5, "attack": {"eps": 0.5}}, "rand": {"lr": 0.2}},
        "model": {"width": 16},
        "train": {"standard": {"lr": 0.3}},
        "seed": 1,
        "sources": [0, 1],
    }
    assert shown_params("fit", "det", settings) == {
        "lr": 0.1, "epochs": 5, "attack.eps": 0.5, "model.width": 16, "seed": 1
    }  # fmt: skip
    in_lock = {"fit.det": {"lr": 0.1}, "model": {"width": 16}, "seed": 1}
    assert shown_params("fit", "det", in_lock) == {"lr": 0.1, "model.width": 16, "seed": 1}
    assert shown_params("prepare", None, {"data": {"source": "digits"}, "seed": 0}) == {"source": "digits", "seed": 0}
    assert shown_params("science", "mine", {"science": {"mine": {"a": {"b": 1}}}}) == {"a.b": 1}


def test_a_construction_has_its_settings_as_fits_on_it_have_them() -> None:
    found = shown_params("construct", "rand", {"construct": {"rand": RECIPE}, "train": {"standard": {"lr": 1}}})
    assert found == {
        "dataset.name": "D_rand",
        "dataset.recipe": "random_target",
        "dataset.model": "standard",
        "dataset.norm": "l2",
        "dataset.eps": 1.1,
        "dataset.num_steps": 60,
    }


def test_a_share_is_one_number_and_a_question_of_ones_own_shows_the_first() -> None:
    share = {"mean": 0.25, "low": 0.1, "high": 0.4, "n": 100, "num_seeds": 2}
    found = shown_metrics("science", {"a": {"b": share}, "text": "no", "none": None, "n": 3, "list": [1]}, {})
    assert found == {"a.b": 0.25, "n": 3.0}
    many = shown_metrics("science", {f"number {place}": place for place in range(100)}, {})
    assert list(many) == [f"number {place}" for place in range(MOST)]


def test_places_name_settings_of_the_run() -> None:
    """`{headline_eps}`: 1.0 stands as 1 in the keys of metrics/evaluate.json."""
    of_det = {"clean": 0.9, "pgd20_eps_1": 0.2, "pgd100_eps_1": 0.1, "worst_eps_1": 0.05, "worst_eps_2": 0.0}
    params = {"headline_eps": "1.0", "headline_num_steps": "100"}
    assert shown_metrics("evaluate", {"D_det": {"standard": of_det}}, params) == {
        "accuracy/D_det.standard": 0.9,
        "adversarial_accuracy/D_det.standard": 0.1,
        "worst_case_accuracy/D_det.standard": 0.05,
    }
    assert shown_metrics("evaluate", {"D_det": {"standard": of_det}}, {}) == {"accuracy/D_det.standard": 0.9}


@pytest.mark.parametrize("subsets", [(), ("still_y",), tuple(SUBSETS)])
def test_no_run_of_fits_has_more_than_the_most(subsets: tuple[str, ...]) -> None:
    """Five source models, two fits each, every subset, every quantity, and what `evaluate` adds."""
    shown = [*shown_metrics("fit", fits(*subsets), {}), *curves(10, *subsets)]
    added = [name for name, _ in TABLES["fit"].later]
    assert len(set(shown)) == len(shown)
    assert len({*shown, *added}) <= MOST


@pytest.mark.parametrize(
    ("stage", "name"),
    [
        *((stage, None) for stage in ("prepare", "evaluate", "diagnose", "transfer", "inversion", "diversity")),
        *((stage, None) for stage in ("estimator", "features", "planted", "gaussian")),
        *(("train", "standard"), ("train", "robust"), ("construct", "det"), ("construct", "robust")),
        *(("fit", "det"), ("fit", "rand"), ("fit", "nonrobust")),
    ],
)
def test_every_stage_of_the_digits_shows_little_and_says_what_it_is(stage: str, name: str | None) -> None:
    params = {"headline_eps": 0.2 if stage == "features" else 0.6, "headline_num_steps": 100}
    found = shown_metrics(stage, metrics_of(stage, name), params)
    assert 5 <= len(found) <= MOST - 9  # leaves room for what MLflow measures of the machine
    text = note("a title", stage, found)
    for metric in found:
        assert f"| `{metric}` | " in text
    assert "stands under this key" not in text
    assert "{" not in text
    assert len(text) < 7900  # as much as MLflow keeps


def test_every_entry_of_the_table_stands_somewhere() -> None:
    """Of the digits: an entry that nothing fits is a mistake in its place."""
    files = {
        "prepare": [None], "evaluate": [None], "diagnose": [None], "transfer": [None], "inversion": [None],
        "diversity": [None], "estimator": [None], "features": [None], "planted": [None], "gaussian": [None],
        "train": ["standard", "robust"], "construct": ["det", "robust"],
    }  # fmt: skip
    params = {"headline_eps": "0.6", "headline_num_steps": "100"}
    for stage, names in files.items():
        own = {**params, "headline_eps": "0.2"} if stage == "features" else params
        shown = {metric for name in names for metric in shown_metrics(stage, metrics_of(stage, name), own)}
        says = note("t", stage, shown)
        for one in TABLES[stage].numbers or ():
            words = one.says.partition("{")[0]
            assert words in says, (stage, one)


def test_a_note_says_what_comes_later_and_where_the_rest_is() -> None:
    text = note("fit@det", "fit", ["validation_accuracy", "system/cpu", *curves(10, "still_y")], "det.json")
    assert text.startswith("**fit@det** Classifiers from scratch")
    assert "| `adversarial_accuracy` | share of them that gets y under the attack of the tag `evaluate.attack`" in text
    assert "`still_y_accuracy`" not in note("fit@det", "fit", ["validation_accuracy"])
    assert "`learning_by_seed/train_loss.MODEL` | `train_loss` by epoch, of single models: the first 3" in text
    assert "`learning_still_y/train_loss` | `train_loss` by epoch, mean over the fits on the images that both" in text
    assert "system/" not in text
    assert text.endswith("Everything else that was measured is in `det.json`, under Artifacts.")


def test_models_in_their_order() -> None:
    assert sorted([Model(10, 0), Model(2, 1), Model(2, 0)]) == [Model(2, 0), Model(2, 1), Model(10, 0)]
