"""The rooms of the package: each imports only from those above it, and no two files import each other in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import notbugs

PACKAGE = Path(notbugs.__file__).parent
ROOMS = (
    "runtime",
    "data",
    "models",
    "attacks",
    "evaluation",
    "training",
    "construction",
    "science",
    "tracking",
    "exchange",
    "report",
    "pipeline",
    "sweeps",
    "cli",
    "testing",
)
"""From the top of the table in CONTRIBUTING.md to its bottom."""
FILES = {
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): file
    for file in PACKAGE.rglob("*.py")
}


def imported(module: str) -> set[str]:
    """Modules of the package that one imports, also inside functions and for its types."""
    found = set()
    for node in ast.walk(ast.parse(FILES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (names & set(FILES)) or {node.module}
    return (found & set(FILES)) - {module, "notbugs"}


@pytest.fixture(scope="module")
def arrows() -> dict[str, set[str]]:
    """Module -> what it imports."""
    return {module: imported(module) for module in FILES}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_module_has_a_room() -> None:
    assert {room(module) for module in FILES} == {"", "__main__", *ROOMS}


def test_rooms_import_only_from_those_above(arrows: dict[str, set[str]]) -> None:
    up = {
        f"{module} imports {other}"
        for module, others in arrows.items()
        for other in others
        if room(module) in ROOMS and ROOMS.index(room(other)) > ROOMS.index(room(module))
    }
    assert not up


def test_no_circle_of_files(arrows: dict[str, set[str]]) -> None:
    """Types and imports inside functions count, too: a circle that is broken by a trick is still one to the reader."""
    try:
        list(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        raise AssertionError(" -> ".join(error.args[1])) from None


def test_few_arrows_between_rooms(arrows: dict[str, set[str]]) -> None:
    found = {(room(module), room(other)) for module, others in arrows.items() for other in others}
    assert len({arrow for arrow in found if arrow[0] in ROOMS and arrow[0] != arrow[1]}) <= 80
