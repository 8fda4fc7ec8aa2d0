"""What the code never does, read from its syntax: no pickle, no unsafe loader, no code from data, no unpacking."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from notbugs.runtime.config import _Loader
from notbugs.runtime.yaml_loader import SafeLoader

PACKAGE = Path(__file__).parents[2] / "src" / "notbugs"
MODULES = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
CALLS = {
    "eval",
    "exec",
    "pd.read_pickle",
    "pandas.read_pickle",
    "os.system",
    "shutil.unpack_archive",
    "yaml.unsafe_load",
    "yaml.full_load",
    "yaml.load_all",
    "torch.hub.load",
}
METHODS = {"extractall", "to_pickle"}
SAFE_LOADERS = {"_Loader", "SafeLoader"}
"""`config._Loader`, and `yaml_loader`'s choice between PyYAML's two safe ones."""


def problems(source: str) -> Iterator[str]:
    """Of pickle, only the error that torch's weights-only loader raises may be named."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias for alias in node.names if alias.name.split(".")[0] in MODULES]
            yield from (f"import {alias.name}" for alias in names if alias.name != "pickle" or alias.asname)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield from (f"import {alias.name}" for alias in node.names if alias.name != "UnpicklingError")
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle" and node.attr != "UnpicklingError":
            yield ast.unparse(node)
        if isinstance(node, ast.Call):
            yield from _problems_of_call(ast.unparse(node.func), node)


def _problems_of_call(name: str, node: ast.Call) -> Iterator[str]:
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if name in CALLS or name.rpartition(".")[2] in METHODS:
        yield name
    if name == "torch.load" and options.get("weights_only") != "True":
        yield "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load") and options.get("allow_pickle", "False") != "False":
        yield "numpy.load with allow_pickle"
    if name == "yaml.load" and isinstance(node.func, ast.Attribute) and "Loader" in options:
        loader = options["Loader"]
        if loader not in SAFE_LOADERS:
            yield f"yaml.load with {loader}"
    if options.get("shell") == "True":
        yield "a shell"
    if options.get("verify") == "False" and "load_dataset" not in name:
        yield "no verification"


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_nothing_is_unpickled_unpacked_or_run(file: Path) -> None:
    assert list(problems(file.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle\npickle.load(file)",
        "import pickle\nload = pickle.load",
        "import pickle as p",
        "from pickle import load",
        "import joblib",
        "from joblib import load",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "yaml.load(text, Loader=yaml.UnsafeLoader)",
        "yaml.unsafe_load(text)",
        "archive.extractall(path)",
        "shutil.unpack_archive(path)",
        "eval(text)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_the_check_sees_what_it_looks_for(source: str) -> None:
    assert len(list(problems(source))) == 1


@pytest.mark.parametrize("loader", [SafeLoader, _Loader])
def test_the_yaml_loaders_are_safe_ones(loader: type[yaml.SafeLoader]) -> None:
    assert issubclass(loader, yaml.constructor.SafeConstructor)
    with pytest.raises(yaml.constructor.ConstructorError, match="could not determine a constructor"):
        yaml.load("!!python/object/apply:os.getpid []", Loader=loader)
