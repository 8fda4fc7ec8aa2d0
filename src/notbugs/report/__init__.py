"""The report: figures and one self-contained HTML page, made from metrics files and stored datasets.

Nothing here computes a measurement: accuracies come from `notbugs.evaluation.results`, facts about constructed images
from their per-example tables and `metrics/construct/`. `notbugs.report.page` writes it.
"""

from pydantic import Field

from notbugs.runtime.config import Settings


class ReportSettings(Settings):
    """What the report shows; the headline eps is the one of section `evaluate`."""

    grid_examples: int = Field(default=10, ge=1, le=20)
    """Examples in a sample grid, side by side: the first one of each of the first so many classes."""
    settings_note: str = ""
    """How the settings were chosen, and what of the test split was seen by then; printed above the verdicts."""
