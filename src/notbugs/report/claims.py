"""What the paper claims, and whether the measurements show it.

Every verdict follows a rule written down here before the numbers are seen: a difference counts when its mean over
source models and fits reaches a named margin and the lower end of its 95% interval is above zero. Models that share
their streams and test images are compared pair by pair, and fits only with fits of the same recipe. Robustness is
what all attacks together leave. "Cannot be judged" means that a measurement is not in this pipeline, or that it would
prove nothing either way; "on the edge", that one image, or one standard error, more or less would change the verdict.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from notbugs.evaluation.comparison import POWER, Estimate, power, units_for_power
from notbugs.evaluation.results import STILL_Y, attack_label, model_label, percent
from notbugs.report.evidence import Evidence, Model, NotMeasuredError
from notbugs.report.honesty import CALLED_BEFORE, STILL_Y_SHARE
from notbugs.runtime.config import DATASET_NAMES

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
class Judgement:
    """What a rule says.

    Attributes:
        seen: the verdict. sentence: what was measured, with the numbers that decide.
        basis: how many models, fits and images it rests on, and the power to tell the margin from 0.
        elsewhere: what happens at the other eps; empty where the claim has none.
        on_edge: whether one image, or one standard error, more or less would change the verdict.
    """

    seen: Seen
    sentence: str
    basis: str = ""
    elsewhere: str = ""
    on_edge: bool = False


@dataclass(frozen=True)
class Claim:
    """One claim of the paper and what was found.

    Attributes:
        key: short name. title: heading.
        statement_of_paper: the claim, in our words.
        judgement: what its rule says.
    """

    key: str
    title: str
    statement_of_paper: str
    judgement: Judgement

    @property
    def seen(self) -> Seen:
        """The verdict."""
        return self.judgement.seen

    @property
    def verdict(self) -> str:
        """The verdict in print, such as "seen, on the edge"."""
        return f"{self.seen}, on the edge" if self.judgement.on_edge else self.seen

    @property
    def sentence(self) -> str:
        """What was measured."""
        return self.judgement.sentence

    @property
    def notes(self) -> str:
        """What it rests on, and what happens at the other eps; a line each."""
        return "\n".join(filter(None, (self.judgement.basis, self.judgement.elsewhere)))


@dataclass(frozen=True)
class Criterion:
    """A part of a rule: whether it holds, and whether one image, or one standard error, would change that."""

    holds: bool
    close: bool

    @classmethod
    def margin(cls, gap: Estimate, margin: float) -> "Criterion":
        """A difference of at least the margin, its interval above 0."""
        reach = _reach(gap)
        return cls(gap.reaches(margin), abs(gap.value - margin) < reach or abs(gap.low) < reach)

    @classmethod
    def at_most(cls, gap: Estimate, margin: float) -> "Criterion":
        """A difference of at most the margin."""
        return cls(gap.value <= margin + 1e-9, abs(gap.value - margin) < _reach(gap))

    @classmethod
    def above(cls, found: Estimate, bar: float) -> "Criterion":
        """The interval lies above the bar."""
        return cls(found.low > bar, abs(found.low - bar) < _reach(found))


def _reach(found: Estimate) -> float:
    """What one image, or one standard error, more or less changes."""
    return max(found.one_image, found.standard_error)


def verdict(seen: bool) -> Seen:
    """ "seen" or "not seen"."""
    return "seen" if seen else "not seen"


def _decided(criteria: Sequence[Criterion]) -> tuple[Seen, bool]:
    """Seen if all hold; on the edge if one that decides is close."""
    failing = [one for one in criteria if not one.holds]
    close = all(one.close for one in failing) if failing else any(one.close for one in criteria)
    return verdict(not failing), close


def _robust_training(evidence: Evidence) -> Judgement:
    if evidence.robust_eps is None:
        raise NotMeasuredError("no model is trained robustly in the norm that is evaluated")
    eps, bar = evidence.robust_eps, evidence.far_above_chance
    robust, standard = ("D", "robust"), ("D", "standard")
    numbers = [_attacked(evidence, model, eps) for model in (robust, standard)]
    gain, clean = evidence.difference(robust, standard, eps=eps), evidence.accuracy("D", "robust")
    seen, close = _decided([Criterion.margin(gain, ROBUST_MARGIN), Criterion.above(clean, bar)])
    return Judgement(
        seen,
        f"At the eps of robust training ({eps:g}) all attacks together leave {numbers[0]} of the robust model's "
        f"images and {numbers[1]} of the standard model's: {_asked(gain, ROBUST_MARGIN)}; the robust model's clean "
        f"accuracy is {clean} (asked: lower end above {percent(bar)}%).",
        _basis(gain, ROBUST_MARGIN),
        _elsewhere(evidence, robust, standard, eps),
        close,
    )


def _robust_features(evidence: Evidence) -> Judgement:
    eps, bar = evidence.headline_eps, evidence.far_above_chance
    ours, other = _fit("D_R"), _fit("D_NR")
    number, clean = _attacked(evidence, ours, eps), evidence.accuracy("D_R")
    evidence.accuracy("D_NR", eps=eps)  # says first that it is not there
    base = evidence.fitted_as("robust")
    over_base = evidence.difference(ours, base, eps=eps)
    criteria = [Criterion.margin(over_base, D_R_OVER_D_MARGIN), Criterion.above(clean, bar)]
    try:
        evidence.check_same_recipe("robust", "nonrobust")
    except NotMeasuredError as reason:  # the paper's fits of D_NR have a recipe of their own
        beside = f"; not compared with D_NR: {reason}."
    else:
        over_other = evidence.difference(ours, other, eps=eps)
        criteria.append(Criterion.margin(over_other, D_R_OVER_D_NR_MARGIN))
        beside = (
            f", and {_asked(over_other, D_R_OVER_D_NR_MARGIN)} over those on D_NR ({_attacked(evidence, other, eps)})."
        )
    seen, close = _decided(criteria)
    return Judgement(
        seen,
        f"Standard training on D_R gives {clean} clean accuracy (asked: lower end above {percent(bar)}%); at eps "
        f"{eps:g} all attacks together leave {number}. That is {_asked(over_base, D_R_OVER_D_MARGIN)} over the same "
        f"fits on D itself ({_attacked(evidence, base, eps)}){beside}",
        _basis(over_base, D_R_OVER_D_MARGIN),
        _elsewhere(evidence, ours, base, eps),
        close,
    )


def _not_robust_features(evidence: Evidence) -> Judgement:
    eps, bar = evidence.headline_eps, evidence.far_above_chance
    ours, robust, standard = _fit("D_NR"), ("D", "robust"), ("D", "standard")
    clean, number = evidence.accuracy("D_NR"), _attacked(evidence, ours, eps)
    base = evidence.fitted_as("nonrobust")
    robust_over_standard = evidence.difference(robust, standard, eps=eps)
    numbers = (
        f"Standard training on D_NR gives {clean} clean accuracy, and at eps {eps:g} all attacks together leave "
        f"{number}; of the same fits on D itself they leave {_attacked(evidence, base, eps)}, of the robust model "
        f"{_attacked(evidence, robust, eps)}, of the standard one {_attacked(evidence, standard, eps)}."
    )
    apart = Criterion.margin(robust_over_standard, ROBUST_MARGIN)
    over_base = evidence.difference(ours, base, eps=eps)
    basis, elsewhere = _basis(over_base), _elsewhere(evidence, ours, base, eps)
    if not apart.holds:
        return Judgement(
            "cannot be judged",
            f"{numbers} The robust model is not {_points(ROBUST_MARGIN)} above the standard one there "
            f"({robust_over_standard.points}), so this eps does not tell a robust model from one that is not.",
            basis,
            elsewhere,
            apart.close,
        )
    below_robust = evidence.difference(robust, ours, eps=eps)
    criteria = [
        Criterion.above(clean, bar),
        Criterion.at_most(over_base, NOT_ROBUST_MARGIN),
        Criterion.margin(below_robust, ROBUST_MARGIN),
    ]
    seen, close = _decided(criteria)
    return Judgement(
        seen,
        f"{numbers} Asked: clean accuracy with its lower end above {percent(bar)}%; at most "
        f"{_points(NOT_ROBUST_MARGIN)} over D: {over_base.points}; the robust model above it by "
        f"{_points(ROBUST_MARGIN)}: {below_robust.points}.",
        basis,
        elsewhere,
        close,
    )


def _same_but_for_g(evidence: Evidence) -> Judgement:
    eps, bar = evidence.headline_eps, evidence.far_above_chance
    clean, clean_other = evidence.accuracy("D_R"), evidence.accuracy("D_NR")
    evidence.check_same_recipe("robust", "nonrobust")
    gap = evidence.difference(_fit("D_R"), _fit("D_NR"), eps=eps)
    criteria = [
        Criterion.margin(gap, D_R_OVER_D_NR_MARGIN),
        Criterion.above(clean, bar),
        Criterion.above(clean_other, bar),
    ]
    seen, close = _decided(criteria)
    return Judgement(
        seen,
        "Made from the same images and starts, and fitted from the same initialisation in the same order, D_R with "
        f"the robust and D_NR with the standard model's representation, they give {clean} and {clean_other} clean "
        f"accuracy (asked: lower ends above {percent(bar)}%), and at eps {eps:g} all attacks together leave "
        f"{_attacked(evidence, _fit('D_R'), eps)} and {_attacked(evidence, _fit('D_NR'), eps)}: "
        f"{_asked(gap, D_R_OVER_D_NR_MARGIN)}, pair by pair.",
        _basis(gap, D_R_OVER_D_NR_MARGIN),
        _elsewhere(evidence, _fit("D_R"), _fit("D_NR"), eps),
        close,
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
    learnt = Criterion.above(clean, bar)
    if not learnt.holds:
        found = Judgement("not seen", f"{numbers} {_judges(evidence, 'rand')}", _basis(clean), "", learnt.close)
        return _unless_attack_failed(evidence, "rand", found)
    return _if_honest(evidence, "rand", Judgement("seen", numbers, _basis(clean), "", learnt.close))


def _deterministic_target(evidence: Evidence) -> Judgement:
    clean, shifted = evidence.accuracy("D_det"), evidence.accuracy("D_det", labels="shifted")
    gap, bar = evidence.difference(_fit("D_det"), _fit("D_det"), labels=("true", "shifted")), evidence.far_above_chance
    numbers = (
        f"The fit on D_det calls {clean} of the untouched test images y and {shifted} of them y + 1 (a model that "
        f"learnt only what is visible: 0% and 100%): {gap.points} (asked: above 0; lower end on y above "
        f"{percent(bar)}%)."
    )
    criteria = [Criterion.above(gap, 0.0), Criterion.above(clean, bar)]
    seen, close = _decided(criteria)
    basis = _basis(gap)
    if seen == "seen":
        return _if_honest(evidence, "det", Judgement("seen", numbers, basis, "", close))
    sentence = f"{numbers} {det_words(clean, shifted, gap, bar)} {_judges(evidence, 'det')}"
    return _unless_attack_failed(evidence, "det", Judgement("not seen", sentence, basis, "", close))


def det_words(clean: Estimate, shifted: Estimate, gap: Estimate, bar: float) -> str:
    """What a fit on D_det learnt, by its accuracy on y against that on y + 1 and their intervals.

    Args:
        clean, shifted: accuracy on y and on y + 1. gap: the first minus the second, paired.
        bar: what counts as far above chance.
    """
    if gap.low > 0:
        if clean.low > bar:
            return "It learnt y from the perturbations, more than y + 1 from what is visible."
        return "It calls y more often than y + 1, but y not far above chance."
    if gap.high < 0:
        if clean.low <= bar:
            return "A collapse to the visible content: it learnt y + 1, and y not far above chance."
        return "Mixed: it learnt y from the perturbations, but y + 1 from the visible content more."
    if max(clean.low, shifted.low) <= bar:
        return "A failure rather than a collapse: it learnt neither labelling well."
    return "Undecided: it learnt both, and which of them more the interval does not tell."


def _control(evidence: Evidence, key: str) -> Judgement:
    name, control_key = DATASET_NAMES[key], f"{key}_from_robust"
    control_name = DATASET_NAMES[control_key]
    own, control = evidence.accuracy(name), evidence.accuracy(control_name)
    evidence.check_same_recipe(key, control_key)
    loss = evidence.difference(_fit(name), _fit(control_name))
    numbers = (
        f"The fit on {name} made with the robust model reaches {control} on y, with the standard model "
        f"{own}: {_asked(loss, CONTROL_MARGIN)}."
    )
    learnt, lost = Criterion.above(own, evidence.far_above_chance), Criterion.margin(loss, CONTROL_MARGIN)
    basis = _basis(loss, CONTROL_MARGIN)
    if not learnt.holds:
        sentence = f"{numbers} {name} itself does not generalise here, so there is nothing to lose."
        return Judgement("cannot be judged", sentence, basis, "", learnt.close)
    if lost.holds:
        close = lost.close or learnt.close
        return Judgement("seen", f"{numbers} {_judges(evidence, control_key)}", basis, "", close)
    return _if_honest(evidence, control_key, Judgement("not seen", numbers, basis, "", lost.close))


def _if_honest(evidence: Evidence, key: str, found: Judgement) -> Judgement:
    """What was found, unless the judges say that the labels t are partly simply right."""
    sentence = f"{found.sentence} {_judges(evidence, key)}"
    judged = evidence.honesty(key)
    close = found.on_edge or judged.on_edge
    if judged.holds:
        return Judgement(found.seen, sentence, found.basis, found.elsewhere, close)
    sentence = (
        f"{sentence} They do not both reach {100 * STILL_Y_SHARE:g}%, so the labels t are partly simply right."
        f"{_still_y_fit(evidence, key)}"
    )
    return Judgement("cannot be judged", sentence, found.basis, found.elsewhere, judged.on_edge)


def _unless_attack_failed(evidence: Evidence, key: str, found: Judgement) -> Judgement:
    """Not seen, unless there was little to see: the attack did not even take the source model to its targets."""
    success = evidence.success(key)
    if success is None or success >= REACHED_SHARE:
        return found
    sentence = (
        f"{found.sentence} The attack took its own source model to its target for {percent(success)}% of the images "
        f"only (asked: {percent(REACHED_SHARE)}%): a larger eps or more steps would put the claim to the test."
    )
    return replace(found, seen="cannot be judged", sentence=sentence)


def _judges(evidence: Evidence, key: str) -> str:
    """What robust model and 1-NN say of the constructed images, and what other seeds' models do."""
    try:
        found = evidence.honesty(key)
    except NotMeasuredError as error:
        return f"{str(error)[:1].upper()}{str(error)[1:]}."
    others = evidence.constructions[key].get("success_other_seeds")
    crosses = "" if others is None else f" The source's other seeds call {percent(others)}% of them t."
    edge = f" {found.edge_sentence}" if found.on_edge else ""
    return (
        f"Of the images of {DATASET_NAMES[key]} that they {CALLED_BEFORE}, the robust model still "
        f"calls {percent(found.robust)}% y and the 1-NN {percent(found.neighbour)}%.{edge}{crosses}"
    )


