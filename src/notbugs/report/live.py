"""Charts that answer the mouse: one Vega-Lite definition is the picture of the page and the chart in its place.

The picture is drawn from the definition when the page is written, and stands there without scripts and on paper. Where
scripts run, the page draws the same definition again, as wide as there is room. Nothing is fetched: all of Vega stands
once on the page.
"""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib
import vl_convert
from matplotlib.figure import Figure
from PIL import Image

from notbugs.report import drawing
from notbugs.runtime.cache import ResultCache, work_folder

WIDTH = 460
"""Pixels of a picture's width before it is scaled: its letters of 12 pixels stay above 9 in a window of 420 pixels."""
SCALE = 2
"""Pixels of the PNG to one of these."""
COLOURS = 128
"""Of a picture's palette."""
PANEL = 220
"""Pixels that a panel of several takes at least."""
AROUND = 90
"""Pixels beside a panel or a row of them: axis, padding, and half of a number at the right end."""
BEFORE = 72
"""Pixels before a legend, which begins where the panel does, and padding."""
BETWEEN = 12
"""Pixels between two panels."""
_NO_ADDRESS: list[str] = []
"""What a chart may load."""


@dataclass(frozen=True)
class LiveChart:
    """A chart by its definition in Vega-Lite, whose width is left open."""

    spec: Mapping[str, Any]

    def fitted(self, width: int) -> dict[str, Any]:
        """The definition at a width in pixels; the script of the page does the same with the width that it finds."""
        spec = {**self.spec, "params": [{"name": "room", "value": width - BEFORE}, *self.spec.get("params", ())]}
        if "vconcat" not in spec:
            return {**spec, "width": width}
        panels, legend = spec["vconcat"]
        columns = max(1, min(panels["columns"], width // PANEL))
        panel = {**panels["spec"], "width": (width - AROUND - BETWEEN * (columns - 1)) // columns}
        return {**spec, "vconcat": [{**panels, "columns": columns, "spacing": BETWEEN, "spec": panel}, legend]}

    def png(self) -> bytes:
        """The picture: the same definition gives the same bytes, whatever fonts are installed."""
        _use_own_font()
        svg = vl_convert.vegalite_to_svg(self.fitted(WIDTH), allowed_base_urls=_NO_ADDRESS)
        drawn = Image.open(io.BytesIO(vl_convert.svg_to_png(svg, scale=SCALE))).convert("RGB")
        buffer = io.BytesIO()
        few = drawn.quantize(COLOURS, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
        few.save(buffer, format="png")
        return buffer.getvalue()

    def json(self) -> str:
        """The definition as it stands on the page, where no text of it can end a script."""
        text = json.dumps(self.spec, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.replace("<", "\\u003c")


Drawing = Figure | LiveChart
"""What a section draws."""


def to_png(drawn: Drawing) -> bytes:
    """The picture of either; the same drawing gives the same bytes."""
    return drawn.png() if isinstance(drawn, LiveChart) else drawing.to_png(drawn)


@cache
def _use_own_font() -> None:
    """Draw with the font of matplotlib's pictures, which comes with matplotlib."""
    vl_convert.register_font_directory(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf"))


def script(root: Path) -> str:
    """Vega, Vega-Lite and vega-embed in one script, which is kept: making it takes seconds.

    Args:
        root: of the project, which keeps it.
    """
    made_from = {"work": "vegaEmbed and no other name", "vl-convert": version("vl-convert-python")}
    found: str = ResultCache(work_folder(root, "report")).get_or_compute(made_from, _bundle)["script"]
    return found


def _bundle() -> dict[str, Any]:
    return {"script": bundle()}


@cache
def bundle() -> str:
    """The script, which defines `vegaEmbed` and no other name, and holds nothing that would end it on a page."""
    found = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;").replace("</script", "<\\/script")
    return f"(() => {{{found}}})();"
