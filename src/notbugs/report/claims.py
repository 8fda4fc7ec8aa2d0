"""What the paper reports and claims, and whether the measurements show it.

Every verdict follows a rule written down here before the numbers are seen: a difference counts when its mean over
source models and fits reaches a named margin and the lower end of its 95% interval is above zero. Models that share
their streams and test images are compared pair by pair, and fits only with fits of the same recipe. Robustness is
what all attacks together leave. "Inconclusive" means that a measurement is not in this pipeline, or that it would
prove nothing either way; "on the edge", that one image, or one standard error, more or less would change the verdict.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from notbugs.evaluation.comparison import POWER, Estimate, power, units_for_power
from notbugs.evaluation.results import STILL_Y, model_label, set_title
from notbugs.evaluation.statements import Finding, reproduced_if
from notbugs.report.evidence import Evidence, Model, NotMeasuredError
from notbugs.report.sections import AnotherRule, Facts, Judge, Ruling, words
from notbugs.runtime.config import DATASET_NAMES, dataset_name

SETTING = "CIFAR-10, ResNet-50"
EPS = (0.25, 0.5)
"""L2 radii of the paper's adversarial accuracies."""
FIGURE_EPS = 0.25
"""The radius of the paper's Figure 2."""

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
class Reported:
    """What the paper reports of one model: accuracies on the CIFAR-10 test set with a ResNet-50, under L2 PGD.

    Attributes:
        clean: accuracy on y.
        adversarial: eps -> accuracy under attack, where the paper gives it.
        near_zero: the paper says only that the adversarial accuracies are about 0.
    """

    clean: float
    adversarial: dict[float, float]
    near_zero: bool = False


CIFAR10: dict[tuple[str, str], Reported] = {
    ("D", "standard"): Reported(0.9525, {0.25: 0.0449, 0.5: 0.0}),
    ("D", "robust"): Reported(0.9083, {0.25: 0.825, 0.5: 0.701}),
    ("D_R", "standard"): Reported(0.8540, {0.25: 0.4820, 0.5: 0.2185}),
    ("D_NR", "standard"): Reported(0.8768, {0.25: 0.0082, 0.5: 0.0}),
    ("D_rand", "standard"): Reported(0.633, {0.25: 0.0, 0.5: 0.0}, near_zero=True),
    ("D_det", "standard"): Reported(0.437, {0.25: 0.0, 0.5: 0.0}, near_zero=True),
}
"""(dataset, estimator) -> what the paper reports; the zeros of D_rand and D_det are read off a plot."""


@dataclass(frozen=True)
class Criterion:
    """A part of a rule: whether it holds, and whether one image, or one standard error, would change that."""

    holds: bool
    close: bool

    @classmethod
    def margin(cls, gap: Estimate, margin: float) -> "Criterion":
        """A difference of at least the threshold, its interval above 0."""
        reach = _reach(gap)
        return cls(gap.reaches(margin), abs(gap.value - margin) < reach or abs(gap.low) < reach)

    @classmethod
    def at_most(cls, gap: Estimate, margin: float) -> "Criterion":
        """A difference of at most the threshold."""
        return cls(gap.value <= margin + 1e-9, abs(gap.value - margin) < _reach(gap))

    @classmethod
    def above(cls, found: Estimate, bar: float) -> "Criterion":
        """The interval lies above the bar."""
        return cls(found.low > bar, abs(found.low - bar) < _reach(found))


def _reach(found: Estimate) -> float:
    """What one image, or one standard error, more or less changes."""
    return max(found.one_image, found.standard_error)


def _decided(criteria: Sequence[Criterion]) -> tuple[Finding, bool]:
    """Reproduced if all hold; on the edge if one that decides is close."""
    failing = [one for one in criteria if not one.holds]
    close = all(one.close for one in failing) if failing else any(one.close for one in criteria)
    return reproduced_if(not failing), close


def _robust_training(evidence: Evidence, _: Facts) -> Ruling:
    if evidence.robust_eps is None:
        raise NotMeasuredError("no model is trained robustly in the norm that is evaluated")
    eps, bar = evidence.robust_eps, evidence.far_above_chance
    robust, standard = ("D", "robust"), ("D", "standard")
    left = {"robust": _attacked(evidence, robust, eps), "standard": _attacked(evidence, standard, eps)}
    gain, clean = evidence.difference(robust, standard, eps=eps), evidence.accuracy("D", "robust")
    finding, close = _decided([Criterion.margin(gain, ROBUST_MARGIN), Criterion.above(clean, bar)])
    numbers = {**left, "eps": eps, "gain": gain, "margin": ROBUST_MARGIN, "clean": clean, "bar": bar}
    basis = _basis(gain, ROBUST_MARGIN)
    return Ruling(finding, numbers, basis, _elsewhere(evidence, robust, standard, eps), close)


