"""Statements that were put to the data, with what was found: a verdict, and the numbers that decide."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from notbugs.report.blocks import Cell, Table, name
from notbugs.report.claims import Seen
from notbugs.report.project import Project
from notbugs.report.tables import VERDICT_MARKS
from notbugs.results import ResultsError, percent


@dataclass(frozen=True)
class Finding:
    """A statement, in a few words and in a sentence; the verdict; what was measured."""

    title: str
    statement: str
    seen: Seen
    sentence: str


def verdict(seen: bool) -> Seen:
    """ "seen" or "not seen"."""
    return "seen" if seen else "not seen"


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
    import json

    if stage not in project.params:
        return None
    path = project.root / "metrics" / f"{stage}.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultsError(f"{path}: not found; `dvc repro {stage}` makes it") from None
    except (OSError, ValueError) as error:
        raise ResultsError(f"{path}: cannot be read: {error}") from None
    for key in keys:
        if not isinstance(found, dict) or key not in found:
            raise ResultsError(f"{path}: {key} is missing; `dvc repro {stage}` writes it again")
    return dict(found)


def number_with_interval(found: Mapping[str, float], digits: int = 3) -> str:
    """ "0.412 [0.398, 0.426]" of a mapping with value, low and high."""
    text = f"{found['value']:.{digits}f} [{found['low']:.{digits}f}, {found['high']:.{digits}f}]"
    return text.replace("-", "−")


def share_with_interval(found: Mapping[str, float]) -> str:
    """ "93.1% [91.0, 94.7]" of a mapping with value, low and high as fractions."""
    return f"{percent(found['value'])}% [{percent(found['low'])}, {percent(found['high'])}]"
