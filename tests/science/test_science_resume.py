"""The long stages of the science go on with what they have not measured yet, and end with the same bytes."""

import importlib
import shutil
from pathlib import Path

import pytest

from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import run_stage

pytestmark = pytest.mark.slow


class CutOff(Exception):  # noqa: N818
    """Stands for a kill."""


@pytest.mark.parametrize(
    ("stage", "module", "part", "whole"),
    [
        ("transfer", "transfer", "_measure_architecture", 3),
        ("features", "features.study", "_measure_source", 4),
        ("estimator", "estimator", "_measure_seed", 10),
    ],
)
def test_a_stage_that_was_cut_off_goes_on(stage, module, part, whole, tiny_project: Path, tmp_path, monkeypatch):
    project = shutil.copytree(tiny_project, tmp_path / "project")
    module = importlib.import_module(f"notbugs.science.{module}")
    original, metrics = getattr(module, part), project / "metrics" / f"{stage}.json"
    run_stage(open_project(project), stage)
    expected = metrics.read_bytes()
    metrics.unlink()
    calls, most = [0], [2]

    def counted(*args, **kwargs):
        if calls[0] == most[0]:
            raise CutOff
        calls[0] += 1
        return original(*args, **kwargs)

    monkeypatch.setattr(module, part, counted)
    with pytest.raises(CutOff):
        run_stage(open_project(project), stage)
    most[0] = 1000
    run_stage(open_project(project), stage)
    assert calls[0] == whole
    assert metrics.read_bytes() == expected
    assert not list((project / ".notbugs" / "unfinished").iterdir())
