"""Section on runs that were recorded elsewhere and come with the package: never this project's own numbers."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from notbugs.evaluation.statements import Verdict, verdicts_of
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Section

RECORDINGS = Path(__file__).parent / "recordings"
"""Holds the summary.json of each recording (`recording.summary`), under its name."""


@cache
def recordings() -> tuple[dict[str, Any], ...]:
    """The summaries that come with the package, in the order of their names."""
    return tuple(json.loads(file.read_text(encoding="utf-8")) for file in sorted(RECORDINGS.glob("*.json")))


def of_others(project: Project) -> list[dict[str, Any]]:
    """Those of other data than the project's own; digits, which anybody can run, are there for their debate alone."""
    return [one for one in recordings() if one["source"] not in (project.source, "digits")]


def debated(recording: Mapping[str, Any]) -> list[Verdict]:
    """What the recorded parts of the debate found."""
    parts = recording.get("debate", {}).values()
    return [verdict for facts in parts for verdict in verdicts_of(facts["question"])]


def numbers(project: Project, _: Facts) -> dict[str, Any]:
    """The recordings, and what this project's own D is called."""
    shown = [{**one, "debated": debated(one)} for one in of_others(project)]
    return {"recordings": shown, "own": project.source}


SECTION = Section("recorded", numbers=numbers, folded=False)
