"""The code beside dvc.yaml runs, whatever is installed: in a copy of the project, and in DVC's queue."""

import shutil
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

import notbugs
import projects
from projects import ROOT, SOURCE, git

run = partial(projects.run, cold=True)
"""Which code a new interpreter runs."""
MARK = "the code of the copy"


def copy_source(project: Path) -> Path:
    """The package beside a project's params.yaml, changed so that its `results` command says whose code it is."""
    package = shutil.copytree(SOURCE / "notbugs", project / "src" / "notbugs")
    module = package / "cli" / "results.py"
    begin = "    from notbugs.evaluation import results as module\n"
    text = module.read_text()
    assert begin in text
    module.write_text(text.replace(begin, f'    click.echo("{MARK}, " + __file__)\n    return\n{begin}'))
    return package


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "params.yaml").write_text("seed: 0\n")
    copy_source(folder)
    return folder


@pytest.mark.parametrize(
    "command", [["notbugs", "results"], [sys.executable, "-m", "notbugs", "results"]], ids=["script", "module"]
)
def test_the_projects_own_code_runs(project: Path, command: list[str]) -> None:
    below = project / "data"
    below.mkdir()
    for folder in (project, below):
        done = run(folder, *command, PYTHONPATH=str(SOURCE))
        assert done.stdout == f"{MARK}, {project / 'src' / 'notbugs' / 'cli' / 'results.py'}\n"


def test_processes_started_from_there_run_it_too(project: Path) -> None:
    module = project / "src" / "notbugs" / "cli" / "results.py"
    start = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import notbugs; print(notbugs.__file__)'])"
    module.write_text(module.read_text().replace("    return\n", f"    {start}\n    return\n", 1))
    done = run(project, "notbugs", "results", PYTHONPATH=str(SOURCE))
    assert str(project / "src" / "notbugs" / "__init__.py") in done.stdout.splitlines()


def test_a_project_without_code_of_its_own_uses_the_installed(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    (tmp_path / "src" / "other").mkdir(parents=True)
    assert "digits" in run(tmp_path, "notbugs", "preset", "--list").stdout


def test_python_told_to_ignore_the_path_is_an_error(project: Path) -> None:
    """-E: the path has been named and yet another package runs; going on would file its results under wrong code."""
    start = f"import sys; sys.path.insert(0, {str(SOURCE)!r}); from notbugs.cli import main; main()"
    command = [sys.executable, "-E", "-c", start]
    done = run(project, *command, check=False, PYTHONPATH=str(project / "src"))
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line == (
        f"error: {Path(notbugs.__file__).parent} runs here, not {project / 'src' / 'notbugs'}, which PYTHONPATH names: "
        "start Python without -I"
    )


PIPELINE = {
    "stages": {
        "prepare": {
            "cmd": "notbugs prepare",
            "params": ["seed", "data"],
            "deps": ["src/notbugs"],
            "outs": ["data/train", "data/validation", "data/test"],
            "metrics": [{"metrics/prepare.json": {"cache": False}}],
        }
    }
}


@pytest.mark.slow
@pytest.mark.pipeline
def test_a_queued_experiment_runs_its_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queued with changed source, which is then restored: the experiment's outputs are those of its commit's code."""
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")  # a database that Git keeps is not to change under DVC's hands
    project = tmp_path / "project"
    project.mkdir()
    shutil.copytree(SOURCE / "notbugs", project / "src" / "notbugs", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, project)
    (project / "dvc.yaml").write_text(yaml.safe_dump(PIPELINE, sort_keys=False))
    params = {"experiment": "queue", "seed": 0, "data": {"source": "digits", "max_train": 100, "max_test": 20}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    git(project, "init", "-q")
    run(project, "dvc", "init", "-q")
    run(project, "dvc", "repro")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "base")

    module = project / "src" / "notbugs" / "pipeline" / "prepare.py"
    original = module.read_text()
    line = "        write_json(job.metrics_file, {**summary"
    assert line in original
    module.write_text(
        original.replace(line, '        write_json(job.metrics_file, {"code": "queued", **summary, **shape')
    )
    run(project, "dvc", "exp", "run", "--queue", "--name", "changed")
    module.write_text(original)
    run(project, "dvc", "queue", "start")
    deadline = time.monotonic() + 200
    while "Success" not in (status := run(project, "dvc", "queue", "status").stdout):
        assert "Failed" not in status, run(project, "dvc", "queue", "logs", "changed", check=False).stdout
        assert time.monotonic() < deadline, status
        time.sleep(1)
    assert "queued" not in (project / "metrics" / "prepare.json").read_text()
    run(project, "dvc", "exp", "apply", "changed")
    assert '"code": "queued"' in (project / "metrics" / "prepare.json").read_text()
    assert '"code": "queued"' in module.read_text()
