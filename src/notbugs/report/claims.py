"""What the paper claims, and whether the measurements show it.

Every verdict follows a rule written down here before the numbers are seen: a difference counts when its mean
over seeds reaches a named margin, the lower end of its 95% interval is above zero, and McNemar's paired test on the
same test images rejects chance for every seed. "Cannot be judged" means that a measurement is not in this
pipeline, or that it would prove nothing either way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from notbugs.config import DATASET_NAMES
from notbugs.report.evidence import STILL_Y_SHARE, Evidence, NotMeasuredError
from notbugs.results import STILL_Y, percent

Seen = Literal["seen", "not seen", "cannot be judged"]

ROBUST_MARGIN = 0.30
"""Robust training must raise adversarial accuracy by this much, far beyond any seed spread (paper: 70)."""
D_R_OVER_D_MARGIN = 0.10
"""D_R over D, both by standard training: twice an interval's half width at 360 test images (paper: 22)."""
D_R_OVER_D_NR_MARGIN = 0.15
"""D_R over D_NR, which isolates the representation: more is asked of it (paper: 22)."""
NOT_ROBUST_MARGIN = 0.05
"""D_NR counts as no more robust than D up to this difference, about the half width of an interval."""
REACHED_SHARE = 0.5
"""An attack that takes its own source model to fewer of its targets does not put the claim to the test."""
CONTROL_MARGIN = 0.10
"""A robust source model must cost this much accuracy: twice an interval's half width."""


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and what was found.

    Attributes:
        key: short name. title: heading.
        statement_of_paper: the claim, in our words.
        seen: the verdict.
        sentence: what was measured, with the numbers that decide.
    """

    key: str
    title: str
    statement_of_paper: str
    seen: Seen
    sentence: str


Judgement = tuple[Seen, str]


def verdict(seen: bool) -> Seen:
    """ "seen" or "not seen"."""
    return "seen" if seen else "not seen"


def _robust_training(evidence: Evidence) -> Judgement:
    if evidence.robust_eps is None:
        raise NotMeasuredError("no model is trained robustly in the norm that is evaluated")
    eps = evidence.robust_eps
    robust, standard = (evidence.accuracy("D", name, eps=eps) for name in ("robust", "standard"))
    clean = evidence.accuracy("D", "robust")
    gain = robust.minus(standard)
    pairs = evidence.paired(("D", "robust"), ("D", "standard"), eps=eps)
    seen = gain.reaches(ROBUST_MARGIN) and pairs.support and clean.low > evidence.far_above_chance
    return verdict(seen), (
        f"At the eps of robust training ({eps:g}) the robust model's adversarial accuracy is {robust}, the "
        f"standard model's {standard}: {gain.points} (asked: {_points(ROBUST_MARGIN)}); the robust model's "
        f"clean accuracy is {clean} (asked: lower end above {percent(evidence.far_above_chance)}%). {pairs}"
    )


def _robust_features(evidence: Evidence) -> Judgement:
    eps = evidence.headline_eps
    robust, base, other = (evidence.accuracy(name, eps=eps) for name in ("D_R", "D", "D_NR"))
    clean = evidence.accuracy("D_R")
    over_base, over_other = robust.minus(base), robust.minus(other)
    pairs = [evidence.paired(_fit("D_R"), _fit(name), eps=eps) for name in ("D", "D_NR")]
    seen = (
        over_base.reaches(D_R_OVER_D_MARGIN)
        and over_other.reaches(D_R_OVER_D_NR_MARGIN)
        and all(pair.support for pair in pairs)
        and clean.low > evidence.far_above_chance
    )
    return verdict(seen), (
        f"Standard training on D_R gives {clean} clean and {robust} adversarial accuracy at eps {eps:g}: "
        f"{over_base.points} over D (asked: {_points(D_R_OVER_D_MARGIN)}) and {over_other.points} over D_NR "
        f"(asked: {_points(D_R_OVER_D_NR_MARGIN)}). {pairs[0]} {pairs[1]}"
    )


def _not_robust_features(evidence: Evidence) -> Judgement:
    eps = evidence.headline_eps
    clean = evidence.accuracy("D_NR")
    found, base, robust = (
        evidence.accuracy(*model, eps=eps) for model in (("D_NR",), ("D", "standard"), ("D", "robust"))
    )
    numbers = (
        f"Standard training on D_NR gives {clean} clean and {found} adversarial accuracy at eps {eps:g}; on "
        f"D, standard training gives {base} and robust training {robust} at that eps."
    )
    over_base, over_found = (evidence.paired(("D", "robust"), _fit(name), eps=eps) for name in ("D", "D_NR"))
    if not (robust.minus(base).reaches(ROBUST_MARGIN) and over_base.support):
        return "cannot be judged", (
            f"{numbers} The robust model is not {_points(ROBUST_MARGIN)} above the standard one there, so "
            "this eps does not tell a robust model from one that is not."
        )
    accurate = clean.low > evidence.far_above_chance
    not_robust = (
        found.value - base.value <= NOT_ROBUST_MARGIN + 1e-9
        and robust.minus(found).reaches(ROBUST_MARGIN)
        and over_found.support
    )
    return verdict(accurate and not_robust), (
        f"{numbers} Asked: clean accuracy with its lower end above {percent(evidence.far_above_chance)}%, "
        f"adversarial accuracy at most {_points(NOT_ROBUST_MARGIN)} above D's and {_points(ROBUST_MARGIN)} "
        f"below the robust model's. {over_found}"
    )


def _same_but_for_g(evidence: Evidence) -> Judgement:
    eps = evidence.headline_eps
    clean, clean_other = evidence.accuracy("D_R"), evidence.accuracy("D_NR")
    gap = evidence.accuracy("D_R", eps=eps).minus(evidence.accuracy("D_NR", eps=eps))
    pairs = evidence.paired(_fit("D_R"), _fit("D_NR"), eps=eps)
    learnt = min(clean.low, clean_other.low) > evidence.far_above_chance
    return verdict(learnt and gap.reaches(D_R_OVER_D_NR_MARGIN) and pairs.support), (
        "Made from the same images by the same recipe, D_R with the robust and D_NR with the standard "
        f"model's representation, they give {clean} and {clean_other} clean accuracy, and at eps {eps:g} a "
        f"difference in adversarial accuracy of {gap.points} (asked: {_points(D_R_OVER_D_NR_MARGIN)}). {pairs}"
    )


def _random_target(evidence: Evidence) -> Judgement:
    clean, bar = evidence.accuracy("D_rand"), evidence.far_above_chance
    share = evidence.constructions.get("rand", {}).get("given_is_true", evidence.chance)
    numbers = (
        f"The fit on D_rand reaches {clean} on the true labels of untouched test images (chance "
        f"{percent(evidence.chance)}%; asked: lower end above {percent(bar)}%). Its targets are uniform, so "
        f"{percent(share)}% of its labels equal y, no more often than any other class: what is visible in "
        f"the images could teach about that accuracy and no more."
    )
    if clean.low <= bar:
        return _unless_attack_failed(evidence, "rand", f"{numbers} {_judges(evidence, 'rand')}")
    return _if_honest(evidence, "rand", numbers)


def _deterministic_target(evidence: Evidence) -> Judgement:
    clean, shifted = evidence.accuracy("D_det"), evidence.accuracy("D_det", labels="shifted")
    bar = evidence.far_above_chance
    numbers = (
        f"The fit on D_det calls {clean} of the untouched test images y and {shifted} of them y + 1 (a model "
        f"that learnt only what is visible: 0% and 100%; asked: lower end on y above {percent(bar)}%, and "
        "more often y than y + 1)."
    )
    pairs = evidence.paired(_fit("D_det"), _fit("D_det"), labels=("true", "shifted"))
    if clean.low > bar and clean.minus(shifted).low > 0 and pairs.support:
        return _if_honest(evidence, "det", numbers)
    if shifted.low > bar:
        why = "A collapse to the visible content: it mostly learnt the labels as given, y + 1."
        if clean.low > bar:
            why = "Mixed: it learnt from the perturbations, but no less from the visible content."
    elif clean.value > bar and clean.value > shifted.value:
        why = "On average it learnt y, but its interval is too wide to be sure: more fit seeds would narrow it."
    else:
        why = "A failure rather than a collapse: it learnt neither labelling well."
    return _unless_attack_failed(evidence, "det", f"{numbers} {why} {_judges(evidence, 'det')}")


def _control(evidence: Evidence, key: str) -> Judgement:
    name, control_key = DATASET_NAMES[key], f"{key}_from_robust"
    own, control = evidence.accuracy(name), evidence.accuracy(DATASET_NAMES[control_key])
    loss = own.minus(control)
    pairs = evidence.paired(_fit(name), _fit(DATASET_NAMES[control_key]))
    numbers = (
        f"The fit on {name} made with the robust model reaches {control} on y, with the standard model "
        f"{own}: a difference of {loss.points} (asked: {_points(CONTROL_MARGIN)}). {pairs}"
    )
    if own.low <= evidence.far_above_chance:
        return (
            "cannot be judged",
            f"{numbers} {name} itself does not generalise here, so there is nothing to lose.",
        )
    if loss.reaches(CONTROL_MARGIN) and pairs.support:
        return "seen", f"{numbers} {_judges(evidence, control_key)}"
    return _if_honest(evidence, control_key, numbers, otherwise="not seen")


def _if_honest(evidence: Evidence, key: str, numbers: str, otherwise: Seen = "seen") -> Judgement:
    """`otherwise`, unless the judges say that the labels t are partly simply right."""
    numbers = f"{numbers} {_judges(evidence, key)}"
    if evidence.is_honest(key):
        return otherwise, numbers
    return "cannot be judged", (
        f"{numbers} They do not both reach {100 * STILL_Y_SHARE:g}%, so the labels t are partly simply right."
        f"{_still_y_fit(evidence, key)}"
    )


def _unless_attack_failed(evidence: Evidence, key: str, numbers: str) -> Judgement:
    """Not seen, unless there was little to see: the attack did not even take the source model to its targets."""
    success = evidence.success(key)
    if success is None or success >= REACHED_SHARE:
        return "not seen", numbers
    return "cannot be judged", (
        f"{numbers} The attack took its own source model to its target for {percent(success)}% of the images only "
        f"(asked: {percent(REACHED_SHARE)}%): a larger eps or more steps would put the claim to the test."
    )


def _judges(evidence: Evidence, key: str) -> str:
    """What robust model and 1-NN say of the constructed images."""
    try:
        robust, neighbour = evidence.still_y(key)
    except NotMeasuredError as error:
        return f"{str(error)[:1].upper()}{str(error)[1:]}."
    return (
        f"Of the images of {DATASET_NAMES[key]}, the robust model still calls {percent(robust)}% y and the "
        f"1-NN {percent(neighbour)}%."
    )


def _still_y_fit(evidence: Evidence, key: str) -> str:
    """The fit on only the still-y images, where there is one."""
    try:
        clean = evidence.accuracy(DATASET_NAMES[key] + STILL_Y)
    except NotMeasuredError:
        return ""
    number = evidence.constructions.get(key, {}).get("num_still_y")
    only = f"only the {number} images" if number is not None else "only those"
    return f" Fitted on {only} that both still call y: {clean} on y."


def _fit(dataset: str) -> tuple[str, str]:
    """The model of standard training on a dataset."""
    return dataset, "standard"


def _points(margin: float) -> str:
    return f"{100 * margin:g} points"


@dataclass(frozen=True)
class _Rule:
    key: str
    title: str
    statement: str
    judge: Callable[[Evidence], Judgement]


RULES = (
    _Rule(
        "robust_training",
        "Robust training gives robustness",
        "Adversarial training yields a classifier that keeps most of its accuracy under attack, where the "
        "standard classifier loses all.",
        _robust_training,
    ),
    _Rule(
        "robust_features",
        "Standard training on D_R gives robustness",
        "A training set restricted to the features that a robust model uses gives, by standard training "
        "alone, good accuracy and non-trivial robustness: robustness is a property of the data too.",
        _robust_features,
    ),
    _Rule(
        "nonrobust_features",
        "D_NR is accurate and not robust",
        "A training set restricted to the features that a standard model uses gives good accuracy and next "
        "to no robustness.",
        _not_robust_features,
    ),
    _Rule(
        "same_but_for_g",
        "D_R and D_NR differ by the representation alone",
        "With source images and recipe held the same, it is the model whose representation is matched that "
        "decides whether the new training set gives robustness.",
        _same_but_for_g,
    ),
    _Rule(
        "rand",
        "Non-robust features suffice (D_rand)",
        "A classifier trained only on images perturbed towards, and labelled as, random classes generalises "
        "to the untouched test set: the perturbations carry real features.",
        _random_target,
    ),
    _Rule(
        "det",
        "Non-robust features suffice against the visible ones (D_det)",
        "The same holds where every image of class y is labelled y + 1, so that all visible features point "
        "to the wrong label.",
        _deterministic_target,
    ),
    _Rule(
        "control_rand",
        "A robust source model carries less (D_rand)",
        "Perturbations made with a robust model hold fewer non-robust features, so a fit on them generalises worse.",
        lambda evidence: _control(evidence, "rand"),
    ),
    _Rule(
        "control_det",
        "A robust source model carries less (D_det)",
        "The same for the deterministic targets.",
        lambda evidence: _control(evidence, "det"),
    ),
)
"""Every claim and its rule, in the order of the report."""


def judge(evidence: Evidence) -> list[Claim]:
    """A verdict on every claim; a missing measurement makes it "cannot be judged"."""
    return [_judge_one(rule, evidence) for rule in RULES]


def _judge_one(rule: _Rule, evidence: Evidence) -> Claim:
    seen: Seen
    try:
        seen, sentence = rule.judge(evidence)
    except NotMeasuredError as error:
        seen, sentence = "cannot be judged", f"Cannot be judged: {error}."
    return Claim(rule.key, rule.title, rule.statement, seen, sentence)