def _robust_features(key: str, evidence: Evidence, _: Facts) -> Ruling:
    evidence.check_is_the_papers(key)
    evidence.check_has_learnt(key)
    eps, bar = evidence.headline_eps, evidence.far_above_chance
    ours, other = _fit(dataset_name(key)), _fit("D_NR")
    number, clean = _attacked(evidence, ours, eps), evidence.accuracy(*ours)
    evidence.accuracy("D_NR", eps=eps)  # says first that it is not there
    base = evidence.fitted_as(key)
    over_base = evidence.difference(ours, base, eps=eps)
    criteria = [Criterion.margin(over_base, D_R_OVER_D_MARGIN), Criterion.above(clean, bar)]
    numbers: dict[str, Any] = {"name": model_label(*ours), "eps": eps, "bar": bar, "clean": clean, "left": number}
    numbers["over_base"] = over_base
    numbers |= {"base_margin": D_R_OVER_D_MARGIN, "base": _attacked(evidence, base, eps)}
    numbers |= {"other": None, "over_other": None, "other_margin": D_R_OVER_D_NR_MARGIN, "reason": ""}
    try:
        evidence.check_same_recipe(key, "nonrobust")
    except NotMeasuredError as reason:  # the paper's fits of D_NR have a recipe of their own
        numbers["reason"] = str(reason)
    else:
        over_other = evidence.difference(ours, other, eps=eps)
        criteria.append(Criterion.margin(over_other, D_R_OVER_D_NR_MARGIN))
        numbers |= {"over_other": over_other, "other": _attacked(evidence, other, eps)}
    finding, close = _decided(criteria)
    basis = _basis(over_base, D_R_OVER_D_MARGIN)
    return Ruling(finding, numbers, basis, _elsewhere(evidence, ours, base, eps), close)


def _not_robust_features(key: str, evidence: Evidence, _: Facts) -> Ruling:
    evidence.check_is_the_papers(key)
    evidence.check_has_learnt(key)
    eps, bar = evidence.headline_eps, evidence.far_above_chance
    ours, robust, standard = _fit(dataset_name(key)), ("D", "robust"), ("D", "standard")
    clean, number = evidence.accuracy(*ours), _attacked(evidence, ours, eps)
    base = evidence.fitted_as(key)
    robust_over_standard = evidence.difference(robust, standard, eps=eps)
    left = {"left": number, "base": _attacked(evidence, base, eps)}
    left |= {"robust": _attacked(evidence, robust, eps), "standard": _attacked(evidence, standard, eps)}
    apart = Criterion.margin(robust_over_standard, ROBUST_MARGIN)
    over_base, below_robust = (
        evidence.difference(ours, base, eps=eps),
        evidence.difference(robust, ours, eps=eps),
    )
    if apart.holds:
        at_most = Criterion.at_most(over_base, NOT_ROBUST_MARGIN)
        finding, close = _decided([Criterion.above(clean, bar), at_most, Criterion.margin(below_robust, ROBUST_MARGIN)])
    else:
        finding, close = "inconclusive", apart.close
    margins = {"margin": ROBUST_MARGIN, "most": NOT_ROBUST_MARGIN, "bar": bar}
    gaps = {"over_base": over_base, "below_robust": below_robust, "robust_over_standard": robust_over_standard}
    numbers = {"name": model_label(*ours), "eps": eps, "clean": clean, "apart": apart.holds, **left, **margins, **gaps}
    return Ruling(finding, numbers, _basis(over_base), _elsewhere(evidence, ours, base, eps), close)


