"""Signs that gradients are masked: that an attack failed because of the attack, not because the model is robust.

Source: Carlini et al. 2019, "On Evaluating Adversarial Robustness"; Athalye et al. 2018; the flags of AutoAttack
(Croce & Hein 2020). Every check is a number that must not exceed its threshold.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from notbugs.attacks import pgd
from notbugs.attacks.engine import Engine, frozen
from notbugs.attacks.gradients import look
from notbugs.attacks.losses import LOSSES, NO_NUMBER, USUAL_LOSS, called, fools
from notbugs.attacks.norms import Ball, norm_of
from notbugs.data.images import ImageData
from notbugs.evaluation.accuracy import adversarially_correct, engine_of, model_device, on_device, predict
from notbugs.evaluation.intervals import wilson_interval

SMALL_SHARE = 0.002
"""Share of images by which a weaker attack may be better: AutoAttack's bound for Square; or one image, if more."""
NOISE_DRAWS = 20
"""Random points of the ball that white-box attacks are compared with."""
LARGE_STEPS = 200
"""PGD steps at the radius that holds every image."""
REPEATS = 1e-3
"""Relative difference of two evaluations of the same images that rounding explains."""
ZERO_SHARE = 0.01
"""Share of images whose gradient may vanish; or one image, if more."""
HALF_EXAMPLES = 200
"""Images on which an attack in half precision is compared with the same in full, where engines use half."""
HALF_SHARE = 0.01
"""Share of them that only the attack in full precision may fool: some lie on the edge of their ball."""
LARGEST_GAP = 0.1
"""Share of images by which all attacks together may beat the headline's PGD. On the cross-entropy alone it is weaker on
honest models too: by 8 points on a robust model of digits at eps 0.6, by 2 to 5 on most of CIFAR-10's. AutoAttack's
authors speak of ten points where they count the defences whose own evaluation misled (Croce & Hein 2020)."""
PROBABILITY_SHARE = 0.5
"""Share of images whose outputs may look like probabilities."""


@dataclass(frozen=True)
class Check:
    """One check of a model's evaluation: passed if value <= threshold."""

    check: str
    value: float
    threshold: float

    @property
    def passed(self) -> bool:
        """Whether nothing suspicious was found; NaN is suspicious."""
        return self.value <= self.threshold


@dataclass(frozen=True)
class Standing:
    """Which examples stood at the headline radius after which attacks; each (N,) bool, on the CPU.

    Attributes:
        headline: after the headline's PGD alone.
        fewer_steps, more_steps: before and after PGD with more steps.
        fewer_restarts, more_restarts: before and after PGD with restarts.
        gradient: after all attacks that use gradients. square: after Square as well.
    """

    headline: Tensor
    fewer_steps: Tensor
    more_steps: Tensor
    fewer_restarts: Tensor
    more_restarts: Tensor
    gradient: Tensor
    square: Tensor


@dataclass(frozen=True)
class Signs:
    """What was looked at besides, example by example; each (N,), on the CPU.

    Attributes:
        one_step: withstands an attack of one step.
        transferred: fooled by what fools another model; None where there is none.
        noise: fooled by a random point of the ball.
        large_eps: withstands where every image is in the ball.
        random: float64, largest relative difference of two evaluations of its batch.
        zero: the gradient of the cross-entropy, as attacks see it, is zero.
        probabilities: the outputs look like probabilities.
        numberless: the logits are no numbers at the image, one step away from it, or at a random point of the ball.
        missed: withstands the engine's attack in half precision, not the same in full; of some images only, none of
            them where engines use full precision.
    """

    one_step: Tensor
    transferred: Tensor | None
    noise: Tensor
    large_eps: Tensor
    random: Tensor
    zero: Tensor
    probabilities: Tensor
    numberless: Tensor
    missed: Tensor


