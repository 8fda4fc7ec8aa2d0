"""`notbugs copy`: every built-in part as a module of the user's, which does what the built-in one does."""

import ast
import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from notbugs.cli import main
from notbugs.cli.copying import KINDS, copied, debate_parts
from notbugs.construction.building import RECIPES, construct_settings, set_up
from notbugs.data.images import ImageData, make_generator
from notbugs.data.sources import SOURCES, DataSettings, load_source
from notbugs.models import ARCHITECTURES, create_model
from notbugs.models.base import Classifier
from notbugs.pipeline.questions import QUESTIONS
from notbugs.pipeline.running.context import open_project
from notbugs.pipeline.stages import QUESTIONS as OF_STAGES
from notbugs.pipeline.stages import STAGES, run_stage
from notbugs.runtime import registry
from notbugs.runtime.beside import page_of
from notbugs.runtime.config import read_params, validate
from notbugs.testing import check_classifier, check_recipe, check_source
from projects import ROOT, write_lab
from tiny import TINY_PARAMS

BUILT_IN = {"recipe": RECIPES, "network": ARCHITECTURES, "source": SOURCES}


@pytest.fixture
def project(tmp_path: Path, fresh_names: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    (tmp_path / "src" / "lab").mkdir(parents=True)
    (tmp_path / "src" / "lab" / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def copy(project: Path, kind: str, name: str) -> str:
    """Copy a part; the name that the command says it has."""
    done = CliRunner().invoke(main, ["copy", kind, name])
    assert done.exit_code == 0, done.output
    line, own = done.output.strip(), f"lab.{name}:{KINDS[kind].attribute}"
    assert line == f"src/lab/{name}.py: change it; in params.yaml write {KINDS[kind].key}: {own}"
    registry.allow([own], project)
    return own


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in BUILT_IN.items() for name in names])
def test_every_built_in_part_can_be_copied(kind: str, name: str, project: Path) -> None:
    own = copy(project, kind, name)
    assert BUILT_IN[kind][own] is not None  # imported, and taken for a part
    text = (project / "src" / "lab" / f"{name}.py").read_text()
    assert f"from {'notbugs.construction' if kind == 'recipe' else 'notbugs'}" in text
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("name", ["small_cnn", "resnet8"])
def test_a_copied_network_is_the_network(name: str, project: Path) -> None:
    own = copy(project, "network", name)
    shape, classes = (1, 8, 8), ("a", "b", "c")
    one, other = (create_model(given, shape, classes, width=2).eval() for given in (name, own))
    images = torch.rand(4, *shape, generator=make_generator(0, "test"))
    assert torch.equal(one(images), other(images))
    assert torch.equal(one.representation(images), other.representation(images))
    check_classifier(lambda: create_model(own, shape, classes, width=2), shape, 3)
    assert create_model(own, shape, classes).head.in_features == create_model(name, shape, classes).head.in_features


@pytest.mark.parametrize("name", RECIPES)
def test_a_copied_recipe_makes_the_same_images(
    name: str, project: Path, standard_model: Classifier, digits: tuple[ImageData, ImageData]
) -> None:
    own, data = copy(project, "recipe", name), digits[0].select(torch.arange(20))
    section = {"model": "standard", "num_steps": 2, "step_size": 0.1, **({} if name == "invert" else {"eps": 0.5})}
    built_in, mine = (construct_settings({"recipe": given, **section}, "construct.x") for given in (name, own))
    assert mine.options == built_in.options
    made = []
    for settings in (built_in, mine):
        recipe = set_up(standard_model, data, **settings.scalars(), generator=make_generator(0, "test"))
        made.append(recipe.part(slice(0, 20)))
    assert torch.equal(made[0].data.images, made[1].data.images)
    assert torch.equal(made[0].data.labels, made[1].data.labels)
    scalars = mine.scalars()
    check_recipe(lambda generator: set_up(standard_model, data, **scalars, generator=generator), standard_model, data)


def test_a_copied_source_reads_the_same(project: Path) -> None:
    own = copy(project, "source", "digits")
    one, other = (
        load_source(DataSettings(source=given, test_fraction=0.3, max_train=60), seed=0, root=project)
        for given in ("digits", own)
    )
    assert torch.equal(one.train.select(slice(0, 40)).images, other.train.select(slice(0, 40)).images)
    assert len(one.test) == len(other.test)
    check_source(lambda seed: load_source(DataSettings(source=own, max_train=60), seed=seed, root=project))


