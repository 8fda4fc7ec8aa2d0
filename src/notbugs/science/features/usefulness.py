"""Usefulness and robust usefulness of features (equations 1 and 2 of the paper).

A feature is a function of an image, scaled to mean 0 and variance 1 on D. It speaks for one class c, or against it:
y = +1 for images of c and -1 for all others, and sign s = ±1.

    ρ = E[y·s·f(x)]          γ(eps) = E[min over ‖δ‖ <= eps of y·s·f(x + δ)]

Class and sign are chosen on the training images, ρ and γ are measured on the test images.
Source: Ilyas et al. 2019, section 2.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from notbugs.attacks import pgd
from notbugs.attacks.engine import frozen
from notbugs.attacks.losses import Loss
from notbugs.attacks.norms import norm_of
from notbugs.data.images import ImageData, Images
from notbugs.evaluation.accuracy import batches, engine_of, model_device
from notbugs.evaluation.intervals import Z_95
from notbugs.runtime.errors import UserError
from notbugs.runtime.progress import Track, silent
from notbugs.science.common.shares import Interval, interval
from notbugs.science.features.maps import FeatureMap

LEAST_STD = 1e-6
"""A feature whose standard deviation is below this share of its largest value has no variance."""


class FeatureError(UserError):
    """Features that cannot be scaled, or a class that no example has."""


@dataclass(frozen=True)
class Usefulness:
    """A usefulness with its 95% interval, and the standard error behind it."""

    value: float
    standard_error: float

    def interval(self, z: float = Z_95) -> tuple[float, float]:
        """value ± z standard errors."""
        return self.value - z * self.standard_error, self.value + z * self.standard_error


def as_share(found: Usefulness) -> Interval:
    """As the metrics files hold it."""
    return interval(found.value, *found.interval())


@dataclass(frozen=True)
class Scaling:
    """How raw features become those of mean 0 and variance 1.

    Attributes:
        mean, std: (F,). values: the scaled features of the images that they come from, (N, F) float64.
    """

    mean: Tensor
    std: Tensor
    values: Tensor


def scale(raw: Tensor) -> Scaling:
    """Scale features on D.

    Args:
        raw: (N, F), N >= 2.
    Raises: FeatureError naming the features that have no variance.
    """
    if len(raw) < 2:
        raise FeatureError(f"features are scaled on at least 2 examples, not {len(raw)}")
    still = sorted(set(range(raw.shape[1])) - set(varying(raw).tolist()))
    if still:
        raise FeatureError(f"feature {', '.join(map(str, still))}: no variance on D, so it cannot be scaled")
    values = raw.double()
    mean, std = values.mean(dim=0), values.std(dim=0, correction=0)
    return Scaling(mean, std, (values - mean) / std)


def varying(raw: Tensor) -> Tensor:
    """Places of the features that vary (dead ReLUs do not), (F',); raw: (N, F)."""
    values = raw.double()
    spread = values.std(dim=0, correction=0)
    return (spread > LEAST_STD * values.abs().amax(dim=0).clamp(min=1e-12)).nonzero().flatten()


@dataclass(frozen=True)
class Choice:
    """For each feature the class that it speaks for and its sign, (F,) each."""

    classes: Tensor
    signs: Tensor

    def sides(self, labels: Tensor) -> Tensor:
        """s·y of every example and feature: ±1, (N, F)."""
        return torch.where(labels[:, None] == self.classes, 1.0, -1.0).double() * self.signs


def choose(values: Tensor, labels: Tensor, num_classes: int) -> Choice:
    """The class and sign with the largest E[s·y·f]; values (N, F) scaled, labels (N,).

    Raises: FeatureError if a class has no example.
    """
    present = labels.unique()
    if len(present) < num_classes:
        missing = sorted(set(range(num_classes)) - set(present.tolist()))
        raise FeatureError(f"class {', '.join(map(str, missing))} has no example: usefulness needs all {num_classes}")
    sides = torch.nn.functional.one_hot(labels, num_classes).double() * 2 - 1  # (N, C)
    rho = sides.T @ values / len(values)  # (C, F)
    classes = rho.abs().argmax(dim=0)
    return Choice(classes, rho.gather(0, classes[None])[0].sign())


@dataclass(frozen=True)
class Features:
    """Features of one source, scaled and chosen on the training images.

    Attributes:
        network: gives them, scaled. scaling: on the training images. choice: class and sign of each.
        kept: their places in the source, (F,). num_dead: how many of the source's have no variance and are left out.
    """

    network: FeatureMap
    scaling: Scaling
    choice: Choice
    kept: Tensor
    num_dead: int

    def __len__(self) -> int:
        return len(self.kept)

    def signed(self, data: Images) -> Tensor:
        """s·y·f(x) of every example and feature, (N, F) float64."""
        return read(self.network, data) * self.choice.sides(data.labels)

    def usefulness(self, signed: Tensor, labels: Tensor) -> list[Usefulness]:
        """Mean of s·y·f over examples, with an interval that also knows that mean and variance are estimates.

        f̂ = (f − m̂)/ŝ, so to first order the mean moves by −E[s·y]·(m̂ − m)/s − ρ·(ŝ − s)/s: each training example
        pulls at it by −E[s·y]·f − ρ·(f² − 1)/2.

        Args:
            signed: (N, F), from `signed` or `worst`. labels: (N,) of the same examples.
        """
        value, side = signed.mean(dim=0), self.choice.sides(labels).mean(dim=0)  # (F,)
        pull = side * self.scaling.values + value * (self.scaling.values**2 - 1) / 2
        variance = signed.var(dim=0) / len(signed) + pull.var(dim=0) / len(pull)
        return [Usefulness(*pair) for pair in zip(value.tolist(), variance.sqrt().tolist(), strict=True)]


def features_of(
    source: nn.Module,
    train: Images,
    limit: int | None = None,
    generator: torch.Generator | None = None,
    *,
    choice: Choice | None = None,
) -> Features:
    """The features of a source, scaled and chosen on `train`; those without variance are left out.

    Args:
        source: a network with `representation`, in eval mode.
        limit: at most this many, drawn by `generator` (needed then) from those that vary.
        choice: class and sign of every feature of the source, where they are known; None chooses them.
    Raises: FeatureError if none varies, or a class has no example.
    """
    raw = read(source.representation, train, model_device(source))  # type: ignore[arg-type]
    kept = varying(raw)
    if not len(kept):
        raise FeatureError(f"none of the {raw.shape[1]} features varies on D")
    num_dead = raw.shape[1] - len(kept)
    if limit is not None and limit < len(kept):
        kept = kept[torch.randperm(len(kept), generator=generator)[:limit].sort().values]
    scaling = scale(raw[:, kept])
    if choice is None:
        choice = choose(scaling.values, train.labels, len(train.class_names))
    else:
        choice = Choice(choice.classes[kept], choice.signs[kept])
    network = FeatureMap(source, kept, scaling.mean, scaling.std).to(model_device(source)).eval()
    return Features(network, scaling, choice, kept, num_dead)


@torch.no_grad()
def read(network: Callable[[Tensor], Tensor], images: Tensor | Images, device: torch.device | None = None) -> Tensor:
    """What a network in eval mode gives of images (N, C, H, W) or of a dataset, (N, F) float64 on the CPU."""
    device = device or (model_device(network) if isinstance(network, nn.Module) else torch.device("cpu"))
    parts = (
        images[rows] if isinstance(images, Tensor) else images.select(rows).images
        for rows in batches(len(images), 1000)
    )
    return torch.cat([network(part.to(device)).cpu().double() for part in parts])


_SIGNED = Loss(lambda values, sides: (values * sides).sum(dim=1))
"""s·y·f of one feature an example: `sides` (N, F) is ±1 there and 0 elsewhere."""


def worst(
    features: Features,
    data: ImageData,
    *,
    eps: float,
    num_steps: int = 20,
    norm: str = "l2",
    batch_size: int = 500,
    progress: Track = silent,
    description: str = "features",
) -> Tensor:
    """s·y·f(x + δ) of every example and feature at the δ that PGD finds for it, (N, F) float64.

    PGD on s·y·f itself with steps of 2.5·eps/num_steps; of all iterates, the start included, the lowest counts.

    Raises: FeatureError for eps <= 0.
    """
    if not 0 < eps < math.inf:
        raise FeatureError(f"eps must be > 0, not {eps}")
    device = model_device(features.network)
    engine = engine_of(features.network, data)
    sides = features.choice.sides(data.labels)
    found = torch.empty(sides.shape, dtype=torch.float64)
    for number in progress(range(len(features)), f"{description}, features"):
        for part in batches(len(data), batch_size):
            one = torch.zeros(sides[part].shape, dtype=torch.float32)
            one[:, number] = sides[part][:, number].float()
            x_adv = pgd(
                engine,
                data.images[part].to(device),
                one.to(device),
                norm=norm,
                eps=eps,
                step_size=2.5 * eps / num_steps,
                num_steps=num_steps,
                loss=_SIGNED,
                targeted=True,
                iterate="best",
            ).x_adv
            with frozen(features.network):
                found[part, number] = read(features.network, x_adv.cpu())[:, number] * sides[part][:, number]
    return found


def linear_usefulness(rho: float, direction: Tensor, std: float, eps: float, norm: str = "l2") -> float:
    """γ of the linear feature aᵀx/‖a‖_Σ in closed form: ρ − eps·‖a‖*/‖a‖_Σ.

    Without clipping to [0, 1]; where clipping binds, the adversary can do less.

    Args:
        rho: its usefulness. direction: a, any shape. std: ‖a‖_Σ = √(aᵀΣa), its standard deviation on D.
        eps: > 0. norm: of the adversary; ‖·‖* is the dual one.
    Raises: FeatureError for eps <= 0 or a feature without variance.
    Source: Goh 2019 (discussion of the paper in Distill), "robust feature leakage".
    """
    if not 0 < eps < math.inf:
        raise FeatureError(f"eps must be > 0, not {eps}")
    if not std > 0:
        raise FeatureError("the feature has no variance on D, so it cannot be scaled")
    dual = norm_of(norm).dual_length(direction.double()[None])
    return rho - eps * float(dual) / std


def kept_share(before: Tensor, signed: Tensor) -> Usefulness:
    """How much of the features' usefulness a constructed dataset keeps: the slope of ρ there on ρ on D.

    Σ ρ_D·ρ_X / Σ ρ_D², least squares through 0: 1 where E_X[s·y·f] = E_D[s·y·f] for all, 0 where it is gone.

    Args:
        before: ρ on D, (F,). signed: s·y·f on the constructed dataset with its own labels, (N, F).
    """
    weight = before.double() / (before.double() ** 2).sum()
    share = signed @ weight  # (N,) mean over examples is the slope
    return Usefulness(float(share.mean()), float(share.std()) / math.sqrt(len(share)))
