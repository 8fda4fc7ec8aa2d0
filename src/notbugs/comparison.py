"""Two models on the same images: a paired comparison, which sees differences that two separate intervals hide."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from notbugs.intervals import Z_95


@dataclass(frozen=True)
class Paired:
    """Two classifiers' hits and misses on the same images.

    Attributes:
        only_first, only_second: images that one gets right and the other wrong.
        n: number of images.
    """

    only_first: int
    only_second: int
    n: int

    @property
    def difference(self) -> float:
        """Accuracy of the first minus that of the second."""
        return (self.only_first - self.only_second) / self.n

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: were both equally good, each disagreement would be a fair coin.

        p = min(1, 2·P(X <= min(b, c))), X ~ Binomial(b + c, 1/2)

        Source: McNemar 1947; exact form as in Fagerland, Lydersen & Laake 2013.
        """
        from scipy.stats import binomtest

        disagreements = self.only_first + self.only_second
        return float(binomtest(self.only_first, disagreements).pvalue) if disagreements else 1.0

    @property
    def interval(self) -> tuple[float, float]:
        """95% interval of the difference.

        d ± z·sqrt((p₁ + p₂ − d²)/(n + 2)),  p₁ = (b + 1)/(n + 2), p₂ = (c + 1)/(n + 2), d = p₁ − p₂

        Source: Bonett & Price 2012.
        """
        first, second = (self.only_first + 1) / (self.n + 2), (self.only_second + 1) / (self.n + 2)
        gap = first - second
        half = Z_95 * math.sqrt((first + second - gap * gap) / (self.n + 2))
        return max(-1.0, gap - half), min(1.0, gap + half)


def paired(first: Sequence[bool], second: Sequence[bool]) -> Paired:
    """Compare two classifiers by which of the same images each gets right.

    Raises: ValueError if there are no images, or not the same number.
    """
    if not len(first) or len(first) != len(second):
        raise ValueError(f"need the same images for both, at least one, not {len(first)} and {len(second)}")
    pairs = list(zip(first, second, strict=True))
    return Paired(sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs), len(pairs))


def over_seeds(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean over seeds and its spread.

    Returns: mean; standard deviation (ddof = 1); half width of the 95% t interval of the mean. For one seed the last
        two are NaN and 0: nothing is known of the spread.
    Raises: ValueError if there are no values.
    """
    if not values:
        raise ValueError("no values to take the mean of")
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return mean, math.nan, 0.0
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return mean, std, t_half_width(std, len(values))


def t_half_width(std: float, num_seeds: int) -> float:
    """Half width of the 95% interval of a mean over seeds: t(0.975, n − 1)·std/sqrt(n); 0 for one seed."""
    if num_seeds < 2:
        return 0.0
    from scipy.stats import t

    return float(t.ppf(0.975, num_seeds - 1)) * std / math.sqrt(num_seeds)