@dataclass(frozen=True)
class Attacked:
    """A model, and the images on which it is attacked within one radius.

    Attributes:
        model: judges what the attacks find.
        engine: made from it, and attacked in its place.
        data: the images.
        first: row of the test split that they begin with.
        norm, eps: the ball.
        batch_size: images attacked at a time.
        generator: for everything random.
        loss: what PGD climbs.
    """

    model: nn.Module
    engine: Engine
    data: ImageData
    first: int
    norm: str
    eps: float
    batch_size: int
    generator: torch.Generator
    loss: str = USUAL_LOSS

    @property
    def ball(self) -> type[Ball]:
        """What the norm says of itself."""
        return norm_of(self.norm)

    def withstand(self, rows: Tensor | slice = slice(None), **arguments: Any) -> Tensor:
        """Which of the images at some rows withstand PGD, (n,) bool; arguments: of `pgd`, by default at this radius."""
        return adversarially_correct(
            self.model,
            self.data.select(rows),
            batch_size=self.batch_size,
            generator=self.generator,
            numbers=self.first + torch.arange(len(self.data))[rows],
            **{"norm": self.norm, "loss": self.loss, "eps": self.eps, "engine": self.engine, **arguments},
        )

    def logits(self, images: Tensor) -> Tensor:
        """What the model says of other images, (n, K)."""
        return predict(self.model, images, batch_size=self.batch_size)


def look_for_signs(attacked: Attacked, *, headline_num_steps: int, transferred: Tensor | None = None) -> Signs:
    """Look at one model on some images.

    Args:
        attacked: the model, looked at for its gradients, and its engine.
        headline_num_steps: of the PGD that an engine in half precision is compared by.
        transferred: (N, C, H, W), adversarial images of another model (`transfer_images`); None leaves them out.
    """
    data, eps = attacked.data, attacked.eps
    one_step = attacked.withstand(num_steps=1, step_size=eps)
    fooled = None if transferred is None else fools(attacked.logits(transferred), data.labels)
    noise, noise_numberless = _under_noise(attacked)
    radius = attacked.ball.largest_radius(data.images[0])
    large = attacked.withstand(eps=radius, num_steps=LARGE_STEPS, step_size=min(radius, eps / 2))
    missed = _missed_by_half(attacked, headline_num_steps)
    random, zero, probabilities, numberless = _own_signs(attacked)
    return Signs(one_step, fooled, noise, large, random, zero, probabilities, numberless | noise_numberless, missed)


def masking_checks(standing: Standing, signs: Signs) -> list[Check]:
    """All checks of one model, from what was found of all images."""
    n = len(signs.noise)
    share = max(SMALL_SHARE, 1 / n)
    checks = [
        Check("logits_finite", _share(signs.numberless), 0.0),
        Check("headline_close_to_worst", _share(standing.headline & ~standing.square), max(LARGEST_GAP, 1 / n)),
        Check("iterative_beats_one_step", _share(standing.headline) - _share(signs.one_step), share),
    ]
    if signs.transferred is not None:
        checks.append(Check("white_box_beats_transfer", _share(standing.gradient & signs.transferred), share))
    if len(signs.missed):
        checks.append(Check("half_precision_misses_nothing", _share(signs.missed), HALF_SHARE))
    return [
        *checks,
        Check("white_box_beats_noise", _share(standing.gradient & signs.noise), share),
        _changes_nothing("more_steps_change_nothing", standing.fewer_steps, standing.more_steps),
        _changes_nothing("more_restarts_change_nothing", standing.fewer_restarts, standing.more_restarts),
        Check("large_eps_always_succeeds", _share(signs.large_eps), 0.0),
        Check("gradients_not_random", float(signs.random.max()), REPEATS),
        Check("gradients_not_zero", _share(signs.zero), max(ZERO_SHARE, 1 / n)),
        Check("outputs_are_logits", _share(signs.probabilities), PROBABILITY_SHARE),
        Check("square_does_not_beat_gradients", _share(standing.gradient & ~standing.square), share),
    ]


