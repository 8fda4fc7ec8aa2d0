"""Bugs (Nakkiran, Distill 2019): targeted adversarial examples that are made not to transfer. Do they teach y?

Inside D_det's ball around x, with f the source, f_1 to f_M other standard models, and t = y + 1,

    x_adv = argmin L(f(x'), t) + weight · mean_i L(f_i(x'), y)

Weight 0 is plain D_det. Classifiers are fitted on the examples of each weight, labelled t. How far the examples
transfer is measured with standard models that are neither the source nor in the ensemble.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks import pgd
from notbugs.data.images import ImageData, Images, make_generator
from notbugs.evaluation.accuracy import called_by, engine_of, on_device, shifted_labels
from notbugs.evaluation.statements import Chart, Position, Series, Verdict
from notbugs.models import create_model
from notbugs.models.base import Classifier
from notbugs.runtime.config import Seeds
from notbugs.science.common.lab import Answer, Lab, require_images
from notbugs.science.common.question import Question, QuestionSettings
from notbugs.science.common.shares import Spread, share, share_table, wilson_share
from notbugs.science.common.training import StandardTraining, trained
from notbugs.science.debate._budgets import Budget
from notbugs.science.debate._shared import fits, gaps, in_points, in_words, judged, near, on_shifted, on_y, sub_sample

HELD = 0.9
"""Share of plain D_det's success on the source that a weight must keep: a fall of teaching below it could be that of
the attack."""
HALVED = 0.5
"""Share of plain D_det's transfer that must be left at most: above it transfer was hardly lowered."""
FALL = 0.10
"""Points of accuracy on y that teaching must lose: a third of the 30 reported, and what a few hundred test images tell
from 0."""
NO_TRANSFER = 0.05
"""Share of the examples that held-out models call t, up to which they count as not transferring."""
NOTHING = 0.05
"""Points above chance below which a fit has learnt nothing of y: 2.8% was reported, below chance."""

THESE_MODELS = Spread(0.0, 1)
"""The ensemble's models are those of the loss, no sample of models: their interval is that of the images alone."""


class BugsSettings(QuestionSettings):
    """How examples are made not to transfer, and how they are learnt."""

    attack: Budget
    """Ball and steps of every example: those of D_det."""
    weights: tuple[float, ...] = Field(strict=False, min_length=2)
    """Of the ensemble's term: a rising list that begins with 0, plain D_det."""
    num_members: int = Field(default=3, ge=1)
    """Standard models of the ensemble."""
    num_held_out: int = Field(default=1, ge=1)
    """Further standard models, which say how far the examples transfer."""
    d: StandardTraining
    """How standard models are trained, where `train.standard` has too few beside the source."""
    fit: StandardTraining
    """How the examples are learnt, with the pipeline's architecture."""
    seeds: Seeds = (0, 1)
    """One fit for each, at every weight."""
    max_examples: int | None = Field(default=None, ge=10)
    """At most so many training images of D; null takes all."""

    @field_validator("weights")
    @classmethod
    def _rise_from_zero(cls, weights: tuple[float, ...]) -> tuple[float, ...]:
        if weights[0] != 0 or not all(earlier < later < float("inf") for earlier, later in pairwise(weights)):
            raise ValueError("a rising list of finite weights that begins with 0 (plain D_det)")
        return weights

    def check_data(self, data: Mapping[str, Images]) -> None:
        """Raises: UnfitError for fewer images than classes."""
        require_images("max_examples", self.max_examples, len(data["train"].labels.unique()))


