"""The report: figures and one self-contained HTML page, made from metrics files and stored datasets.

Nothing here computes a measurement: accuracies come from `notbugs.evaluation.results`, facts about constructed images
from their per-example tables and `metrics/construct/`.
"""

from pathlib import Path

from pydantic import Field

from notbugs.runtime.config import Settings


class ReportSettings(Settings):
    """What the report shows; the headline eps is the one of section `evaluate`."""

    grid_examples: int = Field(default=10, ge=1, le=20)
    """Examples in a sample grid, side by side: the first one of each of the first so many classes."""
    settings_note: str = ""
    """How the settings were chosen, and what of the test split was seen by then; printed above the verdicts."""


def write_report(root: Path, out: Path, figures_dir: Path) -> None:
    """Write the page, the figures, and the verdicts beside the page (verdicts.json); the same inputs, the same bytes.

    Args:
        root: project folder whose pipeline has run up to `evaluate`.
        out: the HTML page, self-contained; its folder is made.
        figures_dir: where the figures go as PNG; made, and files of the same names replaced.
    Raises:
        ConfigError if params.yaml is wrong.
        ResultsError, DatasetError naming the file that is missing or wrong, and the command that makes it.
    """
    from notbugs.report.page import write_page  # matplotlib and jinja2 load only when a report is made

    write_page(root, out, figures_dir)
