"""`notbugs sweep` as a user meets it: commands, their words, and errors in one line."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result
from sweep_tools import PARAMS, set_params

from notbugs.cli import main
from notbugs.evaluation.trials import MEASURED
from notbugs.sweeps.trial import Trial


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, blank_pictures: None) -> None:
    """Trials and pictures that take no time, in this process."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0})

    def measure(self: Trial, seed: int, on_epoch: Any = None) -> dict[str, Any]:
        accuracy = 0.2 + 0.1 * (self.point.eps or 0) + 0.01 * self.point.num_steps
        shares = dict.fromkeys(MEASURED, accuracy) | {"still_y": 0.9, "still_y_neighbour": 0.9}
        return {**shares, "work": self.work, "curves": [], "seconds": {}}

    monkeypatch.setattr(Trial, "measure", measure)


def notbugs(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["sweep", *arguments])


def test_from_a_new_space_to_its_heatmaps_in_one_command(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    done = notbugs("wide", "--set", "eps=[0.25, 0.5, 1.0]", "--set", "seeds=[0]", "--jobs", "1")
    assert done.exit_code == 0, done.output
    assert "12 of 12 points to be tried" in done.output
    tried = "det: eps 0.25, 3 steps of 0.208: validation on y 26%, validation on y + 1 26%, still y 90% (one fit)"
    assert tried in done.output
    *_, rule, rand, det, figures = done.output.splitlines()
    assert rule == (
        "sweep wide: the best point of each dataset, by the greatest accuracy on validation among the points whose "
        "images still show y (85%):"
    )
    best = "eps 1 steps 3: validation on y 33%, validation on y + 1 33%, still y 90%; to take it: "
    assert rand == f"  rand {best}notbugs sweep apply wide --kind rand"
    assert det == f"  det {best}notbugs sweep apply wide --kind det"
    assert figures.startswith("heatmaps and curves: ")
    assert "wide" in yaml.safe_load((project / "params.yaml").read_text())["sweep"]
    drawn = sorted((project / "sweeps/wide/figures").iterdir())
    assert "sweep_wide_det_heatmaps.png" in [file.name for file in drawn]
    again = notbugs("figures", "wide")
    assert again.exit_code == 0, again.output
    assert again.output.split() == [str(file) for file in drawn]


def test_every_study_then_status_then_apply(project: Path) -> None:
    set_params(project, sweep={"a": PARAMS["sweep"]["small"], "b": {**PARAMS["sweep"]["small"], "kinds": ["det"]}})
    done = notbugs()
    assert done.exit_code == 0, done.output
    assert {path.parent.name for path in (project / "sweeps").glob("*/trials.csv")} == {"a", "b"}
    assert "sweep b: 4 of 4 points are done; trials: 4 complete" in notbugs("status", "b").output
    applied = notbugs("apply", "b", "--eps", "0.5")
    assert applied.exit_code == 0, applied.output
    own = yaml.safe_load((project / "params.yaml").read_text())["construct"]["det"]
    assert (own["eps"], own["num_steps"], own["step_size"]) == (0.5, 3, 2.5 * 0.5 / 3)


def test_a_dataset_none_of_whose_points_still_shows_y_has_no_best(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shares = dict.fromkeys(MEASURED, 0.5) | {"work": 1, "curves": [], "seconds": {}}
    monkeypatch.setattr(Trial, "measure", lambda self, seed, on_epoch=None: shares)
    done = notbugs("small", "--jobs", "1")
    assert done.exit_code == 0, done.output
    assert "  det: none; `notbugs sweep apply small --kind det --any` takes one all the same\n" in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("nothing",), 2, "error: sweep.nothing: not in params.yaml; sweep has: small"),
        (
            ("new", "--set", "eps=[]"),
            2,
            "error: params.yaml: sweep.new.eps = []: must be a list of at least one number",
        ),
        (("new", "--set", "eps=[-0.5]"), 2, "must be a list of at least one number > 0"),
        (("small", "--jobs", "99"), 2, "error: --jobs 99: with num_threads = 1 that is 99 threads on"),
        (("small", "--storage", "postgresql://127.0.0.1:1/x"), 1, "x: cannot be reached: "),
        (("worker", "small", "--storage", "postgresql://127.0.0.1:1/x"), 1, "x: cannot be reached: "),
        (("apply", "small"), 1, "no finished study there; `notbugs sweep small` makes it"),
        (("apply", "small", "--at", "fit.det.lr"), 2, "--at fit.det.lr: expected KEY=VALUE with a key of an axis"),
        (("figures", "small"), 1, "trials.csv: not found; `dvc repro sweep@small` makes it"),
    ],
)
def test_errors_are_one_line(project: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    done = notbugs(*arguments)
    assert done.exit_code == code
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_a_missing_source_model_names_the_command(project: Path) -> None:
    (project / "models/train/standard/seed-0.safetensors").unlink()
    done = notbugs("small")
    assert done.exit_code == 1
    assert "the source model is missing; `dvc repro train@standard` makes it" in done.output
    assert len(done.output.strip().splitlines()) == 1


def test_other_settings_under_the_same_name(project: Path) -> None:
    assert notbugs("small", "--jobs", "1").exit_code == 0
    set_params(project, sweep={"small": {**PARAMS["sweep"]["small"], "seeds": [0]}})
    done = notbugs("small", "--jobs", "1")
    assert done.exit_code == 1
    assert "sweep.seeds: [0, 1] -> [0]" in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert notbugs("small", "--jobs", "1", "--replace").exit_code == 0


def test_help_needs_no_optuna() -> None:
    program = "import sys; from notbugs.cli import main\ntry: main(['sweep', '-h'])\nexcept SystemExit: pass\n"
    program += "sys.exit(bool({'optuna', 'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for word in ("apply", "worker", "figures", "status"):
        assert word in done.stdout