class Stacked(nn.Module):
    """The logits of several classifiers side by side: (N, C, H, W) -> (N, M·K), the first one's first."""

    def __init__(self, members: Sequence[Classifier]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, M·K)."""
        return torch.cat([member(x) for member in self.members], dim=1)


def bug_loss(logits: Tensor, labels: Tensor, *, num_models: int, weight: float) -> Tensor:
    """L(f, t) + weight · mean_i L(f_i, y), per example.

    Args:
        logits: of f, then of each f_i, side by side, (N, num_models·K).
        labels: (N, 2), t and y.
    Returns: (N,); for one model L(f, t) alone.
    """
    source, *others = logits.chunk(num_models, dim=1)
    losses = functional.cross_entropy(source, labels[:, 0], reduction="none")
    if others:
        kept = [functional.cross_entropy(one, labels[:, 1], reduction="none") for one in others]
        losses = losses + weight * torch.stack(kept).mean(dim=0)
    return losses


def bugs(lab: Lab, settings: BugsSettings) -> Answer:
    """Transfer and teaching of D_det by the weight of the ensemble's term.

    On digits about 30 s. Expected: both fall together, while the source calls as many examples t as before.
    """
    test = lab.data["test"].data()
    data = sub_sample(lab.data["train"], settings.max_examples, make_generator(lab.seed, "bugs", "images"))
    targets = shifted_labels(data.labels, len(data.class_names))
    others = _standard_models(lab, settings)
    members, held_out = others.models[: settings.num_members], others.models[settings.num_members :]
    parts: dict[str, Callable[[Lab], Tensor]] = {}
    for weight in settings.weights:
        made = partial(_made, data=data, members=members, weight=weight, attack=settings.attack)
        parts[f"bugs-images-{weight:g}"] = made
    found = lab.load_or_make_all(parts, "bugs, examples")
    learnt = {
        f"{weight:g}": ImageData(images, targets, data.class_names)
        for weight, images in zip(settings.weights, found, strict=True)
    }
    called = fits(lab, learnt, settings.fit, settings.seeds, "bugs", test)
    masks, attacked = {}, {}
    for name, examples in learnt.items():
        hit = [called_by(model, examples.images) == targets for model in (lab.models["standard"], *others.models)]
        count = len(members) + 1
        attacked[name] = {"success": wilson_share(hit[0]), "members": share(hit[1:count], THESE_MODELS)}
        right = {"on_y": on_y(called[name], test), "on_shifted": on_shifted(called[name], test)}
        masks[name] = {"transfer": hit[count:], **right}
    table = share_table(masks)
    against = gaps({name: (row["on_y"], masks["0"]["on_y"]) for name, row in masks.items() if name != "0"})
    rows = {name: {**attacked[name], **row, "against_plain": against.get(name)} for name, row in table.items()}
    metrics: dict[str, Any] = {"norm": settings.attack.ball.title or settings.attack.norm, "eps": settings.attack.eps}
    metrics |= {"num_images": len(data), "num_members": len(members), "num_held_out": len(held_out)}
    metrics |= {"num_trained": others.num_trained, "chance": round(1 / len(test.class_names), 6)}
    metrics["untouched"] = share([called_by(model, data.images) == targets for model in held_out])
    metrics |= {"held": HELD, "judged": _judged(rows), "weights": rows}
    told = "; ".join(f"{name}: {in_words(row['transfer'])} and {in_words(row['on_y'])}" for name, row in rows.items())
    says = f"transfer to held-out models and accuracy on y, by weight of the ensemble's term: {told}"
    return Answer(metrics, (says,), charts=[_chart(metrics)], verdicts=_verdicts(metrics))


class _Others(NamedTuple):
    """Standard models that are not the source, and how many of them were trained here."""

    models: list[Classifier]
    num_trained: int


def _standard_models(lab: Lab, settings: BugsSettings) -> _Others:
    """As many as the ensemble and the held-out ones need: the pipeline's of other seeds, then trained ones."""
    needed = settings.num_members + settings.num_held_out
    given = [lab.load(file) for file in lab.trained["standard"]]
    models = [model for model in given if not _same(model, lab.models["standard"])][:needed]
    lacking = range(needed - len(models))
    parts = {f"bugs-model-{number}": partial(_weights, settings=settings, number=number) for number in lacking}
    train = lab.data["train"]
    for weights in lab.load_or_make_all(parts, "bugs: standard models"):
        model = create_model(
            image_shape=train.image_shape, class_names=train.class_names, **lab.architecture.arguments()
        )
        model.load_state_dict(weights)
        models.append(model.to(lab.device).eval())
    return _Others(models, len(lacking))


def _same(model: Classifier, other: Classifier) -> bool:
    weights, theirs = model.state_dict(), other.state_dict()
    return weights.keys() == theirs.keys() and all(torch.equal(weights[name], theirs[name]) for name in weights)


def _weights(lab: Lab, *, settings: BugsSettings, number: int) -> dict[str, Tensor]:
    stream = ("bugs", "standard", number)
    model = trained(lab, lab.architecture, lab.data["train"], settings.d, stream, f"bugs: standard model {number}")
    return {name: values.cpu() for name, values in model.state_dict().items()}


def _made(lab: Lab, *, data: ImageData, members: Sequence[Classifier], weight: float, attack: Budget) -> Tensor:
    """The examples of one weight, last iterates as in D_det: (N, C, H, W), on the CPU."""
    models = [lab.models["standard"], *(members if weight else ())]
    engine = engine_of(Stacked(models).to(lab.device), data)
    loss = partial(bug_loss, num_models=len(models), weight=weight)

    def attacked(rows: slice, inputs: Tensor, labels: Tensor) -> Tensor:
        aims = torch.stack([shifted_labels(labels, len(data.class_names)), labels], dim=1)  # (n, 2)
        return pgd(engine, inputs, aims, **attack.attack(), loss=loss, targeted=True, judge=False).x_adv.cpu()

    return torch.cat(on_device("examples", data, lab.device, 500, attacked))


