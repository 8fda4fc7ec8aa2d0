"""What the sections about the science share: shares as estimates, verdicts as a table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from notbugs.evaluation.comparison import Estimate
from notbugs.evaluation.results import percent
from notbugs.report.blocks import Cell, Table, name, number
from notbugs.report.claims import Seen
from notbugs.report.tables import VERDICT_MARKS


@dataclass(frozen=True)
class Verdict:
    """A question, what was found, and the numbers behind it."""

    title: str
    seen: Seen
    sentence: str


def estimate(share: Mapping[str, Any]) -> Estimate:
    """A share of a metrics file with its interval."""
    return Estimate(share["mean"], share["low"], share["high"])


def share_cell(share: Mapping[str, Any] | None) -> Cell:
    """Percentage with its interval; a dash where there was nothing to count."""
    if share is None:
        return number("–")
    return number(percent(share["mean"]), f"{percent(share['low'])}–{percent(share['high'])}")


def rests_on(source_seeds: Mapping[str, int], *rest: str) -> str:
    """What a section's verdicts rest on: "Rest on one source model of each kind (seed 0), 2 fits, 359 test images; …".

    Args:
        source_seeds: dataset -> seed of the one source model whose dataset was looked at.
        rest: the numbers of fits and images.
    """
    seeds = sorted(set(source_seeds.values()))
    numbers = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return (
        f"Rest on one source model of each kind ({numbers}), {', '.join(rest)}; "
        "the intervals say nothing of other source models."
    )


def verdict_table(verdicts: Sequence[Verdict], basis: str) -> Table:
    """The verdicts as a table, under what they rest on."""
    rows = [[name(one.title), Cell(one.seen, mark=VERDICT_MARKS[one.seen]), Cell(one.sentence)] for one in verdicts]
    return Table(
        f"Verdicts, by rules fixed before the numbers were seen. {basis}",
        [Cell("claim"), Cell("here"), Cell("measured")],
        rows,
    )


def listed(items: Sequence[str]) -> str:
    """ "a, b and c"."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else list(items))
