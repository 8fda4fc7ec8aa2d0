"""Numbers of other settings or other data: by dvc.lock they are known as such."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from notbugs.runtime.dvc_lock import read_lock
from notbugs.runtime.outdated import is_asked_for, outdated

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


def test_an_entry_that_params_yaml_does_not_name_is_not_asked_for(project: Path) -> None:
    lock = lock_of({})
    lock["stages"]["mine@a"] = {"cmd": "python mine.py a", "outs": []}
    (project / "dvc.lock").write_text(yaml.safe_dump(lock, sort_keys=False))
    asked = {entry.address for entry in read_lock(project / "dvc.lock") if is_asked_for(entry, PARAMS)}
    assert asked == {*READS, "mine@a"} - {"construct@gone"}, "a stage of the user's own has no section"