def _judged(rows: Mapping[str, Mapping[str, Any]]) -> str | None:
    """The largest weight at which the source still calls HELD of plain D_det's examples t; None if only 0 does."""
    least = HELD * rows["0"]["success"]["value"]
    held = [name for name, row in rows.items() if name != "0" and row["success"]["value"] >= least]
    return held[-1] if held else None


def _verdicts(metrics: Mapping[str, Any]) -> list[Verdict]:
    """Of the judged weight: whether y falls by at least FALL, and whether less than NOTHING above chance is left."""
    rows, chance, basis = metrics["weights"], metrics["chance"], _basis(metrics)
    plain, row = rows["0"], rows.get(metrics["judged"])
    statements = ("lowers", "Lowering transfer lowers teaching"), ("nothing", "What does not transfer teaches nothing")
    if row is None:
        told = ", ".join(f"weight {name}: {in_words(one['success'])}" for name, one in rows.items())
        why = f"No weight keeps {100 * HELD:g}% of plain D_det's success on the source:"
        return [judged(key, title, f"{told}.", basis, holds=False, why_open=why) for key, title in statements]
    gap, transfer, limit = row["against_plain"], row["transfer"], chance + NOTHING
    told = (
        f"Weight {metrics['judged']} (weight 0): held-out models call {in_words(transfer)} t "
        f"({in_words(plain['transfer'])}), the source {in_words(row['success'])} ({in_words(plain['success'])}); "
        f"on y {in_words(row['on_y'])} ({in_words(plain['on_y'])})"
    )
    unlearnt = f"Plain D_det does not teach y above chance ({chance:.1%})." if plain["on_y"]["low"] <= chance else ""
    lowered = transfer["mean"] <= HALVED * plain["transfer"]["mean"]
    hardly = "" if lowered else f"Transfer was not lowered to {100 * HALVED:g}%."
    still = f"More than {100 * NO_TRANSFER:g}% still transfer." if transfer["mean"] > NO_TRANSFER else ""
    return [
        judged(
            *statements[0],
            f"{told}: {in_points(gap)}. Threshold: −{100 * FALL:g} points.",
            basis,
            holds=gap["value"] <= -FALL and gap["high"] < 0,
            why_open=unlearnt or hardly,
            on_edge=near(gap, -FALL),
        ),
        judged(
            *statements[1],
            f"{told}. Threshold: {100 * NOTHING:g} points above chance ({chance:.1%}).",
            basis,
            holds=row["on_y"]["mean"] < limit,
            why_open=unlearnt or still,
            on_edge=near(row["on_y"], limit),
        ),
    ]


def _basis(metrics: Mapping[str, Any]) -> str:
    on = metrics["weights"]["0"]["on_y"]
    return (
        f"one source model, {metrics['num_members']} in the ensemble, {metrics['num_held_out']} held out, "
        f"{on['num_seeds']} fits at each weight, {on['n']} test images"
    )


def _chart(metrics: Mapping[str, Any]) -> Chart:
    labels = {
        "success": "source calls t",
        "transfer": "held-out models call t",
        "on_y": "fits, test accuracy on y",
        "on_shifted": "fits, test accuracy on y + 1",
    }
    rows = metrics["weights"]
    series = [Series.of_shares(label, {name: row[key] for name, row in rows.items()}) for key, label in labels.items()]
    caption = (
        f"D_det made not to transfer, by the weight of the loss on y of {metrics['num_members']} other models. "
        "Weight 0 is plain D_det; whiskers: 95% intervals."
    )
    marks = {"chance": metrics["chance"]}
    return Chart("weights", caption, "weight of the ensemble's term", "share", series, marks=marks)


QUESTION = Question(
    settings=BugsSettings,
    study=bugs,
    inputs=("data/train", "data/test", "models/train/standard"),
    title="Adversarial examples that are bugs",
    says="Do targeted adversarial examples still teach y when they are made not to transfer to other models?",
    position=Position(
        who="Nakkiran 2019",
        claim="There are adversarial examples that are bugs: they do not transfer to other models, and teach nothing.",
        reported="Fits on targeted examples that were made not to transfer reach 2.8% on y, on plain ones 33% "
        "(CIFAR-10).",
        source="https://distill.pub/2019/advex-bugs-discussion/response-5/",
        mind="Examples of which held-out models call at most half as many t as of plain D_det's, and whose fits lose "
        "less than 10 points of accuracy on y.",
    ),
)
