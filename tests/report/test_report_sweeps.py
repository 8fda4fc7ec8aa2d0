"""Sweeps in the report: means, figures, and an answer to Reviewer 3 that follows the numbers."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sweep_files import EPS, STEPS, numbers, trial_rows, write_sweep

from notbugs.evaluation.comparison import Run
from notbugs.evaluation.results import ResultsError
from notbugs.report import studies as figures
from notbugs.report.honesty import Honesty
from notbugs.report.sections import Picture, render
from notbugs.report.studies import StudyResults, draw, load_studies, load_study, write_figures
from notbugs.report.sweeps import answer, numbers_of_studies, y_against_shifted
from notbugs.runtime.files import sha256


@pytest.fixture
def study(tmp_path: Path) -> StudyResults:
    write_sweep(tmp_path)
    return load_study(tmp_path, "small")


def bent(tmp_path: Path, **changed: Any) -> StudyResults:
    """A study with numbers of its own: column -> function of (kind, eps, steps, what it would be)."""

    def values(kind: str, eps: float, steps: int) -> dict[str, float]:
        found = numbers(kind, eps, steps)
        return {key: changed[key](kind, eps, steps, value) if key in changed else value for key, value in found.items()}

    write_sweep(tmp_path, rows=trial_rows(values=values))
    return load_study(tmp_path, "small")


def test_points_are_means_over_seeds(study: StudyResults) -> None:
    assert len(study.points) == 2 * len(EPS) * len(STEPS)
    point = study.of("rand").set_index(["eps", "num_steps"]).loc[(1.0, 4)]
    assert point["accuracy"] == pytest.approx(0.60)
    assert point["accuracy_std"] == pytest.approx(0.02 / np.sqrt(2))
    assert point["num_seeds"] == 2
    assert study.points.groupby("eps")["honest"].agg(["min", "max"]).to_numpy().tolist() == [
        [True, True],
        [True, True],
        [False, False],
    ]


def test_a_second_judge_counts_too(tmp_path: Path) -> None:
    rows = [{**row, "still_y_neighbour": 0.5} for row in trial_rows()]
    write_sweep(tmp_path, rows=rows)
    assert not load_study(tmp_path, "small").points["honest"].any()


def test_failed_and_pruned_points_are_left_out(tmp_path: Path) -> None:
    rows = trial_rows()
    for row, state in ((rows[0], "FAIL"), (rows[1], "PRUNED")):
        row["state"] = state
        for name in list(row)[6:-2]:
            row[name] = ""
    write_sweep(tmp_path, rows=rows)
    assert len(load_study(tmp_path, "small").points) == 17


def test_heatmap_shows_each_number_in_its_cell(study: StudyResults) -> None:
    figure = figures.heatmaps(study.of("det"), "det", study.about)
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == [
        title for _, title in figures.QUANTITIES
    ]
    accuracy = figure.axes[0]
    texts = {(round(text.get_position()[0]), round(text.get_position()[1])): text.get_text() for text in accuracy.texts}
    assert texts == {
        (column, row): f"{100 * numbers('det', eps, steps)['accuracy']:.0f}"
        for row, eps in enumerate(EPS)
        for column, steps in enumerate(STEPS)
    }
    assert [label.get_text() for label in accuracy.get_yticklabels()] == ["0.5", "1", "2"]
    assert [label.get_text() for label in accuracy.get_xticklabels()] == ["1", "4", "16"]
    assert len(accuracy.patches) == 3  # hatched: eps 2
    assert {patch.get_y() for patch in accuracy.patches} == {1.5}
    assert figure.axes[4].texts[0].get_text() == "0.49"  # 0.495, a length, no percentage


def test_lines_hollow_where_images_no_longer_show_y(study: StudyResults) -> None:
    chart = figures.lines(study)
    assert chart is not None
    panels = chart.spec["vconcat"][0]
    assert panels["facet"]["sort"] == ["D_rand, on y", "D_rand, on y + 1", "D_det, on y", "D_det, on y + 1"]
    assert {row["x"] for row in chart.spec["data"]["values"] if not row["honest"]} == {2.0}
    points = next(one for one in panels["spec"]["layer"] if one["mark"]["type"] == "point")
    assert points["encoding"]["fill"]["condition"]["test"] == "datum.honest == 1"
    assert points["encoding"]["fill"]["value"] == "white"
    first = chart.spec["data"]["values"][0]
    assert (first["series"], first["y"]) == ("1 step", pytest.approx(0.2))
    assert first["high"] - first["low"] == pytest.approx(2 * 0.02 / 2**0.5, abs=1e-4)


def test_front_is_what_none_beats() -> None:
    points = pd.DataFrame(
        {"validation_accuracy": [0.9, 0.5, 0.8, 0.9, 0.1], "validation_adversarial_accuracy": [0.1, 0.5, 0.1, 0.1, 0.4]}
    )
    assert figures.pareto(points).tolist() == [True, True, False, True, False]


def test_a_front_along_zero_is_not_drawn(tmp_path: Path) -> None:
    rows = [{**row, "adversarial_accuracy": 0.0} for row in trial_rows(("rand",))]
    write_sweep(tmp_path, "weak", rows)
    assert figures.front(load_study(tmp_path, "weak")) is None


def test_a_front_leaves_out_what_withstands_nothing(tmp_path: Path) -> None:
    rows = [{**row, "adversarial_accuracy": 0.3 if row["kind"] == "rand" else 0.0} for row in trial_rows()]
    write_sweep(tmp_path, "half", rows)
    figure = figures.front(load_study(tmp_path, "half"))
    assert figure is not None
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["D_rand", "front"]
    assert all(np.asarray(line.get_ydata()).min() > 0 for line in axes.lines)


def test_captions_of_a_study_of_one_seed_say_so(tmp_path: Path) -> None:
    for name, seeds in (("one", [0]), ("two", [0, 1])):
        root = tmp_path / name
        folder = write_sweep(root, rows=[row for row in trial_rows(("rand",)) if row["seed"] in seeds])
        about = json.loads((folder / "study.json").read_text())
        about["sweep"]["seeds"] = seeds
        (folder / "study.json").write_text(json.dumps(about))
        pictures = {title: Picture(b"png" + bytes(30)) for title, _ in draw(load_study(root, "small"))}
        page = render("sweeps", pictures=pictures, verdicts=[], **numbers_of_studies(root, 10, 360))
        captions = re.findall("<figcaption>(.*?)</figcaption>", page, flags=re.DOTALL)
        told = [text for text in captions if re.search("one seed" if name == "one" else "mean over seeds", text, re.I)]
        assert len(told) == len(captions) - 2  # the budget's and the importances' speak of no mean
        assert ("standard deviation" in page) == (name == "two")


def test_every_figure_of_a_grid_and_of_a_sampler(tmp_path: Path, study: StudyResults) -> None:
    assert [name for name, _ in draw(study)] == [
        "sweep_small_rand_heatmaps",
        "sweep_small_det_heatmaps",
        "sweep_small_lines",
        "sweep_small_steps",
        "sweep_small_budget",
        "sweep_small_front",
        "sweep_small_importance",
    ]
    write_sweep(tmp_path, "tpe", trial_rows(("rand",)), sampler="tpe")
    assert [name for name, _ in draw(load_study(tmp_path, "tpe"))] == [
        "sweep_tpe_rand_heatmaps",
        "sweep_tpe_budget",
        "sweep_tpe_front",
        "sweep_tpe_importance",
    ]


def test_inversions_are_drawn_over_the_source_s_eps(tmp_path: Path) -> None:
    rows = [{**row, "kind": "robust", "source_eps": row["eps"], "eps": ""} for row in trial_rows(("rand",))]
    write_sweep(tmp_path, "inverted", rows)
    names = dict(draw(load_study(tmp_path, "inverted")))
    assert names["sweep_inverted_robust_heatmaps"].axes[0].get_ylabel() == "eps of the source model"
    assert "sweep_inverted_lines" not in names
    assert answer(load_study(tmp_path, "inverted"), 10, 10_000) == []


def test_source_models_are_drawn_apart(tmp_path: Path) -> None:
    rows = [{**row, "source_eps": source} for source in (0.0, 0.5) for row in trial_rows(("det",))]
    write_sweep(tmp_path, "sources", rows)
    study = load_study(tmp_path, "sources")
    names = [name for name, _ in draw(study)]
    assert names[:2] == ["sweep_sources_det_source_0_heatmaps", "sweep_sources_det_source_0.5_heatmaps"]
    assert [paragraph.split(":")[0] for paragraph in answer(study, 10, 10_000)] == [
        "D_det (source model of eps 0)",
        "D_det (source model of eps 0.5)",
    ]


def test_figures_of_one_study(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    files = write_figures(tmp_path, "small")
    assert len(files) == 7
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in files)
    assert files[0].parent == tmp_path / "sweeps/small/figures"


def test_answer_for_d_rand(study: StudyResults) -> None:
    rand, _ = answer(study, 10, 10_000)
    assert rand.startswith("D_rand: with 16 steps the accuracy on y goes from 40.0% at eps 0.5 to 65.0% at eps 2 ")
    assert "(chance 10.0%, seeds ±1.4). Each judge" in rand
    assert "that it called y before the perturbation at eps 0.5, 1, not at 2 (the robust model 60.0%" in rand
    assert "At eps 1, 1 step gives 40.0% and 16 steps 60.0%; from 4 on it changes by at most 5 points." in rand
    assert "eps explains 80% and the steps 20%" in rand
    assert rand.endswith(
        "How sensitive D_rand is to eps stays undecided, from moderately sensitive to very sensitive: a factor of 2 in "
        "eps changes the accuracy by 20.0 points [+18.6, +21.4] from the worst to the best of them."
    )
    assert "y + 1" not in rand


def test_answer_for_d_det(study: StudyResults, tmp_path: Path) -> None:
    clear = bent(tmp_path / "clear", accuracy_shifted=lambda kind, eps, steps, value: 0.3 if eps == 1.0 else value)
    _, det = answer(clear, 10, 10_000)
    assert "more test images y than y + 1 at eps 1, 2; at 1 the images still show y: there the perturbations" in det
    late = bent(tmp_path / "late", accuracy_shifted=lambda kind, eps, steps, value: 0.7 if eps == 1.0 else value)
    assert "at eps 2, but at none of these do the images still show y" in answer(late, 10, 10_000)[1]
    never = bent(tmp_path / "never", accuracy_shifted=lambda *_: 0.95)
    assert "more test images y + 1 than y at every eps" in answer(never, 10, 10_000)[1]


@pytest.mark.parametrize(
    ("gain", "word"), [(0.01, "insensitive"), (0.15, "moderately sensitive"), (0.45, "very sensitive")]
)
def test_the_verdict_follows_the_change(tmp_path: Path, gain: float, word: str) -> None:
    study = bent(tmp_path, accuracy=lambda kind, eps, steps, value: 0.3 + (gain if eps > 0.5 else 0.0))
    assert f"D_rand is {word} to eps" in answer(study, 10, 10_000)[0]


def test_what_two_fits_do_not_tell_is_called_undecided(tmp_path: Path, study: StudyResults) -> None:
    """At eps 1 y is 5 points above y + 1, but two fits that differ by 2 points leave ±13 (t, 1 degree of freedom)."""
    _, det = answer(study, 10, 10_000)
    assert "more test images y than y + 1 at eps 2, but at none of these" in det
    assert "Undecided at eps 1: the interval of the difference holds 0." in det
    rows = trial_rows()
    for row in rows:  # the best and the worst eps 0.15 apart, and the fits' differences 0.10 and 0.20
        row["accuracy"] = 0.3 + (0.15 + 0.1 * (row["seed"] - 0.5) if row["eps"] > 0.5 else 0.0)
    write_sweep(tmp_path / "wide", rows=rows)
    rand = answer(load_study(tmp_path / "wide", "small"), 10, 10_000)[0]
    assert "How sensitive D_rand is to eps stays undecided, from insensitive to very sensitive: a factor of 2" in rand
    assert "15.0 points [−48.5, +78.5]" in rand


def test_y_against_y_plus_one_by_simulation() -> None:
    """The interval's width: no image is both, so the difference varies more than that of two separate samples."""
    runs = [[Run(0, 0, share)] for share in (0.45, 0.40)]
    gap = y_against_shifted(*runs, 400)
    drawn = np.random.default_rng(0).multinomial(400, [0.45, 0.40, 0.15], size=20_000)
    assert (gap.high - gap.low) / 2 == pytest.approx(1.96 * ((drawn[:, 0] - drawn[:, 1]) / 400).std(), rel=0.02)


