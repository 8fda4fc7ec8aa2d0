"""`notbugs copy`: a built-in part as a module of the user's, ready to be changed and named in params.yaml.

The copy is the module that the part lies in. Behind it stands what makes a part of it: the entry of the registry, with
the settings and functions that this names; of a question, its stage as a `Question`. All of it is taken from the source
and from the declarations of the stages, so nothing is imported.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click

import notbugs
from notbugs.cli.project import project_root
from notbugs.pipeline.stages import QUESTIONS, STAGES
from notbugs.runtime.beside import SUFFIX
from notbugs.runtime.errors import UserError

PACKAGE = Path(notbugs.__file__).parent
PLACE = Path("src") / "lab"
"""Where copies go in a project."""
OWN_NAME = re.compile(r'    recipe: Literal\[[^\]]*\]\n    """.*?"""\n', re.DOTALL)
"""The field that lets settings of a recipe be those of a built-in name alone."""


class CopyError(UserError):
    """A part cannot be copied."""


@dataclass(frozen=True)
class Kind:
    """A kind of part that params.yaml names.

    Attributes:
        registry: file of the package that holds the built-in ones; variable: what they are called there.
        part: (the registry, an entry of it) -> the name of what the copied module is about.
        attribute: what the copy calls the part; made: (an entry as text) -> how it is made there.
        key: of params.yaml.
    """

    registry: str
    variable: str
    part: "Callable[[Text, ast.Call], str]"
    attribute: str
    made: Callable[[str], str]
    key: str


class Text:
    """A file of the package: what its top level binds, and where from."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        inside = path.relative_to(PACKAGE.parent).with_suffix("").parts
        self.module = ".".join(inside).removesuffix(".__init__")
        self.imported: dict[str, str] = {}
        self.defined: dict[str, ast.stmt] = {}
        for statement in self.tree.body:
            if isinstance(statement, ast.ImportFrom):
                self.imported |= {alias.asname or alias.name: statement.module or "" for alias in statement.names}
            elif isinstance(statement, ast.FunctionDef | ast.ClassDef):
                self.defined[statement.name] = statement
            elif isinstance(statement, ast.Assign):
                self.defined |= {target.id: statement for target in statement.targets if isinstance(target, ast.Name)}

    def of(self, node: ast.AST) -> str:
        """The text of a node."""
        return ast.get_source_segment(self.text, node) or ""

    def moved_left(self, node: ast.expr) -> str:
        """The text of an entry of a mapping, as it stands at the beginning of a line."""
        line = self.text.split("\n")[node.lineno - 1]
        return self.of(node).replace("\n" + " " * (len(line) - len(line.lstrip())), "\n")

    def entries(self, variable: str) -> dict[str, ast.Call]:
        """Name -> entry of the first mapping in what a variable is set to."""
        mapping = next(node for node in ast.walk(self.defined[variable]) if isinstance(node, ast.Dict))
        found = {}
        for key, value in zip(mapping.keys, mapping.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Call):
                found[str(key.value)] = value
        return found


def _called(node: ast.AST) -> str:
    """The name of a function or class, or of that which `partial` is given."""
    while isinstance(node, ast.Call):
        node = node.args[0]
    return node.id if isinstance(node, ast.Name) else ""


def _reader(registry: Text, entry: ast.Call) -> str:
    """The function read_... that a source calls."""
    wrapper = registry.defined[_called(entry.args[0])]
    return next(name for name in sorted(_names(wrapper)) if name.startswith("read_"))


KINDS = {
    "recipe": Kind(
        "construction/building.py",
        "RECIPES",
        lambda _, entry: _called(entry.args[1]),
        "RECIPE",
        lambda entry: f"RECIPE = {entry}\n",
        "construct.NAME.recipe",
    ),
    "network": Kind(
        "models/__init__.py",
        "_BUILT_IN",
        lambda _, entry: _called(entry.args[0]),
        "network",
        lambda entry: f"ARCHITECTURE = {entry}\n\n\n{_NETWORK}",
        "model.architecture",
    ),
    "source": Kind(
        "data/sources/named.py", "_BUILT_IN", _reader, "SOURCE", lambda entry: f"SOURCE = {entry}\n", "data.source"
    ),
}
"""Argument of the command -> what it copies."""
_QUESTION = '''\
class EntrySettings(QuestionSettings, {settings}):
    """An entry of the section `science`."""


QUESTION = Question(
    settings=EntrySettings,
    study={study},
    inputs={inputs},{paired}
    title="{title}",
    says="{says}",
)
'''
_NETWORK = '''\
def network(image_shape: tuple[int, int, int], num_classes: int, width: int | None = None) -> Classifier:
    """What params.yaml names: normalisation inside, logits (N, K), and a representation."""
    return ARCHITECTURE.build(image_shape, num_classes, width or ARCHITECTURE.usual_width)
'''


@click.command()
@click.argument("kind", type=click.Choice([*KINDS, "stage", "question"]))
@click.argument("name")
def copy(kind: str, name: str) -> None:
    """Copy the built-in recipe, network, source, or question of the science NAME into src/lab, to be changed there.

    A question is a stage (`stage` is the same word for it) or a part of the debate, which is copied with its template.
    """
    from notbugs.runtime.files import write_text

    root = project_root()
    texts = {root / PLACE / f"{name}.py": copied(kind, name)}
    if kind not in KINDS and name in debate_parts():
        texts[root / PLACE / f"{name}{SUFFIX}"] = debate_parts()[name].with_suffix(SUFFIX).read_text(encoding="utf-8")
    for path in texts:
        if path.exists() or path.is_symlink():
            raise CopyError(f"{path}: is there already; rename it or take it away, and a new copy can be made")
    for path, text in texts.items():
        write_text(path, text)
    files = " and ".join(str(PLACE / path.name) for path in texts)
    click.echo(f"{files}: change it; in params.yaml write {_line(kind, name)}")


