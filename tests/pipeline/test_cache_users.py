"""Whatever code or library kept work really depends on: once it changes, the work is found no more.

Users of the cache: stages with unfinished work, the measurements of `evaluate`, what is said of D, trials of sweeps.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from resume_tools import set_params

from notbugs.data.store import load_dataset
from notbugs.evaluation.levels import SuiteSettings
from notbugs.pipeline.construct import of_untouched
from notbugs.pipeline.evaluate.measuring import Bench, Task
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.running.job import Job
from notbugs.pipeline.running.stage import Stage
from notbugs.pipeline.stages import STAGES
from notbugs.runtime import imports
from notbugs.runtime.cache import digest
from notbugs.runtime.config import runtime, settings
from notbugs.sweeps.plan import make_plan
from notbugs.sweeps.points import Point
from notbugs.sweeps.trial import Laboratory, Trial
from reached import assert_all_reached

SWEEP = {"kinds": ["rand"], "eps": [0.5], "num_steps": [2], "seeds": [0]}
RESUMED = {stage.name: stage for stage in STAGES.values() if stage.resumes}


def key_of_unfinished(root: Path, stage: Stage) -> str:
    project = open_project(root)
    settings = runtime(project.params)  # any that can be written as JSON
    with Job(stage, project, "x", settings).begin([project.dataset("train")]) as (_, work):
        return work.name


def key_of_measurements(root: Path) -> str:
    project = open_project(root)
    config = settings(project.params, "evaluate", SuiteSettings)
    bench = Bench(project, load_dataset(project.dataset("test")), config)
    return bench.file(Task(project.source_model("standard", 0), 0, 60, True, True, None, None)).name


def key_of_trial(root: Path) -> str:
    trial = Trial(Laboratory.of(open_project(root)), Point("rand", 0.5, 2, 0.6), (0,))
    return digest(trial._made_from(0))


def key_of_study(root: Path) -> str:
    return make_plan(open_project(root), "small").key


def key_of_untouched(root: Path) -> str:
    return digest(of_untouched(open_project(root)))


USERS: dict[str, tuple[tuple[str, ...], Callable[[Path], str]]] = {
    **{
        name: (stage.modules, lambda root, stage=stage: key_of_unfinished(root, stage))  # type: ignore[misc]
        for name, stage in RESUMED.items()
    },
    "measurements": (("notbugs.pipeline.evaluate",), key_of_measurements),
    "untouched": (("notbugs.pipeline.construct",), key_of_untouched),
    "trial": (("notbugs.sweeps.trial",), key_of_trial),
    "study": (("notbugs.sweeps.trial",), key_of_study),
}


@pytest.fixture
def root(project: Path) -> Path:
    set_params(project, sweep={"small": SWEEP})
    return project


@contextmanager
def changed(monkeypatch: pytest.MonkeyPatch, name: str, value: Callable[..., Any]) -> Iterator[None]:
    """A function of `imports` replaced, as in a process that starts with other files or libraries."""
    with monkeypatch.context() as patched:
        patched.setattr(imports, name, value)
        imports.made_with.cache_clear()
        yield
    imports.made_with.cache_clear()


def test_stages_name_the_module_that_does_the_work() -> None:
    assert set(RESUMED) >= {"train", "construct", "fit", "transfer", "estimator"}
    for stage in RESUMED.values():
        work = resolve_name(stage.study or stage.work)
        assert work.__module__ in stage.modules


@pytest.mark.parametrize("user", USERS)
def test_every_module_that_is_imported_counts(user: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, key = USERS[user]
    before, source = key(root), imports.source
    assert key(root) == before
    for module, file in imports.reached(*entry)[0].items():
        with changed(monkeypatch, "source", lambda path, file=file: source(path) + b"\n" * (path == file)):
            assert key(root) != before, f"{module} changed, and {user} did not notice"
    assert key(root) == before


@pytest.mark.parametrize("user", USERS)
def test_every_library_that_is_imported_counts(user: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, key = USERS[user]
    before, version = key(root), imports.version
    libraries = imports.reached(*entry)[1]
    assert {"torch", "pandas"} <= libraries
    for library in libraries:
        with changed(monkeypatch, "version", lambda name, library=library: f"{version(name)}{'x' * (name == library)}"):
            assert key(root) != before, f"{library} changed, and {user} did not notice"


def test_trials_and_measurements_rest_on_what_was_once_forgotten() -> None:
    """Neighbours judge a trial's images; the attack libraries measure."""
    assert {"notbugs.evaluation.neighbours", "notbugs.evaluation.suite"} <= set(
        imports.reached("notbugs.sweeps.trial")[0]
    )
    assert {"foolbox", "pyautoattack"} <= imports.reached("notbugs.pipeline.evaluate")[1]


WORK = {
    "fit": "run_stage(project, 'fit', 'rand')",
    "construct": "run_stage(project, 'construct', 'rand')",
    "measurements": "run_stage(project, 'evaluate')",
    "trial": "from notbugs.sweeps.trial import Laboratory, Trial; from notbugs.sweeps.points import Point;"
    "Trial(Laboratory.of(project), Point('rand', 0.5, 2, 0.6), (0,)).measure(0)",
}


LOADED = f"""
import json, os, sys
from pathlib import Path
import foolbox, pandas, pyautoattack, sklearn.datasets, sklearn.neighbors, torch._dynamo
for user, work in {WORK!r}.items():
    if os.fork() == 0:
        from dataclasses import replace
        from notbugs.evaluation.levels import LEVELS
        from notbugs.pipeline.running.context import open_project
        from notbugs.pipeline.stages import run_stage
        project = open_project(Path.cwd())
        LEVELS["quick"] = replace(LEVELS["quick"], restarts=(2, 2), fixed=(("apgd_t", 2),), square=2)
        exec(work)
        loaded = [name for name in sys.modules if name.split(".")[0] == "notbugs"]
        Path(user + ".json").write_text(json.dumps(loaded))
        sys.exit()
    assert os.wait()[1] == 0
"""
"""Each work with the package imported anew, and the libraries once."""


@pytest.mark.slow
def test_nothing_else_is_loaded_by_the_work(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    declared = {"notbugs.pipeline.stages"}  # which stages there are
    for user in WORK:
        names = json.loads((root / f"{user}.json").read_text())
        assert "notbugs.pipeline.running.context" in names
        assert_all_reached({*names} - declared, *USERS[user][0])


def test_a_trial_is_measured_again_once_its_judge_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1-NN replaced by one that always says class 0, in the source and in the process."""
    point = Point("rand", 0.5, 2, 0.6)
    first = Trial(Laboratory.of(open_project(root)), point, (0,)).measure(0)
    source = imports.source
    monkeypatch.setattr(
        "notbugs.construction.describe.nearest_neighbour", lambda images, *_, **__: images.new_zeros(len(images))
    )
    with changed(monkeypatch, "source", lambda path: source(path) + b"#" * (path.name == "neighbours.py")):
        second = Trial(Laboratory.of(open_project(root)), point, (0,)).measure(0)
    assert first["still_y_neighbour"] > 0.5 > second["still_y_neighbour"]
