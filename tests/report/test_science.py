"""The sections about the science: verdicts by their rules, figures that draw the numbers, files asked for by name."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from notbugs.data.images import ImageData
from notbugs.data.store import load_dataset, save_dataset
from notbugs.evaluation.results import ResultsError
from notbugs.report import diversity, estimator, inversion, transfer
from notbugs.report.drawing import report_style
from notbugs.report.page import SECTIONS, write_report
from notbugs.report.project import load_project
from notbugs.report.sections import words
from projects import leave_blank


def share(mean: float, half: float = 0.03) -> dict[str, Any]:
    low, high = max(0.0, mean - half), min(1.0, mean + half)
    return {"mean": mean, "low": low, "high": high, "std": 0.01, "n": 300, "num_seeds": 2}


def transfer_metrics(
    accuracy: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5), success: tuple[float, ...] = (0.3, 0.5, 0.4, 0.8)
) -> dict[str, Any]:
    table = {
        f"net {number}": {
            "architecture": "mlp",
            "width": 8,
            "num_parameters": 1000,
            "accuracy": {"D": share(0.98), "D_rand": share(0.7), "D_det": share(x)},
            "accuracy_shifted": {"D": share(0.0), "D_rand": share(0.1), "D_det": share(0.5)},
            "transfer": {
                goal: {
                    "conditional": share(y),
                    "unconditional": share(0.9 * y),
                    "clean": share(0.01, 0.01),
                    "noise": share(0.05, 0.02),
                }
                for goal in ("untargeted", "targeted")
            },
        }
        for number, (x, y) in enumerate(zip(accuracy, success, strict=True))
    }
    facts = {"pearson": 0.9, "spearman": 0.8, "p_value": 0.04, "rho_without_one": [0.5, 1.0], "num_points": 4}
    return {
        "attack": {"norm": "l2", "eps": 1.0, "num_steps": 60},
        "source": {"architecture": "small_cnn", "width": 16, "accuracy": share(0.99), "fooled": {}},
        "source_seeds": {"D_rand": 1, "D_det": 1},
        "architectures": table,
        "correlation": {name: {"targeted": facts, "untargeted": facts} for name in ("D_rand", "D_det")},
    }


def _space(nearer: float, target: float, start: float) -> dict[str, Any]:
    median = {"median": 1.5, "low": 1.4, "high": 1.6}
    return {
        "to_target": median,
        "to_start": median,
        "reached": {"median": 0.25, "low": 0.2, "high": 0.3},
        "nearer_target": share(nearer),
        "neighbour_target": share(target),
        "neighbour_start": share(start),
    }


def inversion_metrics(robust: float = 0.95, standard: float = 0.2, unseen: float = 0.97) -> dict[str, Any]:
    def entry(nearer: float) -> dict[str, Any]:
        spaces = {space: _space(nearer, 0.9 * nearer, 0.1) for space in ("pixels", "robust", "standard")}
        return {**spaces, "called_y": {"robust": share(0.9), "standard": share(0.95)}}

    objectives = ("representation", "cosine")
    splits = {"train": 0.99, "inverted_test": unseen, "test": 0.96}
    fits = {
        name: {split: {"clean": share(mean, 0.01), "attacked": share(0.3)} for split, mean in splits.items()}
        for name in ("D, standard", "D, robust", "D_R", "D_NR")
    }
    for name in ("D, standard", "D, robust"):
        del fits[name]["inverted_test"]
    return {
        "num_examples": 100,
        "source_seeds": {"D_R": 0, "D_NR": 2},
        "eps": 0.5,
        "resemblance": {
            "robust": {name: entry(robust) for name in objectives},
            "standard": {name: entry(standard) for name in objectives},
        },
        "fits": fits,
    }


def ratio(value: float, half: float = 0.05) -> dict[str, Any]:
    return {"value": 10 * value, "ratio": value, "low": value - half, "high": value + half}


def diversity_metrics(
    rank: float = 0.7, vendi: float = 0.8, spread: float = 0.6, coverage: float = 0.7
) -> dict[str, Any]:
    measures = {"effective_rank": rank, "vendi_score": vendi, "spread": spread, "coverage": coverage}
    space = {
        "D": {name: ratio(1.0, 0.0) for name in measures},
        "D_R": {name: ratio(value) for name, value in measures.items()},
        "D_NR": {name: ratio(1.5) for name in measures},
    }
    values = {name: dict.fromkeys(measures, 3.0) for name in space}
    return {
        "sizes": {"0": 20, "1": 22},
        "source_seeds": {"D_R": 0, "D_NR": 0},
        "num_neighbours": 5,
        "spaces": dict.fromkeys(("pixels", "robust", "standard"), space),
        "nearest_own_mean": {name: share(0.9) for name in space},
        "classes": {name: {"pixels": values} for name in ("0", "1")},
    }


def estimator_metrics(
    fits: tuple[float, float, float] = (0.1, 0.3, 0.5), blend: float = 0.02, other: tuple[float, float] = (0.1, 0.3)
) -> dict[str, Any]:
    def facts(kind: str, eps: float | None, fit: float, clean: float = 0.95) -> dict[str, Any]:
        names = {"g_clean": 0.98, "g_attacked": 0.5, "fit_clean": clean, "fit_attacked": fit, "still_y": 0.9}
        shares = {name: share(value) for name, value in {**names, "blend_clean": 0.5, "blend_attacked": blend}.items()}
        return {
            "kind": kind, "architecture": "mlp", "eps": eps, **shares, "pixels_to_target": 2.0 - (eps or 0),
            "pixels_to_start": 1.0, "reached": 0.03,
            "seeds": {name: [0.1, 0.2] for name in ("g_attacked", "fit_clean", "fit_attacked", "blend_attacked")},
        }  # fmt: skip

    table = {f"eps {eps:g}": facts("radius", eps, fit) for eps, fit in zip((0.0, 0.5, 1.0), fits, strict=True)}
    table["untrained"] = facts("untrained", None, 0.0, clean=0.4)
    table["mlp, eps 0"] = facts("architecture", 0.0, other[0])
    table["mlp, eps 1"] = facts("architecture", 1.0, other[1])
    return {"eps": 0.6, "num_examples": 50, "num_seeds": 2, "table": table}


BY_KEY = {section.key: section for section in SECTIONS}
METRICS: dict[str, Callable[[], dict[str, Any]]] = {
    "transfer": transfer_metrics,
    "inversion": inversion_metrics,
    "diversity": diversity_metrics,
    "estimator": estimator_metrics,
}


def _write_panel(root: Path) -> None:
    train = load_dataset(root / "data/train").data()
    rows = []
    for model in ("robust", "standard"):
        for objective in ("representation", "cosine"):
            for place in (0, 1):
                numbers = {f"{space}_{what}": 1.0 for space in ("pixels", "robust", "standard")
                           for what in ("to_target", "to_start", "start_to_target")}  # fmt: skip
                labels = {"true_label": int(train.labels[place]), "start_label": int(train.labels[place + 5])}
                rows.append(
                    {"model": model, "objective": objective, "source_index": place, "start_index": place + 5,
                     **labels, **numbers}
                )  # fmt: skip
    images = ImageData(train.images[: len(rows)], train.labels[: len(rows)], train.class_names)
    save_dataset(root / "plots/inversion", images, pd.DataFrame(rows), name="panel", source="digits", settings={})


@pytest.fixture(scope="module")
def science_project(make_project, tmp_path_factory) -> Path:
    root: Path = make_project(tmp_path_factory.mktemp("science") / "lab")
    params = yaml.safe_load((root / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump({**params, **{name: {} for name in METRICS}}, sort_keys=False))
    for name, make in METRICS.items():
        (root / f"metrics/{name}.json").write_text(json.dumps(make()))
    _write_panel(root)
    return root


@pytest.fixture(scope="module")
def written(science_project, tmp_path_factory) -> Path:
    """The page, its figures left blank."""
    folder: Path = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patched:
        leave_blank(patched)
        write_report(science_project, folder / "report.html", folder / "figures")
    return folder


def test_the_page_holds_every_section_figure_and_verdict(written):
    page = (written / "report.html").read_text()
    for key in ("transfer", "inversion", "diversity", "estimator"):
        assert f'<details class="section" id="{key}">' in page
        assert (written / "figures" / f"{key}.png").exists()
    assert (written / "figures" / "inversion_panel.png").exists()
    assert "Of all ways to pair the architectures" in page
    assert "The four experiments" in page


def test_every_verdict_table_says_what_it_rests_on(written):
    page = (written / "report.html").read_text()
    one = "Rest on one source model of each kind"
    for basis in (
        f"{one} (seed 1), 2 seeds of each architecture, 300 test images;",
        f"{one} (seeds 0, 2), 100 inverted images, 2 fits on each dataset, 300 test images;",
        f"{one} (seed 0), no fits, 42 training images;",
        "Rest on 2 estimators of each kind, trained for this, with one fit each, 50 training and 300 test images.",
    ):
        assert basis in page


@pytest.mark.usefixtures("blank_pictures")
def test_classes_that_were_left_out_are_named(science_project, tmp_path):
    root = shutil.copytree(science_project, tmp_path / "lab")
    file = root / "metrics/diversity.json"
    file.write_text(json.dumps({**diversity_metrics(), "left_out": {"owl": 3, "ant": 0}}))
    write_report(root, tmp_path / "report.html", tmp_path / "figures")
    assert "Left out, with too few images: owl (3) and ant (0)." in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("name", list(METRICS))
def test_a_stage_that_was_not_run_has_no_section(science_project, tmp_path, name):
    root = shutil.copytree(science_project, tmp_path / "lab")
    assert BY_KEY[name].is_in(load_project(root))
    (root / f"metrics/{name}.json").unlink()
    assert not BY_KEY[name].is_in(load_project(root))
    with pytest.raises(ResultsError, match=rf"metrics/{name}\.json: not found; `dvc repro {name}` makes it"):
        BY_KEY[name].metrics(load_project(root))


def test_a_pipeline_without_these_stages_has_no_such_sections(fake_project):
    project = load_project(fake_project)
    assert not [name for name in METRICS if BY_KEY[name].is_in(project)]


def test_transfer_verdicts(science_project):
    project, found = load_project(science_project), transfer_metrics()
    transfers, rise = transfer.SECTION.judge(project, found)
    assert (transfers.finding, rise.finding) == ("reproduced", "reproduced")
    assert "targeted from 30.0% [27.0, 33.0] (net 0) to 80.0%" in transfers.sentence
    weak = transfer_metrics(success=(0.3, 0.5, 0.4, 0.08))  # its lower end 5% is below the noise's upper end 7%
    assert transfer.SECTION.judge(project, weak)[0].finding == "not reproduced"
    fragile = copy.deepcopy(found)
    fragile["correlation"]["D_det"]["targeted"]["rho_without_one"] = [-0.1, 1.0]
    assert transfer.SECTION.judge(project, fragile)[1].finding == "inconclusive"
    chance = copy.deepcopy(found)
    chance["correlation"]["D_det"]["targeted"]["p_value"] = 0.15
    assert transfer.SECTION.judge(project, chance)[1].finding == "inconclusive"
    assert "15.0%" in transfer.SECTION.judge(project, chance)[1].sentence
    fragile["correlation"]["D_det"]["targeted"]["spearman"] = -0.3
    assert transfer.SECTION.judge(project, fragile)[1].finding == "not reproduced"
    fragile["correlation"]["D_det"]["targeted"] = None
    assert transfer.SECTION.judge(project, fragile)[1].finding == "inconclusive"


def test_transfer_says_where_det_is_not_honest(science_project, tmp_path):
    root = shutil.copytree(science_project, tmp_path / "lab")
    facts = json.loads((root / "metrics/construct/det.json").read_text())
    facts["robust_model"]["still_y"] = 0.6
    (root / "metrics/construct/det.json").write_text(json.dumps(facts))
    sentence = transfer.SECTION.judge(load_project(root), transfer_metrics())[1].sentence
    assert "Of D_det's images that they called y before the perturbation, the robust model and the 1-NN" in sentence
    assert "still call 60.0% and 91.0% y, less than 85%" in sentence


def test_transfer_figure_draws_every_point(science_project):
    with report_style():
        figure = transfer.figure(load_project(science_project), transfer_metrics())
    assert figure is not None
    marks = [line for line in figure.axes[0].lines if line.get_marker() in transfer.MARKERS]
    points = [tuple(np.ravel(line.get_data())) for line in marks]
    assert (0.2, 0.3) in points
    assert (0.5, 0.8) in points
    assert len(points) == 8
    assert len({line.get_marker() for line in marks}) == 4  # each architecture has its own


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("reproduced", "reproduced", "not reproduced")),
        ({"standard": 0.6}, ("not reproduced", "reproduced", "not reproduced")),
        ({"robust": 0.2}, ("not reproduced", "not reproduced", "not reproduced")),
        ({"unseen": 0.80}, ("reproduced", "reproduced", "reproduced")),
    ],
)
def test_inversion_verdicts(changes, expected):
    assert tuple(one.finding for one in inversion.SECTION.judge(None, inversion_metrics(**changes))) == expected


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("reproduced", "reproduced")),
        ({"rank": 1.2, "vendi": 1.1, "spread": 1.0}, ("not reproduced", "reproduced")),
        ({"rank": 1.2}, ("inconclusive", "reproduced")),
        ({"coverage": 0.98}, ("reproduced", "not reproduced")),
    ],
)
def test_diversity_verdicts(changes, expected):
    assert tuple(one.finding for one in diversity.SECTION.judge(None, diversity_metrics(**changes))) == expected


@pytest.mark.parametrize(
    ("changes", "expected", "says"),
    [
        ({}, ("reproduced", "reproduced", "reproduced", "reproduced"), "passes between architectures"),
        (
            {"fits": (0.3, 0.3, 0.3)},
            ("not reproduced", "reproduced", "reproduced", "reproduced"),
            "give the paper's reading no support",
        ),
        (
            {"blend": 0.5},
            ("reproduced", "not reproduced", "reproduced", "reproduced"),
            "do the same, without any model",
        ),
        (
            {"other": (0.3, 0.3)},
            ("reproduced", "reproduced", "not reproduced", "reproduced"),
            "Nor does nearness in pixels.",
        ),
    ],
)
def test_estimator_verdicts_and_balance(science_project, changes, expected, says):
    judged = estimator.SECTION.judge(load_project(science_project), estimator_metrics(**changes))
    assert tuple(one.finding for one in judged) == expected
    text = words("estimator", "conclusion", verdicts=judged)
    assert says in text
    assert ("passes between architectures" in text) == (expected[0] == expected[2] == "reproduced")


def test_estimator_figure_draws_means_against_radius(science_project):
    with report_style():
        figure = estimator.figure(load_project(science_project), estimator_metrics())
    assert figure is not None
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    assert list(lines["standard fit on what g made"]) == [0.1, 0.3, 0.5]
    assert [label.get_text() for label in figure.axes[1].get_xticklabels()] == ["untrained", "mlp\neps 0", "mlp\neps 1"]


def test_the_panel_shows_targets_starts_and_every_inversion(science_project):
    with report_style():
        figure = inversion.panel(load_project(science_project), inversion_metrics())
    assert figure is not None
    train = load_dataset(science_project / "data/train").data()
    shown = [torch.tensor(np.asarray(image.get_array())) for image in figure.axes[0].images]
    assert len(shown) == 2 * (2 + 4)
    assert torch.equal(shown[0], train.images[0, 0])
    assert torch.equal(shown[2], train.images[5, 0])
    assert torch.equal(shown[4], train.images[0, 0])
    assert torch.equal(shown[7], train.images[3, 0])