def test_a_single_fit_is_called_so(tmp_path: Path) -> None:
    rows = [row for row in trial_rows() if row["seed"] == 0]
    write_sweep(tmp_path, rows=rows)
    rand, det = answer(load_study(tmp_path, "small"), 10, 10_000)
    assert "(chance 10.0%, one fit)" in rand
    assert rand.endswith("from the worst to the best of them (one fit a point).")
    assert "y than y + 1 at eps 1, 2 (one fit a point)" in det


def test_the_pipeline_s_own_dataset_decides_at_its_eps(study: StudyResults) -> None:
    """The study's images at eps 1 pass with 90%, the pipeline's fall short with 84.9: one place decides."""
    _, alone = answer(study, 10, 10_000)
    assert "before the perturbation at eps 0.5, 1, not at 2" in alone
    _, det = answer(study, 10, 10_000, {"det": (1.0, Honesty(0.849, 0.90, 1000))})
    assert "before the perturbation at eps 0.5, not at 1, 2" in det
    assert (
        "At eps 1 the pipeline's own dataset decides (84.9% still called y by the stricter judge): it does not" in det
    )
    assert "at 1 the images still show y" not in det
    _, other = answer(study, 10, 10_000, {"det": (1.3, Honesty(0.2, 0.2, 1000))})
    assert other == alone