@pytest.mark.parametrize("name", OF_STAGES)
def test_every_question_can_be_copied_with_what_its_stage_declares(name: str, project: Path) -> None:
    done = CliRunner().invoke(main, ["copy", "stage", name])
    own = f"lab.{name}:QUESTION"
    assert done.output == (
        f"src/lab/{name}.py: change it; in params.yaml write science.{name}.study: {own}, beside the settings of the "
        f"section {name}\n"
    )
    registry.allow([own], project)
    found, stage = QUESTIONS[own], STAGES[name]
    assert (found.inputs, found.paired, found.study.__name__) == (stage.inputs, stage.paired, name)
    section = {**read_params(ROOT / "presets" / "digits.yaml")[name], "study": own}
    assert validate(section, f"science.{name}", found.settings).study == own
    text = (project / "src" / "lab" / f"{name}.py").read_text()
    assert not re.search(rf"""["\w] ?{name}\.[a-z_]+( =|")""", text)  # errors name the keys of the entry


@pytest.mark.parametrize("name", ["diversity", "gaussian"])
def test_a_copied_question_gives_the_same_metrics(name: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")
    CliRunner().invoke(main, ["copy", "stage", name])
    asked = {"copied": f"lab.{name}:QUESTION", **({"again": name} if name == "diversity" else {})}
    entries = {entry: {**TINY_PARAMS[name], "study": study} for entry, study in asked.items()}
    root = write_lab(project, science=entries, **{name: TINY_PARAMS[name]})
    run_stage(open_project(root), name)
    expected = json.loads((root / "metrics" / f"{name}.json").read_text())
    for entry in entries:
        run_stage(open_project(root), "science", entry)
        found = json.loads((root / "metrics" / "science" / f"{entry}.json").read_text())
        assert found.pop("question")["title"] == name.capitalize()
        assert found == expected


@pytest.mark.parametrize("name", debate_parts())
def test_every_part_of_the_debate_can_be_copied_with_its_template(name: str, project: Path) -> None:
    done = CliRunner().invoke(main, ["copy", "question", name])
    assert done.exit_code == 0, done.output
    own = f"lab.{name}:QUESTION"
    assert done.output == (
        f"src/lab/{name}.py and src/lab/{name}.html.j2: change it; in params.yaml write science.{name}.study: {own}, "
        f"beside the settings that the preset debate has there\n"
    )
    registry.allow([own], project)
    found, built_in = QUESTIONS[own], QUESTIONS[name]
    assert found.study.__module__ == f"lab.{name}"
    assert (found.inputs, found.paired, found.position) == (built_in.inputs, built_in.paired, built_in.position)
    section = {**read_params(ROOT / "presets" / "debate.yaml")["science"][name], "study": own}
    assert validate(section, f"science.{name}", found.settings).study == own
    template = ROOT / "src" / "notbugs" / "science" / "debate" / f"{name}.html.j2"
    assert page_of(f"lab.{name}") == project / "src" / "lab" / template.name
    assert (project / "src" / "lab" / template.name).read_bytes() == template.read_bytes()
    again = CliRunner().invoke(main, ["copy", "stage", name])
    assert f"{name}.py: is there already" in again.output


def test_a_copied_part_of_the_debate_gives_the_same_metrics(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")
    CliRunner().invoke(main, ["copy", "question", "superposition"])
    settings = read_params(ROOT / "presets" / "debate.yaml")["science"]["superposition"]
    small = {
        **settings,
        "num_features": 6,
        "dimensions": 3,
        "sparsities": [0, 0.5, 0.7, 0.9],
        "num_steps": 5,
        "seeds": [0],
    }
    asked = {"built_in": "superposition", "mine": "lab.superposition:QUESTION"}
    root = write_lab(project, science={entry: {**small, "study": study} for entry, study in asked.items()})
    answers = {}
    for entry in asked:
        run_stage(open_project(root), "science", entry)
        answers[entry] = json.loads((root / "metrics" / "science" / f"{entry}.json").read_text())
    assert answers["built_in"]["question"].pop("page") == "notbugs.science.debate.superposition"
    assert answers["mine"]["question"].pop("page") == "lab.superposition"
    assert answers["mine"] == answers["built_in"]


def test_what_is_there_is_kept_and_what_is_not_built_in_is_named(project: Path) -> None:
    copy(project, "recipe", "invert")
    module = project / "src" / "lab" / "invert.py"
    module.write_text("mine")
    done = CliRunner().invoke(main, ["copy", "recipe", "invert"])
    assert done.exit_code == 1
    assert done.output == f"error: {module}: is there already; rename it or take it away, and a new copy can be made\n"
    assert module.read_text() == "mine"
    done = CliRunner().invoke(main, ["copy", "recipe", "inverse"])
    assert done.output.startswith("error: recipe 'inverse': not built in; did you mean invert?; allowed: invert, ")
    assert list((project / "src" / "lab").glob("inverse*")) == []
    done = CliRunner().invoke(main, ["copy", "stage", "evaluate"])
    assert done.output.startswith("error: stage 'evaluate': no built-in question of the science; allowed: transfer, ")


def test_a_copy_of_settings_takes_any_name(project: Path) -> None:
    assert "recipe: Literal" not in copied("recipe", "random_target")
