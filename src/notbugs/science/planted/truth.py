"""The planted world's ground truth: usefulness of its matched filters in closed form, and what filters see.

The filter of a pattern p is f(x) = ⟨p, x − ½⟩. Over the world it has a finite number of values, one for each class y
and shown class k, plus noise of variance ν² = noise²/3 (uniform noise through a filter of length 1). So its mean, its
variance and ρ = E[y·f] are finite sums; and since the filter is linear and nothing is ever clipped,
γ(eps) = ρ − eps·‖p‖*/std, exactly. Source: `sources.planted`; Goh 2019 for γ.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from notbugs.data.images import ImageData
from notbugs.data.sources.planted import CLASS_NAMES, PATTERNS, Pattern, PlantedSettings, patterns
from notbugs.evaluation.accuracy import called_by
from notbugs.runtime.errors import UserError
from notbugs.science.features.maps import LinearFeatures
from notbugs.science.features.usefulness import Choice, Features, features_of, linear_usefulness


class PlantedError(UserError):
    """The planted world cannot be measured as asked."""


@dataclass(frozen=True)
class Truth:
    """Of one matched filter: mean and standard deviation over the world, and ρ of the scaled filter."""

    mean: float
    std: float
    rho: float

    def gamma(self, pattern: Tensor, eps: float, norm: str) -> float:
        """γ at eps > 0."""
        return linear_usefulness(self.rho, pattern, self.std, eps, norm)


def truth(world: PlantedSettings, name: Pattern, label: int) -> Truth:
    """Mean, deviation and ρ of the filter of a class's pattern, for that class against the rest."""
    unit = patterns()[name].flatten(1)  # (C, d)
    amplitude = world.smooth_amplitude if name == "smooth" else world.fine_amplitude
    values = amplitude * (unit @ unit[label])  # (C,) by the class whose pattern is in the image
    probability = joint_probability(world) if name == "smooth" else torch.eye(len(unit)).double() / len(unit)
    mean = float((probability * values).sum())
    std = float((probability * (values - mean) ** 2).sum() + world.noise**2 / 3) ** 0.5
    side = torch.where(torch.arange(len(unit)) == label, 1.0, -1.0).double()[:, None]  # (C, 1) by y
    return Truth(mean, std, float((probability * side * (values - mean)).sum()) / std)


def joint_probability(world: PlantedSettings) -> Tensor:
    """P(class y, smooth pattern of k), (C, C)."""
    classes = len(CLASS_NAMES)
    other = (1 - world.smooth_agreement) / (classes - 1)
    agree = torch.eye(classes, dtype=torch.float64)
    return (agree * world.smooth_agreement + (1 - agree) * other) / classes


def filter_features(name: Pattern, train: ImageData) -> Features:
    """The matched filters of one pattern, each for its own class, scaled on `train`."""
    classes = len(CLASS_NAMES)
    own = Choice(torch.arange(classes), torch.ones(classes, dtype=torch.float64))
    return features_of(LinearFeatures(patterns()[name]), train, choice=own)


def says(name: Pattern, images: Tensor) -> Tensor:
    """The class whose filter of one pattern gives most, (N, 3, 32, 32) -> (N,)."""
    coefficients = (images.double() - 0.5).flatten(1) @ patterns()[name].flatten(1).T  # (N, C)
    return coefficients.argmax(dim=1)


def conflicting(world: PlantedSettings, data: ImageData) -> tuple[ImageData, Tensor]:
    """Images whose smooth pattern says y and whose fine pattern was exchanged for that of another class t.

    Only images whose smooth pattern says y are taken; t runs through the other classes in turn.

    Returns: the images (with labels y), and t of each.
    Raises: PlantedError if no smooth pattern says y.
    """
    honest = says("smooth", data.images) == data.labels
    if not honest.any():
        raise PlantedError("no image's smooth pattern says its class: smooth_agreement is too small")
    chosen = data.select(honest)
    classes = len(CLASS_NAMES)
    turn = torch.arange(len(chosen)) // classes % (classes - 1) + 1
    targets = (chosen.labels + turn) % classes
    fine = patterns()["fine"]
    moved = chosen.images.double() + world.fine_amplitude * (fine[targets] - fine[chosen.labels])
    return ImageData(moved.float(), chosen.labels, chosen.class_names), targets


def follows(model: nn.Module, world: PlantedSettings, data: ImageData) -> dict[str, Tensor]:
    """Which pattern a classifier follows where the two conflict: for each, whether it calls the image so, (N,) bool."""
    images, targets = conflicting(world, data)
    called = called_by(model, images.images)
    return dict(zip(PATTERNS, (called == images.labels, called == targets), strict=True))
