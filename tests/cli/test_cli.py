"""The command line: every stage has its command, and nothing heavy is loaded to say so."""

import inspect
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from notbugs.cli import main, stages
from notbugs.pipeline.running.context import Context
from notbugs.runtime.config import find_root

ROOT = Path(__file__).parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def test_every_stage_of_the_pipeline_is_a_command() -> None:
    for name, stage in PIPELINE.items():
        program, command, *_ = stage.get("do", stage)["cmd"].split()
        assert (program, command) == ("notbugs", name)
        assert command in main.commands


@pytest.mark.parametrize("name", [*stages.WHOLE, *stages.BY_NAME])
def test_a_command_runs_the_function_of_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module(f"notbugs.pipeline.{name}")
    expected = list(inspect.signature(getattr(module, name)).parameters)
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(module, name, lambda *given: calls.append(given))
    monkeypatch.chdir(ROOT)
    arguments = ["robust"] if name in stages.BY_NAME else []
    done = CliRunner().invoke(main, [name, *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    ((project, *rest),) = calls
    assert isinstance(project, Context)
    assert project.root == find_root()
    assert rest == arguments
    assert len(expected) == 1 + len(arguments)


def test_help_loads_nothing_heavy() -> None:
    program = "import sys; from notbugs.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    program += "print(sorted({'torch', 'pandas', 'pydantic', 'mlflow', 'dvc', 'optuna'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