def transfer_images(
    source: nn.Module,
    data: ImageData,
    *,
    eps: float,
    norm: str = "l2",
    loss: str = USUAL_LOSS,
    num_steps: int = 20,
    batch_size: int = 500,
) -> Tensor:
    """What fools another model: its last PGD iterates, (N, C, H, W) on the CPU."""
    engine = engine_of(source, data)

    def fooling(_: slice, inputs: Tensor, labels: Tensor) -> Tensor:
        found = pgd(engine, inputs, labels, norm=norm, loss=loss, eps=eps, num_steps=num_steps, judge=False)
        return found.x_adv.cpu()

    return torch.cat(on_device("transfer", data, model_device(source), batch_size, fooling))


def _share(examples: Tensor) -> float:
    return float(examples.double().mean())


def _changes_nothing(name: str, before: Tensor, after: Tensor) -> Check:
    """What the stronger attack takes away must lie within the Wilson interval of what stood before or stands after."""
    left = before & after
    low, _ = wilson_interval(int(before.sum()), len(before))
    _, high = wilson_interval(int(left.sum()), len(left))
    return Check(name, _share(before & ~after), max(_share(before) - low, high - _share(left)))


def _under_noise(attacked: Attacked) -> tuple[Tensor, Tensor]:
    """Which images any of NOISE_DRAWS uniform points of the ball fools, and at which of them the logits are no numbers.

    Returns: two of (N,) bool.
    """
    data = attacked.data
    fooled, numberless = torch.zeros(2, len(data), dtype=torch.bool)
    for _ in range(NOISE_DRAWS):
        noise = attacked.ball.random(data.images, attacked.eps, attacked.generator)
        logits = attacked.logits((data.images + noise).clamp(0, 1))
        fooled |= fools(logits, data.labels)
        numberless |= called(logits) == NO_NUMBER
    return fooled, numberless


def _missed_by_half(attacked: Attacked, num_steps: int) -> Tensor:
    """Which images withstand PGD on the engine in half precision, but not on one in full, (n,) bool."""
    few = slice(0, HALF_EXAMPLES if attacked.engine.half_dtype and not attacked.first else 0)
    in_half = attacked.withstand(few, num_steps=num_steps)
    if not len(in_half):
        return in_half
    full = engine_of(attacked.model, attacked.data, half=None)
    return in_half & ~attacked.withstand(few, num_steps=num_steps, engine=full)


def _own_signs(attacked: Attacked) -> list[Tensor]:
    """What the network itself gives away: `random`, `zero`, `probabilities` and `numberless` of `Signs`."""
    model = attacked.model

    def signs(_: slice, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        logits, gradient = _evaluated(model, inputs, labels)
        again, gradient_again = _evaluated(model, inputs, labels)
        difference = max(_difference(logits, again), _difference(gradient, gradient_again))
        random = torch.full((len(inputs),), difference, dtype=torch.float64)
        zero = (gradient == 0).flatten(1).all(dim=1)
        in_range = ((logits >= 0) & (logits <= 1 + 1e-4)).all(dim=1)
        probabilities = in_range & ((logits.sum(dim=1) - 1).abs() < 1e-3)
        ahead = inputs.clone()
        attacked.ball(inputs, attacked.eps).climb_(ahead, gradient, attacked.eps)
        numberless = called(logits) == NO_NUMBER
        numberless |= called(_evaluated(model, ahead, labels)[0]) == NO_NUMBER
        return random, zero.cpu(), probabilities.cpu(), numberless.cpu()

    with frozen(model):
        found = on_device("masking", attacked.data, model_device(model), attacked.batch_size, signs)
    return [torch.cat(parts) for parts in zip(*found, strict=True)]


def _evaluated(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K), and the cross-entropy's gradient at each input, (N, C, H, W), to a factor, as attacks see it."""
    slope = LOSSES["cross_entropy"].slope
    assert slope is not None
    return look(model, inputs, lambda logits: slope(logits, labels))


def _difference(first: Tensor, second: Tensor) -> float:
    """Largest difference as a share of the largest entry; entries that are no numbers in both agree."""
    difference, scale = (first - second).nan_to_num(0.0), first.nan_to_num(0.0, 0.0, 0.0).abs().amax().clamp(min=1e-12)
    return float(difference.abs().amax() / scale)
