"""Numbers of other settings or other data are never shown, recorded or tracked as this project's."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from notbugs.cli import main
from notbugs.report.absent import sentences
from notbugs.report.page import SECTIONS, left_out, write_report
from notbugs.report.project import load_project
from notbugs.report.recording import RecordingError, write_recording


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def test_lines_say_what_runs_them() -> None:
    found = {
        "transfer": "data has changed since",
        "evaluate": "seed has changed since",
        "planted": "data has changed since",
    }
    assert list(sentences(found)) == [
        "transfer, planted: data has changed since; `notbugs repro transfer planted` runs them",
        "evaluate: seed has changed since; `notbugs repro evaluate` runs it",
    ]


def lock_entry(root: Path, address: str, **said: Any) -> str:
    """An entry of dvc.lock whose metrics are as they lie there."""
    name = f"metrics/{address.replace('@', '/')}.json"
    file = root / name
    out = {"path": name, "hash": "md5", "md5": md5(file.read_text()), "size": file.stat().st_size}
    return yaml.safe_dump({"schema": "2.0", "stages": {address: {"params": {"params.yaml": said}, "outs": [out]}}})


@pytest.fixture
def clone(fake_project: Path, tmp_path: Path) -> Path:
    """A project that came with the theory of other settings, was never asked for its transfer, and has a question."""
    root = Path(shutil.copytree(fake_project, tmp_path / "clone"))
    params = yaml.safe_load((root / "params.yaml").read_text())
    params |= {"gaussian": {"dimension": 30}, "transfer": {}, "science": {"mine": {"study": "lab:QUESTION"}}}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    (root / "metrics/gaussian.json").write_text(json.dumps({"of": "other settings"}))
    (root / "dvc.lock").write_text(lock_entry(root, "gaussian", gaussian={"dimension": 20}))
    return root


def test_the_page_leaves_out_what_is_of_something_else_and_says_so(clone: Path, tmp_path: Path) -> None:
    project = load_project(clone)
    assert left_out(project) == {
        "transfer": "not run here",
        "gaussian": "gaussian has changed since",
        "science@mine": "not run here",
    }
    assert not {"transfer", "gaussian", "science"} & {section.key for section in SECTIONS if section.is_in(project)}
    notes = write_report(clone, tmp_path / "report.html", tmp_path / "figures")
    assert notes == [
        "transfer, science@mine: not run here; `notbugs repro transfer science@mine` runs them",
        "gaussian: gaussian has changed since; `notbugs repro gaussian` runs it",
    ]
    page = (tmp_path / "report.html").read_text()
    assert "<li>Not on this page are transfer, science@mine: not run here; <code>notbugs repro" in page
    assert 'id="gaussian"' not in page
    assert "Shown, but of other settings" not in page


def test_a_table_of_other_settings_is_called_so(clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (clone / "metrics/gaussian.json").unlink()
    (clone / "metrics/evaluate.json").write_text("{}")
    (clone / "dvc.lock").write_text(lock_entry(clone, "evaluate", seed=7))
    said = "evaluate: seed has changed since; `notbugs repro evaluate` runs it"
    assert said in write_report(clone, tmp_path / "report.html", tmp_path / "figures")
    assert (
        "<strong>Shown, but of other settings or data</strong> are evaluate: seed has"
        in (tmp_path / "report.html").read_text()
    )
    (clone / "reports").mkdir(exist_ok=True)
    (clone / "reports/report.html").write_text("a page")
    monkeypatch.chdir(clone)
    shown = CliRunner().invoke(main, ["results"])
    assert shown.exit_code == 0
    assert f"not of the present settings: {said}" in shown.stderr
    with pytest.raises(RecordingError, match=r"evaluate: seed has changed since; .* runs it before it can be recorded"):
        write_recording(clone, tmp_path / "recorded", [])
    assert not (tmp_path / "recorded").exists()


def test_a_recording_holds_nothing_of_what_a_clone_came_with(clone: Path, tmp_path: Path) -> None:
    (clone / "reports").mkdir()
    write_report(clone, clone / "reports/report.html", clone / "plots/figures")
    lock = yaml.safe_load((clone / "dvc.lock").read_text())
    lock["stages"]["prepare"] = {"params": {"params.yaml": {}}, "outs": []}
    gone = {"path": "sweeps/gone", "hash": "md5", "md5": f"{md5('gone')}.dir", "size": 1, "nfiles": 1}
    lock["stages"]["sweep@gone"] = {"outs": [gone]}
    (clone / "sweeps/gone").mkdir(parents=True)
    (clone / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    write_recording(clone, tmp_path / "recorded", [])
    assert not (tmp_path / "recorded/metrics/gaussian.json").exists()
    assert not (tmp_path / "recorded/sweeps/gone").exists()
    assert (tmp_path / "recorded/metrics/results.csv").exists()
    assert list(yaml.safe_load((tmp_path / "recorded/dvc.lock").read_text())["stages"]) == ["prepare"]