def _still_y_fit(evidence: Evidence, key: str) -> str:
    """The fit on only the still-y images, where there is one."""
    try:
        clean = evidence.accuracy(DATASET_NAMES[key] + STILL_Y)
    except NotMeasuredError:
        return ""
    number = evidence.constructions.get(key, {}).get("num_still_y")
    only = f"only the {number:g} images" if number is not None else "only those"
    return f" Fitted on {only} that both still call y: {clean} on y."


def _fit(dataset: str) -> Model:
    """The model of standard training on a dataset."""
    return dataset, "standard"


def _attacked(evidence: Evidence, model: Model, eps: float) -> str:
    """What all attacks together leave, and PGD beside it: "32.1% [28.0, 36.2] (PGD-100 alone: 34.6%)"."""
    worst, beside = evidence.accuracy(*model, eps=eps), evidence.pgd(model, eps)
    if beside is None:
        return str(worst)
    attack, weaker = beside
    return f"{worst} ({attack_label(attack)} alone: {percent(weaker.value)}%)"


def _asked(gap: Estimate, margin: float) -> str:
    """The difference beside the margin that is asked for."""
    return f"{gap.points} (asked: {_points(margin)})"


def _basis(found: Estimate, margin: float | None = None) -> str:
    """What an estimate rests on, what it leaves out, and the power to tell the margin from 0."""
    basis = found.basis
    assert basis is not None  # estimates of the evidence have one
    parts = [f"Rests on {basis}", basis.caution, "" if basis.paired else "not compared image by image"]
    if margin is not None:
        parts.append(power_sentence(found, margin))
    return "; ".join(filter(None, parts)) + "."


