"""The stages features, planted and gaussian on tiny settings: what they write, the same bytes again, their report."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from notbugs.data.images import ImageData
from notbugs.data.store import save_dataset
from notbugs.evaluation.results import ResultsError
from notbugs.models import save_model
from notbugs.models.base import Classifier
from notbugs.pipeline.running.context import Context, open_project
from notbugs.pipeline.stages import run_stage
from notbugs.report import features as features_section
from notbugs.report import gaussian as gaussian_section
from notbugs.report import planted as planted_section
from notbugs.report.project import Project
from notbugs.report.sections import Section
from notbugs.runtime.errors import ConfigError
from tiny import FEATURES, PLANTED

TRAIN = {"epochs": 1, "batch_size": 20, "lr": 0.1}
PARAMS = {
    "seed": 0,
    "num_threads": 1,
    "device": "cpu",
    "data": {"source": "digits"},
    "train": {"standard": {"seeds": [4], **TRAIN}, "robust": {"seeds": [7], **TRAIN}},
    "construct": {"rand": {}},
    "features": {**FEATURES, "eps": [0.2, 0.4], "headline_eps": 0.4, "circles": {"num_points": 200}},
    "planted": {**PLANTED, "num_steps": 2},
    "gaussian": {"dimension": 3, "num_samples": 2000, "num_minimax": 30, "num_covariances": 5},
}


@pytest.fixture(autouse=True)
def _untracked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")
    yield
    torch.set_num_threads(1)


@pytest.fixture
def project(
    tmp_path: Path,
    digits: tuple[ImageData, ImageData],
    standard_model: Classifier,
    robust_model: Classifier,
) -> Context:
    """Digits, both source models, and D_rand with the labels of D."""
    import pandas as pd

    (tmp_path / "params.yaml").write_text(yaml.safe_dump(PARAMS, sort_keys=False))
    for name, data in {"train": digits[0], "test": digits[1], "rand/source-4": digits[0]}.items():
        table = pd.DataFrame({"index": range(len(data))})
        save_dataset(tmp_path / "data" / name, data, table, name=name, source="digits", settings={})
    save_model(standard_model, tmp_path / "models/train/standard/seed-4.safetensors")
    save_model(robust_model, tmp_path / "models/train/robust/seed-7.safetensors")
    return open_project(tmp_path)


def as_report(project: Context) -> Any:
    """The part of the report's view of a project that the sections read."""
    seen = SimpleNamespace(root=project.root, params=project.params, outdated={})
    seen.why_left_out, seen.pictures = partial(Project.why_left_out, seen), partial(Project.pictures, seen)
    return seen


WRITES = {
    "features": ["metrics/features.json", "metrics/features.csv"],
    "planted": ["metrics/planted.json", "plots/planted/manifest.json", "plots/planted/examples.parquet"],
    "gaussian": ["metrics/gaussian.json"],
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name == "features" else name for name in WRITES]
)
def test_the_same_settings_give_the_same_bytes(project: Context, name: str) -> None:
    run_stage(project, name)
    first = [(project.root / file).read_bytes() for file in WRITES[name]]
    run_stage(project, name)
    assert first == [(project.root / file).read_bytes() for file in WRITES[name]]


def test_features_of_unchanged_images_keep_all_their_usefulness(project: Context) -> None:
    run_stage(project, "features")
    summary = json.loads((project.root / "metrics/features.json").read_text())
    for source in ("standard", "robust", "linear"):
        assert summary["sources"][source]["kept"]["D_rand"]["value"] == pytest.approx(1, abs=1e-6)
        gamma = summary["sources"][source]["mean_gamma"]
        assert summary["sources"][source]["mean_rho"] > gamma["0.2"] > gamma["0.4"]
    assert summary["sources"]["standard"]["num_features"] == 3
    assert summary["sources"]["robust"]["mean_gamma"]["0.4"] > summary["sources"]["standard"]["mean_gamma"]["0.4"]


@pytest.mark.parametrize("section", [features_section.SECTION, planted_section.SECTION, gaussian_section.SECTION])
def test_each_section_stands_in_the_report(project: Context, section: Section) -> None:
    content = as_report(project)
    assert not section.is_in(content)
    with pytest.raises(ResultsError, match=rf"metrics/{section.key}.json: not found; `dvc repro {section.key}` makes"):
        section.metrics(content)
    run_stage(project, section.key)
    assert section.is_in(content)
    found = section.metrics(content)
    verdicts = section.judge(content, found)
    assert len(verdicts) >= 3
    assert all(verdict.finding in ("reproduced", "not reproduced", "inconclusive") for verdict in verdicts)
    page = section.render(content, found, {}, verdicts)
    assert page.count("<table>") >= 2
    assert page.count('<span class="verdict">') == len(verdicts)
    assert [name for name, _ in section.draw(content, found)] == list(section.figures)
    assert not section.is_in(SimpleNamespace(root=project.root, params={}))  # type: ignore[arg-type]


