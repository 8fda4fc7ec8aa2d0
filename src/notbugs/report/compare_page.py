"""The page of `notbugs compare`: the tables of two runs side by side, in the report's style."""

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

from notbugs.report.blocks import Block, Section, Table, Text, name, number
from notbugs.report.page import environment

HOW = {
    "accuracy": "Mean over seeds on each run's own test images; under attack at each run's own headline radius.",
    "why D_R is robust": "Robustness passed on: of the way in adversarial accuracy from D, fitted by the dataset's own "
    "recipe, to D's robust model, the share that standard training on the dataset goes. The other lines are free of "
    "units and sizes, so that two sources can be compared; they are candidates for an explanation, not an explanation.",
}


def comparison_page(lines: Sequence[Any], a: str, b: str, cells: Callable[[Any], tuple[str, str, str]]) -> str:
    """HTML, self-contained.

    Args:
        lines: of `notbugs.report.compare`, grouped by their part.
        a, b: names of the runs.
        cells: a line -> its three cells as text.
    """
    sections = []
    for part, group in groupby(lines, key=lambda line: line.part):
        rows = [[name(line.what), *map(number, cells(line))] for line in group]
        table = Table(f"{part}: {a} and {b}", [name(""), number(a), number(b), number("B − A")], rows)
        blocks: list[Block] = [Text(HOW[part]), table] if part in HOW else [table]
        sections.append(Section(part.replace(" ", "-"), part.capitalize(), blocks))
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=f"{a} beside {b}",
            subtitle="Two pipelines compared",
            abstract=[_abstract(lines, a, b)],
            sections=sections,
        )
    )


def _abstract(lines: Sequence[Any], a: str, b: str) -> str:
    passed = next((line for line in lines if line.what == "robustness passed on by D_R"), None)
    if passed is None or passed.a is None or passed.b is None:
        return f"{a} and {b}, line by line."
    return (
        "Of the adversarial accuracy that robust training adds, standard training on D_R keeps "
        f"{100 * passed.a:.0f}% in {a} and {100 * passed.b:.0f}% in {b}."
    )
