"""What is wrong with a constructed dataset, said of the numbers of `diagnosis.measure`, and which setting mends it.

Causes are named in the order of the pipeline: the dataset itself, its source model, its perturbations, the fit on it.
A later cause is often but the effect of an earlier one.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from notbugs.evaluation.results import STILL_Y_SHARE
from notbugs.science.diagnosis import Numbers, Subject

RIGHT_ON_D = 0.97
"""Share of D's own images that a standard source model must know; replications train it to all of them."""
SUCCESS = 0.8
"""Share of the images that must be called as they are labelled."""
AT_THE_RADIUS = 0.9
"""Share of eps that the median perturbation must reach."""
BEYOND_THE_RADIUS = 1.02
"""Share of eps that no attack's perturbation reaches; rounding to 8 bits adds less than 1% at eps 0.5 on CIFAR-10."""
SURVIVES = 0.8
"""Share of the successes that must survive the crops and flips of the fit."""
ON_OTHERS = 0.5
"""Share of the images that must persuade models of other seeds."""
WHOLE = 0.95
"""Share of the pixels within (0, 1) that are 255ths, from which images count as rounded; by chance 14% are."""
LATE = 2 / 3
"""Share of a fit's epochs after which a loss that only then leaves ln C has not come far by the end."""


@dataclass(frozen=True)
class Cause:
    """What is wrong: `key` names it, `says` tells it with its numbers, `change` the setting that mends it."""

    key: str
    says: str
    change: str


def causes(name: str, subject: Subject, found: Numbers) -> list[Cause]:
    """What is wrong with a dataset, and what to change, the first cause first; empty where nothing is.

    Args:
        name: its entry in params.yaml.
        subject: of which its settings are read, not its images.
    """
    checks: tuple[Callable[[str, Subject, Numbers], Cause | None], ...] = (
        _labels,
        _changed_images,
        _source,
        _perturbation,
        _augmentation,
        _other_seeds,
        _visible,
        _not_learnt,
        _only_begun,
        _reads_the_object,
    )
    return list(filter(None, (check(name, subject, found) for check in checks)))


def _labels(name: str, subject: Subject, found: Numbers) -> Cause | None:
    agree = found.success_of_moved
    unrelated = found.moved >= 1 / 2 and agree is not None and agree <= 2 * found.chance and subject.eps is not None
    if found.as_recorded == 1 and not unrelated:
        return None
    told = (
        f"the source calls {_percent(found.moved)} of the images otherwise than before, and of these "
        f"{_percent(agree)} by their label (chance {_percent(found.chance)})"
    )
    if found.as_recorded < 1:
        told = f"{_percent(1 - found.as_recorded)} of the labels are not those it was made with; {told}"
    return Cause(
        "labels", f"the labels do not belong to the images: {told}", f"make it anew: dvc repro -f construct@{name}"
    )


def _changed_images(name: str, subject: Subject, found: Numbers) -> Cause | None:
    beyond = found.norm_share is not None and found.norm_share > BEYOND_THE_RADIUS
    rounded = found.in_255ths is not None and found.in_255ths >= WHOLE
    if not (beyond or rounded):
        return None
    change = f"make it anew and store it as float32 or float16: dvc repro -f construct@{name}"
    if beyond:
        how = "JPEG or another lossy format" if rounded else "something"
        told = f"the median ‖δ‖ is {found.norm_share:.2f} eps, which the attack cannot reach"
        return Cause("compressed", f"{how} changed the images after they were made: {told}", change)
    told = f"{_percent(found.in_255ths)} of the pixels within (0, 1) are whole 255ths"
    return Cause("rounded", f"the images went through 8 bits: {told}", change)


def _source(name: str, subject: Subject, found: Numbers) -> Cause | None:
    if subject.adversarial or found.source_accuracy >= RIGHT_ON_D:
        return None
    told = f"it is right on {_percent(found.source_accuracy)} of the images of D that it learnt from"
    change = f"train it to {_percent(RIGHT_ON_D)} and more: raise epochs or lr of its entry of train"
    return Cause("undertrained_source", f"the source model is undertrained: {told}", change)


def _perturbation(name: str, subject: Subject, found: Numbers) -> Cause | None:
    if found.success >= SUCCESS or subject.eps is None or found.norm_share is None:
        return None
    told = f"the source calls {_percent(found.success)} of the images by their label"
    if found.norm_share < AT_THE_RADIUS:
        told += f", and the median ‖δ‖ is {found.norm_share:.2f} eps only"
        change = f"raise construct.{name}.num_steps or step_size: together they must reach beyond eps {subject.eps:g}"
        return Cause("short_attack", f"the attack ends before the edge of the ball: {told}", change)
    if _is_visible(found):
        told += f", and the robust model still calls {_percent(found.still_y)} y of those that it called y before"
        change = f"raise construct.{name}.num_steps, or take another source model: a larger eps is seen even more"
        return Cause("no_eps", f"eps is too small for the source, and too large to be unseen: {told}", change)
    change = f"raise construct.{name}.eps above {subject.eps:g}, as far as images are still y; then num_steps"
    return Cause("small_eps", f"eps is too small: {told}, at {found.norm_share:.2f} eps", change)


