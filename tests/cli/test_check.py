"""`notbugs check`: what cannot run is refused before anything runs, as far as settings and D tell."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from click.testing import CliRunner

from notbugs.cli import main
from notbugs.cli.check import check, check_data, check_files, needed_entries
from notbugs.cli.stages import ALL_STAGES
from notbugs.data.images import ImageData
from notbugs.data.sources import DataSettings
from notbugs.data.store import save_dataset
from notbugs.runtime.config import read_params, settings
from notbugs.runtime.errors import ConfigError

ROOT = Path(__file__).parents[2]


def set_at(params: dict[str, Any], key: str, value: object) -> None:
    """Change the value of a dotted key."""
    *sections, last = key.split(".")
    for part in sections:
        params = params[part]
    params[last] = value


def store(root: Path, counts: list[int], num_test: int = 40, **data: object) -> None:
    """data/train and data/test as `prepare` would leave them, with so many training images of each class."""
    config = settings({"data": {**read_params(ROOT / "presets" / "digits.yaml")["data"], **data}}, "data", DataSettings)
    names = tuple(map(str, range(len(counts))))
    for split, labels in (
        ("train", torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))),
        ("test", torch.arange(num_test) % len(counts)),
    ):
        images = ImageData(torch.zeros(len(labels), 1, 4, 4), labels, names)
        save_dataset(
            root / "data" / split,
            images,
            pd.DataFrame({"label": labels.numpy()}),
            name=f"D_{split}",
            source="digits",
            settings=config.model_dump(mode="json"),
        )


def test_the_entries_that_stages_need_are_those_that_they_read() -> None:
    """Of dvc.yaml, whose deps are the declared inputs (test_dependencies.py)."""
    needed = {
        name: {entry for entry in needed_entries(stage) if "train." not in entry} for name, stage in ALL_STAGES.items()
    }
    assert {name: entries for name, entries in needed.items() if entries} == {
        "transfer": {"construct.rand", "construct.det"},
        "inversion": {"construct.robust", "construct.nonrobust", "fit.robust", "fit.nonrobust"},
        "diversity": {"construct.robust", "construct.nonrobust"},
    }


def test_a_stage_whose_input_nobody_makes_is_refused() -> None:
    params = read_params(ROOT / "presets" / "digits.yaml")
    del params["construct"]["det"], params["fit"]["det"]
    with pytest.raises(ConfigError, match=r"construct\.det: missing; the stage transfer reads what it makes"):
        check(params)
    params = read_params(ROOT / "presets" / "digits.yaml")
    params["sweep"] = {}
    del params["construct"]["det_from_robust"], params["fit"]["det_from_robust"], params["fit"]["det"]
    check(params)  # nothing needs these


def test_a_batch_that_processes_cannot_share_is_refused() -> None:
    params = read_params(ROOT / "presets" / "digits.yaml")
    params["processes"] = 20
    with pytest.raises(
        ConfigError, match=r"fit\.robust\.batch_size = 32: must be at least 40, two images for each of 2"
    ):
        check(params)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("diversity.num_neighbours", 9, r"diversity\.num_neighbours = 9: must be at most 8: it needs 22 .* than 21$"),
        ("inversion.num_examples", 203, r"inversion\.num_examples = 203: must be in 10\.\.202, one of each class"),
        ("estimator.num_examples", 203, r"estimator\.num_examples = 203: must be in 10\.\.202"),
        ("features.max_examples", 9, r"features\.max_examples = 9: must be at least 10, one a class"),
        (
            "processes",
            102,
            r"processes = 102: must be at most 101: each learns from two images of a batch, and D has 202",
        ),
    ],
)
def test_what_d_is_too_small_for_is_refused(tmp_path: Path, key: str, value: int, message: str) -> None:
    store(tmp_path, [20] * 8 + [21, 21])
    params = read_params(ROOT / "presets" / "digits.yaml")
    set_at(params, "estimator.num_examples", None)
    check_data(params, tmp_path)
    set_at(params, key, value)
    with pytest.raises(ConfigError, match=message):
        check_data(params, tmp_path)


def test_data_of_other_settings_say_nothing(tmp_path: Path) -> None:
    store(tmp_path, [3] * 10, max_train=30)
    check_data(read_params(ROOT / "presets" / "digits.yaml"), tmp_path)
    check_data(read_params(ROOT / "presets" / "digits.yaml"), tmp_path / "nothing")


def test_the_command_looks_again_when_d_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "presets" / "digits.yaml").read_text())
    assert CliRunner().invoke(main, ["check"]).exit_code == 0
    store(tmp_path, [3] * 10)
    done = CliRunner().invoke(main, ["check"])
    assert done.exit_code == 2
    assert "inversion.num_examples = 200: must be in 10..30" in done.output


def targets(tmp_path: Path, **more: object) -> dict[str, Any]:
    """The digits preset with targets of D_det from labels.npy."""
    params = read_params(ROOT / "presets" / "digits.yaml")
    params["construct"]["det"] |= {"target": "labels.npy", **more}
    return params


@pytest.mark.parametrize(
    ("labels", "prepared", "message"),
    [
        (None, False, "must hold whole numbers, one an image of D; there is no such file"),
        (np.zeros(6), False, r"must hold whole numbers, one an image of D; it holds \(6,\) float64"),
        (
            np.zeros(5, dtype=int),
            True,
            r"must hold 6 whole numbers in 0\.\.2, one an image of D; it holds \(5,\) int64",
        ),
        (np.full(6, 3), True, r"must hold 6 whole numbers in 0\.\.2, one an image of D; it holds numbers from 3 to 3"),
    ],
)
def test_a_file_of_targets_is_opened(tmp_path: Path, labels: "np.ndarray | None", prepared: bool, message: str) -> None:
    if prepared:
        store(tmp_path, [2, 2, 2])
    if labels is not None:
        np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(ConfigError, match=rf"^params\.yaml: construct\.det\.target = '[^\n]*labels\.npy': {message}$"):
        check_files(targets(tmp_path), tmp_path)


def test_targets_that_fit_are_taken_and_lists_are_compared_with_d(tmp_path: Path) -> None:
    store(tmp_path, [2, 2, 2])
    np.save(tmp_path / "labels.npy", np.arange(6) % 3)
    assert check_files(targets(tmp_path), tmp_path)
    assert not check_files(read_params(ROOT / "presets" / "digits.yaml"), tmp_path)
    with pytest.raises(
        ConfigError, match=r"construct\.det\.target = \[1, 0\]: must hold each of D's classes 0\.\.2 once"
    ):
        check_files(targets(tmp_path, target=[1, 0]), tmp_path)


def test_a_changed_file_of_targets_is_seen_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`notbugs check` skips what it found valid, but not what its fingerprint does not hold; it says what deviates."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(targets(tmp_path)))
    np.save(tmp_path / "labels.npy", np.zeros(6, dtype=int))
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(main, ["check"]).output == "not the paper's: construct.det: target = labels.npy\n"
    np.save(tmp_path / "labels.npy", np.zeros(6))
    again = CliRunner().invoke(main, ["check"])
    assert "it holds (6,) float64" in again.output


def test_deviations_are_told_by_the_kept_mark_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(targets(tmp_path, target="next", momentum=0.5)))
    monkeypatch.chdir(tmp_path)
    outputs = [CliRunner().invoke(main, ["check"]).output for _ in range(2)]
    assert outputs == ["not the paper's: construct.det: momentum = 0.5\n"] * 2
