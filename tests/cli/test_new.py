"""`notbugs new`: what it writes, and that code.json says what code each stage runs."""

import importlib.util
import json
import shutil
from functools import cache
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from notbugs.cli import main, new, shipped
from notbugs.cli.code import _beside, code_of
from notbugs.cli.stages import ALL_STAGES
from notbugs.pipeline.running.own_code import CODE_FILE
from notbugs.runtime import git, imports
from notbugs.runtime.config import read_params
from projects import ROOT, forget_own_modules

OWN = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the default preset; not to be changed."""
    folder = tmp_path_factory.mktemp("new") / "study"
    new.write_project(folder, "digits")
    return folder


@pytest.fixture
def changed(study: Path, tmp_path: Path, fresh_names: None) -> Path:
    """A copy of it."""
    return shutil.copytree(study, tmp_path / "study", ignore=shutil.ignore_patterns(".git"))


def entry(stage: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = stage.get("do", stage)
    return found


def test_it_has_the_top_level_that_the_readme_names(study: Path) -> None:
    names = {path.name for path in study.iterdir()}
    assert names == {
        *(".dvc", ".dvcignore", ".git", ".gitignore", "Makefile", "README.md", "dvc.yaml", "params.yaml"),
        *("requirements.txt", "src", "tests", "data", "metrics", "mlruns", "models", "plots", "reports", "sweeps"),
    }
    assert (study / "params.yaml").read_text() == (ROOT / "presets" / "digits.yaml").read_text()
    assert (study / "requirements.txt").read_text().startswith("notbugs")
    assert "analytics = false" in (study / ".dvc" / "config").read_text()


def test_an_empty_folder_stays_the_one_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One's own current folder, say, or one behind a link."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    number = (tmp_path / "real").stat().st_ino
    monkeypatch.chdir(tmp_path / "link")
    new.write_project(Path(), "digits")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").stat().st_ino == number
    assert (tmp_path / "real" / "dvc.yaml").exists()
    assert not list((tmp_path / "real").glob(".new-*"))


def test_a_folder_that_the_repository_around_it_ignores_has_git_of_its_own(tmp_path: Path) -> None:
    git.git(tmp_path, "init", "--quiet")
    (tmp_path / ".gitignore").write_text("ignored/\n")
    for name, own in (("ignored/study", True), ("seen", False)):
        assert new.write_project(tmp_path / name, "digits")
        assert (tmp_path / name / ".git").exists() == own


@pytest.mark.parametrize(
    ("origin", "requirement"),
    [
        (None, "notbugs==0.1.0"),
        ({"url": "file:///a/notbugs.whl", "archive_info": {}}, "notbugs @ file:///a/notbugs.whl"),
        ({"url": "file:///a", "dir_info": {"editable": True}}, "notbugs @ file:///a"),
        ({"url": "https://b.org/n", "vcs_info": {"vcs": "git", "commit_id": "c1"}}, "notbugs @ git+https://b.org/n@c1"),
    ],
)
def test_its_requirements_say_where_this_package_came_from(
    origin: dict[str, Any] | None, requirement: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = None if origin is None else json.dumps(origin)
    found = SimpleNamespace(version="0.1.0", read_text={"direct_url.json": written}.get)
    monkeypatch.setattr(metadata, "distribution", {"notbugs": found}.get)
    assert new._requirement() == requirement


def test_its_pipeline_is_ours_with_the_code_watched_by_code_json(study: Path) -> None:
    stages = yaml.safe_load((study / "dvc.yaml").read_text())
    first = stages["stages"].pop("code")
    assert (first["cmd"], first["always_changed"], first["outs"]) == (
        "notbugs code",
        True,
        [{CODE_FILE: {"cache": False}}],
    )
    assert stages["plots"] == yaml.safe_load((ROOT / "dvc.yaml").read_text())["plots"]
    assert list(stages["stages"]) == list(OWN)
    for name, found in stages["stages"].items():
        theirs, ours = dict(entry(found)), dict(entry(OWN[name]))
        key = f"stages.{name}" + (".${key}" if "foreach" in found else "")
        assert theirs.pop("params") == [*ours.pop("params"), {CODE_FILE: [key]}]
        deps = [dep for dep in ours.pop("deps") if not dep.startswith("src/")]
        assert theirs.pop("deps", []) == deps
        assert theirs == ours
        assert found.get("foreach") == OWN[name].get("foreach")


def test_every_preset_makes_a_project(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["new", str(tmp_path / "study"), "--preset", "planted"])
    assert done.exit_code == 0, done.output
    assert yaml.safe_load((tmp_path / "study" / "params.yaml").read_text())["data"]["source"] == "planted"


def test_a_folder_that_holds_something_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    done = CliRunner().invoke(main, ["new", str(tmp_path)])
    assert done.exit_code == 1
    assert done.output == f"error: {tmp_path}: must be a new or empty folder; it holds something already\n"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_nothing_is_left_of_a_project_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(main, ["new", str(tmp_path / "study"), "--preset", "digit"])
    assert done.output.startswith("error: preset 'digit': unknown; did you mean digits")
    monkeypatch.setattr(shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    done = CliRunner().invoke(main, ["new", str(tmp_path / "study")])
    assert "the disk is full" in done.output
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    new.write_project(tmp_path / "study", "digits")
    assert (tmp_path / "study" / "dvc.yaml").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["study"]


def test_without_git_dvc_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(git, "git", lambda *_: None)
    assert new.write_project(tmp_path / "study", "digits") is False
    assert "no_scm = true" in (tmp_path / "study" / ".dvc" / "config").read_text()


def test_in_a_repository_git_begins_no_other(tmp_path: Path) -> None:
    assert git.git(tmp_path, "init", "--quiet") is not None
    assert new.write_project(tmp_path / "study", "digits") is True
    assert not (tmp_path / "study" / ".git").exists()


def test_a_wheel_holds_what_a_checkout_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the builder puts it there, from the table in pyproject.toml alone."""
    files = shipped.project_files()
    for inside, path in shipped._places():
        place = tmp_path / "shipped" / inside
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, place, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(path, place)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path / "shipped")
    found = shipped.project_files()
    assert {name: file.read_bytes() for name, file in found.items()} == {
        name: file.read_bytes() for name, file in files.items()
    }
    assert shipped.shipped("presets") == tmp_path / "shipped" / "presets"
    assert {"README.md", "src/lab/networks.py", "tests/test_lab.py", ".dvc/config", "mlruns/.gitignore"} <= set(found)