def test_points_on_the_edge_are_named(tmp_path: Path) -> None:
    study = bent(tmp_path, still_y=lambda kind, eps, steps, value: 0.855 if eps == 1.0 else value)
    assert "On the edge at eps 1: there a standard error" in answer(study, 10, 10_000)[0]


def test_the_edge_counts_the_images_that_the_judge_knew(tmp_path: Path) -> None:
    """Of 200 images a judge that knew 35% speaks of 70: 91% lies within their standard error plus image of 85%."""
    shares = {}
    for before in (0.35, 1.0):
        rows = [{**row, "before": before, "still_y": 0.88} for row in trial_rows(("rand",))]
        write_sweep(tmp_path / str(before), rows=rows)
        shares[before] = load_study(tmp_path / str(before), "small").points["on_edge"].all()
    assert shares == {0.35: True, 1.0: False}


def test_the_answer_without_honest_points(tmp_path: Path) -> None:
    study = bent(tmp_path, still_y=lambda *_: 0.2)
    rand = answer(study, 10, 10_000)[0]
    assert "At none of these eps does each judge, at every number of steps, still call y 85%" in rand
    assert "this study cannot say how sensitive D_rand is" in rand
    fine = bent(tmp_path / "fine", still_y=lambda *_: 0.95)
    assert "At all of them each judge still calls y at least 85%" in answer(fine, 10, 10_000)[0]


