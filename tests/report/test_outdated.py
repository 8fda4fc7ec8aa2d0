"""Numbers of other settings or other data: they are known as such, and never shown as this project's."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from notbugs.cli import main
from notbugs.report.outdated import outdated, sentences
from notbugs.report.page import SECTIONS, left_out, write_report
from notbugs.report.project import load_project
from notbugs.report.recording import RecordingError, write_recording

PARAMS: dict[str, Any] = {
    "seed": 0,
    "data": {"source": "digits"},
    "construct": {"det": {"eps": 0.5, "step_size": 1.0e-3}},
    "transfer": {"seeds": [0, 1]},
    "gaussian": {"eps": [1.0]},
}
READS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]] = {
    "prepare": (("data", "seed"), (), ("data/train", "metrics/prepare.json")),
    "construct@det": (("seed", "construct.det"), ("data/train",), ("data/det", "metrics/construct/det.json")),
    "construct@gone": (("seed",), ("data/train",), ("data/gone", "metrics/construct/gone.json")),
    "evaluate": (("seed",), ("data/det", "data/train"), ("metrics/results.csv", "metrics/evaluate.json")),
    "transfer": (("seed", "transfer"), ("data",), ("metrics/transfer.json",)),
    "gaussian": (("seed", "gaussian"), ("src",), ("metrics/gaussian.json",)),
}
"""Stage -> keys of params.yaml, deps, outs."""
Spoil = Callable[[Path, dict[str, Any], dict[str, Any]], None]


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def value(params: Mapping[str, Any], key: str) -> Any:
    found: Any = params
    for part in key.split("."):
        found = found[part]
    return found


def lock_of(contents: Mapping[str, str]) -> dict[str, Any]:
    """What DVC writes after a run of all stages."""
    stages = {}
    for address, (keys, deps, outs) in READS.items():
        said = {key: value(PARAMS, key) for key in keys}
        found = {
            kind: [{"path": path, "hash": "md5", "md5": md5(contents.get(path, path)), "size": 1} for path in paths]
            for kind, paths in (("deps", deps), ("outs", outs))
        }
        stages[address] = {"cmd": f"notbugs {address}", "params": {"params.yaml": said}, **found}
    return {"schema": "2.0", "stages": stages}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A finished run of a few stages; a file holds its own name."""
    for name in ("det", "train"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for _, _, outs in READS.values():
        for path in (path for path in outs if path.startswith("metrics/")):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(path)
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock_of({}), sort_keys=False))
    return tmp_path


def test_a_finished_run_has_nothing_outdated(project: Path) -> None:
    assert outdated(project, PARAMS) == {}
    assert outdated(project / "metrics", PARAMS) == {}, "no dvc.lock"


def test_numbers_are_compared_as_numbers(project: Path) -> None:
    """YAML 1.1, which reads dvc.lock, takes DVC's 1e-3 for a text."""
    text = (project / "dvc.lock").read_text().replace("0.001", "1e-3")
    (project / "dvc.lock").write_text(text)
    assert outdated(project, PARAMS) == {}
    params = {**PARAMS, "construct": {"det": {"eps": 0.5, "step_size": 2.0e-3}}}
    assert "construct@det" in outdated(project, params)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"transfer": {"seeds": [0]}}, {"transfer": "transfer has changed since"}),
        ({"gaussian": None}, {"gaussian": "gaussian has changed since"}),
        (
            {"construct": {"det": {"eps": 1, "step_size": 1.0e-3}}},
            {
                "construct@det": "construct.det has changed since",
                "evaluate": "construct@det is outdated",
                "transfer": "construct@det is outdated",
            },
        ),
    ],
)
def test_a_changed_setting_reaches_what_reads_its_stage(
    project: Path, changes: dict[str, Any], expected: dict[str, str]
) -> None:
    assert outdated(project, {**PARAMS, **changes}) == expected


def test_of_a_folder_counts_what_is_there(project: Path) -> None:
    """The clone's default run made data/det; of a run of other constructions `transfer` never read it."""
    (project / "data/det").rmdir()
    found = outdated(project, {**PARAMS, "construct": {"det": {"eps": 1, "step_size": 1.0e-3}}})
    assert "transfer" not in found
    assert found["evaluate"] == "construct@det is outdated"


def test_data_that_were_made_anew(project: Path) -> None:
    """As after `notbugs repro construct@det`: its entry is new, those behind it are not."""
    lock = lock_of({})
    (out,) = (out for out in lock["stages"]["construct@det"]["outs"] if out["path"] == "data/det")
    out["md5"] = md5("other images")
    (project / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    found = outdated(project, PARAMS)
    assert found == {"evaluate": "data/det has changed since"}, "what DVC says of a whole folder is not compared"


def test_what_a_command_wrote_since_is_not_what_dvc_lock_knows(project: Path) -> None:
    (project / "metrics/transfer.json").write_text("measured anew by hand")
    assert outdated(project, {**PARAMS, "transfer": {"seeds": [0]}}) == {}


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
