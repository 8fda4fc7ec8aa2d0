"""Which learning curves are shown, and what they are called."""

from pathlib import Path

import pytest

from notbugs.tracking.learning import Model, live_name, named_points, read_curves, shown_curves

FIVE = [Model(-1, seed) for seed in (4, 2, 0, 3, 1)]
PAIRS = [Model(source, seed) for source in (3, 0) for seed in (0, 1)]


@pytest.mark.parametrize(
    ("curve", "models", "metric"),
    [
        ("train_loss/seed-0", FIVE, "learning_by_seed/train_loss.seed-0"),
        ("train_loss/seed-2", FIVE, "learning_by_seed/train_loss.seed-2"),
        ("train_loss/seed-3", FIVE, None),
        ("validation_accuracy/source-3-seed-0", PAIRS, "learning_by_seed/validation_accuracy.source-3-seed-0"),
        ("validation_accuracy/source-3-seed-1", PAIRS, None),
        ("still_y_train_loss/source-0-seed-0", PAIRS, None),
        ("train_loss/seed-7", [Model(-1, 7)], "learning/train_loss"),
        ("train_loss/seed-0", [], None),
        ("my own curve", FIVE, "my own curve"),
        ("loss/seed-0", FIVE, "loss/seed-0"),
    ],
)
def test_what_is_drawn_while_a_stage_trains(curve: str, models: list[Model], metric: str | None) -> None:
    assert live_name(curve, models) == metric


def test_means_and_the_first_models(tmp_path: Path) -> None:
    rows = ["subset,source_seed,seed,epoch,lr,train_loss,validation_accuracy"]
    rows += [f"full,{source},{seed},{epoch},0.1,{source + seed / 10 + epoch / 100},{0.5 if epoch == 2 else ''}"
             for source in (0, 1) for seed in (0, 1) for epoch in (1, 2)]  # fmt: skip
    rows += ["baseline,0,0,1,0.1,8,", "baseline,1,0,1,0.1,9,"]
    (tmp_path / "curves.csv").write_text("\n".join(rows) + "\n")
    found: dict[str, list[tuple[int, float]]] = {}
    for _, step, values in shown_curves(read_curves(tmp_path / "curves.csv")):
        for name, value in values.items():
            found.setdefault(name, []).append((step, value))
    assert found["learning/train_loss"] == [(1, 0.56), (2, 0.57)]
    assert found["learning/validation_accuracy"] == [(2, 0.5)]
    assert found["learning_baseline/train_loss"] == [(1, 8.5)]
    assert found["learning_by_seed/train_loss.source-1-seed-0"] == [(1, 1.01), (2, 1.02)]
    singles = {name.partition(".")[2] for name in found if name.startswith("learning_by_seed")}
    assert singles == {"source-0-seed-0", "source-0-seed-1", "source-1-seed-0"}


def test_the_curve_of_one_model_is_that_of_the_run() -> None:
    points = named_points([(1000, 1, {"train_loss/seed-3": 0.5}), (2000, 2, {"train_loss/seed-3": 0.25})])
    assert shown_curves(points) == [(1000, 1, {"learning/train_loss": 0.5}), (2000, 2, {"learning/train_loss": 0.25})]


def test_a_mean_is_as_new_as_the_last_of_its_models_and_only_there_in_the_end() -> None:
    points = named_points([(1000, 1, {"train_loss/seed-0": 0.5}), (5000, 1, {"train_loss/seed-1": 1.0})])
    assert (5000, 1, {"learning/train_loss": 0.75}) in shown_curves(points)
    names = {name for _, _, values in shown_curves(points, means=False) for name in values}
    assert names == {"learning_by_seed/train_loss.seed-0", "learning_by_seed/train_loss.seed-1"}


def test_another_table_has_no_curves(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text("dataset,accuracy\nD,0.5\n")
    assert read_curves(tmp_path / "results.csv") == []
