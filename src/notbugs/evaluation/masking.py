"""Signs that gradients are masked: that an attack failed because of the attack, not because the model is robust.

Source: Carlini et al. 2019, "On Evaluating Adversarial Robustness"; Athalye et al. 2018; the flags of AutoAttack
(Croce & Hein 2020). Every check is a number that must not exceed its threshold.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from notbugs.attacks import AttackSettings, pgd
from notbugs.attacks.engine import Engine, frozen
from notbugs.attacks.gradients import look
from notbugs.attacks.losses import LOSSES, NO_NUMBER, called, fools
from notbugs.attacks.projections import NORMS
from notbugs.data.images import ImageData
from notbugs.evaluation.accuracy import adversarially_correct, model_device, predict
from notbugs.evaluation.intervals import wilson_interval
from notbugs.evaluation.levels import SuiteSettings
from notbugs.runtime.out_of_memory import BatchSplitter

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


def look_for_signs(
    model: nn.Module,
    data: ImageData,
    settings: SuiteSettings,
    *,
    engine: Engine,
    generator: torch.Generator,
    transferred: Tensor | None = None,
    first: int = 0,
) -> Signs:
    """Look at one model on some images.

    Args:
        model: judged, and looked at for its gradients.
        data: the images.
        engine: made from the model; attacked.
        generator: for noise.
        transferred: (N, C, H, W), adversarial images of another model (`transfer_images`); None leaves them out.
        first: row of the test split that the images begin with.
    """
    one_step = AttackSettings(
        norm=settings.norm, eps=settings.headline_eps, num_steps=1, step_size=settings.headline_eps
    )
    after_one = adversarially_correct(
        model, data, one_step, batch_size=settings.batch_size, generator=generator, engine=engine
    )
    fooled = None if transferred is None else fools(_logits(model, transferred, settings), data.labels)
    noise, noise_numberless = _under_noise(model, data, settings, generator)
    large = _stands_at_large_eps(model, data, settings, engine, generator)
    few = data.select(slice(0, HALF_EXAMPLES if engine.half_dtype and not first else 0))
    missed = _missed_by_half(model, few, settings, engine, generator)
    random, zero, probabilities, numberless = _own_signs(model, data, settings)
    return Signs(after_one, fooled, noise, large, random, zero, probabilities, numberless | noise_numberless, missed)


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


def transfer_images(source: nn.Module, data: ImageData, settings: SuiteSettings) -> Tensor:
    """What fools another model: its last PGD iterates at the headline radius, (N, C, H, W) on the CPU."""
    device = model_device(source)
    attack = settings.pgd(settings.num_steps)
    engine = Engine(source, data.images[:8].to(device))

    def fooling(rows: slice) -> Tensor:
        """Last iterates for some images, (n, C, H, W) on the CPU."""
        return pgd(
            engine,
            data.images[rows].to(device),
            data.labels[rows].to(device),
            norm=attack.norm,
            eps=attack.eps,
            step_size=attack.step,
            num_steps=attack.num_steps,
            judge=False,
        ).x_adv.cpu()

    return torch.cat(BatchSplitter("transfer").map(len(data), settings.batch_size, fooling))


def _share(examples: Tensor) -> float:
    return float(examples.double().mean())


def _logits(model: nn.Module, images: Tensor, settings: SuiteSettings) -> Tensor:
    return predict(model, images, batch_size=settings.batch_size)


def _changes_nothing(name: str, before: Tensor, after: Tensor) -> Check:
    """What the stronger attack takes away must lie within the Wilson interval of what stood before or stands after."""
    left = before & after
    low, _ = wilson_interval(int(before.sum()), len(before))
    _, high = wilson_interval(int(left.sum()), len(left))
    return Check(name, _share(before & ~after), max(_share(before) - low, high - _share(left)))


def _under_noise(
    model: nn.Module, data: ImageData, settings: SuiteSettings, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Which images any of NOISE_DRAWS uniform points of the ball fools, and at which of them the logits are no numbers.

    Returns: two of (N,) bool.
    """
    fooled, numberless = torch.zeros(2, len(data), dtype=torch.bool)
    for _ in range(NOISE_DRAWS):
        noise = NORMS[settings.norm].random(data.images, settings.headline_eps, generator)
        logits = _logits(model, (data.images + noise).clamp(0, 1), settings)
        fooled |= fools(logits, data.labels)
        numberless |= called(logits) == NO_NUMBER
    return fooled, numberless


