"""What a section of the page is made of: text, tables, pictures. The template knows how each one looks."""

import base64
from dataclasses import dataclass, field

from notbugs.report.drawing import DPI

PAGE_DPI = 100
"""Pixels of the page to an inch of a figure: a full-width figure is 900 pixels wide."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: str = "text"


@dataclass(frozen=True)
class Code:
    """Text in a fixed-width font, lines kept."""

    text: str
    kind: str = "code"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says. note: below it, smaller; a newline starts a new line.
        mark: a class of the template's style sheet: "number", "paper", "name", "seen", "not-seen", "open".
    """

    text: str
    note: str = ""
    mark: str = ""


@dataclass(frozen=True)
class Table:
    """A table with a caption; wide ones scroll on the page.

    Attributes:
        groups: (text, columns spanned) above the head; empty for none.
    """

    caption: str
    head: list[Cell]
    rows: list[list[Cell]]
    groups: list[tuple[str, int]] = field(default_factory=list)
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """A PNG, inlined.

    Attributes:
        name: file name without suffix. png: its bytes.
        alt: what it shows, for those who cannot see it. caption: below it.
    """

    name: str
    png: bytes
    alt: str
    caption: str
    kind: str = "picture"

    @property
    def base64(self) -> str:
        """The bytes as they stand in a data URL."""
        return base64.b64encode(self.png).decode("ascii")

    @property
    def size(self) -> tuple[int, int]:
        """Width and height on the page in CSS pixels; the PNG is sharper by DPI / PAGE_DPI."""
        across, down = (int.from_bytes(self.png[start : start + 4], "big") for start in (16, 20))
        return across * PAGE_DPI // DPI, down * PAGE_DPI // DPI


@dataclass(frozen=True)
class Words:
    """A glossary: (word, meaning)."""

    entries: tuple[tuple[str, str], ...]
    kind: str = "words"


Block = Text | Code | Table | Picture | Words


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        key: its anchor. title: its heading. blocks: what it holds, in order.
    """

    key: str
    title: str
    blocks: list[Block]


def number(text: str, note: str = "") -> Cell:
    """A right-aligned cell."""
    return Cell(text, note, "number")


def name(text: str, note: str = "") -> Cell:
    """The cell that names its row."""
    return Cell(text, note, "name")
