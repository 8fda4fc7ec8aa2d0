"""The command line: every stage has its command, and nothing heavy is loaded to say so."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from notbugs.cli import main
from notbugs.pipeline.running import job
from notbugs.pipeline.running.context import Context
from notbugs.pipeline.running.stage import Stage
from notbugs.pipeline.stages import STAGES
from notbugs.runtime.config import find_root

ROOT = Path(__file__).parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_every_stage_of_the_pipeline_is_a_command() -> None:
    for name, stage in PIPELINE.items():
        program, command, *_ = stage.get("do", stage)["cmd"].split()
        assert (program, command) == ("notbugs", name)
        assert command in main.commands


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_a_command_does_the_work_of_its_stage(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(job, "perform", lambda *given: calls.append(given))
    monkeypatch.chdir(ROOT)
    arguments = ["robust"] if stage.by_name else []
    done = CliRunner().invoke(main, [stage.name, *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    ((called, project, name),) = calls
    assert called is stage
    assert isinstance(project, Context)
    assert project.root == find_root()
    assert name == ("robust" if stage.by_name else None)


def test_help_loads_nothing_heavy() -> None:
    program = "import sys; from notbugs.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    program += "print(sorted({'torch', 'pandas', 'pydantic', 'mlflow', 'dvc', 'optuna'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
