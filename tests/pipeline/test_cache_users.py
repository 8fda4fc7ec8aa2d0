"""Whatever code or library kept work really depends on: once it changes, the work is found no more.

Users of the cache: the stages with unfinished work, the measurements of `evaluate`, the trials of sweeps.
"""

import ast
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from resume_tools import set_params

from notbugs.evaluation.levels import SuiteSettings
from notbugs.pipeline.evaluate import kept
from notbugs.pipeline.evaluate.kept import Kept
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.running.unfinished import unfinished
from notbugs.runtime import imports
from notbugs.runtime.cache import digest
from notbugs.runtime.config import settings
from notbugs.sweeps.plan import make_plan
from notbugs.sweeps.points import Point
from notbugs.sweeps.trial import Laboratory, Trial

STAGES = Path(kept.__file__).parents[1]
SWEEP = {"kinds": ["rand"], "eps": [0.5], "num_steps": [2], "seeds": [0]}


def stages_with_unfinished_work() -> Iterator[tuple[str, str]]:
    """File and first argument after the project of every call of `unfinished`."""
    for file in STAGES.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "unfinished":
                assert isinstance(node.args[1], ast.Constant)
                yield (file.parent.name if file.stem == "__init__" else file.stem), str(node.args[1].value)


UNFINISHED = dict(stages_with_unfinished_work())


def key_of_unfinished(root: Path, stage: str) -> str:
    project = open_project(root)
    with unfinished(project, stage, "x", settings={}, inputs=[project.dataset("train")]) as folder:
        return folder.name


def key_of_measurements(root: Path) -> str:
    project = open_project(root)
    measurements = Kept(project, settings(project.params, "evaluate", SuiteSettings))
    return measurements._results.file(measurements._key(("x",))).name


def key_of_trial(root: Path) -> str:
    trial = Trial(Laboratory.of(open_project(root)), Point("rand", 0.5, 2, 0.6), (0,))
    return digest(trial._made_from(0))


def key_of_study(root: Path) -> str:
    return make_plan(Laboratory.of(open_project(root)), "small").key


USERS: dict[str, tuple[str, Callable[[Path], str]]] = {
    **{
        stage: (f"notbugs.pipeline.{stage}", lambda root, stage=stage: key_of_unfinished(root, stage))  # type: ignore[misc]
        for stage in UNFINISHED
    },
    "measurements": ("notbugs.pipeline.evaluate", key_of_measurements),
    "trial": ("notbugs.sweeps.trial", key_of_trial),
    "study": ("notbugs.sweeps.trial", key_of_study),
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
    assert set(UNFINISHED) >= {"train", "construct", "fit", "transfer", "estimator"}
    assert all(module == stage for module, stage in UNFINISHED.items())


@pytest.mark.parametrize("user", USERS)
def test_every_module_that_is_imported_counts(user: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, key = USERS[user]
    before, source = key(root), imports.source
    assert key(root) == before
    for module, file in imports.reached(entry)[0].items():
        with changed(monkeypatch, "source", lambda path, file=file: source(path) + b"\n" * (path == file)):
            assert key(root) != before, f"{module} changed, and {user} did not notice"
    assert key(root) == before


@pytest.mark.parametrize("user", USERS)
def test_every_library_that_is_imported_counts(user: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, key = USERS[user]
    before, version = key(root), imports.version
    libraries = imports.reached(entry)[1]
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
    "fit": "from notbugs.pipeline.fit import fit; fit(project, 'rand')",
    "construct": "from notbugs.pipeline.construct import construct; construct(project, 'rand')",
    "measurements": "from notbugs.pipeline.evaluate import evaluate; evaluate(project)",
    "trial": "from notbugs.sweeps.trial import Laboratory, Trial; from notbugs.sweeps.points import Point;"
    "Trial(Laboratory.of(project), Point('rand', 0.5, 2, 0.6), (0,)).measure(0)",
}


LOADED = f"""
import json, os, sys
from pathlib import Path
import foolbox, pandas, pyautoattack, sklearn.datasets, sklearn.neighbors, torch._dynamo
for user, work in {WORK!r}.items():
    if os.fork() == 0:
        from notbugs.pipeline.running.context import open_project
        project = open_project(Path.cwd())
        exec(work)
        loaded = [name for name in sys.modules if name.split(".")[0] == "notbugs"]
        Path(user + ".json").write_text(json.dumps(loaded))
        sys.exit()
    assert os.wait()[1] == 0
"""
"""Each work with the package imported anew, and the libraries once."""


def test_nothing_else_is_loaded_by_the_work(root: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for user in WORK:
        loaded = {name for name in json.loads((root / f"{user}.json").read_text()) if not imports._has_no_effect(name)}
        assert "notbugs.pipeline.running.context" in loaded
        assert loaded <= set(imports.reached(USERS[user][0])[0]), user


def test_a_trial_is_measured_again_once_its_judge_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1-NN replaced by one that always says class 0, in the source and in the process."""
    point = Point("rand", 0.5, 2, 0.6)
    first = Trial(Laboratory.of(open_project(root)), point, (0,)).measure(0)
    source = imports.source
    monkeypatch.setattr(
        "notbugs.construction.recipes.nearest_neighbour", lambda images, *_, **__: images.new_zeros(len(images))
    )
    with changed(monkeypatch, "source", lambda path: source(path) + b"#" * (path.name == "neighbours.py")):
        second = Trial(Laboratory.of(open_project(root)), point, (0,)).measure(0)
    assert first["still_y_neighbour"] > 0.5 > second["still_y_neighbour"]
