"""What a module imports, read from its source: against Python's own parser, and against what is loaded in the end."""

import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import torch

from notbugs.runtime import imports
from reached import assert_all_reached, parsed_imports

PACKAGE = Path(imports.__file__).parents[1]


def test_the_quick_look_finds_what_the_parser_finds() -> None:
    for file in PACKAGE.rglob("*.py"):
        module = ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        assert parsed_imports(file, module) <= imports._imported(file, module), file


@pytest.mark.parametrize(
    "module",
    [
        "notbugs.sweeps.trial",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("notbugs.pipeline.evaluate.measuring", "notbugs.science.transfer")
        ),
    ],
)
def test_all_that_is_loaded_is_found(module: str) -> None:
    program = f"import sys, {module}; print(*[name for name in sys.modules if name.split('.')[0] == 'notbugs'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len(done.stdout.split()) > 20
    assert_all_reached(done.stdout.split(), module)


def test_libraries_are_those_imported_by_name_too() -> None:
    found = imports.made_with("notbugs.pipeline.evaluate.measuring")["libraries"]
    assert {"torch", "pandas", "foolbox", "pyautoattack", "safetensors"} <= set(found)
    assert "mlflow" not in found
    assert found["torch"] == torch.__version__
    assert found["yaml"] == metadata.version("PyYAML")  # a module named otherwise than its distribution


@pytest.mark.parametrize(("module", "distribution"), [("sklearn", "scikit-learn"), ("PIL", "pillow")])
def test_versions_of_modules_with_another_name(module: str, distribution: str) -> None:
    assert imports.version(module) == metadata.version(distribution)


def test_what_is_not_there_has_no_version() -> None:
    assert imports.version("there_is_no_such_module") is None
    assert imports.reached("there_is_no_such_module") == ({}, frozenset())


def test_somebody_s_own_modules_are_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_models").mkdir()
    (tmp_path / "my_models" / "__init__.py").write_text("")
    (tmp_path / "my_models" / "nets.py").write_text("import scipy\nfrom . import layers\nfrom .blocks import block\n")
    (tmp_path / "my_models" / "layers.py").write_text("import my_helper\n")
    (tmp_path / "my_helper.py").write_text("x = 1; import my_second\nif x: from my_third import y; import my_fourth\n")
    for name in ("my_second", "my_third", "my_fourth"):
        (tmp_path / f"{name}.py").write_text("import os\n")
    (tmp_path / "my_models" / "blocks.py").write_text("def f():\n    from notbugs.models import \\\n        base\n")
    (tmp_path / "my_models" / "unused.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    files, libraries = imports.reached("my_models.nets")
    own = {name for name in files if not name.startswith("notbugs")}
    in_lines = {"my_helper", "my_second", "my_third", "my_fourth"}
    assert own == {"my_models", "my_models.nets", "my_models.layers", "my_models.blocks"} | in_lines
    assert "notbugs.models.base" in files
    assert {"scipy", "torch"} <= libraries
    assert "os" not in libraries


@pytest.mark.parametrize(
    "text", ["# -*- coding: latin-1 -*-\n# ü\nimport json\n", "from ......x import y\nimport json\n"]
)
def test_odd_modules_are_code_like_others(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever imports them finds out what is wrong."""
    (tmp_path / "odd_module.py").write_bytes(text.encode("latin-1"))
    monkeypatch.syspath_prepend(str(tmp_path))
    imports.reached.cache_clear()
    assert list(imports.reached("odd_module")[0]) == ["odd_module"]
