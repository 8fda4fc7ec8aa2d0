"""dvc.yaml says of every stage what its declaration says, and names exactly the modules that it imports.

DVC cannot see imports by itself.
"""

import ast
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import yaml

from notbugs.cli.stages import ALL_STAGES
from notbugs.runtime.imports import NO_EFFECT, reached

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "notbugs"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
WIDTH = 250
"""Lines of dvc.yaml at most: it is read from top to bottom."""


def module_file(name: str) -> Path | None:
    path = ROOT / "src" / Path(*name.split("."))
    for candidate in (path.with_suffix(".py"), path / "__init__.py"):
        if candidate.exists():
            return candidate
    return None


def imports_of(file: Path) -> set[str]:
    """Modules of the package that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.startswith("notbugs.") and module_file(name)}


def closure(*names: str) -> set[Path]:
    """Files of all modules that importing some can load, themselves included."""
    todo, seen = list(names), set()
    while todo:
        module = todo.pop()
        if module in seen or module.startswith(NO_EFFECT):
            continue
        seen.add(module)
        file = module_file(module)
        assert file is not None
        parent = module.rpartition(".")[0]
        todo += [*imports_of(file), *([parent] if parent != "notbugs" else [])]
    return {file for module in seen if (file := module_file(module)) is not None}


def only_says_what_it_is(file: Path) -> bool:
    """Whether a module holds no more than its docstring."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(file.read_text()).body)


def entry(stage: str) -> dict[str, Any]:
    """What dvc.yaml says of a stage; of one that is run by name, what it says of each."""
    found: dict[str, Any] = STAGES[stage].get("do", STAGES[stage])
    return found


def deps(stage: str, *, of_code: bool) -> list[str]:
    return [dep for dep in entry(stage)["deps"] if dep.startswith("src/") == of_code]


def written(stage: str) -> dict[str, dict[str, Any]]:
    """Path -> what dvc.yaml says of it besides, of all that a stage writes."""
    found: dict[str, dict[str, Any]] = {}
    for out in [*entry(stage)["outs"], *entry(stage).get("metrics", []), *entry(stage).get("plots", [])]:
        found.update(out if isinstance(out, dict) else {out: {}})
    return found


def outs(stage: str) -> list[str]:
    return list(written(stage))


def as_dvc_says(*declared: str) -> list[str]:
    return sorted(text.replace("{name}", "${key}") for text in declared)


def test_every_stage_is_declared_once() -> None:
    assert set(STAGES) == set(ALL_STAGES)
    text = (ROOT / "dvc.yaml").read_text().partition("\nartifacts:")[0]
    assert len(text.splitlines()) <= WIDTH


def test_artifacts_are_what_stages_of_the_default_make() -> None:
    document = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    made = set()
    for stage in ALL_STAGES.values():
        for name in params.get(stage.section or stage.name) or [""] if stage.by_name else [""]:
            made |= {output.format(name=name) for output in stage.outputs}
    for name, artifact in document["artifacts"].items():
        assert artifact["path"] in made, name
        assert artifact["type"] == ("dataset" if artifact["path"].startswith("data/") else "model")
        assert artifact["labels"]


def test_git_keeps_what_stages_of_numbers_write() -> None:
    """In a fresh clone these run only if their inputs come out otherwise; DVC keeps data, models and the pictures."""
    kept_by_dvc = {stage for stage in STAGES if any(said.get("cache", True) for said in written(stage).values())}
    assert kept_by_dvc == {"prepare", "train", "construct", "fit", "report"}


@pytest.mark.parametrize("stage", STAGES)
def test_dvc_says_what_the_declaration_says(stage: str) -> None:
    declared, found = ALL_STAGES[stage], entry(stage)
    command = ["notbugs", stage, "${key}" if declared.by_name else "", declared.options]
    assert found["cmd"] == " ".join(filter(None, command))
    assert STAGES[stage].get("foreach") == (f"${{{stage}}}" if declared.by_name else None)
    assert sorted(found["params"]) == as_dvc_says(*declared.params)
    assert sorted(deps(stage, of_code=False)) == as_dvc_says(*declared.inputs)
    assert sorted(outs(stage)) == as_dvc_says(*declared.outputs, *filter(None, [declared.metrics_file]))


@pytest.mark.parametrize("stage", STAGES)
def test_what_a_declaration_names_is_there(stage: str) -> None:
    declared = ALL_STAGES[stage]
    for place in filter(None, (declared.work, declared.study, declared.settings)):
        assert callable(resolve_name(place))


def covers(dep: Path, file: Path) -> bool:
    return dep == file or dep in file.parents


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_imports(stage: str) -> None:
    files = {file for file in closure(*ALL_STAGES[stage].modules) if not only_says_what_it_is(file)}
    if stage == "report":  # it shows the templates beside the parts of the debate, and imports none of these
        files |= set((PACKAGE / "science" / "debate").glob("*.html.j2"))
    folders = [ROOT / dep for dep in deps(stage, of_code=True)]
    missing = [file for file in files if not any(covers(dep, file) for dep in folders)]
    unused = [dep for dep in folders if not any(covers(dep, file) for file in files)]
    assert not missing, f"{stage} imports, but dvc.yaml does not name: {sorted(map(str, missing))}"
    assert not unused, f"dvc.yaml names for {stage}, which does not import it: {sorted(map(str, unused))}"


def test_the_closure_sees_lazy_and_nested_imports() -> None:
    files = closure("notbugs.pipeline.train")
    assert PACKAGE / "attacks" / "pgd.py" in files
    assert PACKAGE / "pipeline" / "running" / "models.py" in files
    assert PACKAGE / "construction" / "building.py" not in files


@pytest.mark.parametrize("stage", STAGES)
def test_kept_work_and_dvc_depend_on_the_same_code(stage: str) -> None:
    """The package's own walk, which makes the keys of kept work, against the one above."""
    modules = ALL_STAGES[stage].modules
    found = set(reached(*modules)[0].values())
    assert found == closure(*modules) | {PACKAGE / "__init__.py"}


def test_the_core_imports_no_tracking_versioning_or_sweeping() -> None:
    """What a bare GPU machine runs: no mlflow, dvc, optuna or dask below stages."""
    for file in PACKAGE.rglob("*.py"):
        parts = {part.removesuffix(".py") for part in file.relative_to(PACKAGE).parts}
        # `run_cache` is what `notbugs push` and `track` do with DVC, `cluster` what runs the stages
        if {"tracking", "sweeps", "run_cache", "cluster"} & parts:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"mlflow", "dvc", "optuna", "dask", "distributed", "simpy"}, f"{file}: {roots}"