def _same_but_for_g(evidence: Evidence, _: Facts) -> Ruling:
    for key in ("robust", "nonrobust"):
        evidence.check_is_the_papers(key)
    evidence.check_has_learnt("robust", "nonrobust")
    eps, bar = evidence.headline_eps, evidence.far_above_chance
    clean, clean_other = evidence.accuracy("D_R"), evidence.accuracy("D_NR")
    evidence.check_same_recipe("robust", "nonrobust")
    ours, other = _fit("D_R"), _fit("D_NR")
    gap = evidence.difference(ours, other, eps=eps)
    apart = Criterion.margin(gap, D_R_OVER_D_NR_MARGIN)
    finding, close = _decided([apart, Criterion.above(clean, bar), Criterion.above(clean_other, bar)])
    numbers = {"eps": eps, "bar": bar, "clean": clean, "clean_other": clean_other, "gap": gap}
    numbers |= {"left": _attacked(evidence, ours, eps), "left_other": _attacked(evidence, other, eps)}
    numbers["margin"] = D_R_OVER_D_NR_MARGIN
    basis = _basis(gap, D_R_OVER_D_NR_MARGIN)
    return Ruling(finding, numbers, basis, _elsewhere(evidence, ours, other, eps), close)


def _random_target(key: str, evidence: Evidence, _: Facts) -> Ruling:
    evidence.check_is_the_papers(key)
    evidence.check_has_learnt(key)
    ours = _fit(dataset_name(key))
    clean, bar = evidence.accuracy(*ours), evidence.far_above_chance
    share = evidence.constructions.get(key, {}).get("given_is_true", evidence.chance)
    learnt = Criterion.above(clean, bar)
    numbers = {"name": model_label(*ours), "clean": clean, "chance": evidence.chance, "bar": bar}
    numbers["given_is_true"] = share
    found = Ruling(reproduced_if(learnt.holds), numbers, _basis(clean), on_edge=learnt.close)
    return _if_put_to_the_test(evidence, key, found)


def _deterministic_target(key: str, evidence: Evidence, _: Facts) -> Ruling:
    evidence.check_is_the_papers(key)
    evidence.check_has_learnt(key)
    ours, bar = _fit(dataset_name(key)), evidence.far_above_chance
    clean, shifted = evidence.accuracy(*ours), evidence.accuracy(*ours, labels="shifted")
    gap = evidence.difference(ours, ours, labels=("true", "shifted"))
    finding, close = _decided([Criterion.above(gap, 0.0), Criterion.above(clean, bar)])
    numbers = {"name": model_label(*ours), "clean": clean, "shifted": shifted, "gap": gap, "bar": bar}
    numbers["learnt"] = finding == "reproduced"
    return _if_put_to_the_test(evidence, key, Ruling(finding, numbers, _basis(gap), on_edge=close))


def _control(key: str, evidence: Evidence, _: Facts) -> Ruling:
    name, control_key = dataset_name(key), f"{key}_from_robust"
    for made in (key, control_key):
        evidence.check_is_the_papers(made)
    evidence.check_has_learnt(key, control_key)
    control_name = dataset_name(control_key)
    own, control = evidence.accuracy(name), evidence.accuracy(control_name)
    evidence.check_same_recipe(key, control_key)
    loss = evidence.difference(_fit(name), _fit(control_name))
    learnt, lost = Criterion.above(own, evidence.far_above_chance), Criterion.margin(loss, CONTROL_MARGIN)
    numbers = {
        "name": model_label(*_fit(name)),
        "own": own,
        "control": control,
        "loss": loss,
        "margin": CONTROL_MARGIN,
        "images": None,
    }
    found = Ruling(reproduced_if(lost.holds), numbers, _basis(loss, CONTROL_MARGIN), on_edge=lost.close)
    if not learnt.holds:  # there is nothing to lose
        return replace(found, finding="inconclusive", on_edge=learnt.close)
    if lost.holds:
        images = _images(evidence, control_key)
        return replace(found, numbers={**numbers, "images": images}, on_edge=lost.close or learnt.close)
    return _if_honest(evidence, control_key, found)


def _if_put_to_the_test(evidence: Evidence, key: str, found: Ruling) -> Ruling:
    """What was found: if reproduced, only of images that still show y; if not, only where the attack succeeded."""
    return (
        _if_honest(evidence, key, found)
        if found.finding == "reproduced"
        else _unless_attack_failed(evidence, key, found)
    )


def _if_honest(evidence: Evidence, key: str, found: Ruling) -> Ruling:
    """What was found, unless the judges say that the labels t are partly simply right."""
    judged = evidence.honesty(key)
    images = _images(evidence, key)
    if judged.holds:
        return replace(found, numbers={**found.numbers, "images": images}, on_edge=found.on_edge or judged.on_edge)
    images |= {"fails": True, "refit": _refit(evidence, key)}
    numbers = {**found.numbers, "images": images}
    return replace(found, finding="inconclusive", numbers=numbers, on_edge=judged.on_edge)


