"""Questions of one's own: the worked example of docs/own_parts.md in a made-up project, and a line for what is none."""

import json
import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner

from notbugs.cli import main
from notbugs.cli.check import check, check_data
from notbugs.cli.code import code_of
from notbugs.cli.params import _check_fingerprint
from notbugs.data.images import make_generator
from notbugs.data.store import load_dataset
from notbugs.models import load_model
from notbugs.pipeline.questions import QUESTIONS, read_question
from notbugs.pipeline.running.context import Context, open_project
from notbugs.pipeline.running.job import Job
from notbugs.pipeline.running.unused import remove_unused
from notbugs.pipeline.science import Parts
from notbugs.pipeline.stages import STAGES, run_stage
from notbugs.runtime import registry
from notbugs.runtime.config import read_params
from notbugs.runtime.errors import ConfigError, UserError
from notbugs.science.common.lab import Answer, Lab
from notbugs.science.common.question import Question, QuestionError, QuestionSettings
from notbugs.testing import check_question
from projects import ROOT, forget_own_modules, write_lab
from tiny import TINY_PARAMS

PAGE = (ROOT / "docs" / "own_parts.md").read_text(encoding="utf-8").partition("## A question of the science")[2]
EXAMPLE, SHOWN = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[:2]
ENTRY = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])["science"]
OTHERS = """
from notbugs.evaluation.statements import Chart, Position, Series, Verdict

def of(answer):
    return Question(MarginSettings, lambda lab, settings: answer)

def fails(lab, settings):
    raise KeyError("no\\nmargin")

class NoMargins(MarginSettings):
    def check_data(self, data):
        raise RuntimeError("no margins")

nothing = Question(MarginSettings, lambda lab, settings: None)
failing = Question(MarginSettings, fails)
refusing = Question(NoMargins, margin)
listing = of(Answer([1], ()))
saying = of(Answer({}, "a line"))
taken = of(Answer({"question": 1}, ()))
tensors = of(Answer({"a": [1, {"b": torch.zeros(2)}]}, ()))
infinite = of(Answer({"a": float("nan")}, ()))
enormous = of(Answer({"a": 10**400}, ()))
surrogate = of(Answer({"a": "\\ud800"}, ()))
muttering = of(Answer({}, ("\\ud800",)))
drawing = of(Answer({}, (), charts=["a chart"]))
placing = of(Answer({}, (), charts=[Chart("a/b", "", "x", "y", [])]))
lopsided = of(Answer({}, (), charts=[Chart("a", "", "x", "y", [Series("s", [1, 2], [0.5])])]))
unbounded = of(Answer({}, (), charts=[Chart("a", "", "x", "y", [Series("s", [1], [float("inf")])])]))
judging = of(Answer({}, (), verdicts=[Verdict("k", "title", "", "perhaps", "sentence")]))

def asking_too_much(lab, settings):
    raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: not enough memory")

def exits(lab, settings):
    raise SystemExit(0)

class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(one)
    def __str__(self):
        raise ValueError

def task(number):
    raise Odd(1, 2)

def tasks(lab, settings):
    return lab.do_all([1, 2], task, "tasks")

itself = {}
itself["a"] = itself
endless = of(Answer(itself, ()))
large = Question(MarginSettings, asking_too_much)
exiting = Question(MarginSettings, exits)
odd = Question(MarginSettings, tasks)

def parts(name, again="b"):
    def study(lab, settings):
        return Answer({"a": lab.load_or_make(name, lambda: (1, 2)), "b": lab.load_or_make(again, lambda: 3)}, ())
    return Question(MarginSettings, study)

outside, twice = parts("../a"), parts("b")

class Broken(MarginSettings):
    @__import__("pydantic").field_validator("least")
    @classmethod
    def _looks(cls, least):
        raise KeyError("least")

class Unwritten(MarginSettings):
    model_config = {"arbitrary_types_allowed": True}
    more: __import__("torch").Tensor = __import__("torch").zeros(2)

class Small(MarginSettings):
    def check_data(self, data):
        from notbugs.science.common.lab import UnfitError
        raise UnfitError("least", self.least, f"less than {len(data)} of {sorted(data)}")

broken, unwritten = Question(Broken, margin), Question(Unwritten, margin)
small = Question(Small, margin, inputs=("data/rand", "data/test"))
numbered = of(Answer({"a": {1: 2}}, ()))
fits = Question(MarginSettings, lambda lab, settings: Answer({
    "data": sorted(lab.data), "source_seeds": lab.source_seeds,
    "trained": {name: [file.name for file in files] for name, files in lab.trained.items()},
    "fitted": [file.name for file in lab.fitted["rand"]], "architecture": lab.architecture.architecture,
}, ()), inputs=("data", "models/train/robust", "models/fit/rand"), paired={"robust": "rand"})
released = Question(MarginSettings, margin, inputs=("data/weak",))
debated = Question(
    MarginSettings,
    lambda lab, settings: Answer(
        {"a": 1},
        ("said",),
        charts=[Chart("a", "Caption.", "x", "y", [Series("s", [1, 2], [0.5, None])])],
        verdicts=[Verdict("k", "Title", "", "reproduced", "Sentence.")],
    ),
    title="Margins",
    position=Position("Somebody 2020", "Claim.", "9 of 10.", "https://example.org", "10 of 10."),
)

class Declared:
    settings = MarginSettings
    study = staticmethod(margin)
    title = "Declared"

class Computed:
    @property
    def settings(self):
        raise OSError("none today")

computed = Computed()

class NoStudy:
    settings = MarginSettings

class OtherSettings(Declared):
    settings = dict

class NoName(Declared):
    from notbugs.runtime.config import Settings as settings

class NoFunction(Declared):
    study = 3

class TooFew(Declared):
    study = staticmethod(lambda lab: None)

class NoText(Declared):
    says = 3

class NoPosition(Declared):
    position = "mine"

class OneInput(Declared):
    inputs = "data/train"

class NoInput(Declared):
    inputs = ("data/train", "metrics/fit")

class NoPair(Declared):
    paired = {"standard": "det"}

class OfD(Declared):
    paired = {"standard": "train", "robust": "train"}
"""


