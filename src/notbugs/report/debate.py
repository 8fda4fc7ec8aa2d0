"""Section on the debate: each side's claim beside what was measured here, and the experiment behind it.

A part of the debate is an entry of `science` whose metrics file says whose position it puts to the data. The default
pipeline has none; what was recorded of them on the same kind of data then stands in their place, and is called so.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from markupsafe import Markup

from notbugs.evaluation.statements import Chart, Verdict, verdicts_of
from notbugs.report import estimator
from notbugs.report.charts import draw
from notbugs.report.live import Drawing
from notbugs.report.project import Project
from notbugs.report.questions import OfEveryEntry, entries, rows_of
from notbugs.report.recorded import recordings
from notbugs.report.sections import BESIDE, Facts, Picture, environment, render


@dataclass(frozen=True)
class Part:
    """One experiment of the debate, as it is shown.

    Attributes:
        name: of the entry; its anchor is part-<name>.
        facts: its metrics file.
        recorded: the recording that it is of; None for this project's own.
    """

    name: str
    facts: Mapping[str, Any]
    recorded: Mapping[str, Any] | None = None

    @property
    def about(self) -> Mapping[str, Any]:
        """Title, question, position, and what was found."""
        found: Mapping[str, Any] = self.facts["question"]
        return found

    @property
    def verdicts(self) -> list[Verdict]:
        """What its rules found."""
        return verdicts_of(self.about)

    @property
    def charts(self) -> list[tuple[str, Chart]]:
        """(file name without suffix, chart)."""
        own = [Chart.of(one) for one in self.about.get("charts", ())]
        return [(f"debate-{self.name}-{chart.name}", chart) for chart in own]

    @cached_property
    def _template(self) -> Any:
        """What the template beside its module defines; None without one."""
        module = self.about.get("page")
        return environment().get_template(f"{BESIDE}{module}").module if module else None

    @property
    def reads_data(self) -> bool:
        """Whether any data of a project takes part; its template says where none does."""
        return not getattr(self._template, "READS_NO_DATA", False)

    def page(self) -> Markup:
        """What its template makes of the numbers; blank without one."""
        if self._template is None:
            return Markup("")
        found: Markup = self._template.page(found=self.facts)
        return found.strip()


class _Debate(OfEveryEntry):
    """A section about the entries of `science` that put somebody's position to the data."""

    def is_in(self, project: Project) -> bool:
        """Whether anything can be shown: an entry, or a recording."""
        return bool(entries(project)) or bool(_recorded(project.source))

    def metrics(self, project: Project) -> Facts:
        """Entry -> what its stage measured, of those with a position."""
        found = self.of_entries(project)
        return {name: facts for name, facts in found.items() if "position" in facts["question"]}

    def draw(self, project: Project, found: Facts) -> Iterable[tuple[str, Drawing]]:
        """The charts of every part."""
        for part in parts(found, project.source):
            for name, chart in part.charts:
                yield name, draw(chart)

    def render(
        self, project: Project, found: Facts, pictures: Mapping[str, Picture], verdicts: Sequence[Verdict]
    ) -> Markup:
        """The section as HTML; blank where nobody's position was put to any data."""
        shown = parts(found, project.source)
        if not shown:
            return Markup("")
        told = {"own": project.source, "rows_of": rows_of, "has_estimator": estimator.SECTION.is_in(project)}
        return render("debate", parts=shown, pictures=pictures, **told)


def own_parts(found: Facts) -> list[Part]:
    """What this project put to its data."""
    return [Part(name, facts) for name, facts in found.items()]


def parts(found: Facts, source: str) -> list[Part]:
    """This project's own parts, then others that were recorded; of two of these that on data of this source."""
    own = own_parts(found)
    asked = {part.about["title"] for part in own}
    others = [part for part in _recorded(source) if part.about["title"] not in asked]
    return [*own, *others]


def _recorded(source: str) -> list[Part]:
    found: dict[str, Part] = {}
    for recording in sorted(recordings(), key=lambda one: bool(one["source"] != source)):
        for name, facts in recording.get("debate", {}).items():
            found.setdefault(name, Part(name, facts, recording))
    return list(found.values())


SECTION = _Debate("debate", needs=("question",))
