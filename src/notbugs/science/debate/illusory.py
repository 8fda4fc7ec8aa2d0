"""Illusory robustness (Li et al. 2023): how much of the robustness of D_R's fits do stronger attacks leave?

PGD measures the fits on D_R beside the robust source model and D; then the attack suite does, which has AutoAttack's
attacks at the level `standard`, and in other norms. Counted is the share of the accuracy under PGD that is left.

Radii of the other norms are matched to first order: a linear loss of gradient g rises by eps·‖g‖* within a ball, so
eps' = eps·‖g‖*/‖g‖*' does equal harm; the median over training images, g being that of the robust source model.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, Field, ValidationInfo, field_validator
from torch import Tensor

from notbugs.attacks.engine import frozen
from notbugs.attacks.gradients import look
from notbugs.attacks.losses import LOSSES
from notbugs.attacks.norms import NORMS, NormName, norm_of, norm_title
from notbugs.data.images import ImageData, Images, make_generator
from notbugs.evaluation.accuracy import model_device, on_device
from notbugs.evaluation.comparison import signed
from notbugs.evaluation.levels import LevelName, pgd_name
from notbugs.evaluation.results import WORST, attack_label
from notbugs.evaluation.statements import Chart, Position, Series, Verdict, reproduced_if
from notbugs.evaluation.suite import audit
from notbugs.models.base import Classifier
from notbugs.science.common.lab import Answer, Lab, require_images
from notbugs.science.common.question import Question, QuestionSettings
from notbugs.science.common.shares import share_table
from notbugs.science.debate._shared import in_words, kept, sub_sample

MODELS = {"D, robust": ("trained", "robust"), "D_R": ("fitted", "robust"), "D": ("trained", "standard")}
"""Name in the paper -> where the lab has its models."""
SURVIVES = 0.5
"""Less than half left means that most of what PGD showed was not there."""
MORE = 0.05
"""Points that D_R's fits must have beyond D under PGD, or there is no robustness of D_R's to be lost."""
Masks = dict[str, Tensor]
"""Attack, in its order -> which images withstand it and all before it, (N,) bool; "clean" first, WORST last."""


def _positive(eps: float | None) -> float | None:
    if eps is not None and not 0 < eps < float("inf"):
        raise ValueError("> 0, or null for the radius that does as much harm to first order")
    return eps


def _usual_others() -> dict[str, float | None]:
    return {"linf": None, "l1": None}


Norm = Annotated[str, AfterValidator(NORMS.check)]
Radius = Annotated[float | None, AfterValidator(_positive)]


class IllusorySettings(QuestionSettings):
    """How hard, in which norms, and on how much the models are attacked."""

    norm: NormName = "l2"
    """Norm in which robustness is claimed."""
    eps: float = Field(gt=0, allow_inf_nan=False)
    """Its radius, pixel units."""
    others: dict[Norm, Radius] = Field(default_factory=_usual_others)
    """Other norm -> radius; null matches it."""
    level: LevelName = "standard"
    """The suite: quick, standard (AutoAttack's set), or paper."""
    pgd_steps: int = Field(default=100, ge=1)
    """Steps of PGD alone, of 2.5·eps/pgd_steps each."""
    models: int = Field(default=2, ge=1)
    """At most so many models of each kind."""
    max_test: int | None = Field(default=None, ge=10)
    """At most so many test images; null takes all."""
    max_train: int | None = Field(default=500, ge=10)
    """At most so many training images, by whose gradients radii are matched."""

    @field_validator("others")
    @classmethod
    def _are_others(cls, others: dict[str, float | None], info: ValidationInfo) -> dict[str, float | None]:
        if info.data.get("norm") in others:
            raise ValueError(f"norms other than {info.data['norm']}")
        return others

    def check_data(self, data: Mapping[str, Images]) -> None:
        """Raises: UnfitError for more images than D has."""
        for name, most in (("max_test", self.max_test), ("max_train", self.max_train)):
            part = data[name.removeprefix("max_")]
            require_images(name, None if most is None else min(most, len(part)), len(part.class_names))


def illusory(lab: Lab, settings: IllusorySettings) -> Answer:
    """What PGD, the suite and other norms leave of the robustness of D_R's fits, of the robust source, and of D.

    On digits about 30 s at the level quick. Expected of real robustness: most of it is left.
    """
    test = sub_sample(lab.data["test"], settings.max_test, _draw(lab, "test"))
    radii = {settings.norm: settings.eps, **matched_radii(lab, settings)}
    parts: dict[str, Callable[[Lab], Masks]] = {}
    for number, (norm, eps) in enumerate(radii.items()):
        for label in _asked_in(norm, settings):
            for seed, file in enumerate(_files(lab, label, settings)):
                attacked = partial(_attacked, file=file, norm=norm, eps=eps, settings=settings, test=test)
                parts[f"norm-{number}-{'-'.join(MODELS[label])}-{seed}"] = attacked
    done = iter(lab.load_or_make_all(parts, "illusory, attacks"))
    found: dict[str, dict[str, list[Masks]]] = {norm: {} for norm in radii}
    for norm in radii:
        for label in _asked_in(norm, settings):
            found[norm][label] = [next(done) for _ in _files(lab, label, settings)]
    pgd = {label: _under(masks, pgd_name(settings.pgd_steps)) for label, masks in found[settings.norm].items()}
    norms = {norm: {"eps": round(eps, 6), **_measured(found[norm], pgd, settings)} for norm, eps in radii.items()}
    metrics: dict[str, Any] = {
        "norm": settings.norm,
        "level": settings.level,
        "pgd": pgd_name(settings.pgd_steps),
        "norms": norms,
    }
    metrics |= {"num_test": len(test), "num_models": {label: len(masks) for label, masks in pgd.items()}}
    verdicts = [_suite(metrics), *(_elsewhere(metrics, norm) for norm in radii if norm != settings.norm)]
    here = norms[settings.norm]
    left = ", ".join(f"{label} {in_words(here['survives'][label])}" for label in MODELS)
    says = f"the suite leaves of the accuracy under PGD, {norm_title(settings.norm)} {settings.eps:g}: {left}"
    return Answer(metrics, (says,), charts=[_chart(metrics)], verdicts=verdicts)


def _draw(lab: Lab, *purpose: str | int) -> torch.Generator:
    return make_generator(lab.seed, "illusory", *purpose)


def _files(lab: Lab, label: str, settings: IllusorySettings) -> list[Path]:
    place, name = MODELS[label]
    return list(getattr(lab, place)[name])[: settings.models]


def _asked_in(norm: str, settings: IllusorySettings) -> list[str]:
    """Which models are attacked in a norm: D, the control of PGD's robustness, in the norm of the claim alone."""
    return [label for label in MODELS if label != "D" or norm == settings.norm]


def matched_radii(lab: Lab, settings: IllusorySettings) -> dict[str, float]:
    """The radius of each other norm, in their order: as it is given, or eps·median(‖g‖*/‖g‖*')."""
    if None not in settings.others.values():
        return {norm: eps for norm, eps in settings.others.items() if eps is not None}
    data = sub_sample(lab.data["train"], settings.max_train, _draw(lab, "train"))
    gradients = loss_gradients(lab.models["robust"], data)
    found = {}
    for norm, eps in settings.others.items():
        ratios = norm_of(settings.norm).dual_length(gradients) / norm_of(norm).dual_length(gradients)
        found[norm] = settings.eps * float(ratios.nanmedian()) if eps is None else eps  # NaN where g is 0
    return found


def loss_gradients(model: Classifier, data: ImageData) -> Tensor:
    """The cross-entropy's gradient at each image, (N, C, H, W), to a positive factor an image."""
    slope = LOSSES["cross_entropy"].slope
    assert slope is not None

    def at(rows: slice, inputs: Tensor, labels: Tensor) -> Tensor:
        return look(model, inputs, lambda outputs: slope(outputs, labels))[1].cpu()

    with frozen(model):
        return torch.cat(on_device("gradients", data, model_device(model), 500, at)).double()


def _attacked(lab: Lab, *, file: Path, norm: str, eps: float, settings: IllusorySettings, test: ImageData) -> Masks:
    """What a model withstands in a ball: PGD alone, then the suite's attacks, each on what the ones before left."""
    how: dict[str, Any] = {"headline_eps": eps, "eps": (eps,), "norm": norm, "level": settings.level}
    how |= {"num_steps": settings.pgd_steps, "headline_num_steps": settings.pgd_steps}
    found = audit(lab.load(file), test, generator=_draw(lab, norm), checked=False, **how)
    return {one.attack: one.correct for one in found.outcomes if one.labels == "true"}


def _under(masks: Sequence[Masks], attack: str) -> list[Tensor]:
    return [one[attack] for one in masks]


def _measured(
    models: Mapping[str, Sequence[Masks]], pgd: Mapping[str, Sequence[Tensor]], settings: IllusorySettings
) -> dict[str, Any]:
    """In one norm: accuracies after each attack, and what is left of PGD's, here and in the norm of the claim."""
    attacks = list(next(iter(models.values()))[0])
    table = {label: {attack: _under(masks, attack) for attack in attacks} for label, masks in models.items()}
    alone = pgd_name(settings.pgd_steps)
    return {
        "accuracy": share_table(table),
        "survives": kept({label: (row[WORST], row[alone]) for label, row in table.items()}),
        "of_claim": kept({label: (row[WORST], pgd[label]) for label, row in table.items()}),
    }


def _suite(metrics: Mapping[str, Any]) -> Verdict:
    """Reproduced if the suite leaves D_R's fits less than SURVIVES of the accuracy that PGD leaves them.

    Inconclusive where PGD leaves them less than MORE beyond what it leaves D.
    """
    found, title = metrics["norms"][metrics["norm"]], "The robustness of D_R's fits is illusory: the suite takes it"
    accuracy, left = found["accuracy"], found["survives"]["D_R"]
    alone, worst = ({label: row[name] for label, row in accuracy.items()} for name in (metrics["pgd"], WORST))
    sentence = (
        f"{norm_title(metrics['norm'])} {found['eps']:g}: {attack_label(metrics['pgd'])} leaves D_R's fits "
        f"{in_words(alone['D_R'])}, the suite {in_words(worst['D_R'])}: {in_words(left)} of it. Of the robust source "
        f"survive {in_words(found['survives']['D, robust'])}, of D {in_words(found['survives']['D'])}. "
        f"Threshold: {100 * SURVIVES:g}%."
    )
    more = alone["D_R"]["mean"] - alone["D"]["mean"]
    if left is None or more < MORE:
        why = f"Under PGD D_R's fits are {signed(more)} points from D, not {100 * MORE:g}."
        return Verdict("suite", title, "", "inconclusive", f"{why} {sentence}", _basis(metrics))
    on_edge = left["low"] < SURVIVES < left["high"]
    finding = reproduced_if(left["value"] < SURVIVES)
    return Verdict("suite", title, "", finding, sentence, _basis(metrics), on_edge=on_edge)


def _elsewhere(metrics: Mapping[str, Any], norm: str) -> Verdict:
    """Reproduced if in another norm less than SURVIVES is left of what PGD leaves in the norm of the claim.

    Inconclusive where the robust source keeps less than SURVIVES, too: the radius is then too large for the claim.
    """
    found, name = metrics["norms"][norm], norm_title(norm)
    title = f"The robustness of D_R's fits is illusory: {name} takes it"
    left, source = found["of_claim"]["D_R"], found["of_claim"]["D, robust"]
    claim = f"{attack_label(metrics['pgd'])} in {norm_title(metrics['norm'])}"
    sentence = (
        f"The suite in {name} {found['eps']:.3g} leaves D_R's fits {in_words(found['accuracy']['D_R'][WORST])}: "
        f"{in_words(left)} of what {claim} leaves; of the robust source {in_words(source)}. "
        f"Threshold: {100 * SURVIVES:g}%."
    )
    key = f"norm_{norm.rpartition(':')[2]}"
    if left is None or source is None or source["value"] < SURVIVES:
        return Verdict(key, title, "", "inconclusive", f"The radius is too large to tell. {sentence}", _basis(metrics))
    on_edge = left["low"] < SURVIVES < left["high"]
    return Verdict(key, title, "", reproduced_if(left["value"] < SURVIVES), sentence, _basis(metrics), on_edge=on_edge)


def _basis(metrics: Mapping[str, Any]) -> str:
    counts = "; ".join(f"{count} of {label}" for label, count in metrics["num_models"].items())
    return f"{metrics['num_test']} test images, level {metrics['level']}, models: {counts}"


def _chart(metrics: Mapping[str, Any]) -> Chart:
    home = metrics["norms"][metrics["norm"]]
    shown = {f"{attack_label(metrics['pgd'])}, {norm_title(metrics['norm'])} {home['eps']:g}": (home, metrics["pgd"])}
    for norm, found in metrics["norms"].items():
        shown[f"suite, {norm_title(norm)} {found['eps']:.2g}"] = (found, WORST)
    series = []
    for label, (found, attack) in shown.items():
        series.append(Series.of_shares(label, {model: row[attack] for model, row in found["accuracy"].items()}))
    caption = (
        f"Accuracy on y under PGD alone and under the suite (level {metrics['level']}), in each norm; whiskers: 95% "
        "intervals."
    )
    return Chart("attacks", caption, "model", "adversarial accuracy on y", series, "bars")


QUESTION = Question(
    settings=IllusorySettings,
    study=illusory,
    inputs=("data/train", "data/test", "models/train", "models/fit/robust"),
    title="Illusory robustness of the fits on D_R",
    says="How much of the robustness that PGD shows of the fits on D_R do stronger attacks and other norms leave?",
    position=Position(
        who="Li et al. 2023",
        claim="Robust features alone do not make robust: what is trained naturally on them is largely not robust under "
        "AutoAttack.",
        reported="On CIFAR-10 such encoders keep little under AutoAttack. Ilyas et al. report 21.85% for D_R at L2 0.5 "
        "under PGD, and for the robust source 70.1% under PGD and 69.24% under AutoAttack.",
        source="https://arxiv.org/abs/2310.18936",
        mind="Half or more of the accuracy of D_R's fits under PGD left by the attack suite.",
    ),
)