@pytest.mark.parametrize("part", ["network", "source", "recipe"])
def test_its_example_passes_the_checks_that_it_shows(changed: Path, part: str) -> None:
    spec = importlib.util.spec_from_file_location("test_lab", changed / "tests" / "test_lab.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    getattr(module, f"test_the_{part}")()
    assert module.load_source.__module__ == "notbugs.data.sources"


def hashes(project: Path) -> dict[str, str]:
    """Address -> hash of the code of some stages."""
    forget_own_modules()
    params = read_params(project / "params.yaml")
    addresses = ("prepare", "train standard", "construct rand", "construct blended", "fit rand", "evaluate", "gaussian")
    pairs = [(address.partition(" ")[0], address.partition(" ")[2] or None) for address in addresses]
    return {f"{stage} {name or ''}".strip(): code_of(params, ALL_STAGES[stage], name) for stage, name in pairs}


@pytest.fixture
def named(changed: Path) -> Path:
    """The project with its example's three parts named in params.yaml."""
    params = yaml.safe_load((changed / "params.yaml").read_text())
    params["model"] = {"architecture": "lab.networks:wide"}
    params["data"] = {"source": "lab.sources:bars"}
    params["construct"]["blended"] = {"recipe": "lab.recipes:Blend", "model": "standard", "share": 0.3}
    (changed / "params.yaml").write_text(yaml.safe_dump(params))
    return changed


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("networks", {"train standard", "fit rand", "evaluate"}),
        ("sources", {"prepare"}),
        ("recipes", {"construct blended"}),
    ],
)
def test_a_change_of_ones_own_code_reaches_what_names_it(named: Path, file: str, stale: set[str]) -> None:
    before = hashes(named)
    source = named / "src" / "lab" / f"{file}.py"
    source.write_text(source.read_text() + "# another\n")
    after = hashes(named)
    assert {address for address in before if before[address] != after[address]} == stale


def test_an_upgrade_reaches_what_runs_other_code(named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of the constructions is another one: trainings and closed forms stay as they are."""
    before, read = hashes(named), imports.source
    marks = {"targeting.py": b"# another"}
    monkeypatch.setattr(imports, "source", cache(lambda file: read(file) + marks.get(file.name, b"")))
    after = hashes(named)
    stale = {address for address in before if before[address] != after[address]}
    assert stale == {"construct rand", "construct blended"}


def test_a_template_of_the_report_counts_as_its_code() -> None:
    assert "report/templates/report.html.j2" in _beside("report")
    assert "data/sources/synsets.txt" in _beside("data")