@pytest.fixture
def project(tmp_path: Path, fresh_names: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up project that asks the example's question."""
    monkeypatch.setenv("NOTBUGS_TRACKING", "off")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src" / "lab").mkdir(parents=True)
    (tmp_path / "src" / "lab" / "questions.py").write_text(EXAMPLE + OTHERS)
    return write_lab(tmp_path, science=ENTRY)


def asking(project: Path, name: str, **more: Any) -> Context:
    """The project with an entry `margin` of another question."""
    study = name if name in QUESTIONS else f"lab.questions:{name}"
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["science"] = {"margin": {"study": study, **({"least": 0.5} if ":" in study else {}), **more}}
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    return open_project(project)


def answered(project: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((project / "metrics" / "science" / "margin.json").read_text())
    return found


def test_the_example_is_answered(project: Path) -> None:
    done = CliRunner().invoke(main, ["science", "margin"])
    assert done.exit_code == 0, done.output
    found = answered(project)
    images = load_dataset(project / "data" / "test").data().images
    with torch.no_grad():
        first, second = load_model(project / "models/train/standard/seed-0.safetensors")(images).softmax(1).topk(2)[0].T
    assert found["sure"]["standard"]["mean"] == pytest.approx(float((first - second >= 0.5).double().mean()), abs=1e-6)
    assert found["question"]["title"] == "Sure calls"
    assert found["question"]["says"] == "Of how many test images are the source models sure?"
    assert [line.partition(":")[0] for line in found["question"]["found"]] == ["standard", "robust"]
    assert f"science margin: {found['question']['found'][0]}" in done.output
    assert not list((project / ".notbugs" / "unfinished").iterdir())


def test_the_example_passes_the_check_that_it_shows(project: Path) -> None:
    open_project(project)  # so that src is looked into
    exec(SHOWN, {})


def test_the_lab_holds_what_is_asked_for(project: Path) -> None:
    run_stage(asking(project, "fits"), "science", "margin")
    found = answered(project)
    del found["question"]
    assert found == {
        "data": ["nonrobust", "rand", "robust", "test", "train"],
        "source_seeds": {"robust": 0, "nonrobust": 0, "rand": 0},
        "trained": {"robust": ["seed-0.safetensors", "seed-1.safetensors"]},
        "fitted": ["seed-0.safetensors"],
        "architecture": "small_cnn",
    }


def test_what_is_said_in_a_debate_stands_in_the_metrics(project: Path) -> None:
    (project / "src" / "lab" / "questions.html.j2").write_text("{% macro page(found) %}{{ found.a }}{% endmacro %}")
    run_stage(asking(project, "debated"), "science", "margin")
    assert answered(project)["question"] == {
        "title": "Margins",
        "says": "",
        "found": ["said"],
        "position": {
            "who": "Somebody 2020",
            "claim": "Claim.",
            "reported": "9 of 10.",
            "source": "https://example.org",
            "mind": "10 of 10.",
        },
        "verdicts": [
            {
                "key": "k",
                "title": "Title",
                "statement": "",
                "finding": "reproduced",
                "sentence": "Sentence.",
                "basis": "",
                "elsewhere": "",
                "on_edge": False,
            }
        ],
        "charts": [
            {
                "name": "a",
                "caption": "Caption.",
                "x": "x",
                "y": "y",
                "series": [{"label": "s", "x": [1, 2], "y": [0.5, None], "low": [], "high": []}],
                "kind": "lines",
                "percent": True,
                "marks": None,
            }
        ],
        "page": "lab.questions",
    }


def test_a_template_beside_a_question_is_code_of_the_report(project: Path) -> None:
    params, report = asking(project, "debated").params, STAGES["report"]
    before = code_of(params, report)
    (project / "src" / "lab" / "questions.html.j2").write_text("{% macro page(found) %}new{% endmacro %}")
    assert code_of(params, report) != before


def test_a_class_declares_a_question_too(project: Path) -> None:
    asking(project, "Declared")
    found = QUESTIONS["lab.questions:Declared"]
    assert found.title == "Declared"
    assert found.inputs == ("data/train", "data/test", "models/train/standard", "models/train/robust")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NoStudy", r"a question: a `Question` with `settings` and `study`; it has no `study`"),
        ("OtherSettings", r"a question whose `settings` is a class derived from QuestionSettings, not <class 'dict'>"),
        ("NoName", r"a question whose `settings` is a class derived from QuestionSettings, not <class '.*Settings'>"),
        ("NoFunction", r"a question whose `study` is a function of \(lab, settings\), not 3"),
        ("TooFew", r"a question whose `study` is a function of \(lab, settings\): too many positional arguments"),
        ("NoText", r"a question whose `says` is a text, not 3"),
        ("NoPosition", r"a question whose `position` is a `Position`, not 'mine'"),
        ("OneInput", r"a question whose `inputs` is a list of data, .* and models/fit/NAME, not 'data/train'"),
        ("NoInput", r"a question whose `inputs` are among data, data/NAME, .*models/fit/NAME, not 'metrics/fit'"),
        ("NoPair", r"a question whose `paired` maps each source model of its `inputs` to .* not {'standard': 'det'}"),
        ("OfD", r"a question whose `paired` maps each source model of its `inputs` to a construction there, not {"),
        ("computed", r"usable: lab\.questions:computed raises OSError: none today \(.*line \d+\)"),
        ("Nothing", r"something that is there: .*questions\.py has no Nothing"),
    ],
)
def test_what_is_no_question_is_said_in_a_line(project: Path, name: str, message: str) -> None:
    lab = asking(project, name)
    with pytest.raises(ConfigError, match=rf"^params\.yaml: science\.margin\.study = 'lab\S+': must be {message}") as e:
        read_question(lab.params, "science.margin")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "must give an Answer, not a NoneType"),
        ("failing", r"raises KeyError: 'no\\nmargin' \(.*questions\.py, line \d+\)"),
        ("refusing", r"raises RuntimeError: no margins \(.*questions\.py, line \d+\)"),
        ("listing", "must give metrics as a dict, not a list"),
        ("saying", "must say a list of lines, not 'a line'"),
        ("taken", "must leave the key question of the metrics free"),
        ("tensors", r"must give metrics\.a\.1\.b as a number, text, list or dict, not a Tensor"),
        ("infinite", r"must give metrics\.a as a finite number or None, not nan"),
        ("numbered", r"must give metrics\.a with texts as keys, not 1"),
        ("enormous", r"must give metrics\.a as a number that a float can hold, not one of 1329 bits"),
        ("surrogate", r"must give metrics\.a as a text that UTF-8 can hold, not '\\ud800'"),
        ("muttering", "must say lines that UTF-8 can hold"),
        ("drawing", r"must give charts as a list of Chart, not \['a chart'\]"),
        ("placing", r"must give charts a name of letters, digits, _ and -, and a kind of lines, bars, points"),
        ("lopsided", r"must give chart a as many y, low and high as x, in 's'"),
        ("unbounded", r"must give charts\.0\.series\.0\.y\.0 as a finite number or None, not inf"),
        ("judging", r"must give verdicts a finding of reproduced, not reproduced, inconclusive, not 'perhaps'"),
        ("endless", r"raises RecursionError: .*"),
        ("large", r"raises RuntimeError: \[enforce fail .*not enough memory \(.*questions\.py, line \d+\)"),
        ("exiting", r"raises SystemExit: 0 \(.*questions\.py, line \d+\)"),
        ("odd", r"raises Odd: Odd \(.*questions\.py, line \d+\)"),
    ],
)
def test_what_is_no_answer_is_said_in_a_line(project: Path, name: str, message: str) -> None:
    with pytest.raises(QuestionError, match=rf"^science\.margin: question lab\.questions:{name}: {message}$") as e:
        run_stage(asking(project, name), "science", "margin")
    assert "\n" not in str(e.value)
    assert not (project / "metrics" / "science").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("outside", r"load_or_make: name = '\.\./a': must be of letters, digits and _ \. -, 100 at most"),
        ("twice", r"load_or_make: name = 'b': must differ from that of an earlier part"),
        ("broken", r"params\.yaml: science\.margin: raises KeyError: 'least' \(.*questions\.py, line \d+\)"),
        ("unwritten", r"params\.yaml: science\.margin: must be numbers, texts, lists and mappings: .*"),
        ("small", r"params\.yaml: science\.margin\.least = 0\.5: must be less than 1 of \['test'\]"),
    ],
)
def test_what_a_question_cannot_do_is_said_in_a_line(project: Path, name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        run_stage(asking(project, name), "science", "margin")
    assert not (project / "metrics" / "science").exists()
    assert not (project / ".notbugs" / "a.safetensors").exists()


def test_an_error_that_no_other_process_can_read_is_said_in_a_line(project: Path) -> None:
    lab = asking(project, "odd")
    (project / "params.yaml").write_text(yaml.safe_dump({**lab.params, "jobs": 2}))
    with pytest.raises(UserError, match=r"^raises Odd: Odd \(.*questions\.py, line \d+\)$"):
        run_stage(open_project(lab.root), "science", "margin")


def test_kept_parts_are_the_same_as_made_ones(project: Path) -> None:
    """Tuples stay tuples, and what is no plain value becomes one at once: not first after a kill."""
    parts = Parts(project / "kept")
    found = parts("a.b-1", lambda: (torch.zeros(2), {"x": [1, 2.5, None]}))
    assert isinstance(found, tuple)
    again = Parts(project / "kept")("a.b-1", lambda: pytest.fail("it is there"))
    assert torch.equal(found[0], again[0])
    assert found[1] == again[1] == {"x": [1, 2.5, None]}


@pytest.mark.parametrize(
    ("science", "message"),
    [
        ({"margin": {"Study": "x"}}, r"science\.margin\.study: missing; it must be given, and Study is no key$"),
        ([], r"science: must map names to their settings; {} for none$"),
        ({"a b": {}}, r"science\.a b: a name has letters, digits and _"),
        ({"margin": None}, r"science\.margin\.study: missing; it must be given$"),
        ({"margin": {"least": 0.5}}, r"science\.margin\.study: missing; it must be given$"),
        ({"margin": {"study": None}}, r"science\.margin\.study = None: must be one of transfer, .* of your own$"),
        (
            {"margin": {"study": "divers"}},
            r"study = 'divers': must be one of .* of your own; did you mean diversity\?$",
        ),
        (
            {"margin": {"study": "lab.questions:MARGIN", "most": 1}},
            r"science\.margin\.most: unknown key; .*: study, lea",
        ),
        ({"margin": {"study": "lab.questions:MARGIN", "least": 2}}, r"science\.margin\.least = 2: must be "),
        (
            {"margin": {"study": "lab.questions:released", "least": 0.5}},
            r"science\.margin: construct\.weak: missing; lab\.questions:released reads data/weak$",
        ),
    ],
)
def test_check_refuses_entries(project: Path, science: Any, message: str) -> None:
    params = {**read_params(ROOT / "presets" / "digits.yaml"), "science": science}
    registry.allow(registry.texts(science), project)
    with pytest.raises(ConfigError, match=message) as e:
        check(params)
    assert "\n" not in str(e.value)


def test_check_asks_for_the_section_and_takes_every_valid_one(project: Path) -> None:
    params = read_params(ROOT / "presets" / "digits.yaml")
    debate = {entry["study"]: entry for entry in read_params(ROOT / "presets" / "debate.yaml")["science"].values()}
    built_in = {name: {**(debate.get(name) or params[name]), "study": name} for name in QUESTIONS}
    registry.allow(registry.texts(ENTRY), project)
    check({**params, "science": {**built_in, **ENTRY}})
    del params["science"]
    with pytest.raises(ConfigError, match=r"^params\.yaml: science: missing; `notbugs preset NAME --missing` adds"):
        check(params)


def test_check_data_asks_the_settings_of_ones_own(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notbugs.cli.check.prepared", lambda params, root: {"train": range(99)})
    params = {"science": {"margin": {"study": "lab.questions:refusing", "least": 0.5}}}
    params |= {name: asking(project, "refusing").params[name] for name in ("train", "construct", "fit")}
    monkeypatch.setattr("notbugs.cli.check.ALL_STAGES", {"science": STAGES["science"]})
    message = r"^science\.margin: question lab\.questions:refusing: raises RuntimeError: no margins"
    with pytest.raises(QuestionError, match=message):
        check_data(params, project)


def test_a_package_offers_a_question(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asking(project, "MARGIN")  # so that lab can be imported
    found = EntryPoint("their_margin", "lab.questions:MARGIN", "notbugs.science")
    registry._packaged.cache_clear()
    monkeypatch.setattr(registry, "entry_points", lambda group: [found] if group == "notbugs.science" else [])
    registry.allow(["their_margin"])
    assert QUESTIONS["their_margin"].title == "Sure calls"
    monkeypatch.undo()
    registry._packaged.cache_clear()


def hashes(project: Path) -> tuple[str, str]:
    """Of unfinished work, and of the code that DVC watches in a project without the package."""
    forget_own_modules()
    lab, stage = open_project(project), STAGES["science"]
    with Job(stage, lab, "margin", stage.read_settings(lab.params, "margin")).begin([]) as (_, work):
        return work.name, code_of(lab.params, stage, "margin")


def test_a_change_of_it_makes_kept_work_stale_and_dvc_run_it_again(project: Path) -> None:
    before = hashes(project)
    assert hashes(project) == before
    file = project / "src" / "lab" / "questions.py"
    file.write_text(file.read_text() + "# another\n")
    assert all(now != then for now, then in zip(hashes(project), before, strict=True))


def test_what_dvc_does_not_watch_is_refused(project: Path) -> None:
    for deps in (["data"], ["data", "src/lab"]):
        stage = {"foreach": "${science}", "do": {"cmd": "x", "deps": deps}}
        (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"science": stage}}))
        if len(deps) == 1:
            message = (
                r"^params\.yaml names lab\.questions: src/lab/questions\.py must be among the deps of stage science"
            )
            with pytest.raises(ConfigError, match=message):
                run_stage(open_project(project), "science", "margin")
    run_stage(open_project(project), "science", "margin")


