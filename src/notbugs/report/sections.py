"""What a section of the page is: an entry of the registry, its verdicts, and a template that puts them into words.

Python finds the numbers; `templates/<key>.html.j2` says what they mean. It is a set of macros: `page` is the section,
STATEMENTS holds what is put to the data, and for each rule of the section a macro of the rule's key says in a sentence
what was measured.
"""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, NamedTuple

from jinja2 import ChoiceLoader, Environment, FunctionLoader, PackageLoader, StrictUndefined
from markupsafe import Markup

from notbugs.attacks.norms import norm_title
from notbugs.evaluation.comparison import Estimate
from notbugs.evaluation.results import STILL_Y_SHARE, attack_label, model_label, percent, percent_with_spread, read_json
from notbugs.evaluation.statements import Finding, Verdict
from notbugs.report.absent import metrics_file
from notbugs.report.drawing import DPI
from notbugs.report.evidence import NotMeasuredError
from notbugs.report.honesty import CALLED_BEFORE
from notbugs.report.live import AROUND, BEFORE, BETWEEN, PANEL, Drawing
from notbugs.report.project import Project
from notbugs.runtime.beside import page_of

Facts = Mapping[str, Any]
"""What a metrics file holds."""
Draw = Callable[[Project, Facts], Drawing | None]
Judge = Callable[[Project, Facts], "Ruling | None"]
PAGE_DPI = 100
"""Pixels of the page to an inch of a figure: a full-width figure is 900 pixels wide."""


@dataclass(frozen=True)
class Ruling:
    """What a rule found: the verdict, and the numbers that the template's sentence is made of."""

    finding: Finding
    numbers: Facts
    basis: str = ""
    elsewhere: str = ""
    on_edge: bool = False


def estimate(share: Facts) -> Estimate:
    """A share of a metrics file, which calls it its mean or its value, with its interval."""
    return Estimate(share["mean"] if "mean" in share else share["value"], share["low"], share["high"])


@dataclass(frozen=True)
class Picture:
    """A PNG as the page shows it, and the definition of the live chart that stands in its place where scripts run.

    Attributes:
        chart: the definition as JSON; empty where the picture is all.
    """

    png: bytes
    chart: str = ""

    @property
    def base64(self) -> str:
        """The bytes as they stand in a data URL."""
        return base64.b64encode(self.png).decode("ascii")

    @property
    def width(self) -> int:
        """In CSS pixels; the PNG is sharper by DPI / PAGE_DPI."""
        return int.from_bytes(self.png[16:20], "big") * PAGE_DPI // DPI

    @property
    def height(self) -> int:
        """In CSS pixels."""
        return int.from_bytes(self.png[20:24], "big") * PAGE_DPI // DPI


class AnotherRule(NamedTuple):
    """A statement of the template's, put to other data than it is written for.

    Attributes:
        key: of the verdict. says: of the statement, and of the macro that says what was measured.
        judge: how it is judged.
        renamed: (a name in the statement, what stands there instead).
    """

    key: str
    says: str
    judge: Judge
    renamed: tuple[str, str] = ("", "")


def _renamed(text: str, names: tuple[str, str]) -> str:
    return text.replace(*names) if names[0] else text


def _nothing_else(project: Project, found: Facts) -> dict[str, Any]:
    return {"found": found} if found else {}


