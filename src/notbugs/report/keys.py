"""How one series of a live chart is told apart, in the chart and in its legend: colour, marker, dashes."""

from dataclasses import dataclass

from notbugs.report.drawing import Look

_SHAPES = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "v": "triangle-down",
    "D": "diamond",
    "P": "cross",
    "<": "triangle-left",
    ">": "triangle-right",
    "X": "M-.5,-.2L-.2,-.5L0,-.3L.2,-.5L.5,-.2L.3,0L.5,.2L.2,.5L0,.3L-.2,.5L-.5,.2L-.3,0Z",
    "x": "M-.5,-.4L-.4,-.5L0,-.1L.4,-.5L.5,-.4L.1,0L.5,.4L.4,.5L0,.1L-.4,.5L-.5,.4L-.1,0Z",
}
"""Marker of matplotlib -> of Vega; a path runs from -1 to 1."""
_IN_LEGEND = {
    "o": "M.5,0A.5,.5,0,1,1,-.5,0A.5,.5,0,1,1,.5,0Z",
    "s": "M-.45,-.45H.45V.45H-.45Z",
    "^": "M-.55,.45H.55L0,-.55Z",
    "v": "M-.55,-.45H.55L0,.55Z",
    "D": "M0,-.62L.5,0L0,.62L-.5,0Z",
    "P": "M-.2,-.6H.2V-.2H.6V.2H.2V.6H-.2V.2H-.6V-.2H-.2Z",
    "<": "M.45,-.55V.55L-.55,0Z",
    ">": "M-.45,-.55V.55L.55,0Z",
    "X": _SHAPES["X"],
    "x": _SHAPES["x"],
    "bar": "M-.7,-.6H.7V.6H-.7Z",
    "": "",
}
"""Marker -> its outline in the legend."""
_DASHES = {"-": [1, 0], "--": [6, 3], ":": [2, 2], "-.": [7, 3, 2, 3], "": [1, 0]}
_LINE_IN_LEGEND = {
    "-": "M-2.8,0H-.6M.6,0H2.8",
    "--": "M-2.8,0H-2M-1.4,0H-.6M.6,0H1.4M2,0H2.8",
    ":": "M-2.8,0H-2.6M-2.2,0H-2M-1.6,0H-1.4M-1,0H-.8M.8,0H1M1.4,0H1.6M2,0H2.2M2.6,0H2.8",
    "-.": "M-2.8,0H-1.8M-1.45,0H-1.25M-.9,0H-.6M.6,0H.9M1.25,0H1.45M1.8,0H2.8",
    "": "",
}
"""Line style -> how it goes through a marker in the legend."""
_MIDDLE = {"-": "M-.6,0H.6", "--": "M0,0H0", ":": "M-.4,0H-.2M.2,0H.4", "-.": "M-.6,0H.6", "": ""}
"""The part of a line that a marker hides, where there is none."""


@dataclass(frozen=True)
class Key:
    """One series, and its entry in the legend.

    Attributes:
        label: its name.
        look: colour, marker and line; without either of the two that part is left out. The marker "bar" is a bar's.
        hollow: whether marker or bar is white inside.
    """

    label: str
    look: Look
    hollow: bool = False

    @property
    def symbol(self) -> str:
        """The entry in the legend as a path: the line, and the marker on it."""
        inside = _IN_LEGEND[self.look.marker] or _MIDDLE[self.look.line]
        return _LINE_IN_LEGEND[self.look.line] + inside

    @property
    def inside(self) -> str:
        """Colour of the marker's inside."""
        return "white" if self.hollow else self.look.colour

    @property
    def shape(self) -> str:
        """The marker, as Vega calls it."""
        return _SHAPES[self.look.marker]

    @property
    def dashes(self) -> list[int]:
        """Pixels of line and gap in turn."""
        return _DASHES[self.look.line]
