"""Section "Estimator or data": experiments 1 to 4 in one table, and D_R from many estimators g."""

from typing import Any

from matplotlib.figure import Figure

from notbugs.evaluation.comparison import Estimate
from notbugs.evaluation.results import FITTED_AS
from notbugs.report.drawing import GREY, legend, look, new_figure, percent_axis, point
from notbugs.report.evidence import Evidence, NotMeasuredError, evidence_of
from notbugs.report.project import Project
from notbugs.report.sections import Facts, Rule, Ruling, Section, Verdict, estimate, judge, reproduced_if

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
    num_images = next(iter(found["table"].values()))["fit_clean"]["n"]
    return {
        "found": found,
        "experiments": _experiments(project),
        "headline_eps": project.headline_eps,
        "num_images": num_images,
    }


def _experiments(project: Project) -> list[dict[str, Any]]:
    """Experiments 1 to 4 of the discussion, as this pipeline measured them."""
    evidence, rows = evidence_of(project), []
    for key, dataset, training, g in EXPERIMENTS:
        clean, attacked = (_measured(evidence, dataset, training, eps) for eps in (0.0, project.headline_eps))
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
    gain = estimate(robust["fit_attacked"]).minus(estimate(robust["blend_attacked"]))
    return Ruling(
        reproduced_if(gain.reaches(MARGIN)), {"standard": standard, "robust": robust, "gain": gain, "margin": MARGIN}
    )


def _crosses(project: Project, found: Facts) -> Ruling:
    standard, robust = _of_another_architecture(found)
    gain = estimate(robust["fit_attacked"]).minus(estimate(standard["fit_attacked"]))
    return Ruling(
        reproduced_if(gain.reaches(MARGIN)), {"standard": standard, "robust": robust, "gain": gain, "margin": MARGIN}
    )


def _of_another_architecture(found: Facts) -> list[Facts]:
    """The estimators of another architecture, by their training radius."""
    others = [facts for facts in found["table"].values() if facts["kind"] == "architecture"]
    return sorted(others, key=lambda facts: facts["eps"])


def _needs_training(project: Project, found: Facts) -> Ruling:
    """Reproduced if an untrained g's images teach less, clean and under attack, than those of g trained at eps 0."""
    untrained, (trained, _) = found["table"]["untrained"], _trained(project, found)
    clean = estimate(trained["fit_clean"]).minus(estimate(untrained["fit_clean"]))
    learnt_nothing = clean.reaches(MARGIN) and untrained["fit_attacked"]["mean"] <= MARGIN
    return Ruling(reproduced_if(learnt_nothing), {"untrained": untrained, "gain": clean, "margin": MARGIN})


RISES = Rule("rises", "With one loss for every fit, robustness follows the data that g made", _rises)
BEYOND_PIXELS = Rule("beyond_pixels", "Nearness to x in pixels does not explain it", _beyond_pixels)
CROSSES = Rule("crosses", "It holds across architectures", _crosses)
NEEDS_TRAINING = Rule(
    "needs_training", "g must have learnt: the recipe alone gives neither accuracy nor robustness", _needs_training
)


def verdicts(project: Project, found: Facts) -> list[Verdict]:
    """What separates the two readings, each by its own rule, as far as the estimators were made."""
    rules = [RISES, BEYOND_PIXELS]
    rules += [CROSSES] if len(_of_another_architecture(found)) == 2 else []
    rules += [NEEDS_TRAINING] if "untrained" in found["table"] else []
    return judge("estimator", rules, project, found)


SECTION = Section(
    "estimator",
    "Estimator or data?",
    stage="estimator",
    needs=("eps", "num_examples", "num_seeds", "table"),
    figures={"estimator": figure},
    verdicts=verdicts,
    numbers=numbers,
)