@dataclass(frozen=True)
class Section:
    """An entry of the registry. All functions take the project and the section's metrics.

    Attributes:
        key: its anchor, and the name of its template.
        needs: keys that metrics/<key>.json must hold; without any the section is about no stage. One that is about a
            stage is left out where params.yaml has no such section, or the stage was not run on what is there now.
        figures: file name without suffix -> what draws it, or None where there is nothing to draw.
        more_figures: further ones, where their names depend on the project.
        more_rules: further ones, which depend on the project.
        rules: key -> how a statement of the template's STATEMENTS is judged, written down before the numbers are
            seen; None where it is about what this pipeline does not have.
        numbers: what the template's macro `page` is given; by default the metrics as `found`.
        constants: what all of the template knows by name.
        folded: whether the page shows it only when it is asked for.
    """

    key: str
    needs: tuple[str, ...] = ()
    figures: Mapping[str, Draw] = field(default_factory=dict)
    more_figures: Callable[[Project], Iterable[tuple[str, Drawing]]] = lambda project: ()
    rules: Mapping[str, Judge] = field(default_factory=dict)
    more_rules: Callable[[Project], Iterable["AnotherRule"]] = lambda project: ()
    numbers: Callable[[Project, Facts], dict[str, Any]] = _nothing_else
    constants: Mapping[str, Any] = field(default_factory=dict)
    folded: bool = True

    @cached_property
    def template(self) -> Any:
        """What the template defines: TITLE, STATEMENTS (key -> title, statement) and the macros."""
        return environment().get_template(f"{self.key}.html.j2", globals=dict(self.constants)).module

    def is_in(self, project: Project) -> bool:
        """Whether the pipeline has the stage, and it was run on what the project has now."""
        return not self.needs or (self.key in project.params and project.why_left_out(self.key) is None)

    def metrics(self, project: Project) -> Facts:
        """What its stage measured; empty for a section without one.

        Raises: ResultsError if the file is missing or incomplete.
        """
        if not self.needs:
            return {}
        return read_json(metrics_file(project.root, self.key), self.key, self.needs)

    def judge(self, project: Project, found: Facts) -> list[Verdict]:
        """A verdict by each rule; a missing measurement makes it "inconclusive"."""
        verdicts = []
        asked = [AnotherRule(key, key, rule) for key, rule in self.rules.items()]
        for key, says, rule, renamed in [*asked, *self.more_rules(project)]:
            title, statement = (_renamed(text, renamed) for text in self.template.STATEMENTS[says])
            try:
                ruling = rule(project, found)
            except NotMeasuredError as error:
                verdicts.append(Verdict(key, title, statement, "inconclusive", f"Inconclusive: {error}."))
                continue
            if ruling is not None:
                told = (_line(getattr(self.template, says)(**ruling.numbers)), ruling.basis, ruling.elsewhere)
                verdicts.append(Verdict(key, title, statement, ruling.finding, *told, ruling.on_edge))
        return verdicts

    def draw(self, project: Project, found: Facts) -> Iterable[tuple[str, Drawing]]:
        """Every figure, by file name without suffix."""
        for name, draw in self.figures.items():
            figure = draw(project, found)
            if figure is not None:
                yield name, figure
        yield from self.more_figures(project)

    def render(
        self, project: Project, found: Facts, pictures: Mapping[str, Picture], verdicts: Sequence[Verdict]
    ) -> Markup:
        """The section as HTML, without its heading; blank if there is nothing to show."""
        page: Markup = self.template.page(pictures=pictures, verdicts=verdicts, **self.numbers(project, found))
        return page.strip()


BESIDE = "beside:"
"""Begins the name of a template that stands beside a module, before the module's."""


def _beside(name: str) -> tuple[str, str, Callable[[], bool]] | None:
    """The template beside the module of a question, for Jinja."""
    file = page_of(name.removeprefix(BESIDE)) if name.startswith(BESIDE) else None
    return None if file is None else (file.read_text(encoding="utf-8"), str(file), lambda: True)


@cache
def environment() -> Environment:
    """Where templates come from; all text put into them is escaped."""
    found = Environment(
        loader=ChoiceLoader([PackageLoader("notbugs.report"), FunctionLoader(_beside)]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters |= {
        "counted": counted,
        "estimate": estimate,
        "fixed": fixed,
        "g": short,
        "interval": interval,
        "label": model_label,
        "attack_label": attack_label,
        "brief": lambda number: f"{number:.3g}",
        "listed": listed,
        "percent": percent,
        "points": lambda margin: f"{100 * margin:g} points",
        "significant": lambda number: f"{number:#.3g}",
        "with_spread": percent_with_spread,
        "whole": lambda fraction: f"{fraction:.0%}",
    }
    found.globals |= {"PANEL": PANEL, "AROUND": AROUND, "BEFORE": BEFORE, "BETWEEN": BETWEEN}  # of live charts
    found.globals |= {"CALLED_BEFORE": CALLED_BEFORE, "LIMIT": f"{100 * STILL_Y_SHARE:g}%", "norm_title": norm_title}
    return found


def macros(name: str) -> Any:
    """The macros of a template, by its file's name, or by the key of its section."""
    return environment().get_template(name if name.endswith(".j2") else f"{name}.html.j2").module


def render(name: str, /, **numbers: Any) -> Markup:
    """What a template's macro `page` makes of the numbers: HTML; blank if there is nothing to show."""
    page: Markup = macros(name).page(**numbers)
    return page.strip()


def words(name: str, macro: str, /, **numbers: Any) -> str:
    """What a template's macro says, as plain text in one line."""
    return _line(getattr(macros(name), macro)(**numbers))


def _line(text: Markup) -> str:
    return " ".join(text.unescape().split())


def counted(number: int, what: str) -> str:
    """ "1 fit", "2 fits"."""
    return f"{number} {what}{'s' * (number != 1)}"


def fixed(number: float, digits: int) -> str:
    """With so many decimals and a proper minus sign."""
    return f"{number:.{digits}f}".replace("-", "−")


def short(number: float) -> str:
    """As short as it can be written."""
    return f"{number:g}".replace("-", "−")


def interval(found: Facts, digits: int = 3) -> str:
    """ "0.412 [0.398, 0.426]" of what is no share."""
    return f"{fixed(found['value'], digits)} [{fixed(found['low'], digits)}, {fixed(found['high'], digits)}]"


def listed(items: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