def power_sentence(gap: Estimate, margin: float) -> str:
    """The power to tell the margin from 0, and what would raise it to POWER: "power to tell 10 points from 0: 0.93"."""
    basis = gap.basis
    assert basis is not None
    reached = power(margin, basis)
    text = f"power to tell {_points(margin)} from 0: {reached:.2f}"
    if reached >= POWER:
        return text
    needed = units_for_power(margin, basis)
    if needed is None or basis.num_units < 2:
        return f"{text} ({POWER:g} needs more test images{' or models' if basis.num_units < 2 else ''})"
    return f"{text} ({POWER:g} needs {needed} {basis.units} with the spread measured here)"


def _elsewhere(evidence: Evidence, first: Model, second: Model, eps: float) -> str:
    """The same difference at the other eps of the curve, by PGD; empty where there is none."""
    told, below = [], []
    for other, attack in evidence.curve_eps(first, second):
        if other == eps:
            continue
        gap = evidence.difference(first, second, eps=other, attack=attack)
        told.append(f"{other:g}: {gap.points} ({attack_label(attack)})")
        if gap.value < 0:
            below.append(f"{other:g}")
    if not told:
        return ""
    names = f"{model_label(*first)} minus {model_label(*second)}"
    lies = f" It lies below at eps {', '.join(below)}." if below else ""
    return f"At the other eps, {names}: {'; '.join(told)}.{lies}"


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


def judge(evidence: Evidence, only: str | None = None) -> list[Claim]:
    """A verdict on every claim, or on the one of a key; a missing measurement makes it "cannot be judged"."""
    return [_judge_one(rule, evidence) for rule in RULES if only in (None, rule.key)]


def _judge_one(rule: _Rule, evidence: Evidence) -> Claim:
    try:
        found = rule.judge(evidence)
    except NotMeasuredError as error:
        found = Judgement("cannot be judged", f"Cannot be judged: {error}.")
    return Claim(rule.key, rule.title, rule.statement, found)
