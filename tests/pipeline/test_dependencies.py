"""Every stage of dvc.yaml depends on exactly the modules that it imports: DVC cannot see imports by itself."""

import ast
from pathlib import Path

import pytest
import yaml

from notbugs.runtime.imports import NO_EFFECT, reached

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "notbugs"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


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


def closure(name: str) -> set[Path]:
    """Files of all modules that importing `name` can load, itself included."""
    todo, seen = [name], set()
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


def module_of(stage: str) -> str:
    """Where a stage's main function is."""
    return "notbugs.sweeps.stage" if stage == "sweep" else f"notbugs.pipeline.{stage}"


def only_says_what_it_is(file: Path) -> bool:
    """Whether a module holds no more than its docstring."""
    return all(isinstance(node, ast.Expr) for node in ast.parse(file.read_text()).body)


def source_deps(stage: str) -> list[Path]:
    entry = STAGES[stage].get("do", STAGES[stage])
    return [ROOT / dep for dep in entry["deps"] if dep.startswith("src/")]


def covers(dep: Path, file: Path) -> bool:
    return dep == file or dep in file.parents


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_imports(stage: str) -> None:
    files = {file for file in closure(module_of(stage)) if not only_says_what_it_is(file)}
    deps = source_deps(stage)
    missing = [file for file in files if not any(covers(dep, file) for dep in deps)]
    unused = [dep for dep in deps if not any(covers(dep, file) for file in files)]
    assert not missing, f"{stage} imports, but dvc.yaml does not name: {sorted(map(str, missing))}"
    assert not unused, f"dvc.yaml names for {stage}, which does not import it: {sorted(map(str, unused))}"


def test_the_closure_sees_lazy_and_nested_imports() -> None:
    files = closure("notbugs.pipeline.train")
    assert PACKAGE / "attacks" / "pgd.py" in files
    assert PACKAGE / "pipeline" / "learning.py" in files
    assert PACKAGE / "construction" / "recipes.py" not in files


@pytest.mark.parametrize("stage", STAGES)
def test_kept_work_and_dvc_depend_on_the_same_code(stage: str) -> None:
    """The package's own walk, which makes the keys of kept work, against the one above."""
    found = set(reached(module_of(stage))[0].values())
    assert found == closure(module_of(stage)) | {PACKAGE / "__init__.py"}


def test_the_core_imports_no_tracking_versioning_or_sweeping() -> None:
    """What a bare GPU machine runs: no mlflow, dvc or optuna below stages."""
    for file in PACKAGE.rglob("*.py"):
        parts = {part.removesuffix(".py") for part in file.relative_to(PACKAGE).parts}
        if {"tracking", "sweeps", "run_cache"} & parts:  # `run_cache` is what `notbugs push` and `track` do with DVC
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            roots = {name.split(".")[0] for name in names}
            assert not roots & {"mlflow", "dvc", "optuna"}, f"{file}: {roots}"
