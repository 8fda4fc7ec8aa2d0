"""Section on why each constructed dataset teaches what it does, or nothing: `metrics/diagnose.json`."""

from typing import Any

from notbugs.evaluation.results import set_title
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Section

SHARES = {
    "success": "source",
    "success_other_seeds": "other seeds",
    "success_augmented": "augmented",
    "still_y": "robust",
    "probe_delta": "linear",
    "neighbour_delta": "1-NN",
    "probe_image": "linear",
    "neighbour_image": "1-NN",
}
"""Share of the metrics file -> head of its column."""
GROUPS = (("", 1), ("called as labelled by", 3), ("still y", 1), ("label read from δ", 2), ("from the image", 2))
"""Text above these columns, and how many it spans."""


def numbers(_: Project, found: Facts) -> dict[str, Any]:
    """A row a dataset, and what is wrong with each, the first cause first."""
    rows = [{"title": set_title(name), **facts} for name, facts in found["constructions"].items()]
    return {"rows": rows, "chance": rows[0]["chance"] if rows else None}


SECTION = Section("diagnose", needs=("constructions",), numbers=numbers, constants={"SHARES": SHARES, "GROUPS": GROUPS})
