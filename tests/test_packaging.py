"""What stands beside the package for those who build, cite or contribute: it says what the package says, and works."""

import json
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_citation_names_this_version_and_the_paper() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (cited["version"], cited["license"]) == (PROJECT["version"], PROJECT["license"])
    assert cited["references"][0]["title"] == "Adversarial Examples Are Not Bugs, They Are Features"


def test_the_changelog_begins_with_this_version() -> None:
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0].split()[1] == PROJECT["version"]


def test_the_workflow_runs_what_every_ci_runs() -> None:
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]
    assert job["steps"][-1] == {"run": ".ci/run"}
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert job["strategy"]["matrix"]["python"][0] == oldest


@pytest.mark.parametrize(
    "file", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")), ids=lambda file: file.stem
)
def test_issue_templates_are_whole(file: Path) -> None:
    form = yaml.safe_load(file.read_text())
    if file.stem == "config":
        assert form == {"blank_issues_enabled": True}
        return
    assert {"name", "description", "body"} <= set(form)
    assert all(field["attributes"]["label"] for field in form["body"])


def test_the_devcontainer_sets_up_by_the_makefile() -> None:
    found = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert found["postCreateCommand"] == "make .venv/.ready"


def let_through(folder: Path) -> None:
    """Copy what .dockerignore lets into an image: every line is `*`, `!path` or `**/name`."""
    lines = (ROOT / ".dockerignore").read_text().split()
    assert lines[0] == "*"
    refused = [line.removeprefix("**/") for line in lines if line.startswith("**/")]
    for line in lines:
        for source in ROOT.glob(line.removeprefix("!")) if line.startswith("!") else ():
            target = folder / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns(*refused), dirs_exist_ok=True)
            else:
                shutil.copyfile(source, target)


def test_the_wheel_can_be_made_of_what_the_image_is_given(tmp_path: Path) -> None:
    context = tmp_path / "context"
    let_through(context)
    assert not (context / "tests").exists()
    builder = Path(sys.executable).with_name("hatchling")
    for where, out in ((context, tmp_path / "image"), (ROOT, tmp_path / "here")):
        subprocess.run([builder, "build", "-t", "wheel", "-d", str(out)], cwd=where, check=True, capture_output=True)
    names = [
        {entry.name: entry.stat().st_size for entry in out.iterdir()} for out in (tmp_path / "image", tmp_path / "here")
    ]
    assert names[0].keys() == names[1].keys()
    assert names[0] == names[1]
