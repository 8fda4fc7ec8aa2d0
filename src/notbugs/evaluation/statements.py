"""What is said of measurements: verdicts on statements, charts as numbers, and whose position a statement is.

They are plain data, so that a study can put them into its metrics file, and the report show them as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Finding = Literal["reproduced", "not reproduced", "inconclusive"]
FINDINGS: tuple[Finding, ...] = get_args(Finding)
ChartKind = Literal["lines", "bars", "points"]
CHART_KINDS: tuple[ChartKind, ...] = get_args(ChartKind)


@dataclass(frozen=True)
class Verdict:
    """A statement that was put to the data, and what was found.

    Attributes:
        key: short name. title: the statement in a few words. statement: in a sentence; may be empty.
        finding: the verdict. on_edge: whether one image, or one standard error, more or less would change it.
        sentence: what was measured, with the numbers that decide.
        basis: how many models, fits and images it rests on, and the power to tell the threshold from 0.
        elsewhere: what happens at the other eps; empty where the statement has none.
    """

    key: str
    title: str
    statement: str
    finding: Finding
    sentence: str
    basis: str = ""
    elsewhere: str = ""
    on_edge: bool = False

    @property
    def printed(self) -> str:
        """The verdict in print, such as "reproduced, on the edge"."""
        return f"{self.finding}, on the edge" if self.on_edge else self.finding

    @property
    def notes(self) -> str:
        """What it rests on, and what happens at the other eps; a line each."""
        return "\n".join(filter(None, (self.basis, self.elsewhere)))


def verdicts_of(question: Mapping[str, Any]) -> list[Verdict]:
    """Those that a study put into its metrics file, under `question`."""
    return [Verdict(**one) for one in question.get("verdicts", ())]


def reproduced_if(holds: bool) -> Finding:
    """The verdict of a rule that can always be judged."""
    return "reproduced" if holds else "not reproduced"


@dataclass(frozen=True)
class Series:
    """Points of a chart that belong together.

    Attributes:
        label: in the legend.
        x: where each point stands; texts name the places of bars.
        y: its value, and `low` and `high` the ends of its interval; None where it was not measured.
    """

    label: str
    x: Sequence[float | str]
    y: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()

    @classmethod
    def of_shares(cls, label: str, shares: Mapping[Any, Mapping[str, Any] | None]) -> "Series":
        """Of x -> share or interval (`science.common.shares`); None leaves a gap."""
        found = [share or {} for share in shares.values()]
        middle = [share.get("mean", share.get("value")) for share in found]
        ends = ([share.get(end) for share in found] for end in ("low", "high"))
        return cls(label, list(shares), middle, *ends)


@dataclass(frozen=True)
class Chart:
    """A figure as numbers; who draws it decides how it looks.

    Attributes:
        name: of its file, letters, digits, _ and -.
        caption: what it shows, in a sentence or two.
        x, y: what the axes show, with units.
        series: what is drawn.
        kind: points joined by lines, bars side by side, or points alone.
        percent: whether y holds fractions that are shown as percentages, from 0 to 100.
        marks: label -> y of a level line, such as chance, or what was reported.
    """

    name: str
    caption: str
    x: str
    y: str
    series: Sequence[Series]
    kind: ChartKind = "lines"
    percent: bool = True
    marks: Mapping[str, float] | None = None

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Chart":
        """As `dataclasses.asdict` and JSON give it back."""
        return cls(**{**stored, "series": [Series(**one) for one in stored["series"]]})


@dataclass(frozen=True)
class Position:
    """One side of a debate.

    Attributes:
        who: authors and year.
        claim: what they hold, in a sentence.
        reported: what they measured, with the numbers and the data.
        source: where they say so: an address.
        mind: what would change one's mind, with the number that decides.
    """

    who: str
    claim: str
    reported: str
    source: str
    mind: str