def test_studies_with_names_that_start_alike(tmp_path: Path) -> None:
    for name in ("small", "small_two"):
        write_sweep(tmp_path, name)
    png = b"png" + bytes(30)
    pictures = {name: Picture(png) for study in load_studies(tmp_path) for name, _ in draw(study)}
    page = render("sweeps", pictures=pictures, verdicts=[], **numbers_of_studies(tmp_path, 10, 360))
    assert page.count("<img ") == len(pictures)
    before, after = page.split("Study small_two (grid)")
    assert (before.count('of the study small"'), after.count('of the study small_two"')) == (7, 7)


def test_no_studies_no_section(tmp_path: Path) -> None:
    assert render("sweeps", pictures={}, verdicts=[], **numbers_of_studies(tmp_path, 10, 360)) == ""


def test_errors_name_the_file_and_the_command(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"trials.csv: not found; `dvc repro sweep@small` makes it"):
        write_figures(tmp_path, "small")
    folder = write_sweep(tmp_path)
    (folder / "study.json").unlink()
    with pytest.raises(ResultsError, match="`notbugs sweep small` writes it again"):
        load_study(tmp_path, "small")


def test_studies_of_other_data_are_left_out_and_named(tmp_path: Path) -> None:
    manifest = tmp_path / "data" / "train" / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    for name, data in (("ours", sha256(manifest)), ("theirs", "0" * 64)):
        about = write_sweep(tmp_path, name) / "study.json"
        about.write_text(json.dumps({**json.loads(about.read_text()), "data": data}))
    assert [study.name for study in load_studies(tmp_path)] == ["ours"]
    page = render("sweeps", pictures={}, verdicts=[], **numbers_of_studies(tmp_path, 10, 360))
    assert "than the project has now: theirs.</p>" in page
    assert "Study theirs" not in page


