"""Statements that were put to the data, with what was found: a verdict, and the numbers that decide."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from notbugs.evaluation.results import percent, read_json
from notbugs.report.blocks import Cell, Table, name
from notbugs.report.claims import Seen
from notbugs.report.project import Project
from notbugs.report.tables import VERDICT_MARKS


@dataclass(frozen=True)
class Finding:
    """A statement, in a few words and in a sentence; the verdict; what was measured."""

    title: str
    statement: str
    seen: Seen
    sentence: str


def findings_table(caption: str, findings: list[Finding]) -> Table:
    """One row a finding."""
    rows = [
        [
            name(found.title, found.statement),
            Cell(found.seen, mark=VERDICT_MARKS[found.seen]),
            Cell(found.sentence),
        ]
        for found in findings
    ]
    return Table(caption, [Cell("statement"), Cell("here"), Cell("measured")], rows)


def metrics_of(project: Project, stage: str, keys: tuple[str, ...]) -> dict[str, Any] | None:
    """metrics/<stage>.json; None where params.yaml has no such section.

    Raises: ResultsError if it is asked for but missing or incomplete.
    """
    if stage not in project.params:
        return None
    return read_json(project.root / "metrics" / f"{stage}.json", stage, keys)


def number_with_interval(found: Mapping[str, float], digits: int = 3) -> str:
    """ "0.412 [0.398, 0.426]" of a mapping with value, low and high."""
    text = f"{found['value']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"
    return text.replace("-", "−")


def share_with_interval(found: Mapping[str, float]) -> str:
    """ "93.1% [91.0, 94.7]" of a mapping with value, low and high as fractions."""
    return f"{percent(found['value'])}% [{percent(found['low'])}, {percent(found['high'])}]"
