"""Section on why each constructed dataset teaches what it does, or nothing: `metrics/diagnose.json`."""

from typing import Any

from notbugs.evaluation.results import set_title
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Section

SHARES = {
    "success": "called as labelled by the source",
    "success_other_seeds": "by other seeds",
    "success_augmented": "under the fit's augmentation",
    "still_y": "still y, robust model",
    "probe_delta": "label read from δ, linear probe",
    "neighbour_delta": "1-NN",
    "probe_image": "from the image, linear probe",
    "neighbour_image": "1-NN",
}
"""Number of the metrics file -> head of its column."""


def numbers(_: Project, found: Facts) -> dict[str, Any]:
    """A row a dataset, and what is wrong with each, the first cause first."""
    rows = [{"title": set_title(name), **facts} for name, facts in found["constructions"].items()]
    return {"rows": rows, "chance": rows[0]["chance"] if rows else None}


SECTION = Section("diagnose", needs=("constructions",), numbers=numbers, constants={"SHARES": SHARES})