def _augmentation(name: str, subject: Subject, found: Numbers) -> Cause | None:
    if found.success_augmented is None or found.success_augmented >= SURVIVES * found.success:
        return None
    told = (
        f"success on the source falls from {_percent(found.success)} to {_percent(found.success_augmented)} "
        "under its crops and flips"
    )
    change = f"set fit.{name}.crop_padding = 0 and fit.{name}.flip = false; or construct.{name}.views = 4"
    return Cause("augmentation", f"the fit's augmentation destroys the perturbation: {told}", change)


def _other_seeds(name: str, subject: Subject, found: Numbers) -> Cause | None:
    share = found.success_other_seeds
    if share is None or share >= ON_OTHERS or found.success < SUCCESS:
        return None
    told = f"{_percent(found.success)} of the images persuade the source, {_percent(share)} models of other seeds"
    change = f"name several seeds in construct.{name}.from, attacked together; or train the source longer"
    return Cause("one_model_only", f"the perturbation is one model's own: {told}", change)


def _is_visible(found: Numbers) -> bool:
    return found.still_y is not None and found.still_y < STILL_Y_SHARE


def _visible(name: str, subject: Subject, found: Numbers) -> Cause | None:
    named = _perturbation(name, subject, found)
    if subject.eps is None or not _is_visible(found) or (named is not None and named.key == "no_eps"):
        return None
    told = f"the robust model still calls {_percent(found.still_y)} of the images y that it called y before"
    change = f"lower construct.{name}.eps below {subject.eps:g}: what fits learn here may be visible"
    return Cause("visible", f"the perturbation changes what is seen: {told}", change)


def _not_learnt(name: str, subject: Subject, found: Numbers) -> Cause | None:
    stuck = sum(epoch is None for epoch in found.left_at)
    if not stuck:
        return None
    told = f"the training loss of {stuck} of {len(found.left_at)} has not left ln C = {found.chance_loss:.3f}"
    if found.loss is not None:
        told += f" (mean at the end {found.loss:.3f})"
    return Cause("not_learnt_yet", f"the fits have not learnt yet: {told}", _learn_sooner(name))


def _learn_sooner(name: str) -> str:
    """On CIFAR-10 (JPEG) the loss of D_rand stood at ln 10 for eight epochs at lr 0.2, for four at lr 0.05."""
    return f"divide fit.{name}.lr by 4; then raise fit.{name}.epochs, or set fit.{name}.optimizer = adamw"


def _only_begun(name: str, subject: Subject, found: Numbers) -> Cause | None:
    left = [epoch for epoch in found.left_at if epoch is not None]
    if not left or len(left) < len(found.left_at) or found.loss is None or found.epochs is None:
        return None  # one that has not left is named already
    if max(left) <= LATE * found.epochs or found.loss <= found.chance_loss / 2:
        return None
    told = (
        f"the training loss left ln C = {found.chance_loss:.3f} in epoch {max(left)} of {found.epochs} "
        f"and is {found.loss:.3f} at the end"
    )
    return Cause("only_begun", f"the fits have only begun to learn: {told}", _learn_sooner(name))


def _reads_the_object(name: str, subject: Subject, found: Numbers) -> Cause | None:
    on_y, shifted = found.on_y, found.on_shifted
    if not subject.shifted or on_y is None or shifted is None or on_y >= shifted:
        return None
    told = f"they call {_percent(on_y)} of untouched images y, and {_percent(shifted)} y + 1"
    change = f"strengthen the perturbation: construct.{name}.from (several seeds), views, or eps"
    return Cause("reads_the_object", f"the fits read the object and learnt the shift of its label: {told}", change)


def lines(name: str, found: Numbers, wrong: Sequence[Cause]) -> Iterator[str]:
    """A diagnosis in print: the numbers, then what is wrong and what to change, the first cause first."""
    yield (
        f"{name}: {found.num_examples} images; success {_percent(found.success)} on the source, "
        f"{_percent(found.success_other_seeds)} on other seeds, "
        f"{_percent(found.success_augmented)} under the fit's augmentation; the source is right on "
        f"{_percent(found.source_accuracy)} of D"
    )
    reached = "no ball" if found.norm_share is None else f"median ‖δ‖ {found.norm_share:.2f} eps"
    yield f"  {reached}; still y {_percent(found.still_y)} by the robust model; labelled y {_percent(found.label_is_y)}"
    yield (
        f"  label read by a linear probe from δ {_percent(found.probe_delta)}, from the image "
        f"{_percent(found.probe_image)}; by 1-NN {_percent(found.neighbour_delta)}, {_percent(found.neighbour_image)} "
        f"(chance {_percent(found.chance)})"
    )
    if found.loss is not None:
        left = ", ".join("not yet" if epoch is None else str(epoch) for epoch in found.left_at)
        yield (
            f"  fits: training loss {found.loss:.3f} at the end, left ln C = {found.chance_loss:.3f} in epoch {left}; "
            f"validation accuracy on y {_percent(found.on_y)}, on y + 1 {_percent(found.on_shifted)}"
        )
    for number, cause in enumerate(wrong, start=1):
        yield f"  {number}. {cause.says}"
        yield f"     {cause.change}"
    if not wrong:
        yield "  nothing is wrong by these measures"


def as_json(found: Numbers, wrong: Sequence[Cause]) -> dict[str, Any]:
    """A diagnosis for a metrics file."""
    numbers = {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(found).items()}
    return {**numbers, "causes": [asdict(cause) for cause in wrong]}


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"
