"""Randomised smoothing: a guarantee for a smoothed classifier, by Monte Carlo.

g(x) = the class that f(x + N(0, sigma²)) is most likely to give. If f gives class c with probability at least
p > 1/2, then g is c everywhere within sigma·Φ⁻¹(p) of x, in L2. Source: Cohen, Rosenfeld & Kolter 2019.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from notbugs.attacks.engine import frozen
from notbugs.attacks.losses import NO_NUMBER
from notbugs.attacks.losses import called as named
from notbugs.runtime.devices import full_precision, noise_generator
from notbugs.runtime.out_of_memory import BatchSplitter

ABSTAIN = -1
"""The class of an image on which the smoothed classifier does not commit itself."""


class Certificate(NamedTuple):
    """What is guaranteed of the smoothed classifier.

    Attributes:
        called: (N,) int64, ABSTAIN where it does not commit itself.
        radius: (N,) float64, L2, pixel units; the class is the same everywhere nearer. 0 where it abstains.
    """

    called: Tensor
    radius: Tensor


def certify(
    model: nn.Module,
    images: Tensor,
    *,
    sigma: float = 0.25,
    num_select: int = 100,
    num_estimate: int = 1000,
    alpha: float = 0.001,
    batch_size: int = 1000,
    generator: torch.Generator,
) -> Certificate:
    """Class and certified radius of the smoothed classifier, each right with probability 1 − alpha.

    Args:
        model: (N, C, H, W) -> logits; it is called on images with noise, which leave [0, 1].
        images: (N, C, H, W), on the model's device.
        sigma: standard deviation of the noise, pixel units on [0, 1].
        num_select: noisy copies that choose the class.
        num_estimate: others, that estimate its probability.
        alpha: probability that a certificate is wrong.
        batch_size: noisy copies at a time.
        generator: for the noise (`devices.noise_generator`).
    Source: Cohen et al. 2019, algorithm CERTIFY.
    """
    called, radius = [], []
    noise = noise_generator(generator, images.device)
    with frozen(model), torch.no_grad(), full_precision(images.device):
        for image in images:
            chosen = int(_counts(model, image, num_select, sigma, batch_size, noise).argmax())
            hits = int(_counts(model, image, num_estimate, sigma, batch_size, noise)[chosen])
            length = certified_radius(hits, num_estimate, sigma, alpha)
            called.append(chosen if length > 0 else ABSTAIN)
            radius.append(length)
    return Certificate(torch.tensor(called, dtype=torch.int64), torch.tensor(radius, dtype=torch.float64))


def certified_radius(hits: int, n: int, sigma: float, alpha: float) -> float:
    """sigma·Φ⁻¹(p) with p the Clopper-Pearson lower bound of hits/n at confidence 1 − alpha; 0 unless p > 1/2.

    Raises: ValueError if the counts are impossible.
    """
    from scipy.stats import norm

    low = clopper_pearson_low(hits, n, alpha)
    return sigma * float(norm.ppf(low)) if low > 0.5 else 0.0


def clopper_pearson_low(hits: int, n: int, alpha: float) -> float:
    """One-sided lower confidence bound of a share: the alpha quantile of Beta(hits, n − hits + 1); 0 for no hits.

    Raises: ValueError if the counts are impossible.
    Source: Clopper & Pearson 1934.
    """
    from scipy.stats import beta

    if n < 1 or not 0 <= hits <= n:
        raise ValueError(f"need 0 <= hits <= n and n >= 1, not {hits} of {n}")
    return float(beta.ppf(alpha, hits, n - hits + 1)) if hits else 0.0


def _counts(
    model: nn.Module, image: Tensor, num: int, sigma: float, batch_size: int, generator: torch.Generator
) -> Tensor:
    """How often each class is called among `num` noisy copies of an image (C, H, W); (K,).

    Copies whose logits are no numbers count for no class.
    """
    splitter, counts = BatchSplitter("certificate"), torch.zeros(1, dtype=torch.int64)
    for start in range(0, num, batch_size):
        size = min(batch_size, num - start)
        noise = torch.randn((size, *image.shape), generator=generator, device=generator.device)

        def called(rows: slice, noise: Tensor = noise) -> Tensor:
            logits = model(image + sigma * noise[rows].to(image))
            classes = named(logits)
            return torch.bincount(classes[classes != NO_NUMBER], minlength=logits.shape[1]).cpu()

        counts = counts + sum(splitter(size, called))
    return counts
