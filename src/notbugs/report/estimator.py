"""Section "Estimator or data": experiments 1 to 4 in one table, and D_R from many estimators g."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from notbugs.evaluation.comparison import Estimate
from notbugs.evaluation.results import FITTED_AS, attack_label, percent
from notbugs.report.blocks import Block, Section, Table, Text, name, number
from notbugs.report.claims import verdict
from notbugs.report.drawing import GREY, look, new_figure, percent_axis
from notbugs.report.evidence import Evidence, NotMeasuredError, evidence_of
from notbugs.report.findings import metrics_of
from notbugs.report.project import Project
from notbugs.report.verdicts import Verdict, estimate, share_cell, verdict_table

if TYPE_CHECKING:
    from notbugs.report.overview import Content

KEYS = ("eps", "num_examples", "num_seeds", "table")
NOTHING = "–"
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


def estimator_figure(project: Project) -> Figure | None:
    """Adversarial accuracy of g, of the fit and of the pixel control against g's training radius."""
    found = metrics_of(project, "estimator", KEYS)
    if found is None:
        return None
    radii = {facts["eps"]: facts for facts in found["table"].values() if facts["kind"] == "radius"}
    others = [(key, facts) for key, facts in found["table"].items() if facts["kind"] != "radius"]
    figure, axes = new_figure(4.2, 1, 2)
    curve, beside = axes
    for key, text, colour, marker, line in LINES:
        means = [facts[key]["mean"] for facts in radii.values()]
        curve.plot(list(radii), means, line, color=colour, marker=marker, label=text, ms=6)
        for eps, facts in radii.items():
            _interval(curve, eps, facts[key], colour)
            seeds = facts["seeds"][key]
            curve.plot([eps] * len(seeds), seeds, ".", color=colour, ms=4, alpha=0.6)
        for place, (_, facts) in enumerate(others):
            beside.plot(place, facts[key]["mean"], marker, color=colour, ms=7)
            _interval(beside, place, facts[key], colour)
    curve.set_xlabel("eps at which g was trained (0: standard training, D_NR)")
    percent_axis(curve, f"test accuracy under attack at eps {found['eps']:g}")
    percent_axis(beside, "")
    beside.set_xticks(range(len(others)), [key.replace(", ", "\n") for key, _ in others])
    beside.set_xlim(-0.5, len(others) - 0.5)
    curve.set_title("g's training radius")
    beside.set_title("an untrained g; g of another architecture")
    figure.legend(*curve.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def _interval(axes: Any, x: float, share: Mapping[str, float], colour: str) -> None:
    reach = [[share["mean"] - share["low"]], [share["high"] - share["mean"]]]
    axes.errorbar(x, share["mean"], yerr=reach, fmt="none", ecolor=colour, elinewidth=1, capsize=2.5)


def estimator_section(content: "Content") -> Section | None:
    """The four experiments, the estimators, and what they say for either reading."""
    found = metrics_of(content.project, "estimator", KEYS)
    if found is None:
        return None
    why = (
        "The SEI/CMU discussion of the paper holds the data and the model fixed and varies the procedure of estimation "
        "alone. Experiments 3 and 4 differ only in how g was estimated, so, it argues, that features belong to the "
        "data does not follow: non-robustness would be a property of the loss. The first table sets its four "
        f"experiments side by side. Then {found['num_examples']} images x with the same starts x' are inverted through "
        f"estimators g that differ in training radius, seed ({found['num_seeds']} each), architecture, or are not "
        "trained at all, and a fresh network always learns what they made by standard training. The control puts "
        "images in the place of the inverted ones that are as near to their x in pixels, on the straight line from x' "
        "to x."
    )
    pictures = content.picture(
        "estimator",
        "Adversarial accuracy of the fit against the radius at which the estimator was trained",
        "Whiskers: 95% intervals over images and seeds; dots: single seeds.",
    )
    judged = verdicts(content.project, found)
    fits = next(iter(found["table"].values()))["fit_clean"]
    basis = (
        f"Rest on {found['num_seeds']} estimators of each kind, trained for this, with one fit each, "
        f"{found['num_examples']} training and {fits['n']} test images."
    )
    blocks: list[Block] = [
        Text(why),
        experiments(content.project),
        *pictures,
        verdict_table(judged, basis),
        Text(conclusion(judged)),
        table(found),
    ]
    return Section("estimator", "Estimator or data?", blocks)


def experiments(project: Project) -> Table:
    """Experiments 1 to 4 of the discussion, as this pipeline measured them."""
    evidence, eps = evidence_of(project), project.headline_eps
    rows = []
    for key, dataset, training, g in EXPERIMENTS:
        cells = [_measured(evidence, dataset, training, radius) for radius in (0.0, eps)]
        if training.startswith(FITTED_AS) and NOTHING in cells:
            continue  # D was not fitted by that recipe
        kind = "standard" if training.startswith(FITTED_AS) else training
        rows.append([name(f"{key}: {dataset}"), name(kind), name(g), *map(number, cells)])
    return Table(
        "The four experiments of the discussion: test accuracy in % with 95% intervals",
        [name("experiment, data"), name("training"), name("training of g"), number("clean"), number(f"eps {eps:g}")],
        rows,
    )


def _measured(evidence: Evidence, dataset: str, training: str, eps: float) -> str:
    try:
        attack, found = evidence.strongest((dataset, training), eps)
        return f"{found} ({attack_label(attack)})" if eps else str(found)
    except NotMeasuredError:
        return NOTHING


def table(found: Mapping[str, Any]) -> Table:
    """Every estimator with what its images taught."""
    rows = []
    for key, facts in found["table"].items():
        shares = [facts[column] for column in ("g_clean", "g_attacked", "fit_clean", "fit_attacked", "blend_attacked")]
        distances = [f"{facts['pixels_to_target']:.2f}", f"{facts['pixels_to_start']:.2f}", percent(facts["reached"])]
        rows.append(
            [
                name(key, facts["architecture"]),
                *map(share_cell, shares),
                *map(number, distances),
                share_cell(facts["still_y"]),
            ]
        )
    attacked = f"eps {found['eps']:g}"
    head = ["clean", attacked, "clean", attacked, attacked, "to x", "to x'", "left in g, %", "1-NN: y"]
    return Table(
        "Every estimator g, and standard fits on what it made: accuracy in % on D's test images with 95% intervals; "
        "median pixel distances of the inverted images; ‖g(x_r) − g(x)‖ in percent of ‖g(x') − g(x)‖; share whose "
        "nearest other training image has x's class",
        [name("g"), *map(number, head)],
        rows,
        [("", 1), ("g itself", 2), ("fit", 2), ("control", 1), ("inverted images", 4)],
    )


def verdicts(project: Project, found: Mapping[str, Any]) -> list[Verdict]:
    """What separates the two readings, each by its own rule."""
    table = found["table"]
    radii = {facts["eps"]: facts for facts in table.values() if facts["kind"] == "radius"}
    trained = max((eps for eps in radii if project.robust_eps is None or eps <= project.robust_eps), default=0.0)
    judged = [_rises(radii, trained), _beyond_pixels(radii, trained)]
    other = sorted((facts for facts in table.values() if facts["kind"] == "architecture"), key=lambda one: one["eps"])
    judged += [_crosses(*other)] if len(other) == 2 else []
    judged += [_needs_training(table["untrained"], radii)] if "untrained" in table else []
    return judged


def _rises(radii: Mapping[float, Any], trained: float) -> Verdict:
    low, high = (estimate(radii[eps]["fit_attacked"]) for eps in (0.0, trained))
    gain = high.minus(low)
    all_eps = "; ".join(f"{eps:g}: {percent(facts['fit_attacked']['mean'])}%" for eps, facts in radii.items())
    return Verdict(
        "With one loss for every fit, robustness follows the data that g made",
        verdict(gain.reaches(MARGIN)),
        f"Every fit is standard training, yet its adversarial accuracy follows g's radius ({all_eps}): {gain.points} "
        f"from eps 0 to {trained:g} (asked: {percent(MARGIN)} points and the interval above zero).",
    )


def _beyond_pixels(radii: Mapping[float, Any], trained: float) -> Verdict:
    gain = estimate(radii[trained]["fit_attacked"]).minus(estimate(radii[trained]["blend_attacked"]))
    return Verdict(
        "Nearness to x in pixels does not explain it",
        verdict(gain.reaches(MARGIN)),
        f"x_r comes nearer to x as g's radius grows (median distance {radii[0.0]['pixels_to_target']:.2f} at eps 0, "
        f"{radii[trained]['pixels_to_target']:.2f} at {trained:g}). Blends of x' and x just as near teach "
        f"{estimate(radii[trained]['blend_attacked'])} adversarial accuracy (clean "
        f"{percent(radii[trained]['blend_clean']['mean'])}%), the inverted images {gain.points} more (asked: "
        f"{percent(MARGIN)} points and the interval above zero).",
    )


def _crosses(standard: Mapping[str, Any], robust: Mapping[str, Any]) -> Verdict:
    gain = estimate(robust["fit_attacked"]).minus(estimate(standard["fit_attacked"]))
    return Verdict(
        "It holds across architectures",
        verdict(gain.reaches(MARGIN)),
        f"With g a {robust['architecture']} and the fit the pipeline's own network: {estimate(robust['fit_attacked'])} "
        f"from the robust g, {estimate(standard['fit_attacked'])} from the standard one, {gain.points} (asked: "
        f"{percent(MARGIN)} points and the interval above zero).",
    )


def _needs_training(untrained: Mapping[str, Any], radii: Mapping[float, Any]) -> Verdict:
    """Seen if an untrained g's images teach less, clean and under attack, than those of g trained at eps 0."""
    clean = estimate(radii[0.0]["fit_clean"]).minus(estimate(untrained["fit_clean"]))
    attacked: Estimate = estimate(untrained["fit_attacked"])
    return Verdict(
        "g must have learnt: the recipe alone gives neither accuracy nor robustness",
        verdict(clean.reaches(MARGIN) and attacked.value <= MARGIN),
        f"Inverting through an untrained network teaches {estimate(untrained['fit_clean'])} clean and {attacked} "
        f"adversarial accuracy; a g trained at eps 0 teaches {clean.points} more clean accuracy (asked: "
        f"{percent(MARGIN)} points more, and at most {percent(MARGIN)}% under attack).",
    )


def conclusion(judged: list[Verdict]) -> str:
    """The balance, from the verdicts above in their order."""
    seen = {one.title: one.seen == "seen" for one in judged}
    rises, beyond, *rest = seen.values()
    crosses = rest[0] if rest else False
    if not rises:
        return (
            "On balance: here the fits do not become more robust with g's radius, so these numbers give the paper's "
            "reading no support, and leave the discussion's standing."
        )
    for_data = (
        "On balance. Against “non-robustness is a property of the loss”: with the loss of every fit held at the "
        "standard one, what is learnt is more or less robust according to the images alone, so the loss does not "
        "settle it."
    )
    for_data += (
        " Nor does nearness in pixels." if beyond else " But images as near in pixels do the same, without any model."
    )
    if crosses:
        for_data += (
            " The effect also passes between architectures, which speaks for something in the images that both kinds "
            "of network find."
        )
    for_estimator = (
        " For the discussion's point: which images these are is decided by nothing but how g was estimated, by its "
        "radius above all; an inversion can only contain what some g responds to, and D is the same throughout. The "
        "numbers therefore show that data can carry the difference, and that an estimator can put it there; that D "
        "itself splits into two kinds of features, apart from any estimator, they do not show. The planted world, "
        "where the features are known, is the place to test that."
    )
    return for_data + for_estimator
