"""Section "Estimator or data": experiments 1 to 4 in one table, and D_R from many estimators g."""

from typing import Any

from matplotlib.figure import Figure

from notbugs.evaluation.comparison import Estimate
from notbugs.evaluation.results import FITTED_AS
from notbugs.evaluation.statements import reproduced_if
from notbugs.report.drawing import GREY, legend, look, new_figure, percent_axis, point
from notbugs.report.evidence import Evidence, NotMeasuredError
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Ruling, Section, estimate

EXPERIMENTS = (
    ("1", "D", "standard", "none"),
    ("1, by the recipe of 3 and 4", "D", "as_D_R", "none"),
    ("2", "D", "robust", "none"),
    ("3", "D_NR", "standard", "standard (experiment 1)"),
    ("4", "D_R", "standard", "robust (experiment 2)"),
)
"""Number, dataset, training of the classifier, training of g."""
LINES = (
    ("g_attacked", "the estimator g itself", look("D", "robust").colour, "s", "--"),
    ("fit_attacked", "standard fit on what g made", look("D_R").colour, "^", "-"),
    ("blend_attacked", "control: standard fit on pixel blends\nas near to x, no model", GREY, "x", ":"),
)
MARGIN = 0.05
"""A difference in adversarial accuracy that counts: 5 points, with its interval above zero."""


def figure(project: Project, found: Facts) -> Figure:
    """Adversarial accuracy of g, of the fit and of the pixel control against g's training radius."""
    radii = _radii(found)
    others = {key: facts for key, facts in found["table"].items() if facts["kind"] != "radius"}
    drawn, (curve, beside) = new_figure(4.2, 1, 2)
    for key, text, colour, marker, line in LINES:
        means = [facts[key]["mean"] for facts in radii.values()]
        curve.plot(list(radii), means, line, color=colour, marker=marker, label=text, ms=6)
        for eps, facts in radii.items():
            point(curve, eps, estimate(facts[key]), colour, "none")
            seeds = facts["seeds"][key]
            curve.plot([eps] * len(seeds), seeds, ".", color=colour, ms=4, alpha=0.6)
        for place, facts in enumerate(others.values()):
            point(beside, place, estimate(facts[key]), colour, marker, ms=7)
    curve.set_xlabel("eps at which g was trained (0: standard training, D_NR)")
    percent_axis(curve, f"test accuracy under attack at eps {found['eps']:g}")
    percent_axis(beside, "")
    beside.set_xticks(range(len(others)), [key.replace(", ", "\n") for key in others])
    beside.set_xlim(-0.5, len(others) - 0.5)
    curve.set_title("g's training radius")
    beside.set_title("an untrained g; g of another architecture")
    legend(drawn, curve.get_legend_handles_labels()[0])
    return drawn


def _radii(found: Facts) -> dict[float, Facts]:
    """The estimators that differ in nothing but their training radius, by it."""
    return {facts["eps"]: facts for facts in found["table"].values() if facts["kind"] == "radius"}


def numbers(project: Project, found: Facts) -> dict[str, Any]:
    """The four experiments, the estimators, and what the verdicts rest on."""
    return {"found": found, "experiments": _experiments(project), "headline_eps": project.headline_eps}


def _experiments(project: Project) -> list[dict[str, Any]]:
    """Experiments 1 to 4 of the discussion, as this pipeline measured them."""
    rows = []
    for key, dataset, training, g in EXPERIMENTS:
        clean, attacked = (_measured(project, dataset, training, eps) for eps in (0.0, project.headline_eps))
        recipe = training.startswith(FITTED_AS)
        if recipe and (clean is None or attacked is None):
            continue  # D was not fitted by that recipe
        kind = "standard" if recipe else training
        rows.append({"name": f"{key}: {dataset}", "training": kind, "g": g, "clean": clean, "attacked": attacked})
    return rows


def _measured(evidence: Evidence, dataset: str, training: str, eps: float) -> tuple[str, Estimate] | None:
    try:
        return evidence.strongest((dataset, training), eps)
    except NotMeasuredError:
        return None


def _trained(project: Project, found: Facts) -> tuple[Facts, Facts]:
    """The estimators trained at eps 0, and at the largest radius up to that of the pipeline's robust model."""
    radii = _radii(found)
    largest = max((eps for eps in radii if project.robust_eps is None or eps <= project.robust_eps), default=0.0)
    return radii[0.0], radii[largest]


def _rises(project: Project, found: Facts) -> Ruling:
    low, high = _trained(project, found)
    gain = estimate(high["fit_attacked"]).minus(estimate(low["fit_attacked"]))
    told = {"by_eps": {eps: facts["fit_attacked"]["mean"] for eps, facts in _radii(found).items()}, "gain": gain}
    return Ruling(reproduced_if(gain.reaches(MARGIN)), {**told, "trained": high["eps"], "margin": MARGIN})


def _beyond_pixels(project: Project, found: Facts) -> Ruling:
    standard, robust = _trained(project, found)
    return _teaches_more(standard, robust, estimate(robust["blend_attacked"]))


def _teaches_more(standard: Facts, robust: Facts, control: Estimate) -> Ruling:
    """Reproduced if the robust g's images teach more adversarial accuracy than the control, by the threshold."""
    gain = estimate(robust["fit_attacked"]).minus(control)
    told = {"standard": standard, "robust": robust, "gain": gain, "margin": MARGIN}
    return Ruling(reproduced_if(gain.reaches(MARGIN)), told)


def _crosses(project: Project, found: Facts) -> Ruling | None:
    others = [facts for facts in found["table"].values() if facts["kind"] == "architecture"]
    if len(others) != 2:
        return None
    standard, robust = sorted(others, key=lambda facts: facts["eps"])
    return _teaches_more(standard, robust, estimate(standard["fit_attacked"]))


def _needs_training(project: Project, found: Facts) -> Ruling | None:
    """Reproduced if an untrained g's images teach less, clean and under attack, than those of g trained at eps 0."""
    if "untrained" not in found["table"]:
        return None
    untrained, (trained, _) = found["table"]["untrained"], _trained(project, found)
    clean = estimate(trained["fit_clean"]).minus(estimate(untrained["fit_clean"]))
    learnt_nothing = clean.reaches(MARGIN) and untrained["fit_attacked"]["mean"] <= MARGIN
    return Ruling(reproduced_if(learnt_nothing), {"untrained": untrained, "gain": clean, "margin": MARGIN})


SECTION = Section(
    "estimator",
    needs=("eps", "num_examples", "num_seeds", "table"),
    figures={"estimator": figure},
    rules={
        "rises": _rises,
        "beyond_pixels": _beyond_pixels,
        "crosses": _crosses,
        "needs_training": _needs_training,
    },
    numbers=numbers,
)