def test_a_study_of_axes_has_surfaces_slices_and_says_what_was_best(tmp_path: Path) -> None:
    """Of every two numbers that were varied the first two span the surface; names stand in slices alone."""
    lrs, networks = (0.1, 0.3, 1.0), ("mlp", "small_cnn")
    rows = []
    for row in trial_rows(("rand",)):
        place = EPS.index(row["eps"])
        network = networks[row["num_steps"] == 1]
        rows.append({**row, "num_steps": 7, "fit.rand.lr": lrs[place], "fit.rand.epochs": row["num_steps"]})
        rows[-1] |= {"model.architecture": network, "eps": 1.0, "step_size": 0.1}
    folder = write_sweep(tmp_path, rows=rows)
    about = json.loads((folder / "study.json").read_text())
    axes = {"fit.rand.lr": lrs, "fit.rand.epochs": STEPS, "model.architecture": networks}
    about["sweep"] |= {"axes": axes}
    (folder / "study.json").write_text(json.dumps(about))
    study = load_study(tmp_path, "small")
    assert len(study.points) == len(EPS) * len(STEPS)
    drawn = dict(draw(study))
    assert [title.removeprefix("sweep_small_") for title in drawn] == [
        "rand_surface",
        "rand_slices",
        "front",
        "importance",
    ]
    surface = drawn["sweep_small_rand_surface"].axes
    assert [label.get_text() for label in surface[0].get_yticklabels()] == ["0.1", "0.3", "1"]
    assert [label.get_text() for label in surface[0].get_xticklabels()] == ["1", "4", "16"]
    assert (surface[0].get_ylabel(), surface[3].get_xlabel()) == ("fit.rand.lr", "fit.rand.epochs")
    slices = drawn["sweep_small_rand_slices"].axes
    assert [one.get_xlabel() for one in slices] == list(axes)
    assert [label.get_text() for label in slices[2].get_xticklabels()] == ["mlp", "small_cnn"]
    told = numbers_of_studies(tmp_path, 10, 360, {"rand": (1.0, Honesty(0.1, 0.1, 100))})["studies"][0]
    assert told["paragraphs"] == []
    assert told["best"][0]["point"]["axes"] == "fit.rand.lr 0.3, fit.rand.epochs 16, model.architecture mlp"
    page = render("sweeps", pictures={}, verdicts=[], studies=[told], left_out=[])
    assert "other settings" in page
    assert "fit.rand.lr 0.3, fit.rand.epochs 16, model.architecture mlp" in page
