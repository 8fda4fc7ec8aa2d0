"""Signs that gradients are masked: that an attack failed because of the attack, not because the model is robust.

Source: Carlini et al. 2019, "On Evaluating Adversarial Robustness"; Athalye et al. 2018; the flags of AutoAttack
(Croce & Hein 2020). Every check is a number that must not exceed its threshold.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from notbugs.attacks import AttackSettings, run_attack
from notbugs.attacks.engine import Engine, frozen
from notbugs.attacks.projections import NORMS
from notbugs.evaluation import adversarially_correct, batches, model_device, predict
from notbugs.images import Images
from notbugs.intervals import wilson_interval
from notbugs.robustness.settings import SuiteSettings

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


def masking_checks(
    model: nn.Module,
    data: Images,
    settings: SuiteSettings,
    standing: Standing,
    *,
    engine: Engine,
    generator: torch.Generator,
    transfer_from: nn.Module | None = None,
) -> list[Check]:
    """All checks of one model.

    Args:
        model: judged, and looked at for its gradients.
        data: the images that `standing` speaks of.
        engine: made from the model; attacked.
        generator: for noise.
        transfer_from: another model, whose adversarial images are tried on this one; None leaves that check out.
    """
    n = len(data)
    share = max(SMALL_SHARE, 1 / n)
    one_step = AttackSettings(
        norm=settings.norm, eps=settings.headline_eps, num_steps=1, step_size=settings.headline_eps
    )
    after_one = adversarially_correct(
        model, data, one_step, batch_size=settings.batch_size, generator=generator, engine=engine
    )
    checks = [Check("iterative_beats_one_step", _share(standing.headline) - _share(after_one), share)]
    if transfer_from is not None:
        fooled = fooled_by_transfer(model, transfer_from, data, settings)
        checks.append(Check("white_box_beats_transfer", _share(standing.gradient & fooled), share))
    fooled = _fooled_by_noise(model, data, settings, generator)
    checks += [
        Check("white_box_beats_noise", _share(standing.gradient & fooled), share),
        _changes_nothing("more_steps_change_nothing", standing.fewer_steps, standing.more_steps),
        _changes_nothing("more_restarts_change_nothing", standing.fewer_restarts, standing.more_restarts),
        Check("large_eps_always_succeeds", _left_at_large_eps(model, data, settings, engine, generator), 0.0),
    ]
    random, zero, probabilities = _signs(model, data, settings)
    return [
        *checks,
        Check("gradients_not_random", random, REPEATS),
        Check("gradients_not_zero", zero, max(ZERO_SHARE, 1 / n)),
        Check("outputs_are_logits", probabilities, PROBABILITY_SHARE),
        Check("square_does_not_beat_gradients", _share(standing.gradient & ~standing.square), share),
    ]


def _share(examples: Tensor) -> float:
    return float(examples.double().mean())


def _changes_nothing(name: str, before: Tensor, after: Tensor) -> Check:
    """What the stronger attack takes away must lie within the Wilson interval of what stood before or stands after."""
    left = before & after
    low, _ = wilson_interval(int(before.sum()), len(before))
    _, high = wilson_interval(int(left.sum()), len(left))
    return Check(name, _share(before & ~after), max(_share(before) - low, high - _share(left)))


def fooled_by_transfer(model: nn.Module, source: nn.Module, data: Images, settings: SuiteSettings) -> Tensor:
    """Which images fool the model when another one is attacked: its last PGD iterates at the headline radius, (N,)."""
    device = model_device(source)
    attack = settings.pgd(settings.num_steps)
    engine = Engine(source, data.select(slice(0, 8)).images.to(device))
    fooled = []
    for batch in batches(len(data), settings.batch_size):
        some = data.select(batch)
        found = run_attack(engine, some.images.to(device), some.labels.to(device), attack, judge=False)
        fooled.append(predict(model, found.x_adv).argmax(dim=1) != some.labels)
    return torch.cat(fooled)


def _fooled_by_noise(model: nn.Module, data: Images, settings: SuiteSettings, generator: torch.Generator) -> Tensor:
    """Which images any of NOISE_DRAWS uniform points of the ball fools, (N,) bool."""
    fooled = torch.zeros(len(data), dtype=torch.bool)
    for batch in batches(len(data), settings.batch_size):
        some = data.select(batch)
        for _ in range(NOISE_DRAWS):
            noise = NORMS[settings.norm].random(some.images, settings.headline_eps, generator)
            noisy = (some.images + noise).clamp(0, 1)
            fooled[batch] |= predict(model, noisy).argmax(dim=1) != some.labels
    return fooled


def _left_at_large_eps(
    model: nn.Module, data: Images, settings: SuiteSettings, engine: Engine, generator: torch.Generator
) -> float:
    """Accuracy under PGD in a ball that holds every image of [0, 1]^d: its radius is sqrt(d) in L2, 1 in L-infinity."""
    radius = math.sqrt(math.prod(data.image_shape)) if settings.norm == "l2" else 1.0
    attack = AttackSettings(
        norm=settings.norm, eps=radius, num_steps=LARGE_STEPS, step_size=min(radius, settings.headline_eps / 2)
    )
    left = adversarially_correct(
        model, data, attack, batch_size=settings.batch_size, generator=generator, engine=engine
    )
    return _share(left)


def _signs(model: nn.Module, data: Images, settings: SuiteSettings) -> tuple[float, float, float]:
    """What the network itself gives away.

    Returns: the largest relative difference of logits and gradients between two evaluations; the share of images at
        which the gradient of the cross-entropy is zero or no number; the share whose outputs are probabilities.
    """
    device = model_device(model)
    random, zero, probabilities = 0.0, 0, 0
    with frozen(model):
        for batch in batches(len(data), settings.batch_size):
            some = data.select(batch)
            inputs, labels = some.images.to(device), some.labels.to(device)
            logits, gradient = _evaluated(model, inputs, labels)
            again, gradient_again = _evaluated(model, inputs, labels)
            random = max(random, _difference(logits, again), _difference(gradient, gradient_again))
            size = gradient.flatten(1).abs().amax(dim=1)  # (n,)
            zero += int((~(size > 0) | ~torch.isfinite(size)).sum())
            in_range = ((logits >= 0) & (logits <= 1 + 1e-4)).all(dim=1)
            probabilities += int((in_range & ((logits.sum(dim=1) - 1).abs() < 1e-3)).sum())
    return random, zero / len(data), probabilities / len(data)


def _evaluated(model: nn.Module, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and the gradient of the cross-entropy at each input, (N, C, H, W)."""
    with torch.enable_grad():
        leaf = inputs.detach().clone().requires_grad_()
        logits = model(leaf)
        if not logits.requires_grad:  # a network that hides its gradient altogether
            return logits, torch.zeros_like(inputs)
        loss = functional.cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, leaf)
    return logits.detach(), gradient


def _difference(first: Tensor, second: Tensor) -> float:
    """Largest difference as a share of the largest entry."""
    scale = first.abs().amax().clamp(min=1e-12)
    return float((first - second).abs().amax() / scale)