def _unless_attack_failed(evidence: Evidence, key: str, found: Ruling) -> Ruling:
    """Not reproduced, unless there was little to see: the attack did not even take the source model to its targets."""
    images, success = _images(evidence, key), evidence.success(key)
    if success is None or success >= REACHED_SHARE:
        return replace(found, numbers={**found.numbers, "images": images})
    images |= {"success": success, "threshold": REACHED_SHARE}
    return replace(found, finding="inconclusive", numbers={**found.numbers, "images": images})


def _images(evidence: Evidence, key: str) -> dict[str, Any]:
    """What robust model and 1-NN say of the constructed images, and what other seeds' models do."""
    others = evidence.constructions.get(key, {}).get("success_other_seeds")
    found: dict[str, Any] = {
        "name": set_title(key),
        "others": others,
        "judged": None,
        "reason": "",
    }
    try:
        found["judged"] = evidence.honesty(key)
    except NotMeasuredError as error:
        found["reason"] = str(error)
    return found


def _refit(evidence: Evidence, key: str) -> dict[str, Any] | None:
    """The fit on only the images that both judges still call y, where there is one."""
    try:
        clean = evidence.accuracy(dataset_name(key) + STILL_Y)
    except NotMeasuredError:
        return None
    return {"clean": clean, "num_images": evidence.constructions.get(key, {}).get("num_still_y")}


def _fit(dataset: str) -> Model:
    """The model of standard training on a dataset."""
    return dataset, "standard"


def _attacked(evidence: Evidence, model: Model, eps: float) -> dict[str, Any]:
    """What all attacks together leave, and PGD (by name, with what it leaves) beside it where it was run."""
    return {"worst": evidence.accuracy(*model, eps=eps), "pgd": evidence.pgd(model, eps)}


def _basis(found: Estimate, margin: float | None = None) -> str:
    """What an estimate rests on, what it leaves out, and the power to tell the threshold from 0."""
    basis = found.basis
    assert basis is not None  # estimates of the evidence have one
    reached = POWER if margin is None else power(margin, basis)
    needed = units_for_power(margin, basis) if margin is not None and reached < POWER else None
    return words("claims", "basis", found=basis, margin=margin, reached=reached, needed=needed, wanted=POWER)


def _elsewhere(evidence: Evidence, first: Model, second: Model, eps: float) -> str:
    """The same difference at the other eps of the curve, by PGD; empty where there is none."""
    gaps = [
        (other, evidence.difference(first, second, eps=other, attack=attack), attack)
        for other, attack in evidence.curve_eps(first, second)
        if other != eps
    ]
    names = f"{model_label(*first)} minus {model_label(*second)}"
    return words("claims", "elsewhere", names=names, gaps=gaps) if gaps else ""


RULES: dict[str, Judge] = {
    "robust_training": _robust_training,
    "robust_features": partial(_robust_features, "robust"),
    "nonrobust_features": partial(_not_robust_features, "nonrobust"),
    "same_but_for_g": _same_but_for_g,
    "rand": partial(_random_target, "rand"),
    "det": partial(_deterministic_target, "det"),
    "control_rand": partial(_control, "rand"),
    "control_det": partial(_control, "det"),
}
"""The rule of every claim, in the order of the report."""
_OF_A_SET: dict[str, tuple[str, Callable[[str, Evidence, Facts], Ruling]]] = {
    "robust": ("robust_features", _robust_features),
    "nonrobust": ("nonrobust_features", _not_robust_features),
    "rand": ("rand", _random_target),
    "det": ("det", _deterministic_target),
}
"""The paper's set -> the claim about it, and its rule."""


def further_rules(evidence: Evidence) -> Iterator[AnotherRule]:
    """The claim of the recipe of every set that was fitted on under another name than the paper's."""
    for key, one in evidence.sets.items():
        if _is_further(evidence, key) and one.like and not one.another_set:
            says, rule = _OF_A_SET[one.like]
            yield AnotherRule(f"{says}:{key}", says, partial(rule, key), (dataset_name(one.like), one.title))


def without_a_claim(evidence: Evidence) -> list[tuple[str, str]]:
    """(title, why) of the sets that were fitted on, and of which the paper says nothing."""
    sets = [one for key, one in evidence.sets.items() if _is_further(evidence, key)]
    return [(one.title, one.another_set or one.deviations) for one in sets if one.another_set or not one.like]


def _is_further(evidence: Evidence, key: str) -> bool:
    return key not in DATASET_NAMES and key in (evidence.params.get("fit") or {})
