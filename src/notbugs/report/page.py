"""The page: everything is computed first, then written; pictures are inlined and saved beside it."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from notbugs.evaluation.results import titled
from notbugs.evaluation.statements import Verdict
from notbugs.report import (
    debate,
    diagnose,
    diversity,
    estimator,
    explorer,
    features,
    gaussian,
    inversion,
    planted,
    questions,
    recorded,
    sweeps,
    transfer,
)
from notbugs.report.absent import of_table, sentences
from notbugs.report.drawing import drawn_as, report_style
from notbugs.report.head import render_head
from notbugs.report.live import Drawing, LiveChart, script, to_png
from notbugs.report.overview import LAST_SECTIONS, MAIN_SECTIONS, SAMPLES
from notbugs.report.project import Project, load_project
from notbugs.report.sections import Picture, Section, environment, words
from notbugs.runtime.files import whole_file, write_json, write_text
from notbugs.runtime.tasks import DoAll, in_turn

SECTIONS: tuple[Section, ...] = (
    *MAIN_SECTIONS,
    explorer.SECTION,
    diagnose.SECTION,
    recorded.SECTION,
    transfer.SECTION,
    inversion.SECTION,
    diversity.SECTION,
    estimator.SECTION,
    features.SECTION,
    planted.SECTION,
    gaussian.SECTION,
    debate.SECTION,
    questions.SECTION,
    sweeps.SECTION,
    *LAST_SECTIONS,
)
"""Every section, in the order of the page; a new one is a module with a `SECTION`, a template, and a line here."""


def write_report(root: Path, out: Path, figures_dir: Path, *, do_all: DoAll = in_turn) -> list[str]:
    """Write the page, the figures, and the verdicts beside the page (verdicts.json); the same inputs, the same bytes.

    Args:
        root: project folder whose pipeline has run up to `evaluate`.
        out: the HTML page, self-contained; its folder is made.
        figures_dir: where the figures go as PNG; made, and files of the same names replaced.
        do_all: draws the sections; see there.
    Returns: what the page leaves out or shows of other settings, one line each, as its head says it.
    Raises:
        ConfigError if params.yaml is wrong.
        ResultsError, DatasetError naming the file that is missing or wrong, and the command that makes it.
    """
    project = load_project(root)
    absent = left_out(project)
    with titled(project.params), drawn_as(project.sets.values()):
        _write(project, absent, out, figures_dir, do_all)
    return [*sentences(of_table(project.outdated)), *sentences(absent)]


def left_out(project: Project) -> dict[str, str]:
    """Stages of params.yaml that nothing is shown of -> why."""
    single = [section.key for section in SECTIONS if section.needs and not isinstance(section, questions.OfEveryEntry)]
    asked = [key for key in single if key in project.params]
    asked += [f"science@{name}" for name in project.params.get("science") or {}]
    return {address: why for address in asked if (why := project.why_left_out(address)) is not None}


def _write(project: Project, absent: Mapping[str, str], out: Path, figures_dir: Path, do_all: DoAll) -> None:
    present = [(section, section.metrics(project)) for section in SECTIONS if section.is_in(project)]
    verdicts = {section.key: section.judge(project, found) for section, found in present}
    drawn = do_all([SCRIPT, *(section.key for section, _ in present)], Artist(project), "report, sections")
    pictures = {name: picture for of_section in drawn for name, picture in of_section.items()}
    bodies = [
        Body(
            section.key,
            section.template.TITLE,
            section.render(project, found, pictures, verdicts[section.key]),
            section.folded,
        )
        for section, found in present
    ]
    facts = {section.key: found for section, found in present}
    page = render_page(
        title=f"Robust and non-robust features on {project.source}",
        subtitle=words("abstract", "subtitle", project=project),
        abstract=abstract(project, verdicts["claims"]),
        head=render_head(project, verdicts, facts, pictures.get(SAMPLES), absent),
        sections=[body for body in bodies if body.html],
        vega=script(project.root) if any(picture.chart for picture in pictures.values()) else "",
    )
    for name, picture in pictures.items():
        with whole_file(figures_dir / f"{name}.png") as temporary:
            temporary.write_bytes(picture.png)
    write_text(out, page)
    write_json(out.with_name("verdicts.json"), [verdict_record(verdict) for verdict in verdicts["claims"]])


SCRIPT = "script"
"""Task of an artist beside the sections: the script of live charts, which takes seconds the first time."""


class Artist:
    """Draws the figures of a section of the page; in another process for a project that is loaded there once."""

    def __init__(self, project: Project) -> None:
        self.project = project

    def __reduce__(self) -> tuple[Callable[[Path], "Artist"], tuple[Path]]:
        return _artist_of_this_process, (self.project.root,)

    def __call__(self, key: str) -> dict[str, Picture]:
        """File name without suffix -> picture; for SCRIPT none, but it is kept from then on."""
        if key == SCRIPT:
            script(self.project.root)
            return {}
        section = next(section for section in SECTIONS if section.key == key)
        with titled(self.project.params), drawn_as(self.project.sets.values()), report_style():
            figures = section.draw(self.project, section.metrics(self.project))
            return {name: pictured(figure) for name, figure in figures}


def pictured(drawn: Drawing) -> Picture:
    """A figure as the page shows it."""
    return Picture(to_png(drawn), drawn.json() if isinstance(drawn, LiveChart) else "")


@lru_cache(maxsize=1)
def _artist_of_this_process(root: Path) -> Artist:
    return Artist(load_project(root))


def verdict_record(verdict: Verdict) -> dict[str, str]:
    """A verdict as reports/verdicts.json holds it, in Git: what README.md says follows from it."""
    return {
        "key": verdict.key,
        "title": verdict.title,
        "verdict": verdict.printed,
        "measured": verdict.sentence,
        "basis": verdict.basis,
        "elsewhere": verdict.elsewhere,
    }


class Body(NamedTuple):
    """A section as the page shows it: its anchor, heading, what stands below it, and whether it is folded."""

    key: str
    title: str
    html: Markup
    folded: bool = False


def render_page(
    title: str, subtitle: str, abstract: str, sections: Sequence[Body], head: Markup | None = None, vega: str = ""
) -> str:
    """A page as HTML; all text is escaped by the template.

    Args:
        head: what stands between abstract and sections.
        vega: the script that draws live charts; empty on a page without any.
    """
    template = environment().get_template("report.html.j2")
    parts = {"title": title, "subtitle": subtitle, "abstract": abstract, "head": head or "", "sections": sections}
    return template.render(**parts, vega=Markup(vega))


def abstract(project: Project, claims: Sequence[Verdict]) -> str:
    """Three to five sentences: what was repeated, how many claims were reproduced, main numbers, what was not."""
    return words("abstract", "abstract", project=project, claims=claims, main_numbers=main_numbers(project))


def main_numbers(project: Project) -> str:
    """One sentence with the accuracies that the paper is about, as far as they were measured; else empty."""
    rows = {row.dataset: row for row in project.accuracies if row.estimator == "standard"}
    return words("abstract", "main_numbers", eps=project.headline_eps, rows=rows, not_learnt=project.not_learnt)