def _stands_at_large_eps(
    model: nn.Module, data: ImageData, settings: SuiteSettings, engine: Engine, generator: torch.Generator
) -> Tensor:
    """Which images withstand PGD in a ball that holds all of [0, 1]^d: its radius is sqrt(d) in L2, 1 in L-infinity."""
    radius = math.sqrt(data.images[0].numel()) if settings.norm == "l2" else 1.0
    attack = AttackSettings(
        norm=settings.norm, eps=radius, num_steps=LARGE_STEPS, step_size=min(radius, settings.headline_eps / 2)
    )
    return adversarially_correct(
        model, data, attack, batch_size=settings.batch_size, generator=generator, engine=engine
    )


def _missed_by_half(
    model: nn.Module, data: ImageData, settings: SuiteSettings, engine: Engine, generator: torch.Generator
) -> Tensor:
    """Which images withstand the headline's PGD on the engine in half precision, but not on one in full, (N,) bool."""
    if not len(data):
        return torch.zeros(0, dtype=torch.bool)
    full = Engine(model, data.images[:8].to(model_device(model)), half=None)
    attack = settings.pgd(settings.headline_num_steps)
    in_half, in_full = (
        adversarially_correct(model, data, attack, batch_size=settings.batch_size, generator=generator, engine=attacked)
        for attacked in (engine, full)
    )
    return in_half & ~in_full


def _own_signs(model: nn.Module, data: ImageData, settings: SuiteSettings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the network itself gives away: `random`, `zero`, `probabilities` and `numberless` of `Signs`."""
    device = model_device(model)

    def signs(rows: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        inputs, labels = data.images[rows].to(device), data.labels[rows].to(device)
        logits, gradient = _evaluated(model, inputs, labels)
        again, gradient_again = _evaluated(model, inputs, labels)
        difference = max(_difference(logits, again), _difference(gradient, gradient_again))
        random = torch.full((len(inputs),), difference, dtype=torch.float64)
        zero = (gradient == 0).flatten(1).all(dim=1)
        in_range = ((logits >= 0) & (logits <= 1 + 1e-4)).all(dim=1)
        probabilities = in_range & ((logits.sum(dim=1) - 1).abs() < 1e-3)
        ball = NORMS[settings.norm].ball(inputs, settings.headline_eps)
        ahead = inputs.clone()
        ball.climb_(ahead, gradient, settings.headline_eps)
        numberless = called(logits) == NO_NUMBER
        numberless |= called(_evaluated(model, ahead, labels)[0]) == NO_NUMBER
        return random, zero.cpu(), probabilities.cpu(), numberless.cpu()

    with frozen(model):
        found = BatchSplitter("masking").map(len(data), settings.batch_size, signs)
    random, zero, probabilities, numberless = (torch.cat(parts) for parts in zip(*found, strict=True))
    return random, zero, probabilities, numberless


def _evaluated(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K), and the cross-entropy's gradient at each input, (N, C, H, W), to a factor, as attacks see it."""
    slope = LOSSES["cross_entropy"].slope
    assert slope is not None
    return look(model, inputs, lambda logits: slope(logits, labels))


def _difference(first: Tensor, second: Tensor) -> float:
    """Largest difference as a share of the largest entry; entries that are no numbers in both agree."""
    difference, scale = (first - second).nan_to_num(0.0), first.nan_to_num(0.0, 0.0, 0.0).abs().amax().clamp(min=1e-12)
    return float(difference.abs().amax() / scale)