def test_check_refuses_what_dvc_does_not_watch(project: Path) -> None:
    """Before the pipeline runs, and not when the stage's turn has come."""
    params = {**read_params(ROOT / "presets" / "digits.yaml"), "science": ENTRY}
    registry.allow(registry.texts(ENTRY), project)
    for deps in (["data"], ["data", "src/lab"]):
        stages = {"science": {"foreach": "${science}", "do": {"cmd": "x", "deps": deps}}, "report": {"deps": ["data"]}}
        (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
        if len(deps) == 1:
            with pytest.raises(ConfigError, match=r"^params\.yaml names lab\.questions: src/lab/questions\.py must be"):
                check(params, project)
    check(params, project)


def test_what_was_checked_is_checked_again_when_ones_own_code_changes(project: Path) -> None:
    before = {_check_fingerprint(project)}
    (project / "src" / "lab" / "questions.py").write_text("syntax error")
    before.add(_check_fingerprint(project))
    (project / "dvc.yaml").write_text("stages: {}")
    before.add(_check_fingerprint(project))
    assert len(before) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise SystemExit(0)", r"raises SystemExit: 0 \(.*questions\.py, line 1\)"),
        ("syntax error", r"raises SyntaxError: invalid syntax \(.*questions\.py, line 1\)"),
        ("def __getattr__(name): raise OSError(name)", r"raises OSError: MARGIN \(.*questions\.py, line 1\)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_said_in_a_line(project: Path, text: str, message: str) -> None:
    (project / "src" / "lab" / "questions.py").write_text(text)
    place = r"^params\.yaml: science\.margin\.study = .*: must be importable: "
    with pytest.raises(ConfigError, match=f"{place}.*{message}$"):
        read_question(open_project(project).params, "science.margin")


def test_metrics_of_a_deleted_entry_are_told_of(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = project / "metrics" / "science" / "old.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    outs = [{"path": "metrics/science/old.json", "md5": "99914b932bd37a50b983c5e7c90ae93b"}]
    lock = {"schema": "2.0", "stages": {"science@old": {"cmd": "notbugs science old", "outs": outs}}}
    (project / "dvc.lock").write_text(yaml.safe_dump(lock))
    remove_unused(open_project(project))
    assert "removed what params.yaml no longer names: metrics/science/old.json" in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.parametrize("name", ["gaussian", "diversity"])
def test_built_in_questions_pass(name: str) -> None:
    check_question(name, settings=TINY_PARAMS[name])


def sharing(lab: Lab, settings: Any) -> Answer:
    draw = make_generator(lab.seed, "shared")
    first = lab.load_or_make("first", lambda: float(torch.rand((), generator=draw)))
    return Answer({"first": first, "then": float(torch.rand((), generator=draw))}, ())


def changing(lab: Lab, settings: Any) -> Answer:
    lab.models["standard"].head.bias.data.add_(1)
    return Answer({}, ())


@pytest.mark.parametrize(
    ("study", "message"),
    [
        (
            lambda lab, settings: Answer({"a": float(torch.rand(()))}, ()),
            "question: answers otherwise when it is asked",
        ),
        (sharing, "question: answers otherwise when it is asked again with the parts that `load_or_make` kept"),
        (changing, "question: the weights or statistics of the source model standard are not as they were"),
        (lambda lab, settings: [], r"science\.NAME: question here:question: must give an Answer, not a list"),
        (lambda lab, settings: 1 / 0, r"science\.NAME: question here:question: raises ZeroDivisionError"),
    ],
)
def test_each_rule_of_a_question_is_seen_to_fail(study: Any, message: str) -> None:
    with pytest.raises((AssertionError, QuestionError), match=f"^{message}"):
        check_question(Question(QuestionSettings, study))
    assert "lab" not in sys.modules