def _line(kind: str, name: str) -> str:
    """What params.yaml is to say of a copy."""
    module = f"{PLACE.name}.{name}"
    if kind in KINDS:
        return f"{KINDS[kind].key}: {module}:{KINDS[kind].attribute}"
    if name in debate_parts():
        return f"science.{name}.study: {module}:QUESTION, beside the settings that the preset debate has there"
    return f"science.{name}.study: {module}:QUESTION, beside the settings of the section {name}"


def debate_parts() -> dict[str, Path]:
    """The parts of the debate, by name, with their modules; templates lie beside these."""
    files = sorted((PACKAGE / "science" / "debate").glob("[!_]*.py"))
    return {file.stem: file for file in files}


def copied(kind: str, name: str) -> str:
    """The text of the copy.

    Raises: CopyError for a name that is not built in.
    """
    from notbugs.runtime.config import suggestion

    if kind not in KINDS:
        if name in debate_parts():
            return debate_parts()[name].read_text(encoding="utf-8")
        if name not in QUESTIONS:
            there = [*QUESTIONS, *debate_parts()]
            raise CopyError(f"{kind} {name!r}: no built-in question of the science{suggestion(name, there)}")
        return _copied_question(name)
    found = KINDS[kind]
    registry = Text(PACKAGE / found.registry)
    entries = registry.entries(found.variable)
    if name not in entries:
        raise CopyError(f"{kind} {name!r}: not built in{suggestion(name, list(entries))}")
    entry = entries[name]
    home = _home(registry, found.part(registry, entry))
    parts, imports = _needed(home, registry, entry)
    made = found.made(registry.moved_left(entry))
    if found.attribute == "network" and "Classifier" not in home.imported:
        imports.add(("notbugs.models.base", "Classifier"))
    return _joined(home, [*parts, made], imports)


def _copied_question(name: str) -> str:
    """The module of a question, and behind it what its stage declares; errors name the keys of its entry."""
    stage = STAGES[name]
    module, _, settings = stage.settings.partition(":")
    home = _file(module)
    inputs = "".join(f'\n        "{path}",' for path in stage.inputs)
    made = _QUESTION.format(
        settings=settings,
        study=stage.study.partition(":")[2],
        inputs=f"({inputs}\n    )" if inputs else "()",
        paired=f"\n    paired={json.dumps(stage.paired)}," if stage.paired else "",
        title=name.capitalize(),
        says=stage.does[0].upper() + stage.does[1:],
    )
    return _joined(home, [made], {("notbugs.science.common.question", "Question, QuestionSettings")})


def _home(registry: Text, part: str) -> Text:
    """The module that a part lies in, as the registry imports it: at its top or inside a function."""
    for node in ast.walk(registry.tree):
        if isinstance(node, ast.ImportFrom) and node.module and part in [alias.name for alias in node.names]:
            return _file(node.module)
    raise CopyError(f"{part}: cannot be found")


def _file(module: str) -> Text:
    path = PACKAGE.parent.joinpath(*module.split("."))
    return Text(path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py")


def _needed(home: Text, registry: Text, entry: ast.Call) -> tuple[list[str], set[tuple[str, str]]]:
    """What an entry names beyond the module that is copied: definitions to be copied too, and (module, name) to import.

    Settings are copied, and what is private; everything else is imported.
    """
    parts: list[str] = []
    imports: set[tuple[str, str]] = set()
    seen = {*home.imported, *home.defined}

    def add(name: str, text: Text) -> None:
        """See to one name that a text uses."""
        if name in seen or name not in {*text.imported, *text.defined}:
            return
        seen.add(name)
        if name in text.imported and not name.endswith("Settings"):
            imports.add((text.imported[name], name))
            return
        where = _file(text.imported[name]) if name in text.imported else text
        if not name.startswith("_") and not (name.endswith("Settings") and name in text.imported):
            imports.add((where.module, name))
            return
        for other in sorted(_names(where.defined[name])):
            add(other, where)
        parts.append(OWN_NAME.sub("", where.of(where.defined[name])))

    for name in sorted(_names(entry)):
        add(name, registry)
    own = re.compile(rf"^ *from {re.escape(home.module)} import .*\n+", re.MULTILINE)
    return [own.sub("", part) for part in parts], imports


def _names(node: ast.AST) -> set[str]:
    return {found.id for found in ast.walk(node) if isinstance(found, ast.Name)}


def _joined(home: Text, parts: list[str], imports: set[tuple[str, str]]) -> str:
    """The module, with further imports behind its own, and further parts at its end."""
    lines = home.text.rstrip().split("\n")
    at = [one for one in home.tree.body if isinstance(one, ast.ImportFrom | ast.Import)][-1].end_lineno
    lines[at:at] = list(_import_lines(imports))
    return "\n\n\n".join(["\n".join(lines), *(part.rstrip() for part in parts)]) + "\n"


def _import_lines(imports: set[tuple[str, str]]) -> Iterator[str]:
    for module in sorted({module for module, _ in imports}):
        yield f"from {module} import {', '.join(sorted(name for of, name in imports if of == module))}"
