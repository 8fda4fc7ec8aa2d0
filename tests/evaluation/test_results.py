"""The table of results: reading and validating it, means over seeds, and what is printed."""

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from notbugs.evaluation.intervals import wilson_interval
from notbugs.evaluation.results import (
    COLUMNS,
    HEADLINES,
    MODELS,
    ResultsError,
    accuracy_table,
    attack_steps,
    baseline_of,
    chosen_eps,
    fitted_model,
    headlines,
    load_results,
    model_label,
    print_table,
    summarise,
    to_csv,
    to_json,
)

N = 200


def row(dataset: str = "D", seed: int = 0, count: int = 180, **changes: Any) -> dict[str, Any]:
    low, high = wilson_interval(count, N)
    made = dataset != "D"
    facts = {
        "dataset": dataset,
        "estimator": "standard",
        "seed": seed,
        "source_seed": 0 if made else "",
        "architecture": "small_cnn",
        "source": "digits",
        "construction_eps": 1.0 if made else "",
        "labels": "true",
        "attack": "clean",
        "norm": "l2",
        "eps": 0.0,
        "accuracy": count / N,
        "low": low,
        "high": high,
        "n": N,
    }
    return {**facts, **changes}


def attacked(eps: float, count: int, attack: str = "pgd20", **changes: Any) -> dict[str, Any]:
    return row(count=count, eps=eps, attack=attack, **changes)


def write(root: Path, rows: list[dict[str, Any]], columns: list[str] | None = None) -> Path:
    path = root / "metrics" / "results.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or list(COLUMNS), lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return root


def test_load_gives_columns_and_types(tmp_path: Path) -> None:
    results = load_results(write(tmp_path, [row(), row("D_rand", 1, 150)]))
    assert list(results.columns) == list(COLUMNS)
    assert results["accuracy"].tolist() == [0.9, 0.75]
    assert results["source_seed"].isna().tolist() == [True, False]
    assert results["construction_eps"].tolist()[1] == 1.0
    assert results["seed"].tolist() == [0, 1]


def test_a_source_called_na_is_a_name(tmp_path: Path) -> None:
    assert load_results(write(tmp_path, [row(source="NA")]))["source"].tolist() == ["NA"]


def test_missing_file_names_the_command(tmp_path: Path) -> None:
    expected = re.escape(f"{tmp_path / 'metrics' / 'results.csv'}: not found; `dvc repro evaluate` makes it")
    with pytest.raises(ResultsError, match=expected):
        load_results(tmp_path)