def test_a_missing_section_is_named(project: Context) -> None:
    for name in WRITES:
        del project.params[name]
        with pytest.raises(ConfigError, match=f"{name}: not in params.yaml"):
            run_stage(project, name)


def test_a_missing_class_stops_the_stage_with_its_number(project: Context, digits: tuple[ImageData, ImageData]) -> None:
    import pandas as pd

    lacking = digits[0].select(digits[0].labels != 3)
    table = pd.DataFrame({"index": range(len(lacking))})
    save_dataset(project.root / "data/train", lacking, table, name="D", source="digits", settings={})
    with pytest.raises(ValueError, match="class 3 has no example: usefulness needs all 10"):
        run_stage(project, "features")


def test_verdicts_follow_the_numbers() -> None:
    """Of the planted world's findings each turns when its numbers do."""
    sure, never = {"value": 0.95, "low": 0.9, "high": 0.98}, {"value": 0.02, "low": 0.0, "high": 0.05}
    row = {"pattern": "smooth", "class_name": "red", "eps": 0.0, "planted": 0.6, "value": 0.6, "low": 0.5, "high": 0.7}
    model = {"clean": sure, "adversarial": {**sure, "eps": 0.04}}
    pair = {"y": sure, "t": never, "kept": sure}
    other = {"y": never, "t": sure, "kept": never}
    dataset = {"smooth": pair, "fine": other}
    found = {
        "filters": [{**row, "inside": True}],
        "models": {
            "standard": {**model, "follows": {"smooth": never, "fine": sure}},
            "robust": {**model, "follows": {"smooth": sure, "fine": never}},
        },
        "datasets": {"D_R": dataset, "D_rand": dataset, "D_det": dataset},
        "fits": {"D_det": {"seeds": [0.95], "y": sure, "shifted": never, "y_minus_shifted": sure}},
    }
    assert [one.finding for one in planted_section.SECTION.judge(None, found)] == ["reproduced"] * 6
    # 89% in the mean, but of fits that differ so much that the interval of y minus y + 1 holds 0.
    unsure = {"value": 0.78, "low": -0.02, "high": 1.0}
    found["fits"] = {"D_det": {"seeds": [0.99, 0.79], "y": sure, "shifted": never, "y_minus_shifted": unsure}}
    assert planted_section.SECTION.judge(None, found)[-1].finding == "not reproduced"
    turned = {
        "filters": [{**row, "inside": False}],
        "models": {"standard": found["models"]["robust"], "robust": found["models"]["standard"]},
        "datasets": {key: {"smooth": other, "fine": pair} for key in found["datasets"]},
        "fits": {
            "D_det": {
                "seeds": [0.02],
                "y": never,
                "shifted": sure,
                "y_minus_shifted": {"value": -0.93, "low": -0.98, "high": -0.85},
            }
        },
    }
    assert [one.finding for one in planted_section.SECTION.judge(None, turned)] == ["not reproduced"] * 6


def linear(num: int, surely: int, clean: float, attacked: float) -> dict[str, object]:
    """A linear classifier on the non-robust features."""
    ends = {"clean": clean, "adversarial": attacked}
    shares = {name: {"value": value, "low": value - 0.05, "high": value + 0.05} for name, value in ends.items()}
    return {"num_features": num, "num_surely": surely, **shares}


@pytest.mark.parametrize(
    ("fitted", "expected"),
    [
        (linear(5, 4, 0.8, 0.1), "reproduced"),
        (linear(5, 0, 0.8, 0.1), "inconclusive"),  # no interval of γ lies below 0
        (linear(5, 4, 0.8, 0.65), "not reproduced"),  # the five keep 65% under attack: robust enough to classify
        (linear(5, 1, 0.8, 0.1), "not reproduced"),
        (linear(5, 4, 0.52, 0.1), "not reproduced"),
        (None, "inconclusive"),
    ],
)
def test_non_robust_features_are_judged_by_their_intervals_and_under_attack(fitted: object, expected: str) -> None:
    classifier = {"robust": linear(9, 9, 0.9, 0.6), "nonrobust": fitted}
    sources = {key: {"linear_classifier": classifier} for key in ("standard", "linear")}
    found = {"sources": sources, "headline_eps": 0.2}
    section = features_section.SECTION
    (verdict,) = replace(section, rules={"suffice": section.rules["suffice"]}).judge(None, found)
    assert verdict.finding == expected
    if fitted is not None:
        assert "under attack" in verdict.sentence
        assert "γ's interval lies below 0 for" in verdict.sentence
