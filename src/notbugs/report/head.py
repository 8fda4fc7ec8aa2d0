"""What stands above the sections: the question, samples, a chip a claim, and how far all of it can be trusted."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

from markupsafe import Markup

from notbugs.evaluation.statements import Verdict
from notbugs.report import debate
from notbugs.report.absent import by_reason, of_table
from notbugs.report.evidence import NotMeasuredError
from notbugs.report.overview import CHANGE_NOTHING, checks, gap
from notbugs.report.project import Project
from notbugs.report.recorded import of_others
from notbugs.report.sections import Facts, Picture, render
from notbugs.runtime.files import sha256

PLANTED = {"robust_training": "robust", "robust_features": "robust_dataset", "det": "fits"}
"""Claim -> the statement of the planted world that says the same of features which are known."""
HASH = 12
"""Characters of a hash that are shown."""


def render_head(
    project: Project,
    verdicts: Mapping[str, Sequence[Verdict]],
    found: Mapping[str, Facts],
    samples: Picture | None,
    left_out: Mapping[str, str],
) -> Markup:
    """The head of the page as HTML.

    Args:
        verdicts, found: section -> its verdicts, and what its stage measured.
        samples: the figure of the datasets; None where there is none.
        left_out: stages that nothing is shown of -> why.
    """
    return render(
        "head",
        pictures={} if samples is None else {"datasets": samples},
        chips=list(_chips(project, verdicts)),
        counts=Counter(verdict.finding for verdict in _all(verdicts, found)),
        basis=_basis(project),
        checks=checks(project),
        gap=gap(project),
        origin=_origin(project),
        outdated=by_reason(of_table(project.outdated)),
        left_out=by_reason(left_out),
    )


def _all(verdicts: Mapping[str, Sequence[Verdict]], found: Mapping[str, Facts]) -> Iterator[Verdict]:
    """Every verdict on this project's own data: of all sections, and of its own parts of the debate."""
    for of_section in verdicts.values():
        yield from of_section
    for part in debate.own_parts(found.get(debate.SECTION.key, {})):
        yield from part.verdicts


def _chips(project: Project, verdicts: Mapping[str, Sequence[Verdict]]) -> Iterator[dict[str, Any]]:
    """Each claim: its verdict here, and beside it the planted world's and those that were recorded on other data."""
    planted = {verdict.key: verdict for verdict in verdicts.get("planted", ())}
    for claim in verdicts.get("claims", ()):
        beside = []
        if PLANTED.get(claim.key) in planted:
            beside.append({"where": "planted world", "verdict": planted[PLANTED[claim.key]].printed, "to": "planted"})
        for recording in of_others(project):
            said = {one["key"]: one["verdict"] for one in recording["verdicts"]}
            if claim.key in said:
                where = f"{recording['title']}, recorded"
                beside.append({"where": where, "verdict": said[claim.key], "to": "recorded"})
        yield {"claim": claim, "beside": beside}


def _basis(project: Project) -> str:
    """How many models, fits and images the numbers rest on; empty where nothing was measured."""
    for model in (("D_rand", "standard"), ("D_R", "standard"), ("D", "standard")):
        try:
            return str(project.accuracy(*model).basis)
        except NotMeasuredError:
            continue
    return ""


def _origin(project: Project) -> dict[str, str]:
    """Where the page comes from, without a date: version, hashes of D and of the settings that results depend on."""
    found = {"notbugs": version("notbugs")}
    manifest = project.root / "data/train/manifest.json"
    if manifest.exists():
        found["D"] = sha256(manifest)[:HASH]
    settings = {key: value for key, value in project.params.items() if key not in CHANGE_NOTHING}
    return {**found, "settings": hashlib.sha256(json.dumps(settings, default=str).encode()).hexdigest()[:HASH]}