def test_missing_columns_are_named(tmp_path: Path) -> None:
    columns = [name for name in COLUMNS if name not in ("low", "norm")]
    with pytest.raises(ResultsError, match=r"results\.csv: column norm, low is missing"):
        load_results(write(tmp_path, [row()], columns))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accuracy": ""}, r"column accuracy: empty in row 3"),
        ({"accuracy": "much"}, r"column accuracy: .*much"),
        ({"accuracy": 1.5}, r"column accuracy: 1\.5 is no fraction in \[0, 1\]"),
        ({"low": -0.1}, r"column low: -0\.1 is no fraction"),
        ({"n": 0}, r"column n must be at least 1"),
        ({"eps": -1.0}, r"eps at least 0"),
        ({"seed": 0.5}, r"column seed: 0\.5 is no whole number"),
        ({"seed": 0}, r"measured twice: dataset=D, estimator=standard, seed=0"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        load_results(write(tmp_path, [row(), row(**{"seed": 1, **changes})]))


@pytest.mark.parametrize("text", ["", 'dataset,"\n'])
def test_unreadable_file(tmp_path: Path, text: str) -> None:
    write(tmp_path, [row()])
    (tmp_path / "metrics/results.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ResultsError, match=r"results\.csv: cannot be read: "):
        load_results(tmp_path)


def test_header_alone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"results\.csv: no rows"):
        load_results(write(tmp_path, []))


def test_summary_is_mean_spread_and_wilson_of_the_mean(tmp_path: Path) -> None:
    counts = (170, 180, 196)
    summary = summarise(load_results(write(tmp_path, [row(seed=s, count=c) for s, c in enumerate(counts)])))
    assert len(summary) == 1
    found = summary.iloc[0]
    mean = sum(counts) / 3 / N
    assert found["mean"] == pytest.approx(mean)
    assert found["std"] == pytest.approx(math.sqrt(sum((c / N - mean) ** 2 for c in counts) / 2))
    std = math.sqrt(sum((c / N - mean) ** 2 for c in counts) / 2)
    low, high = wilson_interval(mean * N, N)
    reach = 4.302653 * std / math.sqrt(3)  # t with 2 degrees of freedom
    assert found["low"] == pytest.approx(mean - math.hypot(mean - low, reach))
    assert found["high"] == pytest.approx(min(1.0, mean + math.hypot(high - mean, reach)))
    assert (found["n"], found["num_seeds"]) == (N, 3)


def test_one_seed_has_no_spread(tmp_path: Path) -> None:
    summary = summarise(load_results(write(tmp_path, [row()])))
    assert math.isnan(summary["std"].iloc[0])
    assert summary["num_seeds"].tolist() == [1]


def test_summary_keeps_measurements_apart_and_in_order(tmp_path: Path) -> None:
    rows = [
        row("D_rand"),
        row("D_rand", labels="shifted"),
        attacked(0.5, 90, "pgd100"),
        attacked(0.25, 100),
        row(estimator="robust"),
        row(),
    ]
    summary = summarise(load_results(write(tmp_path, rows)))
    found = summary[["dataset", "estimator", "labels", "eps"]].to_numpy().tolist()
    assert found == [
        ["D", "standard", "true", 0.0],
        ["D", "standard", "true", 0.25],
        ["D", "standard", "true", 0.5],
        ["D", "robust", "true", 0.0],
        ["D_rand", "standard", "true", 0.0],
        ["D_rand", "standard", "shifted", 0.0],
    ]


def test_seeds_on_different_test_sets_are_refused(tmp_path: Path) -> None:
    results = load_results(write(tmp_path, [row(), row(seed=1, n=100)]))
    with pytest.raises(ResultsError, match=r"D/standard/true/clean/.*different numbers of test images"):
        summarise(results)


def test_accuracy_table(tmp_path: Path) -> None:
    rows = [
        row(count=198),
        row(count=2, labels="shifted"),
        attacked(0.5, 60, "pgd100"),
        attacked(0.5, 62),
        attacked(0.25, 120),
        row("D_other", count=100),
        row("D_det_still_y", count=80),
    ]
    table = accuracy_table(load_results(write(tmp_path, rows)))
    assert [line.label for line in table] == ["D, standard", "D_det, still y", "D_other"]
    first = table[0]
    assert first.clean is not None
    assert first.shifted is not None
    assert (first.clean.value, first.shifted.value) == (0.99, 0.01)
    assert {key: cell.value for key, cell in first.adversarial.items()} == {
        (0.25, "pgd20"): 0.6,
        (0.5, "pgd20"): 0.31,
        (0.5, "pgd100"): 0.3,
    }
    strongest = first.under_attack(0.5)
    assert strongest is not None
    assert strongest.value == 0.3
    assert first.under_attack(0) == first.clean
    assert first.under_attack(0.75) is None
    assert table[1].shifted is None


def test_json_has_one_object_a_measurement_with_null_for_empty(tmp_path: Path) -> None:
    text = to_json(load_results(write(tmp_path, [row(), row("D_rand")])))
    found = json.loads(text)
    assert [list(item) for item in found] == [list(COLUMNS)] * 2
    assert found[0]["source_seed"] is None
    assert found[0]["construction_eps"] is None
    assert (found[1]["source_seed"], found[1]["construction_eps"], found[1]["accuracy"]) == (0, 1.0, 0.9)
    assert isinstance(found[0]["n"], int)
    assert len(text.splitlines()) == 4


def test_csv_reads_back_the_same(tmp_path: Path) -> None:
    results = load_results(write(tmp_path, [row(), row("D_rand", 2)]))
    again = tmp_path / "again" / "metrics" / "results.csv"
    again.parent.mkdir(parents=True)
    again.write_text(to_csv(results), encoding="utf-8")
    assert load_results(tmp_path / "again").equals(results)


FITTED = [model for model in MODELS if not (model[1].startswith("as_") and "from_robust" in model[1])]
"""Models of a pipeline: D is never fitted as a control, whose recipe is that of D_rand."""


def printed(root: Path, rows: list[dict[str, Any]], headline_eps: float = 0.5, width: int = 100) -> str:
    text = io.StringIO()
    print_table(load_results(write(root, rows)), headline_eps, Console(file=text, width=width))
    return text.getvalue()


@pytest.mark.parametrize(("width", "has_room"), [(100, True), (60, False)])
def test_verdicts_stand_beside_the_models_that_they_are_about(tmp_path: Path, width: int, has_room: bool) -> None:
    attacks = [{"attack": f"pgd{steps}", "eps": 0.5} for steps in (5, 10, 20)]
    rows = [row(name, seed, **facts) for name in ("D", "D_rand") for seed in (0, 1) for facts in ({}, *attacks)]
    text, verdicts = io.StringIO(), {("D_rand", "standard"): "not reproduced", ("D_det", "standard"): "inconclusive"}
    print_table(load_results(write(tmp_path, rows)), 0.5, Console(file=text, width=width), verdicts=verdicts)
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    (fitted,) = (line for line in lines if line.startswith("D_rand"))
    (standard,) = (line for line in lines if line.startswith("D, standard"))
    assert fitted.rstrip().endswith("not reproduced") == has_room
    assert "reproduced" not in standard
    assert ("verdict: on the paper's claim" in " ".join(text.getvalue().split())) == has_room
    assert "inconclusive" not in text.getvalue()
    assert "eps 0.5*" in text.getvalue()


@pytest.mark.parametrize(
    ("width", "shown", "hidden"),
    [
        (100, ("eps 0.25 ", "eps 0.5*", "eps 0.75", "eps 2"), ("eps 0.125", "eps 1 ")),
        (80, ("eps 0.5*", "eps 2"), ("eps 0.25", "eps 0.75")),
        (60, ("eps 0.5*",), ("eps 2",)),
    ],
)
def test_terminal_table_fits_the_width(
    tmp_path: Path, width: int, shown: tuple[str, ...], hidden: tuple[str, ...]
) -> None:
    rows = [
        row(dataset, seed, 200 - seed, estimator=estimator, **measurement)
        for dataset, estimator in FITTED
        for seed in (0, 1, 2)
        for measurement in (
            {},
            {"labels": "shifted"},
            *({"attack": "pgd20", "eps": eps} for eps in (0.125, 0.25, 0.5, 0.75, 1.0, 2.0)),
        )
    ]
    text = printed(tmp_path, rows, width=width)
    if width > 60:  # at 60 even the fewest columns are cut
        assert "…" not in text
        assert all(model_label(*model) in text for model in FITTED)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "99.5 ±0.5" in text or width == 60
    assert all(name in text for name in shown)
    assert not any(name in text for name in hidden)


def test_the_headline_column_is_the_worst_case_and_pgd_stands_beside_it(tmp_path: Path) -> None:
    rows = [row(), attacked(0.5, 60, "pgd20"), attacked(0.5, 50, "pgd100"), attacked(0.5, 30, "worst")]
    text = printed(tmp_path, [*rows, attacked(1.0, 10)])
    assert re.search(r"eps 0\.5\* +eps 0\.5\* +eps 1", text)
    assert re.search(r"worst +PGD-100 +PGD-20", text)
    assert re.search(r"D, standard +90\.0 +– +15\.0 +25\.0 +5\.0", text)


def test_the_spread_is_named_by_its_level(tmp_path: Path) -> None:
    rows = [row("D_R", seed, 150 + 10 * source, source_seed=source) for source in (0, 1, 2) for seed in (0, 1)]
    text = " ".join(printed(tmp_path / "a", rows).split())
    assert "± standard deviation over 3 source models (means of 2 fits each)" in text
    seeds = [row(seed=seed, count=150 + seed) for seed in range(4)]
    assert "± standard deviation over 4 seeds" in " ".join(printed(tmp_path / "b", seeds).split())


def headline_rows() -> list[dict[str, Any]]:
    """Every model of HEADLINES, three source models with one fit each; PGD above the worst case."""
    rows = []
    for dataset, estimator in HEADLINES:
        for source in (0, 1, 2):
            direct = estimator in ("standard", "robust") and dataset == "D"
            key = {"estimator": estimator, "source_seed": None if direct else source, "seed": source if direct else 0}
            for attack, eps, count in (
                ("clean", 0.0, 180), ("pgd20", 0.5, 90), ("pgd100", 0.5, 80), ("worst", 0.5, 70), ("worst", 1.0, 40)
            ):  # fmt: skip
                rows.append(row(dataset, count=count + source, attack=attack, eps=eps, **key))
            rows.append(row(dataset, count=10, labels="shifted", **key))
    return rows


def test_headlines_are_about_twenty_numbers_with_the_worst_case() -> None:
    found = headlines(headline_rows(), 0.5, 1.0)
    standard = {"clean": 0.905, "worst_eps_0.5": 0.355, "pgd100_eps_0.5": 0.405, "worst_eps_1": 0.205}
    assert found["D"]["standard"] == standard
    assert found["D_det"]["standard"] == {"clean": 0.905, "shifted": 0.05}
    count = sum(len(numbers) for kinds in found.values() for numbers in kinds.values())
    assert 15 <= count <= 20
    assert "worst_eps_1" not in headlines(headline_rows(), 0.5, None)["D"]["standard"]


def test_headlines_leave_out_what_not_every_run_went_through() -> None:
    rows = [row for row in headline_rows() if not (row["attack"] == "worst" and row["seed"] == 2)]
    found = headlines(rows, 0.5, 1.0)
    assert "worst_eps_0.5" not in found["D"]["robust"]
    assert found["D_R"]["standard"]["worst_eps_0.5"] == 0.355
    assert headlines([row()], 0.5, None) == {"D": {"standard": {"clean": 0.9}}}


def test_terminal_table_of_one_seed_shows_no_spread(tmp_path: Path) -> None:
    text = printed(tmp_path, [row(), attacked(0.5, 60)])
    assert re.search(r"D, standard +90\.0 +– +30\.0", text)
    assert "±" not in text


def test_piped_table_is_100_wide(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [row(), *(attacked(eps, 60) for eps in (0.25, 0.5, 0.75, 1.0))]
    print_table(load_results(write(tmp_path, rows)), 0.5)
    text = capsys.readouterr().out
    assert "…" not in text
    assert all(name in text for name in ("eps 0.25", "eps 0.5*", "eps 0.75", "eps 1"))


def test_the_mean_of_fits_is_nested_within_their_sources(tmp_path: Path) -> None:
    """Two fits of source 0, one of source 1: each source counts once."""
    counts = {(0, 0): 100, (0, 1): 120, (1, 0): 150}
    rows = [row("D_R", seed, count, source_seed=source) for (source, seed), count in counts.items()]
    (found,) = summarise(load_results(write(tmp_path, rows))).to_dict(orient="records")
    assert found["mean"] == pytest.approx((110 + 150) / 2 / N)
    assert found["std"] == pytest.approx(40 / 2**0.5 / N)
    assert found["std_fits"] == pytest.approx(20 / 2**0.5 / N)
    assert (found["num_seeds"], found["num_models"], found["num_sources"]) == (2, 3, 2)


def test_fits_of_one_source_spread_over_their_seeds(tmp_path: Path) -> None:
    rows = [row("D_R", seed, 100 + 20 * seed, source_seed=4) for seed in (0, 1)]
    (found,) = summarise(load_results(write(tmp_path, rows))).to_dict(orient="records")
    assert (found["std"], found["std_fits"]) == pytest.approx((20 / 2**0.5 / N,) * 2)
    assert (found["num_seeds"], found["num_models"], found["num_sources"]) == (2, 2, 1)


def test_an_attack_that_some_fits_of_every_source_went_through_is_not_the_strongest(tmp_path: Path) -> None:
    """All attacks together on 3 of the 4 fits, PGD on all: both sources are there, yet one fit is missing."""
    rows = []
    for source, seed in ((0, 0), (0, 1), (1, 0), (1, 1)):
        at = {"source_seed": source, "attack": "pgd20", "eps": 0.5}
        rows += [row("D_R", seed, 100, **at)]
        rows += [row("D_R", seed, 50, **{**at, "attack": "worst"})] if (source, seed) != (1, 1) else []
    (line,) = accuracy_table(load_results(write(tmp_path, rows)))
    assert line.attack_at(0.5) == "pgd20"
    complete = [*rows, row("D_R", 1, 50, source_seed=1, attack="worst", eps=0.5)]
    (line,) = accuracy_table(load_results(write(tmp_path, complete)))
    assert line.attack_at(0.5) == "worst"


def test_a_baseline_is_the_fit_of_d_by_the_same_recipe() -> None:
    recipe = {"seeds": [0, 1], "epochs": 12, "lr": 0.3}
    fits = {
        "robust": {**recipe, "still_y": False, "baseline": True},
        "nonrobust": {**recipe, "still_y": True},
        "rand": {**recipe, "epochs": 20},
        "det": {**recipe, "epochs": 20, "baseline": True},
    }
    found = [baseline_of({"fit": fits}, name) for name in (*fits, "rand_from_robust")]
    assert found == ["as_D_R", "as_D_R", "as_D_det", "as_D_det", None]
    assert baseline_of({"fit": {"robust": recipe}}, "robust") is None


def test_small_helpers() -> None:
    assert fitted_model("rand", "full") == ("D_rand", "standard")
    assert fitted_model("rand", "still_y") == ("D_rand_still_y", "standard")
    assert fitted_model("robust", "baseline") == ("D", "as_D_R")
    assert model_label("D", "as_D_R") == "D, fitted as D_R"
    assert model_label("D", "as_D_rand_from_robust") == "D, fitted as D_rand from robust"
    assert chosen_eps([0.125, 0.25, 0.5, 0.75, 1.0], 0.5, 4) == [0.25, 0.5, 0.75, 1.0]
    assert chosen_eps([0.25, 0.5, 0.75, 1.0, 2.0], 0.5, 2) == [0.5, 2.0]
    assert chosen_eps([0.25, 0.75], 0.5, 1) == [0.75]
    assert chosen_eps([], 0.5, 4) == []
    assert [attack_steps(name) for name in ("pgd100", "clean", "pgdx")] == [100, 0, 0]
    assert model_label("D_rand_from_robust_still_y", "standard") == "D_rand from robust, still y"
    assert model_label("D", "robust") == "D, robust"
